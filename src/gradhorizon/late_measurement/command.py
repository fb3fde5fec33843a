"""Adds quantities to finished runs, from the checkpoints that they kept.

They gain tables with the numbers that they would have had with the
measurement on from the start.

A member keeps its network where it started, was solved and ended; training
with trainer.keep_probe_checkpoints=true keeps every step that was probed.
What is recorded already is never overwritten, and config.yaml stays as it is;
where the new numbers come from is kept in each member.json. An interrupted
launch goes on when it is launched again.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gradhorizon.composition.composing import composed_train
from gradhorizon.composition.explanations import explanation
from gradhorizon.composition.help_text import listed
from gradhorizon.composition.keys import check_keys
from gradhorizon.config import ConfigError
from gradhorizon.late_measurement.run import FinishedRun, Tally
from gradhorizon.late_measurement.trust import check_prefixes
from gradhorizon.machine import stopping
from gradhorizon.machine.compiled_code import keep_private
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.records.absent_tables import can_be_added, remedy
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.finding import Found, find, recorded_runs, refuse_nothing
from gradhorizon.terminal.program import parser_of, program
from gradhorizon.terminal.progress import format_duration

log = logging.getLogger(__name__)

_OVERRIDE = re.compile(r"~(measurement|hydra)\b.*|(\+\+?)?(measurement|hydra)(\.[\w.@/]+)?=.*", re.DOTALL)
_NAME_ONE = "Name what to measure, such as measurement=lyapunov_spectrum"
_EXAMPLES = """\
examples:
  gradhorizon-measure runs/quickstart measurement=lyapunov_spectrum
  gradhorizon-measure runs 'measurement=[lyapunov_spectrum,state_jacobians]' \\
      measurement.lyapunov_spectrum.num_exponents=4
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the runs named on the command line; returns the exit code.

    Args:
        arguments: the command line; the process's own if None.
    """
    options = _parser().parse_intermixed_args(arguments)
    keep_private()
    refusals = {ConfigError: str, RecordsError: str}
    return program(lambda: _measured(options), refusals, "launch the same command again to go on")


def _measured(options: argparse.Namespace) -> int:
    overrides = [word for word in options.words if _OVERRIDE.fullmatch(word)]
    found = find_runs([word for word in options.words if word not in overrides])
    check_prefixes(options.trust)
    with stopping.interrupted_by_signals():
        code = measure(recorded_runs(found), composed(overrides), options.device, options.trust)
    return max(code, int(bool(found.unreadable)))


def _parser() -> argparse.ArgumentParser:
    usage = "%(prog)s [options] RUN... measurement=NAME [setting ...]"
    epilog = f"{_EXAMPLES}\nmeasurements:\n{listed('measurement')}"
    parser = parser_of("gradhorizon-measure", __doc__, epilog, usage)
    words = "run folders, experiment folders or runs roots; and settings of the group `measurement`, as in training"
    parser.add_argument("words", nargs="+", metavar="RUN | setting", help=words)
    trust = (
        "a package that runs may name in their configurations, such as that of your own cell; repeatable. Classes of "
        "gradhorizon, torch.nn modules and torch.optim optimizers are built anyway, and nothing else is"
    )
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help=trust)
    parser.add_argument("--device", help="cpu, cuda, cuda:<index> or mps; by default where each run was trained")
    return parser


def find_runs(words: Sequence[str]) -> Found:
    """All runs at or below the folders that `words` name.

    Raises:
        ConfigError: a word is no folder.
        RecordsError: no run there.
    """
    found = find(map(Path, words))
    if found.absent:
        raise ConfigError(
            "RUN must be a folder, and overrides must be of `measurement` (what trained is fixed), got "
            f"{found.absent[0]}"
        )
    return refuse_nothing(found, words)


def composed(overrides: Sequence[str]) -> DictConfig:
    """``train.yaml`` with the measurements that `overrides` choose, and no others.

    Args:
        overrides: of the group `measurement`, and of ``hydra.searchpath`` for configuration files of one's own.

    Raises:
        ConfigError: no measurement, an unknown one, or one that needs a training step.
    """
    is_chosen = any(word.startswith("measurement=") for word in overrides)
    own = ["logger=none", *([] if is_chosen else ["measurement=[]"]), *overrides]
    try:
        cfg = composed_train(own)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        words = explanation(error, own).removeprefix("Error: ")
        raise ConfigError(words if is_chosen else f"{words}. {_NAME_ONE}. {_available()}") from error
    check_keys(cfg)
    if not cfg.measurement:
        raise ConfigError(f"{_NAME_ONE}. {_available()}")
    for name, node in cfg.measurement.items():
        _refuse_step_measurement(str(name), node)
    return cfg


def _available() -> str:
    return f"There are: {', '.join(sorted(path.stem for path in (CONF_DIR / 'measurement').glob('*.yaml')))}"


def _refuse_step_measurement(name: str, node: DictConfig) -> None:
    try:
        get_object(str(node.get("_target_")))
    except Exception as error:
        raise ConfigError(f"measurement {name}: {error}") from error
    if not can_be_added(name, {name: node}):
        raise ConfigError(remedy([name], {name: node}))


def measure(folders: Sequence[Path], cfg: DictConfig, device: str | None, trusted: Sequence[str] = ()) -> int:
    """Measure finished members of all runs; returns the exit code, 1 if anything failed.

    Args:
        folders: run folders.
        cfg: ``train.yaml`` composed with the measurements.
        device: where to measure; where each run was trained if None.
        trusted: packages of which whatever a run's configuration names may be built.
    """
    start = time.monotonic()
    tallies = []
    refusals: list[str] = []
    for folder in folders:
        log.info("%s", folder)
        try:
            tallies.append(FinishedRun(folder, cfg, device, trusted).measure())
        except (ConfigError, RecordsError) as error:
            is_the_same = str(error) in refusals[-1:]
            log.error("  Error: %s", "the same" if is_the_same else error)  # noqa: TRY400, as in `main`
            refusals.append(str(error))
    if any(tally.num_unkept_steps for tally in tallies):
        log.info("training with trainer.keep_probe_checkpoints=true keeps the checkpoints of inner steps too")
    log.info("%s in %s", _summary(tallies, len(refusals)), format_duration(time.monotonic() - start))
    return int(bool(refusals) or any(tally.failed for tally in tallies))


def _summary(tallies: Sequence[Tally], num_refused: int) -> str:
    counts = {
        "measured": sum(len(tally.measured) for tally in tallies),
        "already recorded": sum(len(tally.complete) for tally in tallies),
        "unfinished": sum(len(tally.unfinished) for tally in tallies),
        "failed": sum(len(tally.failed) for tally in tallies),
    }
    each = ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "measured")
    return f"members: {each}" + (f"; runs refused: {num_refused}" if num_refused else "")


if __name__ == "__main__":
    sys.exit(main())
