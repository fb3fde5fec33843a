"""What each file of ``conf/model`` composes, read without Hydra: the settings that a shipped label stands for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradhorizon.machine.installed import CONF_DIR


def shipped_settings(label: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The root keys that the file of a shipped label sets, ``model`` first, resolved as in `config`.

    Args:
        label: of the model.
        config: a run's whole configuration, whose other values the file may refer to.

    Returns:
        Root key -> value; empty for a label that no file has.

    Example:
        >>> shipped_settings("deep_lstm", {"hidden_size": 8})["num_layers"]
        3
    """
    path = CONF_DIR / "model" / f"{label}.yaml"
    own = _composed(path) if label.replace("_", "").isalnum() and path.is_file() else {}
    if own.get("model", {}).get("label") != label:
        return {}
    try:
        whole = OmegaConf.create({**_as_text(config), **own})
        resolved: dict[str, Any] = OmegaConf.to_container(whole, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException:  # the run lacks what the file refers to
        return {}
    return {name: resolved[name] for name in own}


def _as_text(config: Mapping[str, Any]) -> dict[str, Any]:
    # What a run has recorded is resolved: there is nothing to look up in it, least of all in the environment.
    return {key: value for key, value in config.items() if not (isinstance(value, str) and "${" in value)}


@cache
def _composed(path: Path) -> dict[str, Any]:
    """What a file and those in its defaults list set, merged in their order, by root key; unresolved."""
    text = path.read_text(encoding="utf-8")
    node: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(text))  # type: ignore[assignment]
    parents = [str(entry).split("@", maxsplit=1)[0] for entry in node.pop("defaults", []) if entry != "_self_"]
    own = node if text.startswith("# @package _global_") else {"model": node}
    merged = OmegaConf.merge(*(_composed(path.with_name(f"{parent}.yaml")) for parent in parents), own)
    return OmegaConf.to_container(merged)  # type: ignore[return-value]
