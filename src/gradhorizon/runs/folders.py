"""Where a run lies below its experiment's folder: found by its identity, or made."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from gradhorizon.config import ConfigError
from gradhorizon.records import safely
from gradhorizon.records.layout import RUN_SHEET, identity_in, is_skipped, probe_path
from gradhorizon.runs.failures import content_of
from gradhorizon.terminal.once import say_once

log = logging.getLogger(__name__)

_SETTLED_NS = 3_000_000_000


def find_run(experiment: Path, run_identity: str) -> Path | None:
    """The folder below `experiment` that carries the identity, or None.

    Of several, one whose sheet knows it by its own name comes before copies that were given another; it is said.

    Args:
        experiment: the experiment's folder.
        run_identity: ten hexadecimal digits.
    """
    try:
        names = _listed(experiment).get(run_identity, [])
    except OSError:  # a path too long or out of reach, which `create` refuses in words
        return None
    found = [experiment / name for name in names if (experiment / name).is_dir()]
    if len(found) > 1:
        found.sort(key=lambda folder: (folder.is_symlink(), content_of(folder / RUN_SHEET).get("run") != folder.name))
        others = ", ".join(folder.name for folder in found[1:])
        say_once(
            log,
            f"  note: {found[0].name} is the run that is launched, and {others} is one with it, which readers refuse: "
            "move it out of the runs folder, or give it a name that begins with a dot",
        )
    return next(iter(found), None)


@dataclass(frozen=True)
class _Names:
    changed_at_ns: int
    names: dict[str, list[str]]


_listings: dict[Path, _Names] = {}


def _listed(experiment: Path) -> dict[str, list[str]]:
    """Identity -> the names that end in it; an experiment's folder is listed again once it has changed."""
    place = experiment.absolute()  # the same words mean another place elsewhere
    changed_at_ns = experiment.stat().st_mtime_ns
    known = _listings.get(place)
    if known is None or known.changed_at_ns != changed_at_ns:
        names: dict[str, list[str]] = {}
        for name in sorted(os.listdir(experiment)):  # noqa: PTH208, ten thousand of them, for their names
            identity = identity_in(name)
            if identity is not None and not is_skipped(name):
                names.setdefault(identity, []).append(name)
        known = _Names(changed_at_ns, names)
        if time.time_ns() - changed_at_ns > _SETTLED_NS:  # a change at the same tick of the clock would not be seen
            _listings[place] = known
    return known.names


def create(folder: Path) -> None:
    """Make sure that a run's folder is there and can be written.

    Raises:
        ConfigError: it cannot.
    """
    try:
        safely.touch_once(probe_path(folder))
    except safely.MisplacedError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"`runs_dir` must be a folder that can be written, got {folder}: {error.strerror}") from error
