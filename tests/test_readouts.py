"""Readouts against explicit loops over samples, loss steps and visible steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gradhorizon.readouts import AdditiveScore, AttentionReadout, ScaledDotProductScore, StateReadout
from tests.oracles import attention_predictions

pytestmark = pytest.mark.usefixtures("float64")

B, K, N, F, NUM_OUTPUTS = 2, 3, 5, 4, 2
IS_VISIBLE = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)


def _additive(score: nn.Module, query: Tensor, feature: Tensor) -> Tensor:
    parameters = dict(score.named_parameters())
    mixed = torch.tanh(parameters["query.weight"] @ query + parameters["key.weight"] @ feature)
    return parameters["vector.weight"][0] @ mixed


def _scaled_dot_product(score: nn.Module, query: Tensor, feature: Tensor) -> Tensor:
    parameters = dict(score.named_parameters())
    return (parameters["query.weight"] @ query) @ (parameters["key.weight"] @ feature) / F**0.5


SCORES = [(AdditiveScore, _additive), (ScaledDotProductScore, _scaled_dot_product)]
Oracle = Callable[[nn.Module, Tensor, Tensor], Tensor]


@pytest.mark.parametrize(("score", "oracle"), SCORES)
def test_attention_equals_an_explicit_loop(score: type[nn.Module], oracle: Oracle) -> None:
    readout = AttentionReadout(F, NUM_OUTPUTS, score)
    queries, features = torch.randn(B, K, F), torch.randn(B, N, F)
    found = readout(queries, features, IS_VISIBLE)
    for b in range(B):
        for k in range(K):
            visible = features[b, IS_VISIBLE[k]]
            scores = [oracle(readout.score, queries[b, k], feature) for feature in visible]
            weight, bias = readout.affine.weight, readout.affine.bias
            expected = attention_predictions(queries[b, k], visible, scores, weight, bias)
            torch.testing.assert_close(found[b, k], expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("score", [AdditiveScore, ScaledDotProductScore])
def test_gradient_of_attention_is_exactly_zero_at_invisible_steps(score: type[nn.Module]) -> None:
    readout = AttentionReadout(F, NUM_OUTPUTS, score)
    features = torch.randn(B, N, F, requires_grad=True)
    found = readout(torch.randn(B, K, F), features, IS_VISIBLE)
    (gradient,) = torch.autograd.grad(found[:, 1].sum(), features)
    assert (gradient[:, 3:] == 0).all()
    assert (gradient[:, :3] != 0).all()


def test_attention_over_one_visible_step_returns_it() -> None:
    readout = AttentionReadout(F, F, AdditiveScore)
    with torch.no_grad():
        readout.affine.weight.copy_(torch.cat([torch.zeros(F, F), torch.eye(F)], dim=1))
        readout.affine.bias.zero_()
    features = torch.randn(B, N, F)
    found = readout(torch.randn(B, K, F), features, IS_VISIBLE)
    assert torch.equal(found[:, 0], features[:, 0])


def test_attention_refuses_to_read_the_loss_steps_alone() -> None:
    with pytest.raises(ValueError, match="attention reads the features of every step"):
        AttentionReadout(F, NUM_OUTPUTS, AdditiveScore)(torch.randn(B, K, F), None, None)


def test_state_readout_is_an_affine_map_of_the_query() -> None:
    readout = StateReadout(F, NUM_OUTPUTS)
    query = torch.randn(B, K, F)
    expected = query[1, 2] @ readout.affine.weight.T + readout.affine.bias
    torch.testing.assert_close(readout(query)[1, 2], expected, rtol=1e-12, atol=0)
