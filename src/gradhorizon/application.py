"""The entry point: compose, check, skip what is done, train, record.

Heavy packages are imported where they are used, so that a finished run is skipped, and a wrong one refused, quickly.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.utils import env_override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from gradhorizon.composition.composing import HYDRA_BASE
from gradhorizon.composition.explanations import explanation, is_explained
from gradhorizon.machine import stopping
from gradhorizon.machine.compiled_code import keep_private
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.runs.results import Plan, Skipped
from gradhorizon.sweeps.launch import run

log = logging.getLogger(__name__)


def _help_text() -> str:
    from gradhorizon.composition.help_text import help_text

    return help_text()


OmegaConf.register_new_resolver("gradhorizon.help", _help_text, replace=True)  # which --help alone resolves


@hydra.main(version_base=HYDRA_BASE, config_path=str(CONF_DIR), config_name="train")
def main(cfg: DictConfig) -> Plan | Skipped | None:
    """Train one run, or say that it is done; returns its plan with ``plan=true``.

    A run that another process is at is an error, but in a sweep it is skipped: others may train the same sweep.
    Whatever breaks a run is told in one line, and ends this run alone.
    """
    return run(cfg)


def command() -> None:
    """What the shell calls: `main`, with words in place of tracebacks for Ctrl-C and for what cannot be composed.

    Raises:
        SystemExit: it was interrupted, or refused.
    """
    keep_private()
    _refuse_scattered_overrides()
    shows_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        # Hydra would print what goes wrong itself, with advice that is not always right.
        with env_override({"HYDRA_FULL_ERROR": "1"}):
            main()
    except SystemExit as ended:
        if shows_traceback and isinstance(ended.__cause__, HydraException):
            raise ended.__cause__ from None
        raise
    except BrokenPipeError:  # as in `gradhorizon --help | head`: whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        log.warning("stopped; launch the same command again to go on")
        raise SystemExit(stopping.EXIT_CODE) from None
    except (HydraException, ValueError, YAMLError) as error:
        if shows_traceback or not is_explained(error):
            raise
        sys.stderr.write(f"{explanation(error, _overrides())}\n")
        raise SystemExit(1) from error


def _refuse_scattered_overrides() -> None:
    _, others = get_args_parser().parse_known_args()  # which takes overrides from one place alone
    if others and not any(word.startswith("-") for word in others):
        raise SystemExit(f"Error: options must stand before or after all overrides, got {others[0]} apart from others")


def _overrides() -> list[str]:
    """What the command line overrides, and where it says that further configuration files are."""
    options = get_args_parser().parse_args()
    places = [f"hydra.searchpath=[{Path(options.config_dir).resolve()}]"] if options.config_dir else []
    return [*options.overrides, *places]


if __name__ == "__main__":
    command()
