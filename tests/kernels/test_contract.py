"""The contract of a cell: odd cells are refused in one line each, sound ones are not, whatever is set around them."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import torch

from gradhorizon.cells.cell import Recurrent
from gradhorizon.kernels import contract
from gradhorizon.kernels.conduct import LENGTHS, ConductError
from gradhorizon.kernels.contract import check_contract, check_training_memory
from gradhorizon.kernels.gate import kernel_errors
from gradhorizon.kernels.surroundings import own_surroundings
from gradhorizon.terminal.once import say_once
from tests.kernels.callers import SURROUNDINGS as CALLERS
from tests.models import MODELS, build_cell
from tests.odd_cells import (
    REFUSED,
    CountsInABuffer,
    CountsInAList,
    CountsModulo,
    Detaches,
    KeepsAComputedWeight,
    LegacyWeightNorm,
)
from tests.sound_cells import SOUND, SURROGATES, BatchNormed, Dropout, FillsACache, SpectrallyNormed, Spikes, Zoneout
from tests.synthetic_cells import ClockedReader, LinearRecurrence
from tests.wrong_cells import Mixing, Noisy

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")

SURROUNDINGS = {**CALLERS, "own": own_surroundings}


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "_passed", set())
    say_once.cache_clear()


@pytest.mark.parametrize("hidden_size", [4, 70])
@pytest.mark.parametrize("cell", REFUSED, ids=lambda cell: cell.__name__)
def test_an_odd_cell_is_refused_in_one_line(cell: type[Recurrent], hidden_size: int) -> None:
    with pytest.raises(ConductError, match=re.escape(REFUSED[cell])) as caught:
        check_contract(cell(2, hidden_size))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 480
    assert re.search(r"[;:] \w|, got", str(caught.value))


@pytest.mark.parametrize("hidden_size", [1, 4, 70])
@pytest.mark.parametrize("cell", SOUND, ids=lambda cell: cell.__name__)
def test_a_sound_cell_passes(cell: type[Recurrent], hidden_size: int, caplog: pytest.LogCaptureFixture) -> None:
    check_contract(cell(2, hidden_size))
    assert caplog.records == []


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_cell_passes(name: str) -> None:
    check_contract(build_cell(name, hidden_size=16))


@pytest.mark.parametrize("cell", [ClockedReader, LinearRecurrence])
def test_a_cell_that_uses_the_freedoms_of_the_contract_passes(cell: type[Recurrent]) -> None:
    check_contract(cell(3, 5))


@pytest.mark.parametrize("cell", SURROGATES, ids=lambda cell: cell.__name__)
def test_a_surrogate_gradient_passes_and_is_said_once(cell: type[Recurrent], caplog: pytest.LogCaptureFixture) -> None:
    check_contract(cell(2, 8))
    contract._passed.clear()
    check_contract(cell(2, 8))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"the gradient of {cell.__name__} is a surrogate" in caplog.text


def test_a_surrogate_does_not_excuse_a_state_that_is_cut_off() -> None:
    class CutSpikes(Spikes):
        def recur(self, projected_t: Any, state: Any) -> Any:
            return super().recur(projected_t, (state[0], state[1].detach()))

    with pytest.raises(ConductError, match="derivative by its state component `c` of 0"):
        check_contract(CutSpikes(2, 8))


@pytest.mark.parametrize("period", range(2, 15))
@pytest.mark.parametrize("cell", [CountsInABuffer, CountsInAList, CountsModulo])
def test_a_clock_of_any_period_is_found(cell: Any, period: int) -> None:
    with pytest.raises(ConductError, match=r"must keep nothing between calls|it keeps something between calls"):
        check_contract(cell(2, 4, period))


def test_no_period_divides_both_lengths() -> None:
    assert all(any(length % period for length in LENGTHS) for period in range(2, 100))


def test_a_pass_is_remembered_per_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Recurrent] = []
    monkeypatch.setattr(contract, "check_shapes", seen.append)
    for cell in (FillsACache(2, 4), FillsACache(2, 4), FillsACache(2, 5)):
        check_contract(cell)
    assert len(seen) == 2


def test_a_refusal_is_not_taken_for_a_pass() -> None:
    for _ in range(2):
        with pytest.raises(ConductError):
            check_contract(Detaches(2, 4))


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("cell", [FillsACache, Zoneout, ClockedReader, Detaches, CountsInAList], ids=str)
def test_the_verdict_does_not_depend_on_what_is_set_around_it(cell: type[Recurrent], surroundings: str) -> None:
    built = cell(2, 4)
    expected = _verdict(built)
    contract._passed.clear()
    with SURROUNDINGS[surroundings]():
        assert _verdict(built) == expected


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", [FillsACache, ClockedReader, Detaches], ids=str)
def test_nor_on_the_default_format(cell: type[Recurrent]) -> None:
    built = cell(2, 4)
    found, errors = _verdict(built), kernel_errors(built, "cpu", torch.float32)
    contract._passed.clear()
    torch.set_default_dtype(torch.float32)
    assert (found, errors) == (_verdict(built), kernel_errors(built, "cpu", torch.float32))


def _verdict(cell: Recurrent) -> str:
    try:
        check_contract(cell)
    except ConductError as error:
        return str(error)
    return "pass"


def test_everything_is_left_as_it_was() -> None:
    cell = Zoneout(2, 4)
    cell(torch.randn(2, 5, 2)).sum().backward()
    before = {name: (own.detach().clone(), own.grad) for name, own in cell.named_parameters()}
    gradients = {name: grad.clone() for name, (_, grad) in before.items() if grad is not None}
    random_state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    check_contract(cell)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_default_dtype() == dtype
    assert cell.training
    for name, parameter in cell.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradients[name])


def test_a_cell_of_noise_is_told_so() -> None:
    with pytest.raises(ConductError, match=r"must give the same numbers .* draws random ones .* while `self.training`"):
        check_contract(Noisy(3, 4))


def test_samples_that_interact_are_told_so() -> None:
    with pytest.raises(ConductError, match="samples must not interact, got a Mixing"):
        check_contract(Mixing(3, 4))


def test_a_cell_that_changes_while_it_trains_cannot_be_recomputed() -> None:
    for cell in (BatchNormed(2, 4), SpectrallyNormed(2, 4)):
        with pytest.raises(ConductError, match=r"with `recompute_every`, in training mode too: .* set it to null"):
            check_training_memory(cell)
    for sound in (Dropout(2, 4), Zoneout(2, 4), FillsACache(2, 4)):
        check_training_memory(sound)


def test_what_cannot_be_copied_is_said_in_few_words() -> None:
    for cell in (KeepsAComputedWeight, LegacyWeightNorm):
        with pytest.raises(ConductError) as caught:
            check_contract(cell(2, 4))
        assert "github" not in str(caught.value)
