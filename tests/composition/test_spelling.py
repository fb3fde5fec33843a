"""One spelling for one number: what is equal is one run, of one identity and one folder's name."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from hydra import compose, initialize_config_dir

from gradhorizon.composition.spelling import canonical, spelled
from gradhorizon.config import RunConfig, validate
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.machine.signatures import find_signature, read_signature, summary
from gradhorizon.runs.identity import identity_of, readable_name

SGD = {"_target_": "torch.optim.SGD", "_partial_": True}


def configured(*overrides: str) -> RunConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return validate(compose("train", overrides=["optimizer=sgd", *overrides]))


@pytest.mark.parametrize(
    ("override", "others"),
    [
        ("optimizer.momentum=0.0", ["optimizer.momentum=0", "optimizer.momentum=-0.0", "++optimizer.momentum=0e5"]),
        ("learning_rate=0.001", ["learning_rate=1e-3", "learning_rate=.001", "learning_rate=1.0e-03"]),
        ("learning_rate=1.0", ["learning_rate=1", "++learning_rate=1e0"]),
        ("clip_norm=2.0", ["clip_norm=2"]),
        ("seed=1 num_steps=1000", ["seed=1 num_steps=1_000"]),
        ("optimizer=adam +optimizer.betas=[0,0.5]", ["optimizer=adam +optimizer.betas=[0.0,.5]"]),
        ("optimizer=adam +optimizer.amsgrad=true", ["optimizer=adam +optimizer.amsgrad=True"]),
        ("model=rnn_orthogonal", ["model=rnn_orthogonal model.cell.initialization.gain=1"]),
        ("stop_when_solved=true", ["stop_when_solved=yes", "stop_when_solved=True"]),
    ],
)
def test_spellings_of_one_number_are_one_run(override: str, others: list[str]) -> None:
    expected = identity_of(configured(*override.split()), "cpu")
    for other in others:
        assert identity_of(configured(*other.split()), "cpu") == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("optimizer.momentum=0.0", "optimizer.momentum=1e-300"),
        ("+optimizer.nesterov=true", "+optimizer.nesterov=1"),
        ("+optimizer.nesterov=false", "+optimizer.nesterov=0"),
        ("model.label=\"'7'\"", "model.label=\"'7.0'\""),
        ("learning_rate=0.1", "learning_rate=0.10000000000000002"),
        ("+optimizer.dampening=9007199254740993", "+optimizer.dampening=9007199254740992"),
    ],
)
def test_what_differs_stays_apart(one: str, other: str) -> None:
    assert identity_of(configured(one), "cpu") != identity_of(configured(other), "cpu")


@pytest.mark.parametrize("group", ["model", "task", "optimizer"])
def test_shipped_files_are_spelled_as_an_identity_spells_them(group: str) -> None:
    for path in sorted((CONF_DIR / group).glob("*.yaml")):
        if path.stem != "external":
            node = getattr(configured(f"{group}={path.stem}"), group)
            assert json.dumps(canonical(node)) == json.dumps(node)


def test_numbers_take_the_type_that_their_reader_says() -> None:
    assert repr(canonical({**SGD, "lr": 1, "momentum": 0})) == repr({**SGD, "lr": 1.0, "momentum": 0.0})
    assert repr(canonical({"_target_": "gradhorizon.cells.gru.GRU", "hidden_size": 4.0})).endswith("4}")
    assert repr(canonical({"_target_": "unknown.Thing", "size": 4.0, "rate": 0.5, "many": [1.0, -0.0]})).endswith(
        "'size': 4, 'rate': 0.5, 'many': [1, 0]}"
    )
    assert canonical([True, "1.0", None, float("inf")]) == [True, "1.0", None, float("inf")]
    assert canonical(10**400, "float") == 10**400
    assert canonical(True, "float") is True


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("optimizer.momentum=0", "optimizer.momentum=0"),
        ("optimizer.momentum=0.0", "optimizer.momentum=0"),
        ("optimizer.momentum=-0.0", "optimizer.momentum=0"),
        ("learning_rate=1e-3", "learning_rate=0.001"),
        ("num_steps=1_000", "num_steps=1000"),
        ("+optimizer.betas=[.9,1e-2]", "+optimizer.betas=[0.9,0.01]"),
        ("+optimizer.amsgrad=True", "+optimizer.amsgrad=true"),
        ("~measurement.gates", "~measurement.gates"),
        ("optimizer=sgd", "optimizer=sgd"),
        ("precision=64-true", "precision=64-true"),
        ("model.label='1.0'", "model.label='1.0'"),
        ("clip_norm=null", "clip_norm=null"),
        ("learning_rate=inf", "learning_rate=inf"),
        ("seed=123456789012345678901", "seed=123456789012345678901"),
    ],
)
def test_an_override_is_spelled_in_one_way(typed: str, name: str) -> None:
    assert spelled(typed) == name


def test_a_folder_is_named_with_the_one_spelling() -> None:
    run = configured()
    names = {readable_name(run, "task", [f"optimizer.momentum={text}"]) for text in ("0", "0.0", "-0.0", "0e1")}
    assert names == {"lstm-task-T100-optimizer.momentum=0"}


@pytest.mark.parametrize(
    ("target", "names"),
    [
        (
            "gradhorizon.config.TrainerSettings",
            {"log_every_steps", "checkpoint_every_s", "progress_every_s", "keep_probe_checkpoints"},
        ),
        ("gradhorizon.mirrors.NoMirror", set()),
        ("gradhorizon.cells.elman.unbiased_gaussian", {"cell", "gain"}),
        ("gradhorizon.measurements.schedule.LogSpaced", {"num_points", "at_init", "at_solved", "at_last"}),
        ("hydra.utils.get_class", {"path"}),
    ],
)
def test_what_a_class_takes_is_read_from_its_source(target: str, names: set[str]) -> None:
    signature = read_signature(target)
    assert signature is not None
    assert set(signature.annotations) == names
    assert not signature.takes_anything


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop", "LBFGS", "Adagrad", "NAdam"])
def test_the_source_says_what_the_imported_optimizer_takes(name: str) -> None:
    read = read_signature(f"torch.optim.{name}")
    assert read is not None
    assert list(read.annotations) == list(inspect.signature(getattr(torch.optim, name)).parameters)


def test_what_the_source_does_not_say_is_imported() -> None:
    assert read_signature("torch.nn.LSTM") is None
    found = find_signature("torch.nn.LSTM")
    assert found is not None
    assert found.takes_anything
    assert find_signature("no.such.thing") is None


def test_a_summary_is_the_first_line_of_the_class_or_of_its_module() -> None:
    assert summary("gradhorizon.measurements.schedule.Every") == "Every so many optimizer steps."
    assert summary("no.such.Thing") == ""
