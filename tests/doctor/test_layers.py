"""Layers without a step: what is right passes, each fault is found by name, and facts are said as facts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gradhorizon.doctor.cases import LENGTHS, ODD_SIZES
from gradhorizon.doctor.checks import checks_of
from gradhorizon.doctor.command import main
from gradhorizon.doctor.comparison import Place
from gradhorizon.doctor.findings import Finding
from gradhorizon.doctor.stepping import stepped
from gradhorizon.doctor.survey import Subject, findings
from tests.doctor import layers

SOUND = [layers.Averaging, layers.Rectified, layers.Both, layers.InChunks]
FORM, VALUES = "outputs are (batch, steps, hidden_size)", "stays in float64 and branches on no value"
ANSWERS: dict[type[layers.Averaging], tuple[str, str, str]] = {
    layers.InChunks: (FORM, "unsupported", "1, 2, 15, 17, 31, 33, 63, 65 steps, by"),
    layers.CrashesBeyondAChunk: (FORM, "FAIL", "`CrashesBeyondAChunk.forward` must"),
    layers.ShrinksItself: (FORM, "FAIL", "must return a float64 tensor of shape"),
    layers.Both: ("is causal", "note", "not causal: outputs at a step change with later inputs"),
    layers.LosesTheRest: ("its gradient by the input", "FAIL", "at 17 steps: part of it is cut off or wrong"),
    layers.DetachesTheFirst: ("its gradient by the input", "FAIL", "at 1 steps: part of it is cut off or wrong"),
    layers.ForgetsItsBias: ("its gradient by the parameters", "FAIL", "part of it is cut off or wrong"),
    layers.Rounds: ("its gradient by the input", "note", "a surrogate, since it rounds"),
    layers.Normalises: ("does not depend on how many steps follow", "FAIL", "the first 1, 2, 15, 16"),
    layers.Branches: (VALUES, "FAIL", "must not read a value of its input or state"),
    layers.ComputesInFloat32: (VALUES, "FAIL", "makes torch.float32 of float64"),
    layers.KeepsAMean: ("keeps nothing between calls", "FAIL", "got one that changes `seen`"),
    layers.MixesSamples: ("mixes no samples", "FAIL", "samples must not interact"),
    layers.Overwrites: ("leaves its input as it is", "FAIL", "changes its `input` in place"),
}  # fmt: skip


def examined(layer: type[Any], *dtypes: str) -> Finding:
    built = {size: layer(3, size) for size in (8, *ODD_SIZES)}
    subject = Subject(layer.__name__, (), built.pop(8), built)
    (found,) = findings(subject, [Place("cpu")], dtypes, subject.cases(None))
    return found


@pytest.mark.parametrize("layer", SOUND)
def test_a_right_layer_passes_or_is_said_to_differ_by_its_own_rule(layer: type[layers.Averaging]) -> None:
    verdicts = {check.verdict for check in checks_of("layer", layer(3, 8), LENGTHS)}
    assert "FAIL" not in verdicts
    assert ("note" in verdicts) == (layer is layers.Both)
    for dtype in ("float32", "bfloat16"):
        assert examined(layer, dtype).verdict == "pass"


@pytest.mark.parametrize("layer", ANSWERS)
def test_each_habit_is_found_by_its_name(layer: type[layers.Averaging]) -> None:
    name, verdict, words = ANSWERS[layer]
    checks = checks_of("layer", layer(3, 8), LENGTHS)
    (found,) = (check for check in checks if check.name.startswith(name))
    assert (found.verdict, words in found.words) == (verdict, True), found


def test_a_fault_of_one_format_or_batch_is_found_there() -> None:
    assert examined(layers.WrongInFloat16, "float16").verdict == "FAIL"
    assert examined(layers.WrongInFloat16, "float32").verdict == "pass"
    alone = examined(layers.WrongAlone, "float64")
    assert alone.verdict == "FAIL"
    assert {outcome.case.batch_size for outcome in alone.of("FAIL")} == {3}  # which differs from its samples alone


def test_a_layer_that_mixes_formats_is_unsupported_in_half_precision_alone() -> None:
    assert examined(layers.MixesHalves, "float32").verdict == "pass"
    assert examined(layers.MixesHalves, "bfloat16").verdict == "unsupported"


@pytest.mark.parametrize(
    ("layer", "wrong"),
    [
        (layers.Averaging, set()),
        (layers.StepsLate, {"outputs", "input_gradient", "parameter_gradient"}),
        (layers.LosesTheRestBesideItsStep, {"input_gradient"}),
    ],
)
def test_a_layer_is_held_against_its_own_step(layer: type[layers.Averaging], wrong: set[str]) -> None:
    subject = Subject("layer", (), stepped(layer(3, 8), "step", layers.zeros))
    (found,) = findings(subject, [Place("cpu")], ["float64"], subject.cases(None))
    assert {name for name, error in found.errors.items() if error > found.tolerances[name]} == wrong
    assert found.verdict == ("FAIL" if wrong else "pass")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--step", "advance"], "`--step` must name a method of the layer or a part of it, got advance: none has it"),
        (["--step", "extra_repr"], "`--step` must name a method (x_t, cache) -> (y_t, cache) that runs"),
        (["--step", "step", "--cache", "tests.doctor.layers.ones"], "`--cache` must name a function (module, batch"),
    ],
)
def test_a_step_that_is_none_is_one_clear_error(
    caplog: pytest.LogCaptureFixture, options: list[str], words: str
) -> None:
    assert main(["--cell", "tests.doctor.layers.Averaging", "--device", "cpu", *options]) == 1
    assert words in caplog.text


def test_a_third_partys_scan_is_held_against_its_own_recurrent_mode(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mambapy")
    arguments = ["--cell", "tests.doctor.others.Mamba", "--step", "step", "--cache", "tests.doctor.others.empty_cache"]
    code = main([*arguments, "--dtype", "float32", "--device", "cpu", "--json", "hidden_size=8"])
    document = json.loads(capsys.readouterr().out)
    (finding,) = document["findings"]
    assert finding["verdict"] == "pass"
    assert finding["errors"].keys() == {"outputs", "input_gradient", "parameter_gradient"}
    assert max(finding["errors"].values()) > 0
    # It computes part of itself in float32, whatever it is given: said by name, and a run refuses it for that.
    wrong = [check["name"] for check in document["checks"] if check["verdict"] == "FAIL"]
    assert wrong == ["stays in float64 and branches on no value"]
    assert code == 1
