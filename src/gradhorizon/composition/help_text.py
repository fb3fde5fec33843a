"""What ``gradhorizon --help`` lists: every option of every group in a line of its own, and the root with its units.

The lines are docstrings and comments of the files themselves, so a new file is listed by existing.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.machine.signatures import summary

_GROUPS = {
    "model": "model=NAME, one of",
    "task": "task=NAME, one of",
    "measurement": "'measurement=[NAME,NAME]', any of",
    "optimizer": "optimizer=NAME, one of",
    "logger": "logger=NAME, one of",
    "experiment": "experiment=NAME, a study with all its settings, with -m; one of",
}
_WIDTH, _INDENT = 80, 25
_SYMBOLS = (("sqrt ", "√"), ("hat ", ""), ("alpha", "α"), ("sigma", "σ"), ("sim", "~"), ("log", "log"), ("max", "max"))
_ZOO = "zoo"  # folder of files for classes of other packages, which need not be installed
_LOOKS = ("label", "color", "marker", "defaults")
_SETTING = re.compile(r"(\w+): (.*?)(?: +# (.*))?")


def help_text() -> str:
    """Everything below the opening lines, at most 80 columns wide."""
    parts = [f"{title}\n{listed(name)}\n" for name, title in _GROUPS.items()]
    launchers = sorted(name.removesuffix(".yaml") for name in ConfigStore.instance().list("hydra/launcher"))
    places = [("hydra/launcher=NAME", f"where a sweep runs, one of {', '.join(launchers)}")]
    settings = f"KEY=VALUE, with the values that hold unless another is given\n{_rows(_settings())}\n"
    return "\n".join([*parts, settings, f"Further\n{_rows([*places, *_FURTHER])}"]).replace("$", "$$")


def listed(group: str) -> str:
    """Every option of a group, shipped or of the user's own, in a line of its own.

    Args:
        group: its name.
    """
    return _rows((name, described(path)) for name, path in _files(group))


_FURTHER = (
    ("-m", "a sweep: values separated by commas, every combination"),
    ("--cfg job", "print all that a run would be configured with, groups included"),
    ("+KEY=VALUE", "add what a class takes and its file leaves out: +optimizer.weight_decay=0.1"),
    ("--config-dir DIR", "configuration files of your own: DIR/model/NAME.yaml, DIR/experiment/NAME.yaml, …"),
    ("--hydra-help", "everything else of the command line, which is Hydra's"),
)


def _files(group: str) -> list[tuple[str, Path]]:
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else ()
    own = [Path(one.path) for one in sources if one.schema == "file"]
    folders = [place / group for place in (CONF_DIR, *own)]
    paths = ((folder, path) for folder in folders for one in ("*.yaml", f"{_ZOO}/*.yaml") for path in folder.glob(one))
    return sorted({path.relative_to(folder).with_suffix("").as_posix(): path for folder, path in paths}.items())


def described(path: Path) -> str:
    """One line about a configuration file: of the class that it names, its own opening comment, or how it differs.

    Args:
        path: a file of a group.
    """
    if path.parent.name == _ZOO:
        return _opening_comment(path)
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    own = content.get(path.parent.name, content)
    cell = own.get("cell") or {}
    targets = [node["_target_"] for node in (own, cell) if "_target_" in node and node["_target_"] != "???"]
    said = next((_said_of(target) for target in targets), "")
    return said or _opening_comment(path) or "; ".join(_differences(content, path.parent.name))


def _opening_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("#").strip() for line in lines if line.startswith("#") and "@package" not in line]
    return comments[0] if comments else ""


def _differences(content: dict[str, Any], group: str) -> Iterator[str]:
    """What a variant is a variant of, and each thing that it says itself."""
    for parent in content.get("defaults", []):
        if parent != "_self_":
            yield str(parent).partition("@")[0]
    for key, value in _leaves({**content, **content.get(group, {})}):
        if key.endswith("_target_") and not str(value).startswith("hydra."):
            yield _said_of(value)
        elif key.rpartition(".")[2] not in ("_target_", "path", *_LOOKS) and not str(value).startswith("${"):
            yield f"{key.rpartition('.')[2]}={value}"


def _leaves(node: dict[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and key not in ("model", *_LOOKS):
            yield from _leaves(value, f"{at}{key}.")
        elif not isinstance(value, dict) and key not in _LOOKS:
            yield f"{at}{key}", str(value).lower() if isinstance(value, bool) else value


def _said_of(target: str) -> str:
    """First line of its docstring without markup, or its name."""
    text = re.sub(r":\w+:(?=`)|[`{}]", "", summary(target))
    for command, words in _SYMBOLS:
        text = text.replace(f"\\{command}", words)
    return text.rstrip(".") or target


def _settings() -> Iterator[tuple[str, str]]:
    """Keys of the root with their values, units and meaning, as ``train.yaml`` has them."""
    for name, prefix in (("train", ""), ("trainer/default", "trainer.")):
        for line in (CONF_DIR / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
            found = _SETTING.fullmatch(line)
            if found and found[1] != "_target_":
                yield f"{prefix}{found[1]}={found[2]}", found[3] or ""


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(_row(name, words) for name, words in rows)


def _row(name: str, words: str) -> str:
    lead = f"  {name}".ljust(_INDENT - 1) + " "
    own_line = f"{lead.rstrip()}\n" if len(lead) > _INDENT else ""
    first = " " * _INDENT if own_line else lead
    return own_line + (textwrap.fill(words, _WIDTH, initial_indent=first, subsequent_indent=" " * _INDENT) or lead)
