"""Random compositions of the configuration: each trains two steps, or is refused quickly with one clear message.

Those with a key that nothing reads, in whatever group and with or without a plus, are refused and write nothing.

``python -m tests.fuzz --examples 2000`` draws that many and fails at the first that does neither, shrunk to its
smallest form. The tests draw fewer.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradhorizon.composition.explanations import explanation
from gradhorizon.config import ConfigError
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.reading import read_runs
from gradhorizon.sweeps.launch import launch
from gradhorizon.training import fit  # noqa: F401, its import would be counted with the first refusal
from tests.odd_cells import REFUSED
from tests.series_files import series_path
from tests.shipped import TEMPLATE, shipped
from tests.sound_cells import SOUND, SURROGATES

REFUSED_WITHIN_S = 2.0
_HANGS_AFTER_S = 120
_MOST_WORDS = 5000

FIXED = ("logger=none", "device=cpu", "num_steps=2", "trainer.progress_every_s=1000")
SCALARS: dict[str, Sequence[object]] = {
    "seed": (0, 7),
    "num_seeds": (1, 2),
    "data_seed": (0, 3),
    "seq_len": (1, 2, 9, 11),
    "hidden_size": (1, 2, 4),
    "num_layers": (1, 2),
    "batch_size": (1, 3),
    "val_every_steps": (1, 2, 5),
    "val_size": (1, 5),
    "probe_batch_size": (1, 2),
    "num_cuts": (1, 2, 50),
    "learning_rate": (1e-3, 10.0, 1e30),
    "clip_norm": ("null", 1.0, 1e-30),
    "recompute_every": ("null", 1, 4),
    "stop_when_solved": ("true", "false"),
    "precision": ("32-true", "64-true", "bf16-mixed"),
    "num_threads": (1,),
    "experiment_name": ("default", "'é.1'"),
}
"""Values of the root that are small enough to train in a fraction of a second."""

HOSTILE = (
    "0",
    "-1",
    "1",
    "2.5",
    "1e400",
    "-inf",
    "nan",
    "null",
    "true",
    "''",
    "' '",
    "abc",
    "'[red]'",
    "'../up'",
    "'a/b'",
    "'é∞🎉'",
    "'<script>'",
    "'a|b'",
    "'`$x$`'",
    "'a\\nb'",
    "[1,2]",
    "[]",
    "{a:1}",
    "'${seq_len}'",
    "'${no.such.key}'",
    "'${oc.env:NO_SUCH_VARIABLE}'",
    "1000000000000",
    "99999999999999999999999999",
    "'" + "x" * 3000 + "'",
    "???",
    "os.system",
    "gradhorizon.no_such_module.Thing",
    "gradhorizon.records.reading.read_runs",
    "collections.OrderedDict",
)
"""Values that most keys refuse, and all must survive."""

GROUPS = ("model", "task", "optimizer", "trainer")
ECONOMY = {
    "autonomous_spectrum": ("num_steps=12", "transient_steps=2", "num_exponents=1"),
    "cost": ("num_lengths=2", "num_repetitions=1"),
    "hidden_block_spectrum": ("num_exponents=1", "num_samples=1"),
    "lyapunov_spectrum": ("num_exponents=1", "num_samples=1"),
    "state_jacobians": ("num_samples=1", "num_projections=2"),
}
"""Settings that keep a measurement short; drawn or left out, so that defaults are met too."""

NO_KEYS = ("typo", "Seed", "num_step", "schedul", "hidden", "lrr", "seq_length", "maximum", "_partial", "x")
"""Names that nothing in the configuration takes, wherever they stand."""

UNWANTED = ("runs_dir", "plan", "device", "num_steps", "logger", "num_threads")


EXTERNAL = (*REFUSED, *SOUND, *SURROGATES)
"""Cells of somebody's own, odd ones and sound ones, which ``model=external`` is given."""

OWN = {
    "task": ("task._target_=tests.own_classes.Parity",),
    "optimizer": ("optimizer._target_=torch.optim.Adagrad",),
    "measurement": ("measurement.external._target_=tests.own_classes.WeightNorms",),
}
"""What the other templates are given."""


