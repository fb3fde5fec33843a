"""Networks against PyTorch's own stacked and bidirectional kernels, and their structural zeros."""

from __future__ import annotations

import copy
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM
from gradhorizon.network import Network
from gradhorizon.readouts import AdditiveScore, AttentionReadout
from tests.models import MODELS, build_network
from tests.synthetic_cells import PerStepLayer

pytestmark = pytest.mark.usefixtures("float64")

B, N, D, H, K = 2, 9, 3, 5, 2
Kernel = type[nn.LSTM] | type[nn.GRU]
CAUSAL = [name for name in MODELS if not build_network(name).bidirectional]


def _torch_twin(network: Network, kernel: Kernel) -> nn.RNNBase:
    """``torch.nn.LSTM`` or ``GRU`` of the same depth and directions with the network's weights copied."""
    twin = kernel(D, H, len(network.layers), batch_first=True, bidirectional=network.bidirectional)
    with torch.no_grad():
        for weights, cell in zip(twin.all_weights, network.cells(), strict=True):
            for weight, source in zip(weights, cell.parameters(), strict=True):
                weight.copy_(source)
    return twin


def _assert_same_gradients(network: Network, found: Tensor, twin: nn.RNNBase, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)
    ours = torch.autograd.grad(found.square().sum(), [p for cell in network.cells() for p in cell.parameters()])
    theirs = torch.autograd.grad(expected.square().sum(), [p for weights in twin.all_weights for p in weights])
    for one, other in zip(ours, theirs, strict=True):
        assert torch.linalg.vector_norm(one - other) <= 1e-11 * torch.linalg.vector_norm(other)


DEPTHS = list(product([(LSTM, nn.LSTM), (GRU, nn.GRU)], [1, 3]))


@pytest.mark.parametrize(("kernels", "num_layers"), DEPTHS)
@pytest.mark.parametrize("loss_steps", [(N,), (2, 5, 6), tuple(range(1, N + 1))])
def test_stack_equals_the_torch_kernel_of_that_depth(
    kernels: tuple[type[LSTM], Kernel], num_layers: int, loss_steps: tuple[int, ...]
) -> None:
    network = Network(partial(kernels[0], hidden_size=H), D, K, num_layers)
    twin = _torch_twin(network, kernels[1])
    x = torch.randn(B, N, D)
    expected = network.readout(twin(x)[0][:, [t - 1 for t in loss_steps]], None, None)
    _assert_same_gradients(network, network(x, loss_steps), twin, expected)


@pytest.mark.parametrize(("kernels", "num_layers"), DEPTHS)
def test_bidirectional_network_reads_both_directions_at_each_of_several_loss_steps(
    kernels: tuple[type[LSTM], Kernel], num_layers: int
) -> None:
    network = Network(partial(kernels[0], hidden_size=H), D, K, num_layers, bidirectional=True)
    twin = _torch_twin(network, kernels[1])
    x = torch.randn(B, N, D)
    expected = network.readout(twin(x)[0][:, [1, 4, N - 1]], None, None)
    _assert_same_gradients(network, network(x, (2, 5, N)), twin, expected)


@pytest.mark.parametrize(("kernels", "num_layers"), DEPTHS)
def test_bidirectional_network_with_the_last_loss_step_alone_reads_what_h_n_holds(
    kernels: tuple[type[LSTM], Kernel], num_layers: int
) -> None:
    network = Network(partial(kernels[0], hidden_size=H), D, K, num_layers, bidirectional=True)
    twin = _torch_twin(network, kernels[1])
    x = torch.randn(B, N, D)
    last = twin(x)[1]
    h_n = last[0] if isinstance(last, tuple) else last
    expected = network.readout(torch.cat([h_n[-2], h_n[-1]], dim=-1).unsqueeze(1), None, None)
    _assert_same_gradients(network, network(x, (N,)), twin, expected)


