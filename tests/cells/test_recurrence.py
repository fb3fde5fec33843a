"""What every shipped cell owes to its contract, whatever its equation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vmap
from torch.utils._pytree import tree_map

from gradhorizon.cells.cell import Projected, Recurrent, State, select_step
from tests.models import MODELS, build_cell, random_state
from tests.oracles import run_steps, run_torch_cell, torch_cell

pytestmark = pytest.mark.usefixtures("float64")

Run = Callable[[Tensor, State], tuple[Tensor, State]]

CELLS = {name: build_cell(name) for name in MODELS}
WITH_MATRICES = [name for name, cell in CELLS.items() if cell.recurrent_weights()]
WITH_TORCH_TWIN = [name for name, cell in CELLS.items() if {*map(type, cell.children())} & {nn.RNN, nn.LSTM, nn.GRU}]


def _results(
    run: Run, cell: Recurrent, parameters: Iterable[Tensor], batch_size: int = 3, input_len: int = 24
) -> list[Tensor]:
    """Outputs, last state and all gradients under one random linear objective."""
    torch.manual_seed(1)
    x = torch.randn(batch_size, input_len, cell.input_size, requires_grad=True)
    state = random_state(cell, batch_size)
    outputs, last = run(x, state)
    # Not randn_like, which fills in the order of memory: that of a fused kernel's outputs is time first.
    cotangents = [torch.randn(tensor.shape) for tensor in (outputs, *last)]
    gradients = torch.autograd.grad((outputs, *last), [x, *state, *parameters], cotangents)
    return [outputs.detach(), *(part.detach() for part in last), *gradients]


def _assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-11) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.linalg.vector_norm(one - other) <= tolerance * torch.linalg.vector_norm(other)


@pytest.mark.parametrize("name", MODELS)
def test_segment_equals_the_step_loop_in_outputs_and_gradients(name: str) -> None:
    cell = build_cell(name)
    parameters = list(cell.parameters())
    expected = _results(lambda x, state: run_steps(cell, x, state), cell, parameters)
    _assert_close(_results(cell.segment, cell, parameters), expected)


@pytest.mark.parametrize("name", MODELS)
def test_default_segment_equals_the_step_loop_in_outputs_and_gradients(name: str) -> None:
    cell = build_cell(name)
    parameters = list(cell.parameters())
    expected = _results(lambda x, state: run_steps(cell, x, state), cell, parameters)
    _assert_close(_results(lambda x, state: Recurrent.segment(cell, x, state), cell, parameters), expected)


@pytest.mark.parametrize("name", WITH_TORCH_TWIN)
def test_step_loop_equals_torch_cell_with_copied_weights(name: str) -> None:
    cell = build_cell(name)
    twin = torch_cell(cell)
    expected = _results(lambda x, state: run_torch_cell(twin, x, state), cell, list(twin.parameters()))
    _assert_close(_results(lambda x, state: run_steps(cell, x, state), cell, list(cell.parameters())), expected)


@given(
    name=st.sampled_from(MODELS),
    batch_size=st.integers(1, 3),
    input_size=st.integers(1, 3),
    hidden_size=st.integers(1, 3),
    input_len=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_segment_equals_the_step_loop_at_odd_sizes(
    name: str, batch_size: int, input_size: int, hidden_size: int, input_len: int
) -> None:
    cell = build_cell(name, input_size, hidden_size)
    parameters = list(cell.parameters())
    expected = _results(lambda x, state: run_steps(cell, x, state), cell, parameters, batch_size, input_len)
    _assert_close(_results(cell.segment, cell, parameters, batch_size, input_len), expected)


@pytest.mark.parametrize("name", MODELS)
def test_step_passes_gradcheck(name: str) -> None:
    cell = build_cell(name, input_size=2, hidden_size=3)
    x_t = torch.randn(2, 2, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *state: cell.step(x, state), (x_t, *random_state(cell, 2)))


@pytest.mark.parametrize("name", MODELS)
def test_batched_jacobian_of_step_equals_one_sample_at_a_time(name: str) -> None:
    cell = build_cell(name)
    projected = select_step(cell.project(torch.randn(4, 1, 3)), 0)
    state = tuple(part.detach() for part in random_state(cell, 4))

    def hidden(projected_t: Projected, state: State) -> Tensor:
        one = tree_map(lambda part: part.unsqueeze(0), projected_t)
        return torch.cat(cell.recur(one, tuple(p.unsqueeze(0) for p in state)), dim=-1)[0]

    batched = vmap(jacrev(hidden, argnums=1))(projected, state)
    sample = tuple(part[2].requires_grad_() for part in state)
    own = tree_map(lambda part: part[2], projected)
    singly = torch.autograd.functional.jacobian(lambda *parts: hidden(own, parts), sample)
    _assert_close([part[2] for part in batched], list(singly))


# PyTorch's own forward-mode rules are compiled on first use by a function that PyTorch deprecates.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", MODELS)
def test_tangent_and_adjoint_of_step_agree(name: str) -> None:
    cell = build_cell(name)
    x_t = torch.randn(2, 3)
    state = tuple(part.detach() for part in random_state(cell, 2))
    tangent = tuple(torch.randn_like(part) for part in state)
    pushed = jvp(lambda *parts: cell.step(x_t, parts), state, tangent)[1]
    cotangent = tuple(torch.randn_like(part) for part in pushed)
    leaves = tuple(part.clone().requires_grad_() for part in state)
    pulled = torch.autograd.grad(cell.step(x_t, leaves), leaves, cotangent)
    left = sum((u * jv).sum() for u, jv in zip(cotangent, pushed, strict=True))
    right = sum((jtu * v).sum() for jtu, v in zip(pulled, tangent, strict=True))
    torch.testing.assert_close(left, right, rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_step_reads_the_parameters_that_a_functional_call_substitutes(name: str) -> None:
    cell, other = build_cell(name), build_cell(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    x = torch.randn(2, 6, 3)
    cell.forward = lambda x: run_steps(cell, x, cell.initial_state(2))[0]  # type: ignore[method-assign]
    substituted = functional_call(cell, {**dict(other.named_parameters()), **dict(other.named_buffers())}, (x,))
    torch.testing.assert_close(substituted, run_steps(other, x, other.initial_state(2))[0], rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_samples_of_a_batch_do_not_touch_each_other(name: str) -> None:
    cell = build_cell(name)
    x = torch.randn(3, 7, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(cell(x)[1].sum(), x)
    assert (gradient[[0, 2]] == 0).all()
    assert (gradient[1] != 0).any()


@pytest.mark.parametrize("name", MODELS)
def test_output_ignores_later_inputs(name: str) -> None:
    cell = build_cell(name)
    x = torch.randn(2, 7, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(cell(x)[:, 3].sum(), x)
    assert (gradient[:, 4:] == 0).all()
    assert (gradient[:, 3] != 0).any()


@pytest.mark.parametrize("name", MODELS)
def test_segment_accepts_a_state_whose_memory_is_not_contiguous(name: str) -> None:
    cell = build_cell(name)
    x = torch.randn(3, 4, 3)
    state = tuple(torch.randn(5, 3).T for _ in cell.state_shapes)
    expected = cell.segment(x, tuple(part.contiguous() for part in state))[0]
    # Not to the bit: a matrix product may choose another kernel for another layout.
    _assert_close([cell.segment(x, state)[0]], [expected], tolerance=1e-13)


@pytest.mark.parametrize("name", WITH_MATRICES)
def test_recurrent_weights_are_square_views_that_the_step_reads(name: str) -> None:
    cell = build_cell(name)
    x_t, state = torch.randn(2, 3), random_state(cell, 2)
    before = cell.step(x_t, state)[0]
    with torch.no_grad():
        for weight in cell.recurrent_weights().values():
            assert weight.shape == (5, 5)
            weight.add_(1.0)
    assert not torch.equal(cell.step(x_t, state)[0], before)


@pytest.mark.parametrize("name", MODELS)
def test_copy_in_another_precision_computes_the_same_without_warning(name: str) -> None:
    cell = build_cell(name)
    twin = copy.deepcopy(cell).to(torch.float32).to(torch.float64)
    x = torch.randn(2, 9, 3)
    torch.testing.assert_close(twin(x), cell(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_copy_shares_no_weight_with_its_original(name: str) -> None:
    cell = build_cell(name)
    twin = copy.deepcopy(cell)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.fill_(7.0)
    assert all((parameter != 7.0).any() for parameter in cell.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_construction_is_a_function_of_the_global_seed(name: str) -> None:
    torch.manual_seed(3)
    first = build_cell(name)
    torch.manual_seed(3)
    for one, other in zip(first.parameters(), build_cell(name).parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sizes", [{"input_size": 0}, {"hidden_size": 0}, {"hidden_size": -1}])
def test_size_below_one_is_refused(name: str, sizes: dict[str, int]) -> None:
    cell_type = type(build_cell(name))
    with pytest.raises(ValueError, match=f"`{next(iter(sizes))}` must be at least 1, got"):
        cell_type(**{"input_size": 2, "hidden_size": 2, **sizes})
