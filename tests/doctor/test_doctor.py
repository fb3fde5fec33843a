"""The doctor: shipped cells pass, wrong ones are found by the quantity that is wrong, and the words say which."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from gradhorizon.doctor import comparison, survey, words
from gradhorizon.doctor.cases import Case
from gradhorizon.doctor.checks import Check
from gradhorizon.doctor.command import main
from gradhorizon.doctor.comparison import LIMITS, Outcome, Place
from gradhorizon.doctor.findings import DTYPES, GROUPS, Finding
from gradhorizon.doctor.survey import places_of, shipped_subjects
from gradhorizon.doctor.words import conclusion
from gradhorizon.kernels.gate import TOLERANCES
from tests import odd_cells
from tests.models import MODELS, compose_model

CASE = Case(5, 3, 2)
IN_FULL_PRECISION_ALONE = {"float64": "pass", "float32": "pass", "float16": "unsupported", "bfloat16": "unsupported"}


def diagnosis(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON document."""
    code = main([*arguments, "--json", "--device", "cpu"])
    return code, json.loads(capsys.readouterr().out)


def verdicts(document: Mapping[str, Any]) -> dict[str, str]:
    return {finding["dtype"]: finding["verdict"] for finding in document["findings"]}


def test_all_shipped_cells_pass_on_the_cpu_in_every_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = diagnosis(capsys, "--input-len", "20")
    assert code == 0
    served = {model for finding in document["findings"] for model in finding["models"]}
    assert served == {str(compose_model(name).model.label) for name in MODELS}
    for cell in {finding["cell"] for finding in document["findings"]}:
        of_cell = {finding["dtype"]: finding for finding in document["findings"] if finding["cell"] == cell}
        assert of_cell.keys() == DTYPES.keys()
        assert {finding["verdict"] for finding in of_cell.values()} == {"pass"}
        for name, finding in of_cell.items():
            assert finding["tolerance"] == LIMITS[DTYPES[name]] <= TOLERANCES[DTYPES[name]]
            # A chaotic cell multiplies rounding; nothing shipped does by more than this.
            assert max(finding["errors"].values()) < 50 * torch.finfo(DTYPES[name]).eps


@pytest.mark.parametrize(
    ("cell", "is_wrong"),
    [
        ("WrongOutput", {"outputs", "input_gradient", "initial_state_gradient", "parameter_gradient"}),
        ("WrongInputGradient", {"input_gradient"}),
    ],
)
def test_a_wrong_segment_fails_by_the_quantities_that_are_wrong(
    capsys: pytest.CaptureFixture[str], cell: str, is_wrong: set[str]
) -> None:
    arguments = ("--cell", f"tests.wrong_cells.{cell}", "--input-len", "50")
    code, document = diagnosis(capsys, *arguments, "--dtype", "float64")
    assert code == 1
    assert verdicts(document) == {"float64": "FAIL"}
    errors = document["findings"][0]["errors"]
    assert {name for name, error in errors.items() if error > 1e-10} == is_wrong
    # Scaled by 1.01 or 0.99, all that is wrong is wrong by about one percent.
    assert all(errors[name] == pytest.approx(0.01, rel=0.05) for name in is_wrong)