@pytest.mark.parametrize("loss_steps", [(N,), (2, 5, N)])
def test_bidirectional_attention_queries_with_what_the_state_readout_reads(loss_steps: tuple[int, ...]) -> None:
    readout = partial(AttentionReadout, score=AdditiveScore)
    network = Network(partial(GRU, hidden_size=H), D, K, bidirectional=True, readout=readout)
    twin = _torch_twin(network, nn.GRU)
    x = torch.randn(B, N, D)
    features, h_n = twin(x)
    at_steps = features[:, [t - 1 for t in loss_steps]]
    queries = torch.cat([h_n[0], h_n[1]], dim=-1).unsqueeze(1) if loss_steps == (N,) else at_steps
    visible = torch.ones(len(loss_steps), N, dtype=torch.bool)
    _assert_same_gradients(network, network(x, loss_steps), twin, network.readout(queries, features, visible))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("loss_steps", [(N,), (3,), (1, 4, 8)])
@pytest.mark.parametrize("lags", [(), (0, 1, 4, N)])
def test_trace_predicts_what_forward_predicts(name: str, loss_steps: tuple[int, ...], lags: tuple[int, ...]) -> None:
    network = build_network(name)
    x = torch.randn(B, N, D)
    trace = network.trace(x, loss_steps, lags)
    expected = network(x, loss_steps)
    assert expected.shape == (B, len(loss_steps), K)
    torch.testing.assert_close(trace.predictions, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", MODELS)
def test_recomputing_network_predicts_and_differentiates_as_a_storing_one(name: str) -> None:
    storing = build_network(name)
    recomputing = copy.deepcopy(storing)
    recomputing.recompute_every = 4
    x = torch.randn(B, N, D)
    found, expected = recomputing(x, (3, N)), storing(x, (3, N))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-14)
    ours = torch.autograd.grad(found.square().sum(), list(recomputing.parameters()))
    theirs = torch.autograd.grad(expected.square().sum(), list(storing.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.linalg.vector_norm(one - other) <= 1e-11 * torch.linalg.vector_norm(other)


@pytest.mark.parametrize("name", CAUSAL)
def test_prediction_ignores_inputs_after_its_loss_step(name: str) -> None:
    network = build_network(name)
    trace = network.trace(torch.randn(B, N, D), (4, 7))
    (gradient,) = torch.autograd.grad(trace.predictions[:, 0].sum(), trace.encoded)
    assert (gradient[:, 4:] == 0).all()
    assert (gradient[:, 3] != 0).any()


@pytest.mark.parametrize("name", MODELS)
def test_samples_do_not_touch_each_other(name: str) -> None:
    network = build_network(name)
    trace = network.trace(torch.randn(3, N, D), (4, 7), lags=(1,))
    states = [part for layer in trace.layers for state in layer.trajectory.states for part in state]
    found = torch.autograd.grad(trace.predictions[1].sum(), [trace.encoded, *states])
    assert all((gradient[[0, 2]] == 0).all() for gradient in found)
    assert all((gradient[1] != 0).any() for gradient in found)


@pytest.mark.parametrize("name", ["bilstm", "bigru"])
def test_bidirectional_prediction_depends_on_later_inputs(name: str) -> None:
    trace = build_network(name).trace(torch.randn(B, N, D), (4, 7))
    (gradient,) = torch.autograd.grad(trace.predictions[:, 0].sum(), trace.encoded)
    assert (gradient != 0).any(dim=-1).all()


def test_backward_direction_runs_in_its_own_time() -> None:
    network = build_network("bilstm")
    x = torch.randn(B, N, D)
    forward, backward = network.trace(x, (2, N), lags=(1,)).layers
    assert (forward.direction, backward.direction) == ("forward", "backward")
    assert torch.equal(backward.inputs[:, 0], x[:, N - 1])
    assert backward.trajectory.output_steps == (1, N - 1)


@pytest.mark.parametrize(
    ("name", "loss_steps", "expected"),
    [
        ("bilstm", (2, 7), [7, N + 1 - 7]),  # what the readout reads at step 7, the backward direction's own N + 1 − 7
        ("bilstm", (N,), [N, N]),  # a prediction for the whole sequence reads each direction's own last step
        ("lstm", (2, 7), [7]),
    ],
)
def test_states_are_kept_at_lags_from_the_step_that_the_last_loss_step_reads(
    name: str, loss_steps: tuple[int, ...], expected: list[int]
) -> None:
    trace = build_network(name).trace(torch.randn(B, N, D), loss_steps, lags=(0, 1, N))
    assert [layer.read_step for layer in trace.layers] == expected
    for layer in trace.layers:
        last = layer.read_step
        assert layer.trajectory.cuts == ((0, last - 1, last) if last == N else tuple(sorted({last - 1, last})))
    probed = trace.predictions[:, -1].sum()
    for layer in trace.layers:
        at_lag_zero = layer.trajectory.output_steps.index(layer.read_step)
        (gradient,) = torch.autograd.grad(probed, layer.trajectory.outputs, retain_graph=True)
        assert (gradient[:, at_lag_zero] != 0).any()


def test_trace_has_one_entry_per_layer_and_direction_lowest_first() -> None:
    network = Network(partial(LSTM, hidden_size=H), D, K, num_layers=2, bidirectional=True)
    found = [(layer.layer, layer.direction) for layer in network.trace(torch.randn(B, N, D), (N,)).layers]
    assert found == [(0, "forward"), (0, "backward"), (1, "forward"), (1, "backward")]


@pytest.mark.parametrize("loss_steps", [(N,), (3, 6)])
def test_last_layer_keeps_the_outputs_at_loss_steps_alone(loss_steps: tuple[int, ...]) -> None:
    lower, upper = Network(partial(LSTM, hidden_size=H), D, K, 2).trace(torch.randn(B, N, D), loss_steps).layers
    assert lower.trajectory.output_steps == tuple(range(1, N + 1))
    assert upper.trajectory.output_steps == loss_steps


class _Embedding(nn.Module):
    output_size = 4

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.affine = nn.Linear(input_size, self.output_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x)


def test_encoder_feeds_the_first_layer_and_its_output_is_what_is_probed() -> None:
    network = Network(partial(GRU, hidden_size=H), D, K, encoder=_Embedding)
    x = torch.randn(B, N, D)
    trace = network.trace(x, (N,))
    torch.testing.assert_close(trace.encoded, network.encoder(x))
    assert network.cells()[0].input_size == 4
    found = torch.autograd.grad(trace.predictions.sum(), [trace.encoded, *network.encoder.parameters()])
    assert all((gradient != 0).any() for gradient in found)


def test_layer_that_is_no_recurrence_stacks_with_the_same_network() -> None:
    network = Network(partial(PerStepLayer, hidden_size=H), D, K, num_layers=2)
    x = torch.randn(B, N, D)
    trace = network.trace(x, (3, N), lags=(2,))
    lower, upper = network.cells()
    expected = network.readout(upper(lower(x))[:, [2, N - 1]], None, None)
    torch.testing.assert_close(network(x, (3, N)), expected, rtol=1e-12, atol=0)
    assert trace.layers == ()
    (gradient,) = torch.autograd.grad(trace.predictions[:, 0].sum(), trace.encoded)
    assert set(gradient.abs().sum(dim=(0, 2)).nonzero().flatten().tolist()) == {2}


def test_network_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="`num_layers` must be at least 1, got 0"):
        Network(partial(GRU, hidden_size=H), D, K, num_layers=0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 2, 1), (2, 1, 2)])
def test_odd_sizes_predict_and_differentiate(name: str, sizes: tuple[int, int, int]) -> None:
    batch_size, input_len, hidden_size = sizes
    network = build_network(name, input_size=1, output_size=1, hidden_size=hidden_size)
    trace = network.trace(torch.randn(batch_size, input_len, 1), (input_len,), lags=(0, input_len))
    (gradient,) = torch.autograd.grad(trace.predictions.sum(), trace.encoded)
    assert trace.predictions.shape == (batch_size, 1, 1)
    assert gradient.isfinite().all()
