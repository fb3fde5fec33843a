"""Where Hydra and its launchers may put files of their own, ``hydra.sweep.dir``: where nobody else can have put any.

Hydra makes that folder, and launchers such as submitit's keep files there that every node must see: so it lies under
the runs folder, beside what sweeps have asked for, with a name that nobody can guess. For a plan, which leaves nothing
behind, and where no runs can lie, it is a private temporary one. Jobs may run in processes that know no resolver of
ours, and on other machines: they are told the path itself.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from gradhorizon.config import runs_root
from gradhorizon.records import safely
from gradhorizon.records.layout import hydra_folder

DEFAULT = str(hydra_folder(Path("${runs_dir}", "${experiment_name}")))
"""``hydra.sweep.dir`` in train.yaml, which stands under sweepers other than ours."""


@contextmanager
def own_hydra_folder(config: DictConfig) -> Iterator[None]:
    """Have Hydra keep to a folder of this sweep's own, unless the user has named one; one left empty is removed.

    Args:
        config: Hydra's configuration of the sweep, from which all its jobs are composed.
    """
    if OmegaConf.to_container(config.hydra.sweep, resolve=False).get("dir") != DEFAULT:  # type: ignore[union-attr]
        yield
        return
    with _folder(config) as folder, read_write(config), open_dict(config):
        # Jobs are composed anew, from the overrides.
        config.hydra.sweep.dir = re.sub(r"(\\*)(\$\{)", r"\1\1\\\2", folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(folder)}")
        yield


@contextmanager
def _folder(config: DictConfig) -> Iterator[str]:
    sweeps = None if OmegaConf.select(config, "plan") else _sweeps(config)
    missing = [] if sweeps is None else [one for one in (sweeps, *sweeps.parents) if not os.path.lexists(one)]
    folder = None if sweeps is None else _made_below(sweeps)
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="gradhorizon-", ignore_cleanup_errors=True) as private:
            yield private
        return
    try:
        yield folder
    finally:
        for one in (Path(folder), *missing):
            with suppress(OSError):  # something was put there
                one.rmdir()


def _sweeps(config: DictConfig) -> Path | None:
    """Where sweeps write down what they ask for; None where that is not known, of which each run will say why."""
    with suppress(Exception):
        return hydra_folder(runs_root(config.runs_dir) / str(config.experiment_name)).parent.absolute()
    return None


def _made_below(sweeps: Path) -> str | None:
    with suppress(OSError), safely.opened_folder(sweeps, is_made=True):
        return tempfile.mkdtemp(prefix=f"{hydra_folder(sweeps).name}-", dir=sweeps)
    return None


def quoted(text: str) -> str:
    r"""`text` as the value of an override of Hydra's.

    Args:
        text: anything that does not end with a backslash.

    Example:
        >>> print(quoted("/it's/a b/${c}"))
        '/it\'s/a b/\${c}'
    """
    escaped = re.sub(r"(\\*)(\$\{|')", r"\1\1\\\2", text)
    return f"'{escaped}'"
