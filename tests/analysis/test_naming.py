"""Curves of one label are named with what differs, whatever it is, and never with what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gradhorizon.analysis.reading.cohort import read_cohort
from gradhorizon.analysis.reading.naming import MAX_VALUE_CHARACTERS, flattened, short_keys, variant_words
from gradhorizon.composition.shipped_models import shipped_settings
from gradhorizon.composition.variants import TELL_NO_RUN
from gradhorizon.machine.installed import CONF_DIR
from tests.synthetic_runs import SyntheticRun

MODELS = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml") if path.stem != "external")
ORTHOGONAL = ("model.cell.initialization._target_=gradhorizon.cells.initialization.orthogonal",
              "+model.cell.initialization.gain=0.5")  # fmt: skip
EXTERNAL = ("model=external", "model.label=mine", "model.cell._target_=my_package.cells.Mine")


def composed(*overrides: str) -> dict[str, Any]:
    """A run's whole configuration, resolved."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", overrides=["seq_len=50", "measurement=[]", *overrides])
    content: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    return content


def names(tmp_path: Path, *launches: tuple[str, ...]) -> list[str]:
    """The series of runs with these overrides, in order of launch."""
    folders = []
    for overrides in launches:
        config = composed(*overrides)
        root = {name: config[name] for name in ("hidden_size", "num_steps", "clip_norm", "seq_len")}
        run = SyntheticRun(model=config["model"]["label"], config=config, outcomes=(None,), tables=(), **root)
        folders.append(run.write(tmp_path))
    members = read_cohort([tmp_path]).members
    at = {Path(folder).parent: series for folder, series in zip(members["folder"], members["series"], strict=True)}
    return [at[folder.resolve()] for folder in folders]


