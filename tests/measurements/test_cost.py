"""Cost against a clock that ticks by hand, and against a cell whose memory is known by hand."""

from __future__ import annotations

import copy
import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import Recurrent, State
from gradhorizon.measurements.cost import Cost, _Training, fed_lengths, interleaved_s, shortened
from gradhorizon.measurements.measurement import Program
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.network import Network
from gradhorizon.tasks.copy_arjovsky2016 import CopyArjovsky2016
from gradhorizon.tasks.task import Batch
from gradhorizon.training.ensemble import LoneTraining
from tests.measurements.networks import NETWORKS, SquaredError, SumReadout
from tests.noisy_readout import NoisyReadout

ROUND_S = [5.0, 1.0, 3.0, 2.0, 7.0]
"""Seconds per step fed in each round: median 3, least 1, greatest 7."""


class PlainTanh(Recurrent):
    """h_t = tanh(h_{t−1} + x_t) from a trained h_0: of a step, autograd needs the state and nothing else."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.start = nn.Parameter(torch.zeros(hidden_size))

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"h": (self.hidden_size,)}

    def initial_state(self, batch_size: int) -> State:
        return (self.start.expand(batch_size, -1),)

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        return x

    def recur(self, projected_t: Tensor, state: State) -> State:
        return (torch.tanh(projected_t + state[0]),)


class Clocked(PlainTanh):
    """On a clock of its own: n steps take 1000 n seconds when they are first fed, later n · `ROUND_S`."""

    now_s: ClassVar[float] = 0.0
    calls: ClassVar[list[int]] = []

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        input_len = x.shape[1]
        Clocked.now_s += input_len * ([1000.0, *ROUND_S])[self.calls.count(input_len)]
        self.calls.append(input_len)
        return super().segment(x, state, first_step)


@contextmanager
def clocked() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: Clocked.now_s)
        Clocked.calls.clear()
        yield


def plain_network(cell: Callable[..., Recurrent] = PlainTanh, size: int = 3) -> Network:
    network = Network(partial(cell, hidden_size=size), size, size)
    network.readout = SumReadout(size, size)  # type: ignore[assignment]
    return network


def program(
    network: Network, input_len: int = 8, batch_size: int = 4, clip_norm: float = 1.0, **options: Any
) -> Program:
    settings: dict[str, Any] = {"build_optimizer": torch.optim.Adam, "precision": "32-true"}
    task = SquaredError(input_len, network.cells()[0].input_size)
    training = partial(LoneTraining, task=task, clip_norm=clip_norm)
    return Program(network, task, batch_size, **{**settings, "build_training": training, **options})


def read(measured: Program, num_lengths: int = 3, num_repetitions: int = 2) -> pd.DataFrame:
    return Cost(LogSpaced(num_points=0), num_lengths, num_repetitions).read(measured)


@pytest.mark.oracle("by hand: n seconds per step fed on a clock of its own; tanh keeps its output, the square its root")
def test_seconds_are_those_of_the_clock_and_bytes_those_of_the_states() -> None:
    with clocked():
        rows = read(program(plain_network(Clocked)), num_lengths=3, num_repetitions=len(ROUND_S))
    fed = np.array([2, 4, 8])
    state_bytes = 4 * 3 * 4  # samples, units, bytes of a float32
    expected = {
        "input_len_fed": fed,
        "num_loss_steps": 1,
        "batch_size": 4,
        "step_time_median_s": 3.0 * fed,
        "step_time_low_s": 1.0 * fed,
        "step_time_high_s": 7.0 * fed,
        "saved_for_backward_bytes": state_bytes * (fed + 1),
        "peak_allocated_bytes": np.nan,
        "num_repetitions": 5,
        "num_threads": torch.get_num_threads(),
        "device": "cpu",
        "precision": "32-true",
    }
    pd.testing.assert_frame_equal(rows, pd.DataFrame(expected), rtol=1e-15, atol=0, check_dtype=False)


def test_every_round_takes_every_length_in_an_order_of_its_own() -> None:
    with clocked():
        read(program(plain_network(Clocked)), num_lengths=4, num_repetitions=5)
    rounds = [tuple(Clocked.calls[start : start + 4]) for start in range(4, 24, 4)]
    assert all(sorted(own) == [1, 2, 4, 8] for own in rounds)
    assert len(set(rounds)) > 1


@pytest.mark.parametrize("was_enabled", [True, False])
def test_no_garbage_is_collected_while_a_step_is_timed(was_enabled: bool) -> None:
    found = []
    (gc.enable if was_enabled else gc.disable)()
    try:
        interleaved_s([lambda: found.append(gc.isenabled())], 2)
        assert (found, gc.isenabled()) == ([False, False], was_enabled)
    finally:
        gc.enable()


def test_float64_saves_twice_the_bytes() -> None:
    single, double = read(program(plain_network())), read(program(plain_network().double(), precision="64-true"))
    assert (double["saved_for_backward_bytes"] == 2 * single["saved_for_backward_bytes"]).all()


def test_mixed_precision_multiplies_in_bfloat16_as_lightning_does() -> None:
    network, seen = NETWORKS["gru"](), set()
    network.readout.register_forward_hook(lambda *call: seen.add(call[2].dtype))
    read(program(network, precision="bf16-mixed"))
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "attention", "bidirectional"])
def test_saved_bytes_grow_linearly_with_the_steps(name: str) -> None:
    rows = read(program(NETWORKS[name](), input_len=64, batch_size=32), num_repetitions=1)
    short, middle, long = rows["saved_for_backward_bytes"]
    # Kernels round their workspaces up.
    assert (long - middle) / (middle - short) == pytest.approx(2, rel=0.02)


def test_recomputed_segments_keep_what_they_consumed() -> None:
    network = NETWORKS["lstm"]()
    whole = read(program(network, input_len=144), 1, 1)["saved_for_backward_bytes"].item()
    network.recompute_every = 12
    assert read(program(network, input_len=144), 1, 1)["saved_for_backward_bytes"].item() < whole / 4


def test_what_was_saved_and_dropped_before_the_loss_weighs_nothing() -> None:
    class Wasteful(SumReadout):
        def forward(self, queries: Tensor, features: Tensor | None = None, is_visible: Tensor | None = None) -> Tensor:
            queries.repeat(1000, 1, 1).exp()
            return super().forward(queries, features, is_visible)

    network = plain_network()
    network.readout = Wasteful(3, 3)  # type: ignore[assignment]
    assert (read(program(network))["saved_for_backward_bytes"] == 48 * np.array([3, 5, 9])).all()


class SpyOptimizer(torch.optim.SGD):
    """Notes the norm of the gradient that each step is given."""

    norms: ClassVar[list[float]] = []

    def step(self, closure: Any = None) -> Any:
        gradients = [parameter.grad for group in self.param_groups for parameter in group["params"]]
        self.norms.append(float(torch.cat([own.flatten() for own in gradients]).norm()))
        return super().step(closure)


def test_timed_steps_are_training_steps_with_clipping_and_the_run_s_own_optimizer() -> None:
    SpyOptimizer.norms.clear()
    read(program(NETWORKS["lstm"](), build_optimizer=partial(SpyOptimizer, lr=0.1), clip_norm=1e-3), 3, 2)
    np.testing.assert_allclose(SpyOptimizer.norms, [1e-3] * 9, rtol=1e-4)


def test_whole_length_is_the_protocol_s_own_step() -> None:
    task = CopyArjovsky2016(10)
    batch = task.sample(np.random.default_rng(0), 4)
    whole = shortened(batch, task.input_len)
    assert whole.loss_steps == batch.loss_steps
    assert torch.equal(whole.inputs, batch.inputs)
    assert torch.equal(whole.targets, batch.targets)


@pytest.mark.parametrize(
    ("loss_steps", "input_len", "first", "kept"),
    [((6,), 4, 3, (4,)), ((2, 5, 6), 4, 3, (3, 4)), ((1, 2), 3, 2, (1,)), ((3,), 6, 1, (3,))],
)
def test_shortened_batch_keeps_the_last_steps_and_their_targets(
    loss_steps: tuple[int, ...], input_len: int, first: int, kept: tuple[int, ...]
) -> None:
    inputs = torch.arange(1.0, 7.0).reshape(1, 6, 1)
    cut = shortened(Batch(inputs, torch.tensor([loss_steps]), loss_steps), input_len)
    assert cut.inputs.flatten().tolist() == list(range(first, first + input_len))
    assert cut.loss_steps == kept
    assert cut.targets.flatten().tolist() == [t + first - 1 for t in kept]
    assert cut.inputs.untyped_storage().nbytes() == 4 * input_len


@pytest.mark.parametrize(("input_len", "expected"), [(1, [1]), (3, [1, 3]), (120, [15, 30, 60, 120])])
def test_lengths_are_halved_and_none_is_below_one(input_len: int, expected: list[int]) -> None:
    assert fed_lengths(input_len, 4) == expected


def noisy_network() -> Network:
    network = NETWORKS["gru"]()
    network.readout = NoisyReadout(3, 2)
    return network


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("is_training", [True, False])
def test_measuring_changes_nothing(is_training: bool, mode: Callable[[], AbstractContextManager[Any]]) -> None:
    network = noisy_network().train(is_training)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    before, random_state = copy.deepcopy([network.state_dict(), gradients]), torch.get_rng_state()
    with mode():
        read(program(network))
    torch.testing.assert_close([network.state_dict(), gradients], before, rtol=0, atol=0)
    assert all(parameter.grad is gradients[name] for name, parameter in network.named_parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert network.training == is_training


def test_loss_that_is_not_finite_is_timed_all_the_same() -> None:
    network = NETWORKS["elman"]()
    nn.init.constant_(network.readout.affine.bias, float("inf"))  # type: ignore[union-attr, arg-type]
    assert (read(program(network))["step_time_low_s"] > 0).all()


def test_peak_is_what_cuda_held_above_what_it_held_before(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()
    training = _Training(program(NETWORKS["elman"]()))
    batch = training.placed(shortened(SquaredError(8).sample(np.random.default_rng(0), 4), 8))
    for name, value in {"memory_allocated": 100, "max_memory_allocated": 350, "reset_peak_memory_stats": None}.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, name=name, value=value: calls.update([name]) or value)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.update(["synchronize"]))
    monkeypatch.setattr(training, "step", lambda _: calls.update(["step"]))
    training.device = torch.device("cuda")
    assert training.peak_bytes(batch) == 250
    assert calls["reset_peak_memory_stats"] == calls["step"] == 1


@pytest.mark.parametrize("name", ["num_lengths", "num_repetitions"])
def test_nothing_to_time_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        Cost(LogSpaced(), **{name: 0})