def _names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


def _leaves(node: Any, at: str) -> list[str]:
    if not isinstance(node, dict):
        return [at]
    return [at, *(leaf for key, value in node.items() if key != "defaults" for leaf in _leaves(value, f"{at}.{key}"))]


def keys_of(group: str, name: str) -> list[str]:
    """Keys of one file of a group, and of those that it builds upon, as the command line names them."""
    path = CONF_DIR / group / f"{name}.yaml"
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    parents = [entry.split("@")[0] for entry in content.get("defaults", []) if isinstance(entry, str)]
    inherited = [key for parent in parents if parent != "_self_" for key in keys_of(group, parent)]
    at = f"measurement.{name}" if group == "measurement" else group
    is_global = path.read_text(encoding="utf-8").startswith("# @package _global_")
    own = _leaves(content.get(group, {}) if is_global else content, at)
    return sorted({*inherited, *own})


@st.composite
def compositions(draw: st.DrawFn) -> list[str]:
    """Overrides of one composition: choices of all groups, small scalars, and up to two values that are hostile."""
    chosen = {group: draw(st.sampled_from(_names(group))) for group in GROUPS}
    if draw(st.integers(0, 3)) == 0:  # more often than one model in many would be drawn
        chosen["model"] = TEMPLATE
    measured = draw(st.lists(st.sampled_from(_names("measurement")), max_size=3, unique=True))
    overrides = [*FIXED, *(f"{group}={name}" for group, name in chosen.items()), f"measurement=[{','.join(measured)}]"]
    for name, values in SCALARS.items():
        if name not in ("seq_len", "num_layers") or draw(st.booleans()):
            overrides.append(f"{name}={draw(st.sampled_from(values))}")
    is_economic = draw(st.booleans())
    for name in measured:
        overrides += [f"measurement.{name}.{setting}" for setting in ECONOMY.get(name, ()) if is_economic]
        if name == "autonomous_spectrum" and not is_economic:
            overrides.append("measurement.autonomous_spectrum.num_steps=210")
    keys = [key for group, name in chosen.items() for key in keys_of(group, name)]
    keys += [key for name in measured for key in keys_of("measurement", name)]
    keys += [name for name in (*SCALARS, "optimizer.nesterov", "task.colour") if name not in UNWANTED]
    if chosen["model"] == TEMPLATE:
        cell = draw(st.sampled_from(EXTERNAL))
        overrides += [f"model.label={cell.__name__}", f"model.cell._target_={cell.__module__}.{cell.__name__}"]
    external = {
        *(group for group, name in chosen.items() if name == TEMPLATE),
        *(["measurement"] * (TEMPLATE in measured)),
    }
    overrides += [setting for group in sorted(external & OWN.keys()) for setting in OWN[group]]
    if chosen["task"] == "from_arrays":
        overrides += [f"task.path={series_path()}", "task.steps_ahead=3"]
    for key in draw(st.lists(st.sampled_from(sorted(keys)), max_size=2, unique=True)):
        overrides.append(f"++{key}={draw(st.sampled_from(HOSTILE))}")
    return overrides


@st.composite
def unknown_keys(draw: st.DrawFn) -> tuple[list[str], str]:
    """Overrides of a composition that would train, and one with a key that nothing reads, at the root or in a group."""
    chosen = {group: draw(st.sampled_from(shipped(group))) for group in GROUPS}
    measured = draw(st.sampled_from(shipped("measurement")))
    places = ["", *(f"{group}." for group in (*GROUPS, "logger")), "model.cell.", "model.readout."]
    places += [f"measurement.{measured}.", f"measurement.{measured}.schedule.", f"measurement.{NO_KEYS[0]}."]
    sign = draw(st.sampled_from(("", "+", "++", "~")))
    key = f"{draw(st.sampled_from(places))}{draw(st.sampled_from(NO_KEYS))}"
    value = "" if sign == "~" else f"={draw(st.sampled_from(('1', '0.5', 'null', 'text', '[1]', '{a:1}')))}"
    choices = [f"{group}={name}" for group, name in chosen.items()]
    return [*FIXED, *choices, f"measurement=[{measured}]"], f"{sign}{key}{value}"


