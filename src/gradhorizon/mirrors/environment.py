"""W&B's own environment switches, followed as its users expect: they win over the configuration, and that is said."""

from __future__ import annotations

import logging
import os

from gradhorizon.terminal.once import say_once

log = logging.getLogger(__name__)

_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
_TRUE = ("1", "true", "t", "yes", "y", "on")


def mode(configured: str) -> str:
    """How W&B runs are written: online, offline or disabled.

    ``WANDB_DISABLED`` wins over ``WANDB_MODE``, and that over what is configured.

    Args:
        configured: offline or online.

    Raises:
        ValueError: ``WANDB_MODE`` is nothing that W&B knows.
    """
    if is_true("WANDB_DISABLED"):
        return "disabled"
    asked = os.environ.get("WANDB_MODE", "").strip().lower()
    if asked and asked not in _MODES:
        raise ValueError(f"`WANDB_MODE` must be online, offline or disabled, got {asked!r}; set it anew, or unset it")
    return _MODES.get(asked, configured)


def switch() -> str:
    """The variable that decides the mode, with its value; empty if none is set."""
    name = "WANDB_DISABLED" if is_true("WANDB_DISABLED") else "WANDB_MODE"
    return f"{name}={os.environ[name]}" if os.environ.get(name) else ""


def say_mode(configured: str, found: str) -> None:
    """Say where the environment has another mode than the configuration.

    Args:
        configured: offline or online.
        found: of `mode`.
    """
    if found == "disabled":
        _say_once(f"W&B: {switch()}, so nothing is written for it; the records on disk hold all")
    elif found != configured:
        _say_once(f"W&B: {switch()} wins over logger.mode={configured}: the run is written {found}")


def is_true(name: str) -> bool:
    """Whether a variable is set to a word for yes.

    Args:
        name: of the variable.
    """
    return os.environ.get(name, "").strip().lower() in _TRUE


def tags() -> list[str]:
    """Words of ``WANDB_TAGS``, which are separated by commas."""
    return [word for word in map(str.strip, os.environ.get("WANDB_TAGS", "").split(",")) if word]


def _say_once(message: str) -> None:
    if not is_true("WANDB_SILENT"):
        say_once(log, message, logging.INFO)
