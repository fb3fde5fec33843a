"""Planted faults: each is found, in its quantity and where it is; right kernels pass everywhere, chaotic ones too."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from gradhorizon.doctor.cases import ODD_SIZES
from gradhorizon.doctor.comparison import UNDECIDED, Place
from gradhorizon.doctor.findings import DTYPES, Finding
from gradhorizon.doctor.survey import Subject, findings
from gradhorizon.doctor.words import remarks
from tests.doctor.faulty_kernels import (
    FAULTS,
    Chaotic,
    ChaoticAndWrong,
    ForgetsTheStart,
    ScanCell,
    WrongInBFloat16,
    WrongInFloat32,
)
from tests.synthetic_cells import LinearRecurrence

CPU = Place("cpu")
ONE_FORMAT: dict[type[ScanCell], str] = {WrongInBFloat16: "bfloat16", WrongInFloat32: "float32"}


def examined(cell: type[Any], *dtypes: str, longest: int = 65, **settings: Any) -> tuple[Subject, list[Finding]]:
    built = {size: cell(3, size, **settings) for size in (8, *ODD_SIZES)}
    subject = Subject(cell.__name__, (cell.__name__,), built.pop(8), built)
    cases = [case for case in subject.cases(None) if case.num_steps <= longest]
    return subject, list(findings(subject, [CPU], dtypes, cases))


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_the_right_kernel_passes_in_every_case(dtype: str) -> None:
    _, (finding,) = examined(ScanCell, dtype)
    # In bfloat16 half of what little is left of a gradient after many steps may be rounding, which is said.
    assert {outcome.verdict for outcome in finding.outcomes} <= {"pass", "untested"}
    assert len(finding.of("untested")) <= (len(finding.outcomes) // 8 if dtype == "bfloat16" else 0)
    assert {outcome.case.hidden_size for outcome in finding.outcomes} == {5, 7, 8}
    assert {outcome.case.batch_size for outcome in finding.outcomes} == {1, 3}


@pytest.mark.parametrize("cell", FAULTS)
def test_a_fault_is_found_in_its_quantity_and_said_to_be_where_it_is(cell: type[ScanCell]) -> None:
    quantity, where = FAULTS[cell]
    subject, found = examined(cell, ONE_FORMAT.get(cell, "float64"), longest=17 if cell in ONE_FORMAT else 65)
    assert [one.verdict for one in found] == ["FAIL"]
    assert found[0].errors[quantity] > found[0].tolerances[quantity]
    said = remarks(subject, found)[0]
    assert said.startswith(f"cpu {found[0].dtype}: FAIL in ")
    assert where in said


@pytest.mark.slow
@pytest.mark.parametrize("cell", ONE_FORMAT)
def test_a_fault_of_one_format_leaves_the_others_right(cell: type[ScanCell]) -> None:
    _, found = examined(cell, *DTYPES)
    wrong = [one.dtype for one in found if one.verdict != "pass"]
    assert wrong == [ONE_FORMAT[cell]]


@pytest.mark.parametrize("kind", ["MGU", "LEM"])
def test_a_layer_of_torchrecurrent_agrees_with_its_own_single_steps(kind: str) -> None:
    pytest.importorskip("torchrecurrent")
    others = importlib.import_module("tests.doctor.others")
    _, (finding,) = examined(others.OfTorchrecurrent, "float32", longest=17, kind=kind)
    assert finding.verdict == "pass"
    assert 0 < finding.errors["parameter_gradient"] < 1e-4
    subject, found = examined(others.DetachesEachChunk, "float64", longest=17, kind=kind)
    assert found[0].verdict == "FAIL"
    assert "only at 17 steps (right at 1, 2, 15, 16)" in remarks(subject, found)[0]


@pytest.mark.parametrize(("gain", "nonlinearity"), [(5.0, "tanh"), (1.4, "relu")])
@pytest.mark.parametrize(
    "dtype", ["float64", *(pytest.param(name, marks=pytest.mark.slow) for name in DTYPES if name != "float64")]
)
def test_a_right_kernel_passes_where_rounding_grows_by_the_step(dtype: str, gain: float, nonlinearity: str) -> None:
    _, (finding,) = examined(Chaotic, dtype, gain=gain, nonlinearity=nonlinearity)
    assert finding.verdict == "pass"
    assert finding.errors["outputs"] > 0
    assert all(limit <= UNDECIDED for one in finding.outcomes for limit in one.limits.values())


def test_chaos_hides_a_fault_at_most_where_it_is_said_to() -> None:
    _, (finding,) = examined(ChaoticAndWrong, "float32", longest=33)
    assert finding.verdict == "FAIL"
    assert {one.case.num_steps for one in finding.of("FAIL")} >= {1, 2}
    assert {one.verdict for one in finding.outcomes if not one.case.read_step} == {"FAIL", "untested"}


def test_a_gradient_that_nothing_is_left_of_in_a_format_is_no_fault() -> None:
    # 0.3^33, of a loss read at step 33, is 1e-17, which float16 does not know.
    _, (finding,) = examined(LinearRecurrence, "float16", spectral_radius=0.3)
    assert finding.verdict == "pass"
    assert finding.of("untested")
    _, (finding,) = examined(ForgetsTheStart, "float16", longest=17)
    assert finding.verdict == "FAIL"