def test_what_is_wrong_in_evaluation_mode_alone_fails_and_is_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--cell", "tests.wrong_cells.WrongWhereItIsMeasured", "--dtype", "float64", "--device", "cpu"]
    assert main([*arguments, "hidden_size=4"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "cpu float64: FAIL in 43 of 86 cases" in shown
    assert "; only in evaluation mode; worst at" in shown


HABITS = {
    "Detaches": "its gradient is its derivative, nothing is detached",
    "CountsInAList": "keeps nothing between calls",
    "ScalesItsState": "leaves its input and state as they are",
    "MakesAFloat32Matrix": "states, projections and outputs have the form that is declared",
    "Branches": "stays in float64 and branches on no value",
    "ReturnsATensor": "states, projections and outputs have the form that is declared",
}


@pytest.mark.parametrize("cell", HABITS)
def test_each_habit_is_found_by_its_name_with_the_words_that_refuse_it_in_a_run(
    capsys: pytest.CaptureFixture[str], cell: str
) -> None:
    refusal = next(words for kind, words in odd_cells.REFUSED.items() if kind.__name__ == cell)
    arguments = ["--cell", f"tests.odd_cells.{cell}", "--dtype", "float64", "--input-len", "5"]
    code, document = diagnosis(capsys, *arguments)
    assert code == 1
    wrong = {check["name"]: check["words"] for check in document["checks"] if check["verdict"] == "FAIL"}
    assert wrong.pop(HABITS[cell]).startswith(refusal)
    assert bool(document["findings"]) == (HABITS[cell][:6] != "states")  # of which nothing can be compared
    assert main([*arguments, "--device", "cpu"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert f"FAIL {HABITS[cell]}: {refusal}"[:60] in shown
    assert "mend the cell as said above" in shown


def test_samples_that_feel_each_other_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--cell", "tests.wrong_cells.Mixing", "--dtype", "float64", "--input-len", "5")
    code, document = diagnosis(capsys, *arguments)
    assert code == 1
    (found,) = (check for check in document["checks"] if check["verdict"] == "FAIL")
    assert (found["name"], found["words"][:27]) == ("mixes no samples", "samples must not interact, ")
    assert verdicts(document) == {"float64": "pass"}  # `segment` and `step` mix alike


def test_noise_of_training_alone_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = diagnosis(capsys, "--cell", "tests.sound_cells.Zoneout", "--input-len", "5")
    assert code == 0
    assert set(verdicts(document).values()) == {"pass"}


def test_complex_numbers_pass_in_full_precision_and_are_unsupported_in_half(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, document = diagnosis(capsys, "--cell", "tests.sound_cells.ComplexDiagonal", "--input-len", "20")
    assert code == 0
    assert verdicts(document) == IN_FULL_PRECISION_ALONE


def test_nan_fails_and_is_null_in_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--cell", "tests.wrong_cells.NotANumber", "--dtype", "float32", "--input-len", "5")
    code, document = diagnosis(capsys, *arguments)
    assert code == 1
    assert document["findings"][0]["errors"]["outputs"] is None
    assert document["findings"][0]["verdict"] == "FAIL"


def test_a_mistake_in_the_code_fails_with_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cell", "tests.wrong_cells.Raising", "--device", "cpu", "--input-len", "5"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "cpu float64, cpu float32, cpu float16, cpu bfloat16: RuntimeError: mat1 and mat2" in shown
    assert "`Raising.segment` must run in float64 on a batch, got RuntimeError: mat1 and mat2" in shown
    assert "Raising on cpu in float64, float32, float16, bfloat16;" in shown


def test_a_dtype_without_a_kernel_is_not_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = diagnosis(capsys, "--cell", "tests.wrong_cells.FullPrecisionOnly", "--input-len", "5")
    assert code == 0
    assert verdicts(document) == IN_FULL_PRECISION_ALONE


def test_full_precision_on_the_cpu_is_what_every_cell_must_have(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--cell", "tests.wrong_cells.Unsupported", "--dtype", "float32", "--input-len", "5")
    code, document = diagnosis(capsys, *arguments)
    assert code == 1
    assert verdicts(document) == {"float32": "FAIL"}


def test_weights_from_which_the_reference_overflows_show_nothing_and_are_said_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--cell", "tests.wrong_cells.Overflowing", "--device", "cpu", "--input-len", "50"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "Nothing was shown. Not tested: 4; from these weights even the float64 loop overflows" in shown


def test_settings_reach_the_cell_and_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    cell = ("--cell", "tests.synthetic_cells.LinearRecurrence", "+model.cell.spectral_radius=1e30")
    _, document = diagnosis(capsys, *cell, "--dtype", "float64", "--input-len", "50")
    assert verdicts(document) == {"float64": "untested"}
    _, short = diagnosis(capsys, *cell, "--dtype", "float64", "--input-len", "3")
    assert verdicts(short) == {"float64": "pass"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cell", "no_such_package.Cell"], "the cell cannot be built: Error locating target 'no_such_package.Cell'"),
        (["--cell", "tests.models.MODELS"], "the cell cannot be built"),
        (["--step", "step"], "`--step` and `--cache` are of a layer of your own, got no `--cell`"),
        (["--cell", "tests.odd_cells.Plain", "--step", "step"], "`--step` is for layers, got Plain, a recurrence"),
        (["--cell", "tests.wrong_cells.WrongOutput", "hidden_size=0"], "`hidden_size` must be at least 1, got 0"),
        (["--device", "cuda:99"], "`device`=cuda:99 is not on this machine"),
    ],
)
def test_bad_input_is_one_clear_error(caplog: pytest.LogCaptureFixture, arguments: list[str], words: str) -> None:
    assert main(arguments) == 1
    assert words in caplog.text


def test_one_subject_stands_for_all_models_that_run_its_code() -> None:
    subjects = {subject.models[0]: subject for subject in shipped_subjects(["hidden_size=4"])}
    assert {"lstm_chrono", "bilstm", "lstm_attention"} <= set(subjects["lstm"].models)
    assert "rnn_relu" not in subjects["rnn_tanh"].models
    assert subjects["rnn_tanh"].name == "Elman (nonlinearity tanh)"


def test_cuda_is_examined_with_its_own_kernels_and_with_those_of_probes() -> None:
    places = places_of(["cpu", "cuda", "mps"])
    assert [place.name for place in places] == ["cpu", "cuda cuDNN", "cuda native", "mps"]


def test_native_kernels_run_without_cudnn_and_leave_its_switches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    switches = []

    def recorded(*arguments: Any) -> Outcome:
        switches.append(torch.backends.cudnn.enabled)
        return Outcome(CASE, arguments[-1], "pass")

    monkeypatch.setattr(comparison, "_judged", recorded)
    monkeypatch.setattr(comparison, "own_surroundings", lambda _: nullcontext())
    before = (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32)
    subject = survey.external_subject("tests.wrong_cells.WrongOutput", ["hidden_size=2"], sizes=())
    found = list(survey.findings(subject, places_of(["cuda"]), ["float32"], [CASE]))
    assert switches == [True, False, False]  # native ones in training and in evaluation mode
    assert [one.verdict for one in found] == ["pass", "pass"]
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32) == before


@pytest.mark.parametrize(
    "words",
    [
        "\"addmm_impl_cpu_\" not implemented for 'Half'",
        "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED.",
        "Could not run 'aten::_thnn_fused_lstm_cell' with arguments from the 'MPS' backend.",
        "RNN with BFloat16 is not currently supported",
    ],
)
def test_what_torch_says_of_absent_kernels_is_understood(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    def raising(*_: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(comparison, "_judged", raising)
    subject = survey.external_subject("tests.wrong_cells.WrongOutput", ["hidden_size=2"], sizes=())
    for place, verdict in ((Place("mps"), "unsupported"), (Place("cpu"), "FAIL")):
        assert [one.verdict for one in survey.findings(subject, [place], ["float64"], [CASE])] == [verdict]


def finding(error: float = 0.0, **changes: Any) -> Finding:
    outcome = Outcome(CASE, True, "pass", dict.fromkeys(GROUPS, error), dict.fromkeys(GROUPS, 0.2))
    plain = {"cell": "LSTM", "models": ("lstm",), "place": "cuda native", "dtype": "bfloat16"}
    return Finding(**{**plain, "outcomes": (outcome,), "verdict": "pass", **changes})


def test_the_widest_table_fits_eighty_columns() -> None:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as shown:
        console.print(words.table([finding(1.234e-10, verdict="unsupported")], gap=1))
    row = shown.get().splitlines()[-1]
    assert row.split() == ["cuda", "native", "bfloat16", *["1.2e-10"] * 5, "2e-01", "unsupported"]


def test_the_conclusion_names_every_cell_that_fails() -> None:
    wrong: dict[str, Any] = {"cell": "GRU", "place": "cpu", "verdict": "FAIL"}
    wrongs = [finding(verdict="FAIL"), finding(**wrong), finding(**wrong, dtype="float16")]
    found = [finding(), *wrongs, finding(verdict="unsupported")]
    said = conclusion(found)
    assert "3 of 5 checks FAIL: LSTM on cuda native in bfloat16; GRU on cpu in bfloat16, float16." in said
    assert said.endswith("Not supported here: 1.")
    said = conclusion([finding()], [Check("LSTM", "mixes no samples", "FAIL", "got some"), Check("LSTM", "b", "pass")])
    assert said.startswith("1 of 3 checks FAIL: LSTM: not so that it mixes no samples.")


def test_the_table_is_shown_with_what_it_was_taken_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cell", "tests.synthetic_cells.LinearRecurrence", "--device", "cpu", "--input-len", "5"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"torch {torch.__version__}" in shown
    assert "TF32 off in matrix products, off in cuDNN" in shown
    assert "has float64" in shown
    assert "All 11 checks pass: what is computed here, forward and back, is what the cells' equations say" in shown


@pytest.mark.slow
def test_it_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "gradhorizon.doctor.command", "--device", "cpu", "--dtype", "float64", "--json"]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["facts"]["tf32"] == {"matrix products": False, "cuDNN": False}