def check_refusal_of_key(overrides: Sequence[str], wrong: str, folder: Path) -> None:
    """Hold one unknown key to the promise: one line that names it and the nearest, no plus where none helps, no file.

    Args:
        overrides: what would train.
        wrong: the override with the key.
        folder: an empty folder for the runs.
    """
    every = [*overrides, wrong, f"runs_dir={folder}"]
    words = ""
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose("train", overrides=every)
        launch(cfg)
    except ConfigError as error:
        words = str(error)
    except (HydraException, ValueError) as error:
        words = explanation(error, every)
    key = wrong.lstrip("+~").partition("=")[0]
    assert key.partition(".")[0] in words, f"accepted, or not named: {wrong}: {words}"
    assert "nearest is" in words or "leave it out" in words, f"without a way out: {words}"
    assert "\n" not in words, f"more than one line: {words}"
    assert f"+{key}" not in words, f"recommends what is wrong: {words}"
    assert list(folder.rglob("*")) == [], f"refused, but left files: {words}"


def outcome(overrides: Sequence[str], folder: Path) -> str:
    """``trained`` or ``refused``, checked to be what it says.

    Args:
        overrides: of the command line.
        folder: an empty folder for the runs.
    """
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        try:
            cfg = compose("train", overrides=[*overrides, f"runs_dir={folder}"])
        except (HydraException, OmegaConfBaseException):  # what the command line shows as one message
            return "refused by Hydra"
    start, refusal = time.process_time(), None
    signal.alarm(_HANGS_AFTER_S)
    try:
        found = launch(cfg).folder
    except (ConfigError, RecordsError) as error:
        refusal = str(error)
    finally:
        signal.alarm(0)
    if refusal is not None:
        _check_refusal(refusal, time.process_time() - start, folder)
        return "refused"
    runs = read_runs([found])
    assert set(runs.members["status"]) == {"finished"}
    assert len(runs.members) == cfg.num_seeds
    assert len(runs.table("metrics"))
    return "trained"


def _check_refusal(words: str, taken_s: float, folder: Path) -> None:
    assert taken_s < REFUSED_WITHIN_S, f"refused after {taken_s:.1f} s of computing: {words}"
    assert words.strip(), "refused without a word"
    assert len(words) < _MOST_WORDS, f"refused in too many words: {words}"
    assert [path for path in folder.rglob("*") if path.is_file()] == [], f"refused, but left files: {words}"


def drawing(examples: int, is_random: bool) -> settings:
    """So many examples, others at every call or not."""
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=not is_random,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


def fuzz(examples: int, is_random: bool) -> Counter[str]:
    """Draw compositions and hold each to the promise; returns how they ended.

    Args:
        examples: how many.
        is_random: others at every call, not the same.
    """
    ends: Counter[str] = Counter()

    @drawing(examples, is_random)
    @given(compositions())
    def each_trains_or_is_refused(overrides: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ends[outcome(overrides, Path(folder))] += 1

    each_trains_or_is_refused()
    return ends


def fuzz_keys(examples: int, is_random: bool) -> None:
    """Draw unknown keys in every group and hold each to the promise.

    Args:
        examples: how many.
        is_random: others at every call, not the same.
    """

    @drawing(examples, is_random)
    @given(unknown_keys())
    def each_is_refused(drawn: tuple[list[str], str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            check_refusal_of_key(*drawn, Path(folder))

    each_is_refused()


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw as many compositions as asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--random", action="store_true", help="others at every call")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    importlib.import_module("gradhorizon.training.fit")  # whose imports no refusal is charged with
    ends = fuzz(options.examples, options.random)
    fuzz_keys(options.examples, options.random)
    sys.stdout.write(f"{options.examples} unknown keys refused, ")
    sys.stdout.write(", ".join(f"{count} {end}" for end, count in sorted(ends.items())) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
