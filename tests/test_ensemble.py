"""Members are independent; clipping, evaluation and state are per member."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from gradhorizon.cells.initialization import uniform
from gradhorizon.cells.lstm import LSTM
from gradhorizon.machine.randomness import forked_rng, seed_generators
from gradhorizon.network import Network
from gradhorizon.tasks.adding_arjovsky2016 import AddingArjovsky2016
from gradhorizon.training.ensemble import Ensemble, Member, Outcome
from gradhorizon.training.streams import training_batch, validation_batches

TASK = AddingArjovsky2016(seq_len=8)


def build() -> Network:
    return Network(partial(LSTM, hidden_size=5, initialization=uniform), TASK.input_size, TASK.output_size)


def with_gradient(ensemble: Ensemble) -> Member:
    member = next(iter(ensemble))
    ensemble.training_loss(member, training_batch(TASK, 0, member.seed, 0, 4), with_metrics=True).backward()
    return member


def test_a_member_has_the_same_parameters_alone_and_in_company() -> None:
    alone = Member(3, build)
    torch.rand(10)
    company = [Member(seed, build) for seed in range(5)]
    for a, b in zip(alone.parameters(), company[3].parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(alone.parameters()), next(company[2].parameters()))


def test_building_a_member_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    Member(0, build)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_seeding_the_generators_draws_what_manual_seed_draws() -> None:
    torch.manual_seed(77)
    expected = torch.rand(5)
    seed_generators(77)
    assert torch.equal(torch.rand(5), expected)


def test_forked_rng_is_restored_after_an_exception() -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="size"), forked_rng(1):
        torch.rand(3) + torch.rand(2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_clipping_scales_the_gradient_to_the_threshold_and_keeps_its_direction() -> None:
    ensemble = Ensemble([Member(0, build)], TASK, clip_norm=1e-3)
    member = with_gradient(ensemble)
    before = torch.cat([parameter.grad.flatten() for parameter in member.parameters() if parameter.grad is not None])
    reading = ensemble.clip(member, with_reading=True)
    after = torch.cat([parameter.grad.flatten() for parameter in member.parameters() if parameter.grad is not None])
    assert reading is not None
    torch.testing.assert_close(reading.total_unclipped, before.double().norm(), rtol=1e-6, atol=0)
    torch.testing.assert_close(after, before * (1e-3 / before.norm()), rtol=1e-5, atol=0)
    assert (reading.num_clipped, reading.num_steps) == (1, 1)


def test_a_gradient_below_the_threshold_is_bit_identical_after_clipping() -> None:
    ensemble = Ensemble([Member(0, build)], TASK, clip_norm=1e6)
    member = with_gradient(ensemble)
    before = [parameter.grad.clone() for parameter in member.parameters() if parameter.grad is not None]
    ensemble.clip(member, with_reading=False)
    after = [parameter.grad for parameter in member.parameters() if parameter.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert member.num_clipped == 0


def test_total_norm_is_finite_where_a_float32_norm_overflows() -> None:
    ensemble = Ensemble([Member(0, build)], TASK, clip_norm=1.0)
    member = with_gradient(ensemble)
    for parameter in member.parameters():
        parameter.grad = torch.full_like(parameter, 1e30)
    reading = ensemble.clip(member, with_reading=True)
    assert reading is not None
    count = sum(parameter.numel() for parameter in member.parameters())
    torch.testing.assert_close(reading.total_unclipped, torch.tensor(1e30 * count**0.5).double(), rtol=1e-6, atol=0)
    clipped = sum(
        float(parameter.grad.double().square().sum()) for parameter in member.parameters() if parameter.grad is not None
    )
    assert clipped == pytest.approx(1.0, rel=1e-5)


def test_clip_counters_cover_the_steps_since_the_last_reading() -> None:
    ensemble = Ensemble([Member(0, build)], TASK, clip_norm=1e-6)
    member = with_gradient(ensemble)
    ensemble.clip(member, with_reading=False)
    for parameter in member.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ensemble.clip(member, with_reading=False)
    reading = ensemble.clip(member, with_reading=True)
    assert reading is not None
    assert (reading.num_clipped, reading.num_steps) == (1, 3)
    again = ensemble.clip(member, with_reading=True)
    assert again is not None
    assert (again.num_clipped, again.num_steps) == (0, 1)


def test_evaluation_is_the_mean_over_samples_whatever_the_batches() -> None:
    ensemble = Ensemble([Member(0, build)], TASK)
    member = next(iter(ensemble))
    whole = list(validation_batches(TASK, 0, 30, 30))
    with torch.no_grad():
        predictions = member.network(whole[0].inputs, whole[0].loss_steps)
        expected = TASK.metrics(predictions, whole[0].targets)["loss"].double().mean()
    parts = [copy.copy(whole[0]) for _ in range(2)]
    object.__setattr__(parts[0], "inputs", whole[0].inputs[:7])
    object.__setattr__(parts[0], "targets", whole[0].targets[:7])
    object.__setattr__(parts[1], "inputs", whole[0].inputs[7:])
    object.__setattr__(parts[1], "targets", whole[0].targets[7:])
    assert ensemble.evaluate(member, parts)["loss"] == pytest.approx(float(expected), rel=1e-6)
    assert member.network.training


def test_a_member_continues_from_its_state() -> None:
    member, other = Member(0, build), Member(1, build)
    member.outcome = Outcome("diverged", 7)
    member.num_clipped = 3
    other.restore(member.state())
    assert other.outcome == Outcome("diverged", 7)
    assert other.num_clipped == 3
    assert all(torch.equal(a, b) for a, b in zip(member.parameters(), other.parameters(), strict=True))


def test_an_ensemble_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one member"):
        Ensemble([], TASK)
