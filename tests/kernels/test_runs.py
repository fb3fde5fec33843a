"""Odd cells as `gradhorizon model=external` trains them: the right numbers, or one line before anything starts."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gradhorizon.cells.cell import Recurrent
from gradhorizon.config import ConfigError
from gradhorizon.records.reading import read_member_table
from gradhorizon.tasks.adding_arjovsky2016 import AddingArjovsky2016
from gradhorizon.training.streams import probe_batch
from tests.odd_cells import REFUSED, Plain
from tests.runs_on_disk import run
from tests.sound_cells import SOUND, BatchNormed, ComplexDiagonal, SpectrallyNormed, Spikes, Zoneout

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")

SEQ_LEN, HIDDEN_SIZE = 8, 4
SHORT = (
    "num_seeds=1",
    "num_steps=2",
    "val_every_steps=2",
    "val_size=2",
    "probe_batch_size=1",
    f"seq_len={SEQ_LEN}",
    f"hidden_size={HIDDEN_SIZE}",
    "measurement=[input_gradients,state_gradients,parameter_gradients]",
)


def external(cell: type[Recurrent]) -> tuple[str, ...]:
    return "model=external", f"model.label={cell.__name__}", f"model.cell._target_={cell.__module__}.{cell.__name__}"


@pytest.mark.parametrize("cell", REFUSED, ids=lambda cell: cell.__name__)
def test_an_odd_cell_is_refused_before_anything_is_written(tmp_path: Path, cell: type[Recurrent]) -> None:
    with pytest.raises(ConfigError, match=re.escape(REFUSED[cell])) as caught:
        run(tmp_path, *SHORT, *external(cell))
    assert "\n" not in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "log.txt"] == []


@pytest.mark.parametrize("cell", SOUND, ids=lambda cell: cell.__name__)
def test_a_sound_cell_trains_and_its_gradients_are_those_of_a_plain_loop(tmp_path: Path, cell: type[Recurrent]) -> None:
    folder = run(tmp_path, *SHORT, *external(cell))
    found = read_member_table(folder / "seed-0", "input_gradients")
    assert found is not None
    for phase in ("init", "last"):
        rows = found[found["phase"] == phase].sort_values("lag")
        expected = plain_loop(cell, folder / "seed-0" / "checkpoints" / f"{phase}.pt")
        np.testing.assert_allclose(rows["gradient_norm_median"].to_numpy(), expected, rtol=1e-11, atol=1e-300)
        assert len(rows) == SEQ_LEN


def plain_loop(cell: type[Recurrent], checkpoint: Path) -> np.ndarray:
    """‖∂L/∂x_t‖ at lags 0, 1, …, one sample, one `recur` after the other, in double precision."""
    saved: dict[str, Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=True)["network"]
    lead = "layers.0.forward_cell."
    wide = {torch.float32: torch.float64, torch.complex64: torch.complex128}
    own = cell(2, HIDDEN_SIZE).eval()
    state_dict = {key.removeprefix(lead): _in(value, wide) for key, value in saved.items() if key.startswith(lead)}
    for module in own.modules():
        for group in (module._parameters, module._buffers):
            for name, tensor in group.items():
                group[name] = None if tensor is None else _leaf(tensor, wide)
    own.load_state_dict(state_dict)
    task = AddingArjovsky2016(seq_len=SEQ_LEN)
    batch = probe_batch(task, 0, 1)
    x = batch.inputs.double().requires_grad_()
    state = own.initial_state(1)
    for t in range(SEQ_LEN):
        projected = own.project(x[:, t : t + 1], t)[:, 0]
        state = own.recur(projected, state)
    weight, bias = (saved[f"readout.affine.{name}"].double() for name in ("weight", "bias"))
    prediction = own.output(projected, state) @ weight.T + bias
    (gradient,) = torch.autograd.grad((prediction - batch.targets[:, 0].double()).square().sum(), x)
    return gradient[0].norm(dim=1).flip(0).numpy()


def _in(tensor: Tensor, wide: dict[torch.dtype, torch.dtype]) -> Tensor:
    return tensor.to(wide.get(tensor.dtype, tensor.dtype))


def _leaf(tensor: Tensor, wide: dict[torch.dtype, torch.dtype]) -> Any:
    found = _in(tensor.detach(), wide)
    return torch.nn.Parameter(found, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else found


def test_a_complex_parameter_has_the_profile_of_its_closed_form(tmp_path: Path) -> None:
    # The loss is (w · Re s_N + b − y)², so g(τ) = |Σ_k w_k Re(λ_k^τ) W_k| / |Σ_k w_k W_k|, for every sample alike.
    folder = run(tmp_path, *SHORT, *external(ComplexDiagonal), "seq_len=20", "hidden_size=8", "probe_batch_size=3")
    rows = read_member_table(folder / "seed-0", "input_gradients")
    assert rows is not None
    profile = rows[rows["phase"] == "init"].set_index("lag")["relative_gradient_norm_median"]
    saved = torch.load(folder / "seed-0" / "checkpoints" / "init.pt", weights_only=True)["network"]
    eigenvalues = ComplexDiagonal(2, 8).eigenvalues.detach().to(torch.complex128)
    matrix = saved["layers.0.forward_cell.inp.weight"].double()
    readout = saved["readout.affine.weight"].double()[0]
    reference = (readout @ matrix).norm()
    for lag in (1, 5, 10, 19):
        exact = ((readout * (eigenvalues**lag).real) @ matrix).norm() / reference
        assert profile[lag] == pytest.approx(float(exact), rel=1e-6)  # λ itself is known to float32
    assert abs(profile[10] - float(((readout * eigenvalues.real**10) @ matrix).norm() / reference)) > 0.01


MEASUREMENTS = (
    "input_gradients",
    "state_gradients",
    "parameter_gradients",
    "temporal_contributions",
    "lyapunov_spectrum",
    "autonomous_spectrum",
    "state_jacobians",
    "gradient_noise",
    "recurrent_weights",
    "precision",
    "cost",
    "gates",
)
ALL = (
    f"measurement=[{','.join(MEASUREMENTS)}]",
    "measurement.lyapunov_spectrum.num_exponents=null",
    "measurement.autonomous_spectrum.num_steps=12",
    "measurement.autonomous_spectrum.transient_steps=2",
    "measurement.autonomous_spectrum.num_exponents=2",
    "measurement.cost.num_repetitions=1",
)


def test_every_measurement_of_a_complex_cell_is_right(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = run(tmp_path, *SHORT, *external(ComplexDiagonal), *ALL, "clip_norm=1e-3", "probe_batch_size=3")
    tables = {
        name: read_member_table(folder / "seed-0", name)
        for name in (
            "lyapunov_spectrum",
            "recurrent_weights",
            "precision",
            "parameter_gradients",
            "temporal_contributions",
            "gradient_noise",
            "state_jacobians",
        )
    }
    start: Any = {name: rows[rows["step"] == 0] for name, rows in tables.items() if rows is not None}
    # |λ| = 0.99 for every unit, and each complex exponent counts twice.
    exponents = start["lyapunov_spectrum"]
    np.testing.assert_allclose(exponents["exponent_median_nats_per_step"], math.log(0.99), rtol=1e-5)
    weights = start["recurrent_weights"]
    np.testing.assert_allclose(weights["spectral_radius"], 0.99, rtol=1e-6)
    np.testing.assert_allclose(weights["commutator_norm"], 0.0, atol=1e-14)
    modulus = np.hypot(weights["eigenvalue_real"], weights["eigenvalue_imag"])
    np.testing.assert_allclose(modulus, 0.99, rtol=1e-6)
    assert set(start["precision"].query("is_supported")["dtype"]) == {"float64", "float32"}
    assert caplog.text.count("complex tensors are not supported in torch.") == 4  # two formats, twice
    norms = start["parameter_gradients"].set_index("parameter")
    total = norms.loc[norms.index != "total", "norm_unclipped"]
    assert norms.loc["total", "norm_unclipped"] == pytest.approx(float(np.sqrt((total**2).sum())), rel=1e-12)
    assert norms.loc["total", "norm_clipped"] == pytest.approx(1e-3, rel=1e-12)


@pytest.mark.parametrize("cell", [Zoneout, BatchNormed, SpectrallyNormed, Spikes, Plain])
def test_cells_that_train_otherwise_than_they_are_measured_train(tmp_path: Path, cell: type[Recurrent]) -> None:
    assert run(tmp_path, *SHORT, *external(cell), "clip_norm=1.0").is_dir()


@pytest.mark.parametrize("cell", [BatchNormed, SpectrallyNormed])
def test_what_changes_while_it_trains_is_refused_where_it_would_be_recomputed(
    tmp_path: Path, cell: type[Recurrent]
) -> None:
    with pytest.raises(ConfigError, match=r"with `recompute_every`, in training mode too"):
        run(tmp_path, *SHORT, *external(cell), "recompute_every=3")
    assert run(tmp_path, *SHORT, *external(Zoneout), "recompute_every=3").is_dir()


def test_a_complex_cell_is_refused_where_numbers_have_sixteen_bits(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"complex tensors are not supported in torch.bfloat16, got a ComplexDiagonal"
    ):
        run(tmp_path, *SHORT, *external(ComplexDiagonal), "precision=bf16-mixed")
    folder = run(tmp_path, *SHORT, *external(ComplexDiagonal), "precision=64-true")
    saved = torch.load(folder / "seed-0" / "checkpoints" / "last.pt", weights_only=True)["network"]
    assert saved["layers.0.forward_cell.eigenvalues"].dtype == torch.complex128


@pytest.mark.slow
def test_a_sweep_over_odd_cells_says_one_line_for_each(tmp_path: Path) -> None:
    cells = [cell for cell in REFUSED if cell.__name__ in _OF_THE_SWEEP]
    targets = ",".join(f"tests.odd_cells.{cell.__name__}" for cell in cells)
    command = [
        sys.executable,
        "-m",
        "gradhorizon.application",
        "-m",
        "model=external",
        f"model.cell._target_={targets}",
        "model.label=odd",
        "task=adding_arjovsky2016",
        "logger=none",
        f"runs_dir={tmp_path}/runs",
        *SHORT,
        f"hydra.sweep.dir={tmp_path}/hydra",
    ]
    found = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    said = found.stdout + found.stderr
    assert "Traceback" not in said
    for cell in cells:
        assert any(REFUSED[cell] in line for line in said.splitlines())


_OF_THE_SWEEP = ("LegacyWeightNorm", "LegacySpectralNorm", "MakesAFloat32Matrix", "ScalesItsState", "Detaches")
