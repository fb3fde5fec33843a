"""The doctor on modules that know nothing of gradhorizon, built by name as a run builds them."""

from __future__ import annotations

import pytest

from gradhorizon.doctor.command import main

BRIEF = ("--device", "cpu", "--input-len", "5", "hidden_size=4")
MAMBA = (
    "model/encoder=linear",
    "+model.cell.config._target_=mambapy.mamba.MambaConfig",
    "+model.cell.config.d_model=${hidden_size}",
    "+model.cell.config.n_layers=1",
)


@pytest.mark.parametrize(
    ("target", "settings", "words"),
    [
        ("torchrecurrent.LEMCell", (), "`segment` with the float64 loop over `step`"),
        ("torchrecurrent.LEM", (), "`segment` with the float64 loop over `step`"),
        ("torch.nn.LSTM", ("+model.cell.num_layers=2",), "`segment` with the float64 loop over `step`"),
        ("mambapy.mamba.MambaBlock", MAMBA, "a layer without a step"),
    ],
)
def test_a_module_from_elsewhere_is_examined_by_its_name(
    target: str, settings: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--cell", target, *settings, *BRIEF]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert words in said
    assert target.rpartition(".")[2] in said
    assert "Called" not in said


def test_a_cell_whose_state_is_not_whole_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["--cell", "torchrecurrent.tauGRUCell", *BRIEF]) == 1
    assert "'state' and 'delayed_state' but returns 1 of them" in caplog.text
