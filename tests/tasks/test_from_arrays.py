"""Data of one's own: parts that do not touch, units of the first, chance from the file, and one line for a bad file."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from gradhorizon.tasks.arrays.reading import DataError
from gradhorizon.tasks.from_arrays import FromArrays
from gradhorizon.tasks.task import Batch, Task
from tests.series_files import NUM_TRAIN, STEPS_AHEAD, series

SHORTEST = 1
EVERYTHING = 100_000


def _standard() -> np.ndarray:
    return StandardScaler().fit(series()[:NUM_TRAIN]).transform(series()).astype(np.float32)


def targets(inputs: Tensor) -> Tensor:
    known = torch.from_numpy(_standard())
    ends = (inputs[:, -1, None] - known).abs().sum(dim=2).argmin(dim=1)
    return known[ends + STEPS_AHEAD][:, None]


def perfect(batch: Batch) -> Tensor:
    return batch.targets


def blind(task: Task, batch: Batch) -> Tensor:
    mean = _standard()[task.seq_len + STEPS_AHEAD - 1 : NUM_TRAIN].astype(np.float64).mean(axis=0)
    return torch.from_numpy(mean).expand(*batch.targets.shape)


def everything(task: Task) -> Batch:
    return task.sample_held_out(np.random.default_rng(0), task.num_held_out or 1)


def places(task: Task, num: int = EVERYTHING) -> set[int]:
    return set(task.sample(np.random.default_rng(0), num).factors["place"].tolist())


@pytest.fixture
def sequences() -> dict[str, np.ndarray]:
    """90 sequences of 6 steps and 2 features, of three classes of unequal size."""
    generator = np.random.default_rng(1)
    names = np.repeat(["sit", "walk", "run"], [20, 30, 40])[generator.permutation(90)]
    return {"inputs": generator.normal(5, 3, (90, 6, 2)) * [1, 100], "targets": names}


@pytest.fixture
def npz(tmp_path: Path, sequences: dict[str, np.ndarray]) -> str:
    np.savez(tmp_path / "moves.npz", inputs=sequences["inputs"], targets=sequences["targets"])
    return str(tmp_path / "moves.npz")


# Classes


def test_targets_are_the_classes_in_the_file(npz: str, sequences: dict[str, np.ndarray]) -> None:
    task = FromArrays(6, npz)
    batch = task.sample(np.random.default_rng(0), 500)
    names = sorted(set(sequences["targets"]))
    found = [names[index] for index in batch.targets[:, 0]]
    assert found == sequences["targets"][batch.factors["place"]].tolist()
    assert batch.loss_steps == (6,)
    assert (task.input_size, task.output_size) == (2, 3)


def test_inputs_are_in_units_of_the_training_part_alone(npz: str, sequences: dict[str, np.ndarray]) -> None:
    task, whole = FromArrays(6, npz), sequences["inputs"]
    train = sorted(places(task))
    scaler = StandardScaler().fit(whole[train].reshape(-1, 2))
    batch = everything(task)
    expected = scaler.transform(whole[batch.factors["place"]].reshape(-1, 2)).reshape(-1, 6, 2)
    np.testing.assert_allclose(batch.inputs, expected, rtol=1e-6, atol=1e-6)
    raw = everything(FromArrays(6, npz, standardize=False))
    np.testing.assert_allclose(raw.inputs, whole[raw.factors["place"]], rtol=1e-6)


def test_parts_share_no_sample_and_leave_none_out(npz: str) -> None:
    for split in ("random", "time"):
        task = FromArrays(6, npz, split=split)
        held_out = set(everything(task).factors["place"].tolist())
        assert held_out & places(task) == set()
        assert held_out | places(task) == set(range(90))
        assert len(held_out) == task.num_held_out == 18
    assert held_out == set(range(72, 90))


def test_random_parts_keep_the_shares_of_classes_and_depend_on_their_seed_alone(npz: str) -> None:
    first, again, other = (FromArrays(6, npz, split_seed=seed) for seed in (0, 0, 1))
    assert np.bincount(everything(first).targets.ravel()).tolist() == [8, 4, 6]
    assert places(first) == places(again) != places(other)


def test_chance_is_the_loss_of_whoever_knows_the_frequencies(npz: str) -> None:
    task = FromArrays(6, npz)
    classes = everything(task).targets.ravel().numpy()
    frequencies = np.bincount(classes) / classes.size
    guess = np.tile(frequencies, (classes.size, 1))
    assert task.chance["loss"] == pytest.approx(log_loss(classes, guess), rel=1e-12)
    assert task.chance["accuracy"] == np.mean(classes == frequencies.argmax())
    assert task.solved_levels["accuracy"] == pytest.approx(1 - 0.05 * (1 - 8 / 18))
    logits = torch.from_numpy(np.log(frequencies)).expand(classes.size, 1, 3)
    metrics = task.metrics(logits, everything(task).targets)
    assert {name: float(value.mean()) for name, value in metrics.items()} == pytest.approx(dict(task.chance))


def test_one_feature_may_lack_its_axis(tmp_path: Path, sequences: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "flat.npz", inputs=sequences["inputs"][..., 0], targets=sequences["targets"])
    np.savez(tmp_path / "deep.npz", inputs=sequences["inputs"][..., :1], targets=sequences["targets"])
    flat, deep = (everything(FromArrays(6, str(tmp_path / f"{name}.npz"))) for name in ("flat", "deep"))
    assert torch.equal(flat.inputs, deep.inputs)


def _by_row(data: dict[str, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame(data["inputs"][..., 0]).add_prefix("step_").assign(target=data["targets"])


def _by_step(data: dict[str, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "who": np.repeat([f"s{number}" for number in range(90)], 6),
            "second": np.tile(np.arange(6) / 10, 90),
            "x": data["inputs"][..., 0].ravel(),
            "y": data["inputs"][..., 1].ravel(),
            "what": np.repeat(data["targets"], 6),
        }
    )


BY_STEP: dict[str, Any] = {"sample_column": "who", "time_column": "second", "target": "what"}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_say_what_arrays_say(ending: str, tmp_path: Path, npz: str, sequences: dict[str, np.ndarray]) -> None:
    for name, table in (("row", _by_row(sequences)), ("step", _by_step(sequences))):
        path = tmp_path / f"{name}.{ending}"
        table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    expected = everything(FromArrays(6, npz))
    by_step = everything(FromArrays(6, str(tmp_path / f"step.{ending}"), **BY_STEP))
    by_row = everything(FromArrays(6, str(tmp_path / f"row.{ending}")))
    for found, inputs in ((by_step, expected.inputs), (by_row, expected.inputs[..., :1])):
        assert torch.equal(found.inputs, inputs)
        assert torch.equal(found.targets, expected.targets)


def test_rows_of_a_sample_may_lie_apart(tmp_path: Path, sequences: dict[str, np.ndarray]) -> None:
    table = _by_step(sequences)
    table.to_csv(tmp_path / "whole.csv", index=False)
    table.sort_values(["second", "who"], kind="stable").to_csv(tmp_path / "apart.csv", index=False)
    whole, apart = (FromArrays(6, str(tmp_path / f"{name}.csv"), **BY_STEP) for name in ("whole", "apart"))
    first = table["who"].drop_duplicates().tolist()
    other = table.sort_values(["second", "who"], kind="stable")["who"].drop_duplicates().tolist()

    def classes(task: FromArrays, samples: list[str]) -> dict[str, int]:
        batch = everything(task)
        return {samples[row]: int(own) for row, own in zip(batch.factors["place"], batch.targets, strict=True)}

    of_whole, of_apart = classes(whole, first), classes(apart, other)
    assert of_whole.keys() & of_apart.keys()
    assert all(of_whole[name] == of_apart[name] for name in of_whole.keys() & of_apart.keys())


# Forecasts


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(30, 90), seq_len=st.integers(1, 6), ahead=st.integers(1, 4), fraction=st.sampled_from([0.4, 0.5])
)
def test_no_window_reaches_into_the_other_part(length: int, seq_len: int, ahead: int, fraction: float) -> None:
    path = _written(lambda file: np.save(file, np.arange(length, dtype=float)), "clock.npy")
    task = FromArrays(seq_len, path, steps_ahead=ahead, held_out_fraction=fraction, standardize=False)
    first = length - round(fraction * length)
    train, held_out = task.sample(np.random.default_rng(0), 3000), everything(task)
    for batch in (train, held_out):  # the series counts its steps, so that its values are their numbers
        steps = batch.inputs[..., 0]
        assert torch.equal(steps[:, 0], batch.factors["place"].float())
        assert torch.equal(steps.diff(dim=1), torch.ones(len(steps), seq_len - 1))
        assert torch.equal(batch.targets[:, 0, 0], steps[:, -1] + ahead)
    assert float(train.targets.max()) == first - 1
    assert float(held_out.inputs.min()) == first
    assert float(held_out.targets.max()) == length - 1
    seen = set(train.inputs.ravel().tolist()) | set(train.targets.ravel().tolist())
    assert seen.isdisjoint(held_out.targets.ravel().tolist())
    assert task.num_held_out == len(held_out.inputs) == length - first - seq_len - ahead + 1


_FOLDERS: dict[str, Path] = {}


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    _FOLDERS["here"] = tmp_path_factory.mktemp("arrays")


def _written(write: Callable[[io.BytesIO], None], name: str) -> str:
    buffer = io.BytesIO()
    write(buffer)
    path = _FOLDERS["here"] / name
    path.write_bytes(buffer.getvalue())
    return str(path)


def _waves() -> str:
    frame = pd.DataFrame(series(), columns=["one", "other"]).assign(second=np.arange(600) / 10)
    return _written(lambda file: frame.to_csv(file, index=False), "waves.csv")


def test_chance_and_persistence_are_their_errors_on_the_held_out_part() -> None:
    task = FromArrays(20, _waves(), steps_ahead=5, target="one", time_column="second")
    known = series()[:, 0]
    scaled = (known - known[:480].mean()) / known[:480].std()
    due, last = scaled[480 + 24 :], scaled[480 + 19 : -5]
    expected = due.var() + (due.mean() - scaled[24:480].mean()) ** 2
    assert task.chance["loss"] == pytest.approx(expected, rel=1e-6)
    persistence = float(np.mean((due - last) ** 2))
    assert task.solved_levels == {"loss": pytest.approx(0.05 * min(expected, persistence), rel=1e-6)}
    errors = (due - scaled[24:480].mean()) ** 2
    assert task.chance["accuracy"] == pytest.approx(np.mean(errors < task.solved_levels["loss"]))
    assert (task.input_size, task.output_size) == (2, 1)


def test_criterion_takes_the_lesser_of_chance_and_persistence() -> None:
    slow = _written(lambda file: np.save(file, np.sin(np.arange(600) / 60)), "slow.npy")
    wild = _written(lambda file: np.save(file, np.random.default_rng(0).normal(size=600)), "wild.npy")
    of_slow, of_wild = (FromArrays(9, path, steps_ahead=1) for path in (slow, wild))
    assert of_slow.solved_levels["loss"] < 0.01 * 0.05 * of_slow.chance["loss"]
    assert of_wild.solved_levels["loss"] == pytest.approx(0.05 * of_wild.chance["loss"])


def test_features_and_several_targets_are_chosen_by_name_or_by_number() -> None:
    by_name = FromArrays(9, _waves(), steps_ahead=1, features=["other"], target=["one", "other"])
    array = _written(lambda file: np.save(file, series()), "waves.npy")
    by_number = FromArrays(9, array, steps_ahead=1, features=[1], target=[0, 1])
    for task in (by_name, by_number):
        assert (task.input_size, task.output_size) == (1, 2)
    one, other = everything(by_name), everything(by_number)
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.targets, other.targets)


def test_a_constant_feature_is_only_shifted() -> None:
    frame = pd.DataFrame({"x": np.sin(np.arange(200.0)), "still": 0.1})
    frame.loc[190:, "still"] = 0.6
    path = _written(lambda file: frame.to_csv(file, index=False), "still.csv")
    task = FromArrays(5, path, steps_ahead=1, target="x")
    assert float(task.sample(np.random.default_rng(0), 999).inputs[..., 1].abs().max()) == 0
    assert sorted(set(everything(task).inputs[..., 1].ravel().tolist())) == pytest.approx([0, 0.5])


# What is refused


def _npz(**arrays: Any) -> str:
    return _written(lambda file: np.savez(file, **arrays), "odd.npz")


def _csv(frame: pd.DataFrame) -> str:
    return _written(lambda file: frame.to_csv(file, index=False), "odd.csv")


def _text(text: str, name: str) -> str:
    return _written(lambda file: file.writelines([text.encode()]), name)


STEPS = pd.DataFrame({"who": [0, 0, 1, 1, 2, 2, 3, 3], "x": range(8), "target": [0, 0, 1, 1, 0, 0, 1, 1]})
LONG = pd.DataFrame({"t": range(60), "x": np.sin(np.arange(60.0)), "note": "fine"})
ZEROS, HALVES = np.zeros((8, 3)), np.repeat([0, 1], 4)

BAD: dict[str, tuple[Callable[[], str], dict[str, Any], str]] = {
    "no path": (lambda: "", {}, r"`path` must name a file that ends in .npz, .*: task.path="),
    "another ending": (lambda: "x.mat", {}, r"`path` must end in .npz, .npy, .csv, .parquet, got x.mat; convert"),
    "absent": (lambda: "not_there.csv", {}, "`path` must be a file, got not_there.csv, and there is none at /"),
    "changed": (
        lambda: _csv(STEPS),
        {"digest": "0" * 16},
        "must be the file of the digest 0{16}, got .* changed since",
    ),
    "pickled": (
        lambda: _npz(inputs=np.array([[1], [2, 3]], dtype=object), targets=np.array([0, 1])),
        {},
        "must hold plain numbers or text, got Python objects, which would have to be executed",
    ),
    "no zip": (lambda: _text("abc", "odd.npz"), {}, "odd.npz must hold plain numbers or text|cannot be read as .npz"),
    "no parquet": (lambda: _text("abc", "odd.parquet"), {}, "odd.parquet cannot be read as .parquet: "),
    "empty csv": (lambda: _text("", "odd.csv"), {}, "odd.csv cannot be read as .csv: No columns"),
    "no inputs": (lambda: _npz(X=ZEROS, y=HALVES), {}, "an array `inputs` must be there, there are: X, y; numpy.savez"),
    "no targets": (lambda: _npz(inputs=ZEROS), {}, "an array `targets` must be there, there are: inputs"),
    "one value": (lambda: _npz(inputs=1.0, targets=HALVES), {}, "`inputs` must be an array of samples or steps"),
    "four axes": (
        lambda: _npz(inputs=np.zeros((8, 3, 1, 1)), targets=HALVES),
        {},
        r"`inputs` must be of shape .*, got",
    ),
    "texts": (lambda: _npz(inputs=ZEROS.astype(str), targets=HALVES), {}, "`inputs` must hold real numbers, got .*<U"),
    "complex": (lambda: _npz(inputs=ZEROS * 1j, targets=HALVES), {}, "`inputs` must hold real numbers, got .*complex"),
    "another count": (
        lambda: _npz(inputs=ZEROS, targets=HALVES[1:]),
        {},
        r"`targets` must be of shape \(8,\), .*\(7,\)",
    ),
    "half classes": (
        lambda: _npz(inputs=ZEROS, targets=HALVES / 2),
        {},
        "classes must be whole numbers or text, got 0.5",
    ),
    "one class": (lambda: _npz(inputs=ZEROS, targets=HALVES * 0), {}, "at least two classes must be there, got 1: 0"),
    "a lone sample": (
        lambda: _npz(inputs=ZEROS, targets=[0] * 7 + [1]),
        {},
        "every class needs a sample in each part, got 1 of class 1",
    ),
    "classes in order": (
        lambda: _npz(inputs=ZEROS, targets=HALVES),
        {"split": "time"},
        "every class must be in each part, got none of class 0 to hold out; task.split=random",
    ),
    "no room": (
        lambda: _npz(inputs=ZEROS[:4], targets=HALVES[2:6]),
        {"held_out_fraction": 0.9},
        "`held_out_fraction` must leave a sample of each of the 2 classes in each part, got 0.9 of 4",
    ),
    "NaN": (
        lambda: _npz(inputs=np.where(np.arange(24).reshape(8, 3) == 7, np.nan, 0.0), targets=HALVES),
        {},
        "`inputs` must hold a number .*, got 1 missing or infinite values, the first in row 3 of 8",
    ),
    "names": (lambda: _npz(inputs=ZEROS, targets=HALVES), {"features": [0]}, "`features` names a column, and arrays"),
    "no target": (
        lambda: _csv(STEPS),
        {"target": "y"},
        "`target` must name a column of the data, got y; there are: who",
    ),
    "two targets": (
        lambda: _csv(STEPS),
        {"target": ["x", "who"]},
        "`target` must be the one column of the class, got 2",
    ),
    "a leak": (
        lambda: _csv(STEPS),
        {"features": ["x", "target"]},
        "`features` must be columns that may be fed, got `targ",
    ),
    "no features": (lambda: _csv(STEPS[["target"]]), {}, "`features` must be columns that may be fed, got none"),
    "an empty cell": (
        lambda: _csv(STEPS.assign(x=np.where(STEPS["x"].isin([2, 4]), np.nan, STEPS["x"]))),
        {"sample_column": "who"},
        "column `x` must hold a number .*, got 2 missing values, the first in row 3 of 8",
    ),
    "infinity": (
        lambda: _csv(STEPS.assign(x=[0, 1, 2, math.inf, 4, 5, 6, 7])),
        {"sample_column": "who"},
        "column `x` must hold .*, got 1 infinite values, the first in row 4",
    ),
    "no class": (
        lambda: _csv(STEPS.assign(target=["a", "a", "", "", "a", "a", "b", "b"])),
        {"sample_column": "who"},
        "column `target` must hold .*, got 2 missing values, the first in row 3",
    ),
    "no sample": (
        lambda: _csv(STEPS.assign(who=["0", "0", "1", "1", "2", "2", "3", ""])),
        {"sample_column": "who"},
        "column `who` must hold .*, got 1 missing values, the first in row 8",
    ),
    "text among numbers": (
        lambda: _csv(STEPS.assign(x=["0", "1", "two", "3", "4", "5", "6", "7"])),
        {"sample_column": "who"},
        "column `x` must hold real numbers, got 'two' in row 3; leave it out by task.features",
    ),
    "unequal lengths": (
        lambda: _csv(STEPS.iloc[:7]),
        {"sample_column": "who"},
        "every sample must have equally many steps, got 1 of sample 3 and 2 of sample 0; cut or pad",
    ),
    "two answers": (
        lambda: _csv(STEPS.assign(target=[0, 0, 1, 0, 0, 0, 1, 1])),
        {"sample_column": "who"},
        "column `target` must be the same in all rows of a sample, got several of sample 1",
    ),
    "time stands": (
        lambda: _csv(STEPS.assign(t=[0, 1, 0, 0, 0, 1, 0, 1])),
        {"sample_column": "who", "time_column": "t"},
        "column `t` must rise from row to row of a sample, got 0 after 0 in row 4; sort",
    ),
    "time stands by a nanosecond": (
        lambda: _csv(LONG[["x"]].assign(t=[*range(2**60, 2**60 + 59), 2**60 + 58])),
        {"steps_ahead": 1, "time_column": "t"},
        f"column `t` must rise from row to row, got {2**60 + 58} after {2**60 + 58} in row 60",
    ),
    "time of rows": (lambda: _csv(STEPS), {"time_column": "x"}, "`time_column` is of a table with a row a step"),
    "time falls": (
        lambda: _csv(LONG[["t", "x"]].iloc[::-1]),
        {"steps_ahead": 1, "time_column": "t"},
        "column `t` must rise from row to row, got 58 after 59 in row 2; sort",
    ),
    "a note": (lambda: _csv(LONG), {"steps_ahead": 1}, "column `note` must hold real numbers, got 'fine' in row 1"),
    "a random forecast": (
        lambda: _csv(LONG),
        {"steps_ahead": 1, "split": "random"},
        "`split` must be time for a forecast",
    ),
    "several series": (
        lambda: _csv(LONG),
        {"steps_ahead": 1, "sample_column": "t"},
        "`sample_column` cannot be forecast",
    ),
    "too far": (
        lambda: _csv(LONG[["x"]]),
        {"steps_ahead": 10},
        "`seq_len`=3 and `steps_ahead`=10 need 14 steps for two windows, got 12 that are held out of 60",
    ),
    "no change": (
        lambda: _csv(LONG.assign(x=1.0)[["x"]]),
        {"steps_ahead": 1},
        "what is forecast must change in the held-out part, got the training mean throughout",
    ),
    "sequences forecast": (
        lambda: _npz(inputs=np.zeros((8, 3, 2))),
        {"steps_ahead": 1},
        r"\(steps, features\), got \(8, 3",
    ),
    "another length": (
        lambda: _npz(inputs=ZEROS[:, :2], targets=HALVES),
        {},
        "must be the steps of each sequence, 2, got 3",
    ),
    "too large": (
        lambda: _npz(inputs=ZEROS + 1e300, targets=HALVES),
        {"standardize": False},
        "values must fit 32-bit floats, got larger ones",
    ),
    "arrays in one": (
        lambda: _written(lambda file: np.save(file, ZEROS), "odd.npz"),
        {},
        "got a single one.*name it .npy",
    ),
    "no steps ahead": (lambda: _csv(LONG), {"steps_ahead": 0}, "`steps_ahead` must be at least 1, or null for classes"),
    "all held out": (lambda: _csv(LONG), {"held_out_fraction": 1.0}, "`held_out_fraction` must lie between 0 and 1"),
    "no error": (lambda: _csv(LONG), {"solved_error": 0.0}, "`solved_error` must lie between 0 and 1, got 0.0"),
    "a negative seed": (lambda: _csv(LONG), {"split_seed": -1}, "`split_seed` must not be negative, got -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_the_data_is_one_line(name: str) -> None:
    write, arguments, words = BAD[name]
    with pytest.raises(DataError, match=words) as caught:
        FromArrays(3, write(), **arguments)
    assert "\n" not in str(caught.value)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "was_run"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (mark,)

    for name in ("evil.npz", "evil.npy"):
        save = np.savez if name.endswith("z") else np.save
        save(tmp_path / name, np.array([Evil()], dtype=object), **({} if save is np.savez else {"allow_pickle": True}))
        with pytest.raises(DataError):
            FromArrays(3, str(tmp_path / name))
    assert not mark.exists()
