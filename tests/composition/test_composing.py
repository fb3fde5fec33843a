"""What a sweep composes once and then copies is what Hydra composes for each run."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig

from gradhorizon.composition.composing import ComposingOnce, composing_once
from gradhorizon.machine.installed import CONF_DIR

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))
CASES: dict[str, list[Sequence[str]]] = {
    "scalars": [["seed=1", "seq_len=20"], ["seed=2", "seq_len=30"], ["seq_len=30", "seed=2"]],
    "groups and scalars mixed": [["model=gru", "seed=1", "task=copy_arjovsky2016"], ["seed=1", "model=gru"]],
    "one key twice": [["seed=1", "seed=2"], ["model=gru", "model=lstm"]],
    "null, quotes, dictionaries": [["clip_norm=null", "experiment_name='a b'"], ["+model.cell={a:1}", "clip_norm=1.5"]],
    "added and forced": [["+optimizer.momentum=0.9", "++optimizer.x=1"], ["+optimizer.momentum=0.8"]],
    "left out": [["~clip_norm"], ["~clip_norm=null"], ["~experiment"], ["~optimizer.lr", "+optimizer.lr=1"]],
    "interpolations": [["hidden_size=${seq_len}"], ["~optimizer.lr=0.1", "learning_rate=0.1"]],
    "hydra's own values": [["hydra.job.chdir=true", "seed=1"], ["hydra.launcher.slots=2", "hydra/launcher=local"]],
    "hydra's own node added to": [["+hydra.job.env_set.A=1"], ["hydra.sweep.dir=x", "seed=3"]],
    "experiment, then its values": [["experiment=quickstart", "num_steps=3"], ["num_steps=4", "experiment=quickstart"]],
    "several measurements": [["measurement=[gates,cost]"], ["measurement=[]"], ["measurement=null"]],
    "a path elsewhere": [["hydra.searchpath=[pkg://tests]", "seed=1"], ["seed=1"]],
    "wrong": [["seed=x"], ["nothing=1"], ["model=nobody"], ["seed="], ["+seed=1"], ["seed"], ["seed=1,2"], ["hydra=1"]],
}


@pytest.fixture(name="loader")
def _loader() -> Iterator[ConfigLoaderImpl]:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield GlobalHydra.instance().hydra.config_loader  # type: ignore[union-attr, misc]


def anatomy(node: Any) -> Any:
    """All that a node is: values as they are written, types, flags, order."""
    meta = {name: value for name, value in vars(node._metadata).items() if name != "resolver_cache"}
    content = node._content if isinstance(node, DictConfig | ListConfig) else None
    if isinstance(content, dict):
        return type(node), meta, [(key, anatomy(value)) for key, value in content.items()]
    if isinstance(content, list):
        return type(node), meta, [anatomy(value) for value in content]
    return type(node), meta, node._value()


def outcome(loader: ConfigLoaderImpl, overrides: Sequence[str]) -> Any:
    try:
        return anatomy(loader.load_configuration("train", list(overrides), RunMode.RUN))
    except Exception as error:  # noqa: BLE001, whatever Hydra says must be said
        return type(error), str(error), str(error.__cause__)


def assert_as_hydra(loader: ConfigLoaderImpl, runs: Sequence[Sequence[str]]) -> None:
    once = composing_once(loader)
    assert isinstance(once, ComposingOnce)
    for own in [*runs, *runs]:  # the second time from what was kept
        assert outcome(once, own) == outcome(loader, own), own


@pytest.mark.parametrize("runs", CASES.values(), ids=CASES.keys())
@pytest.mark.filterwarnings("ignore:provider=")
def test_composing_once_gives_what_hydra_gives(loader: ConfigLoaderImpl, runs: list[list[str]]) -> None:
    assert_as_hydra(loader, runs)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_composing_an_experiment_once_gives_what_hydra_gives(loader: ConfigLoaderImpl, experiment: str) -> None:
    assert_as_hydra(loader, [[f"experiment={experiment}", f"seed={seed}", "seq_len=12"] for seed in range(2)])


def test_the_files_of_one_set_of_choices_are_merged_once(
    loader: ConfigLoaderImpl, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = []
    original = ConfigLoaderImpl._compose_config_from_defaults_list

    def counted(*arguments: Any, **named: Any) -> DictConfig:
        merged.append(arguments)
        return original(*arguments, **named)

    monkeypatch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", counted)
    once = composing_once(loader)
    for seed in range(5):
        once.load_configuration("train", [f"seed={seed}", f"model={('gru', 'lstm')[seed % 2]}"], RunMode.RUN)
    assert len(merged) == 2


def test_what_is_changed_in_one_configuration_is_in_no_other(loader: ConfigLoaderImpl) -> None:
    once = composing_once(loader)
    first = once.load_configuration("train", ["seed=1"], RunMode.RUN)
    first.model.label = "changed"
    assert once.load_configuration("train", ["seed=2"], RunMode.RUN).model.label == "lstm"


def test_other_processes_are_sent_nothing_that_was_merged(loader: ConfigLoaderImpl, tmp_path: Path) -> None:
    once = composing_once(loader)
    before = len(pickle.dumps(once))
    once.load_configuration("train", [f"runs_dir={tmp_path}"], RunMode.RUN)
    assert len(pickle.dumps(once)) == before
