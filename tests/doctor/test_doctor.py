"""The doctor: shipped cells pass, wrong ones are found by the quantity that is wrong, and the words say which."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from gradhorizon.doctor import command, survey
from gradhorizon.doctor.command import conclusion, main
from gradhorizon.doctor.survey import DTYPES, GROUPS, Finding, Place, places_of, shipped_subjects
from gradhorizon.kernels.gate import TOLERANCES
from tests import odd_cells
from tests.models import MODELS, compose_model

ALL_PRECISE = dict.fromkeys(GROUPS, 0.0)
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
            assert finding["tolerance"] == TOLERANCES[DTYPES[name]]
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
    code, document = diagnosis(capsys, "--cell", f"tests.wrong_cells.{cell}", "--dtype", "float64")
    assert code == 1
    assert verdicts(document) == {"float64": "FAIL"}
    errors = document["findings"][0]["errors"]
    assert {name for name, error in errors.items() if error > 1e-10} == is_wrong
    # Scaled by 1.01 or 0.99, all that is wrong is wrong by about one percent.
    assert all(errors[name] == pytest.approx(0.01, rel=0.05) for name in is_wrong)


@pytest.mark.parametrize(
    ("cell", "words"), [("WrongWhereItIsMeasured", ""), ("Mixing", "SamplesInteractError: samples must not interact")]
)
def test_what_is_wrong_in_evaluation_mode_alone_fails(
    capsys: pytest.CaptureFixture[str], cell: str, words: str
) -> None:
    code, document = diagnosis(capsys, "--cell", f"tests.wrong_cells.{cell}", "--dtype", "float64")
    assert code == 1
    assert verdicts(document) == {"float64": "FAIL"}
    assert document["findings"][0]["problem"].startswith(words)


@pytest.mark.parametrize("cell", ["Detaches", "CountsInAList", "ScalesItsState", "MakesAFloat32Matrix", "Branches"])
def test_an_odd_cell_fails_in_every_dtype_with_the_words_that_refuse_it_in_a_run(
    capsys: pytest.CaptureFixture[str], cell: str
) -> None:
    words = next(words for kind, words in odd_cells.REFUSED.items() if kind.__name__ == cell)
    code, document = diagnosis(capsys, "--cell", f"tests.odd_cells.{cell}")
    assert code == 1
    assert set(verdicts(document).values()) == {"FAIL"}
    assert all(finding["problem"].startswith(f"ConductError: {words}") for finding in document["findings"])
    main(["--cell", f"tests.odd_cells.{cell}", "--device", "cpu"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"cpu float64, cpu float32, cpu float16, cpu bfloat16: ConductError: {words}" in shown
    assert "mend the cell as said above" in shown


def test_noise_of_training_alone_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = diagnosis(capsys, "--cell", "tests.sound_cells.Zoneout")
    assert code == 0
    assert set(verdicts(document).values()) == {"pass"}


def test_complex_numbers_pass_in_full_precision_and_are_unsupported_in_half(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, document = diagnosis(capsys, "--cell", "tests.sound_cells.ComplexDiagonal")
    assert code == 0
    assert verdicts(document) == IN_FULL_PRECISION_ALONE


def test_nan_fails_and_is_null_in_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = diagnosis(capsys, "--cell", "tests.wrong_cells.NotANumber", "--dtype", "float32")
    assert code == 1
    assert document["findings"][0]["errors"]["outputs"] is None
    assert document["findings"][0]["verdict"] == "FAIL"


def test_a_mistake_in_the_code_fails_with_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cell", "tests.wrong_cells.Raising", "--device", "cpu"]) == 1
    shown = capsys.readouterr().out
    said = "cpu float64, cpu float32, cpu float16, cpu bfloat16: ConductError: `Raising.segment` must run in float64"
    assert f"{said} on a batch, got RuntimeError: mat1 and mat2" in " ".join(shown.split())
    assert "4 of 4 checks FAIL: Raising on cpu in float64, float32, float16, bfloat16." in " ".join(shown.split())


def test_a_dtype_without_a_kernel_is_not_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = diagnosis(capsys, "--cell", "tests.wrong_cells.FullPrecisionOnly")
    assert code == 0
    assert verdicts(document) == IN_FULL_PRECISION_ALONE


def test_full_precision_on_the_cpu_is_what_every_cell_must_have(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = diagnosis(capsys, "--cell", "tests.wrong_cells.Unsupported", "--dtype", "float32")
    assert code == 1
    assert verdicts(document) == {"float32": "FAIL"}


def test_weights_from_which_the_reference_overflows_show_nothing_and_are_said_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--cell", "tests.wrong_cells.Overflowing", "--device", "cpu"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.endswith("Nothing was shown. Not tested: 4; from these weights even the float64 loop overflows.")
    assert shown.count("untested") == 4


def test_settings_reach_the_cell_and_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    cell = ("--cell", "tests.synthetic_cells.LinearRecurrence", "+model.cell.spectral_radius=1e30")
    _, document = diagnosis(capsys, *cell, "--dtype", "float64")
    assert verdicts(document) == {"float64": "untested"}
    _, short = diagnosis(capsys, *cell, "--dtype", "float64", "--input-len", "3")
    assert verdicts(short) == {"float64": "pass"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cell", "no_such_package.Cell"], "the cell cannot be built: Error locating target 'no_such_package.Cell'"),
        (["--cell", "tests.synthetic_cells.PerStepLayer"], "has no `step` that its `segment` could be compared with"),
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

    def recorded(*_: object) -> dict[str, float]:
        switches.append(torch.backends.cudnn.enabled)
        return dict(ALL_PRECISE)

    monkeypatch.setattr(survey, "kernel_errors", recorded)
    before = (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32)
    subject = survey.external_subject("tests.wrong_cells.WrongOutput", ["hidden_size=2"])
    found = list(survey.findings(subject, places_of(["cuda"]), ["float32"], 5))
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

    monkeypatch.setattr(survey, "kernel_errors", raising)
    subject = survey.external_subject("tests.wrong_cells.WrongOutput", ["hidden_size=2"])
    for place, verdict in ((Place("mps"), "unsupported"), (Place("cpu"), "FAIL")):
        assert [one.verdict for one in survey.findings(subject, [place], ["float64"], 5)] == [verdict]


def finding(**changes: Any) -> Finding:
    plain = {"cell": "LSTM", "models": ("lstm",), "place": "cuda native", "dtype": "bfloat16", "tolerance": 0.2}
    return Finding(**{**plain, "errors": ALL_PRECISE, "verdict": "pass", **changes})


def test_the_widest_table_fits_eighty_columns() -> None:
    wide = dict.fromkeys(GROUPS, 1.234e-10)
    console = Console(width=80, file=io.StringIO())
    with console.capture() as shown:
        console.print(command._table([finding(errors=wide, verdict="unsupported")], gap=1))
    row = shown.get().splitlines()[-1]
    assert row.split() == ["cuda", "native", "bfloat16", *["1.2e-10"] * 5, "2e-01", "unsupported"]


def test_the_conclusion_names_every_cell_that_fails() -> None:
    wrong = {"cell": "GRU", "place": "cpu", "verdict": "FAIL"}
    wrongs = [finding(verdict="FAIL"), finding(**wrong), finding(**wrong, dtype="float16")]
    found = [finding(), *wrongs, finding(verdict="unsupported")]
    words = conclusion(found)
    assert "3 of 5 checks FAIL: LSTM on cuda native in bfloat16; GRU on cpu in bfloat16, float16." in words
    assert words.endswith("Not supported here: 1.")


def test_the_table_is_shown_with_what_it_was_taken_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cell", "tests.synthetic_cells.LinearRecurrence", "--device", "cpu"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"torch {torch.__version__}" in shown
    assert "TF32 off in matrix products, off in cuDNN" in shown
    assert "has float64" in shown
    assert "All 4 checks pass: what is computed here, forward and back, is what the cells' equations say" in shown


@pytest.mark.slow
def test_it_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "gradhorizon.doctor.command", "--device", "cpu", "--dtype", "float64", "--json"]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["facts"]["tf32"] == {"matrix products": False, "cuDNN": False}