@pytest.mark.parametrize(
    ("launches", "said"),
    [
        ((["learning_rate=0.01"], ["learning_rate=0.1"]), ["lr=0.01", "lr=0.1"]),
        ((["learning_rate=1e-5"], ["learning_rate=0.00012345678"]), ["lr=1e-05", "lr=0.00012345678"]),
        ((["clip_norm=1"], ["clip_norm=null"]), ["clip_norm=1", "clip_norm=null"]),
        ((["optimizer=sgd"], ["optimizer=adam"]), ["optimizer=SGD", "optimizer=Adam"]),
        (
            (["optimizer=sgd"], ["optimizer=sgd", "optimizer.momentum=0.9"], ["optimizer=adam"]),
            ["optimizer=SGD momentum=0", "optimizer=SGD momentum=0.9", "optimizer=Adam"],
        ),
        ((["+optimizer.betas=[0.9,0.99]"], ["+optimizer.betas=[0,0.9]"]), ["betas=[0.9,0.99]", "betas=[0,0.9]"]),
        ((["+optimizer.weight_decay=0.1"], []), ["weight_decay=0.1", "weight_decay=default"]),
        ((["num_layers=2"], ["num_layers=1"]), ["num_layers=2", "num_layers=1"]),
        ((["hidden_size=8"], ["hidden_size=16"]), ["hidden_size=8", "hidden_size=16"]),
        ((["batch_size=8"], ["batch_size=16"]), ["batch_size=8", "batch_size=16"]),
        ((["precision=64-true"], ["precision=bf16-mixed"]), ["precision=64-true", "precision=bf16-mixed"]),
        ((["device=cpu"], ["device=cuda"]), ["device=cpu", "device=cuda"]),
        ((["stop_when_solved=false"], []), ["stop_when_solved=false", "stop_when_solved=true"]),
        ((["+task.delay=3"], ["+task.delay=4"]), ["delay=3", "delay=4"]),
        ((["data_seed=1"], ["data_seed=2"]), ["data_seed=1", "data_seed=2"]),
        (
            (["learning_rate=0.1", "batch_size=8"], ["learning_rate=0.1", "batch_size=9"], ["batch_size=8"]),
            ["batch_size=8 lr=0.1", "batch_size=9 lr=0.1", "batch_size=8 lr=0.001"],
        ),
        (
            (["+model.encoder={_target_:torch.nn.Linear,out_features:4}"], []),
            ["encoder=Linear out_features=4", "encoder=null"],
        ),
        ((["model.cell.hidden_size=9"], []), ["hidden_size=9", "hidden_size=64"]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, list) else None,
)  # fmt: skip
def test_legend_says_exactly_what_differs(launches: tuple[list[str], ...], said: list[str], tmp_path: Path) -> None:
    expected = [f"gru ({words})" for words in said]
    assert names(tmp_path, *(("model=gru", *overrides) for overrides in launches)) == expected


@pytest.mark.parametrize("model", MODELS)
def test_shipped_model_on_its_own_is_called_by_its_label(model: str, tmp_path: Path) -> None:
    overrides = (f"model={model}", "learning_rate=0.1", "hidden_size=9", "seq_len=37")
    assert names(tmp_path, overrides) == [model]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("model=rnn_tanh", *ORTHOGONAL), "rnn_tanh (initialization=orthogonal gain=0.5)"),
        (("model=rnn_orthogonal", "model.cell.initialization.gain=0.9"), "rnn_orthogonal (gain=0.9)"),
        (("model=deep_lstm", "num_layers=2"), "deep_lstm (num_layers=2)"),
        (("model=lstm", "model.bidirectional=true"), "lstm (bidirectional=true)"),
        (("model=rnn_relu", "model.cell.nonlinearity=tanh"), "rnn_relu (nonlinearity=tanh)"),
        (("model=lstm_chrono", "~model.cell.initialization"), "lstm_chrono (initialization=default)"),
        (
            ("model=lstm_chrono", "model.cell.initialization._target_=gradhorizon.cells.initialization.uniform",
             "~model.cell.initialization.seq_len"),
            "lstm_chrono (initialization=uniform)",
        ),
        (("model=lstm_chrono", "model.cell.initialization.seq_len=9"), "lstm_chrono (seq_len=9)"),
        (("model=lstm", "model.color='#123456'"), "lstm"),
        ((*EXTERNAL, "+model.cell.time_constant=5"), "mine"),
    ],
)  # fmt: skip
def test_label_whose_model_was_changed_is_said_even_alone(
    overrides: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    assert names(tmp_path, overrides) == [said]


def test_shipped_and_changed_model_stand_side_by_side(tmp_path: Path) -> None:
    assert names(tmp_path, ("model=rnn_tanh",), ("model=rnn_tanh", *ORTHOGONAL)) == [
        "rnn_tanh (initialization=uniform)", "rnn_tanh (initialization=orthogonal gain=0.5)",
    ]  # fmt: skip


def test_arguments_of_an_external_cell_are_told(tmp_path: Path) -> None:
    found = names(tmp_path, (*EXTERNAL, "+model.cell.time_constant=5"), EXTERNAL)
    assert found == ["mine (time_constant=5)", "mine (time_constant=default)"]


def test_what_differs_between_lengths_alone_is_not_told(tmp_path: Path) -> None:
    launches = [("model=lstm_chrono", f"seq_len={length}", f"num_steps={10 * length}") for length in (50, 100)]
    assert names(tmp_path, *launches) == ["lstm_chrono", "lstm_chrono"]


def test_one_name_at_every_length_where_a_setting_is_swept_at_one(tmp_path: Path) -> None:
    launches = [("seq_len=50", "learning_rate=0.1"), ("seq_len=50",), ("seq_len=100",)]
    assert names(tmp_path, *launches) == ["lstm (lr=0.1)", "lstm (lr=0.001)", "lstm (lr=0.001)"]


def test_what_cannot_change_numbers_is_not_told(tmp_path: Path) -> None:
    launches = [("trainer.log_every_steps=7", "logger=none", "learning_rate=0.1"), ("logger=wandb",)]
    assert names(tmp_path, *launches) == ["lstm (lr=0.1)", "lstm (lr=0.001)"]
    own = {"experiment_name", "seed", "num_seeds", "measurement", "logger", "trainer", "runs_dir", "plan"}
    assert own <= set(TELL_NO_RUN)


def test_run_without_its_configuration_is_told_by_what_was_recorded(tmp_path: Path) -> None:
    runs = [SyntheticRun(hidden_size=size, config=None, outcomes=(None,), tables=()) for size in (8, 9)]
    for run in runs:
        run.write(tmp_path)
    assert read_cohort([tmp_path]).look["series"].tolist() == ["lstm (hidden_size=8)", "lstm (hidden_size=9)"]


def test_device_is_that_of_the_launch_where_auto_was_asked_for() -> None:
    words = variant_words({"a": {"device": "cpu"}, "b": {"device": "cuda"}}, [["a", "b"]])
    assert words == {"a": "device=cpu", "b": "device=cuda"}


@pytest.mark.parametrize(
    "values",
    [
        ["x" * 40 + "1", "x" * 40 + "2"],
        ["1" + "x" * 40, "2" + "x" * 40],
        ["x" * 40 + "1" + "y" * 40, "x" * 40 + "2" + "y" * 40],
        [list(range(40)), [*range(39), 0]],
        ["a" * 60, "a" * 61, "a" * 62],
        ["a" * 30 + "b" + "c" * 30 + "d", "a" * 30 + "b" + "c" * 30 + "e", "a" * 30 + "x" + "c" * 30 + "d"],
    ],
)
def test_long_values_are_cut_and_stay_distinct(values: list[Any]) -> None:
    flat = {str(index): {"task.words": value} for index, value in enumerate(values)}
    words = list(variant_words(flat, [list(flat)]).values())
    assert len(set(words)) == len(values)
    assert max(map(len, words)) <= len("words=") + 2 * MAX_VALUE_CHARACTERS


def test_classes_of_one_name_keep_their_modules() -> None:
    flat = {key: flattened({"task": {"_target_": f"{key}.Mine"}}) for key in ("first", "second")}
    assert variant_words(flat, [list(flat)]) == {"first": "task=first.Mine", "second": "task=second.Mine"}


def test_names_of_keys_are_as_long_as_needed() -> None:
    keys = ["hidden_size", "model.cell.hidden_size", "model.encoder.hidden_size", "learning_rate", "optimizer.lr"]
    assert list(short_keys(keys).values()) == [
        "hidden_size", "cell.hidden_size", "encoder.hidden_size", "lr", "optimizer.lr",
    ]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_shipped_settings_are_what_hydra_composes(model: str) -> None:
    cfg = composed(f"model={model}")
    found = shipped_settings(model, cfg)
    assert found
    assert {name: cfg[name] for name in found} == found
