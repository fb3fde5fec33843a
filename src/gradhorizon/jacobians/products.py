r"""Products of one-step Jacobians: how a state moves the state τ steps later, exactly or by random projections.

.. math::
    J_t = \frac{\partial s_t}{\partial s_{t-1}}, \qquad
    M_\tau = \frac{\partial s_{t^*}}{\partial s_{t^*-\tau}} = J_{t^*} J_{t^*-1} \cdots J_{t^*-\tau+1}

over the *full* state, all components flattened and joined in the state's order.

Rounding in a product of norm 1 hides every singular value below 1e-16, so :math:`\sigma_{\min}` is not read from
:math:`M_\tau`. It is the reciprocal of the *largest* singular value of
:math:`M_\tau^{-1} = J_{t^*-\tau+1}^{-1} \cdots J_{t^*}^{-1}`, accumulated beside :math:`M_\tau` from one-step inverses.
Each largest singular value is as well determined as its matrix's norm, whatever the condition of :math:`M_\tau`;
scales are kept as logarithms, so that neither product under- or overflows.

Notation: B batch, S size of the full state, K vectors, L lags, t* last step; logarithms are natural.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gradhorizon.jacobians.one_step import StepJacobians

_NUM_START_VECTORS = 8  # of the power iteration


@dataclass(frozen=True)
class LogSpectra:
    """Natural logarithms of what is measured of each sample's M_τ; −inf for an exact 0, NaN if not finite.

    Attributes:
        frobenius_norm: ln(‖M‖_F/√S), shape (B, L).
        sigma_max: logarithm of the largest singular value, or of a lower bound, shape (B, L).
        sigma_min: of the smallest, shape (B, L); NaN if not measured.
        relative_standard_error: of ‖M‖_F/√S, shape (B, L); 0 if exact.
    """

    frobenius_norm: Float[Tensor, "B L"]
    sigma_max: Float[Tensor, "B L"]
    sigma_min: Float[Tensor, "B L"]
    relative_standard_error: Float[Tensor, "B L"]


def exact_spectra(maps: StepJacobians, last: int, lags: Sequence[int]) -> LogSpectra:
    """Norms and extreme singular values of M_τ at ascending `lags`, from exact one-step Jacobians.

    σ_min is 0 once a step is singular to working precision. Else its relative error is about eps times the number of
    steps times the largest condition number of one step, its rows and columns equilibrated.

    Args:
        maps: the one-step Jacobians.
        last: t*.
        lags: ascending, at most `last`.
    """
    return product_spectra((maps.matrix(t) for t in range(last, last - lags[-1], -1)), lags, maps.states[:, 0])


def product_spectra(jacobians: Iterator[Float[Tensor, "B S S"]], lags: Sequence[int], like: Tensor) -> LogSpectra:
    """The same for given Jacobians, the latest first, as many as the longest lag; `like` has shape (B, S)."""
    product = inverse = identity = _ScaledMatrix.identity(like)
    is_singular = torch.zeros(len(like), dtype=torch.bool, device=like.device)
    is_finite = ~is_singular
    found = []
    for lag in range(lags[-1] + 1):
        if lag > 0:
            jacobian = next(jacobians)
            is_finite = is_finite & jacobian.isfinite().all(dim=2).all(dim=1)
            product = product.times(_where(is_finite, jacobian, identity.matrix))
            step = _Inverse.of(jacobian, is_finite)
            inverse, is_singular = step.times(inverse), is_singular | step.is_singular
        if lag in lags:
            sigma_min = torch.where(is_singular, -torch.inf, -inverse.log_norm(2))
            logs = torch.stack([product.log_norm("fro"), product.log_norm(2), sigma_min, torch.zeros_like(sigma_min)])
            found.append(torch.where(is_finite, logs, torch.nan))
    return LogSpectra(*torch.stack(found, dim=-1))


@dataclass(frozen=True)
class _ScaledMatrix:
    """exp(log_scale) · matrix, per sample, the largest entry of the matrix being 1 unless it is all zeros."""

    matrix: Tensor
    log_scale: Tensor

    @classmethod
    def identity(cls, like: Tensor) -> _ScaledMatrix:
        """I for each sample, of the size, dtype and device of `like`, shape (B, S, S)."""
        eye = torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
        return cls(eye.expand(len(like), -1, -1), like.new_zeros(len(like)))

    @classmethod
    def normalized(cls, matrix: Tensor, log_scale: Tensor) -> _ScaledMatrix:
        """exp(log_scale) · matrix, with the largest entry of each sample moved into the scale."""
        largest = _positive(matrix.abs().amax(dim=(1, 2)))
        return cls(matrix / largest[:, None, None], log_scale + largest.log())

    def times(self, right: Tensor) -> _ScaledMatrix:
        """The product with `right`, shape (B, S, S), on the right."""
        scaled = self.normalized(right, self.log_scale)
        return self.normalized(self.matrix @ scaled.matrix, scaled.log_scale)

    def log_norm(self, order: int | str) -> Tensor:
        """Ln of a matrix norm, shape (B,); the Frobenius norm is divided by √S."""
        divisor = math.sqrt(self.matrix.shape[1]) if order == "fro" else 1.0
        norm: Tensor = torch.linalg.matrix_norm(self.matrix, ord=order)
        return (norm / divisor).log() + self.log_scale


@dataclass(frozen=True)
class _Inverse:
    """J⁻¹ = diag(columns)⁻¹ E diag(rows)⁻¹ with E the inverse of the equilibrated J, or of I if that is singular."""

    columns: Tensor
    equilibrated: Tensor
    rows: Tensor
    is_singular: Bool[Tensor, " B"]

    @classmethod
    def of(cls, jacobian: Tensor, is_finite: Tensor) -> _Inverse:
        """The inverse of each sample's J, shape (B, S, S); of I where J is not finite or singular to rounding."""
        # A saturated unit scales its whole row: equilibrated, it costs no digits and is not taken for a singular J.
        eye = torch.eye(jacobian.shape[1], dtype=jacobian.dtype, device=jacobian.device).expand_as(jacobian)
        jacobian = _where(is_finite, jacobian, eye)
        rows = _positive(jacobian.abs().amax(dim=2))
        balanced = jacobian / rows.unsqueeze(2)
        columns = _positive(balanced.abs().amax(dim=1))
        balanced = balanced / columns.unsqueeze(1)
        inverse, info = torch.linalg.inv_ex(balanced)
        size, eps = jacobian.shape[1], torch.finfo(jacobian.dtype).eps
        condition = torch.linalg.matrix_norm(balanced) * torch.linalg.matrix_norm(inverse)
        is_singular = (info != 0) | ~(condition * size * eps < 1)
        return cls(columns, _where(is_singular, eye, inverse), rows, is_singular)

    def times(self, other: _ScaledMatrix) -> _ScaledMatrix:
        """J⁻¹ times `other`."""
        other = _divided_rows(other, self.rows)
        return _divided_rows(_ScaledMatrix.normalized(self.equilibrated @ other.matrix, other.log_scale), self.columns)


def _divided_rows(scaled: _ScaledMatrix, divisors: Tensor) -> _ScaledMatrix:
    smallest = divisors.amin(dim=1)
    matrix = scaled.matrix * (smallest.unsqueeze(1) / divisors).unsqueeze(2)
    return _ScaledMatrix.normalized(matrix, scaled.log_scale - smallest.log())


def _positive(values: Tensor) -> Tensor:
    return torch.where(values.isfinite() & (values > 0), values, 1.0)


def _where(condition: Tensor, matrix: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(condition[:, None, None], matrix, otherwise)


def projected_spectra(
    maps: StepJacobians,
    last: int,
    lags: Sequence[int],
    generator: torch.Generator,
    num_projections: int = 32,
    num_power_iterations: int = 4,
) -> LogSpectra:
    r"""Estimate of ‖M_τ‖_F/√S and a lower bound of σ_max at ascending `lags`, without a matrix of size S.

    .. math:: \lVert M \rVert_F^2 = \lVert M v \rVert^2 + \mathbb{E}_u \lVert (I - v v^\top) M^\top u \rVert^2

    The entries of u are ±1 at random. v is what power iteration makes of a few vectors independent of u, so that the
    one direction that outgrows all others at long lags adds no error; ‖M v‖ is the bound. σ_min is not estimated.

    Args:
        maps: the one-step Jacobians.
        last: t*.
        lags: ascending, at most `last`.
        generator: draws the signs; on the CPU.
        num_projections: K, vectors per sample; the standard error falls with √K.
        num_power_iterations: each is one pass forward and one back.

    Source: Hutchinson (1989), https://doi.org/10.1080/03610918908812806, for the trace of M Mᵀ; with the leading
        direction taken out as in Meyer, Musco, Musco & Woodruff (2021), https://arxiv.org/abs/2010.09649.
    """
    like = maps.states[:, 0]
    shape = (_NUM_START_VECTORS + num_projections, *like.shape)
    signs = 2.0 * torch.randint(0, 2, shape, generator=generator, dtype=like.dtype).to(like.device) - 1.0
    logs, rows = _pull_all(maps, signs, last, lags)
    bound, leading = logs.amax(dim=1), _leading(logs[:, :_NUM_START_VECTORS], rows[:, :_NUM_START_VECTORS])
    logs, rows = logs[:, _NUM_START_VECTORS:], rows[:, _NUM_START_VECTORS:]
    for _ in range(num_power_iterations):
        forward, left = _push_each(maps, leading, last, lags)
        backward, leading = _pull_each(maps, left, last, lags)
        bound = torch.maximum(torch.maximum(bound, forward), backward)
    captured, _ = _push_each(maps, leading, last, lags)
    leading = leading.unsqueeze(1)
    rest = rows - (rows * leading).sum(dim=-1, keepdim=True) * leading
    frobenius, error = _root_mean_square(captured - 0.5 * math.log(like.shape[1]), _unit(rest)[1] + logs)
    return LogSpectra(frobenius.T, torch.maximum(bound, captured).T, torch.full_like(bound.T, torch.nan), error.T)


def _leading(logs: Float[Tensor, "L K B"], rows: Float[Tensor, "L K B S"]) -> Float[Tensor, "L B S"]:
    # A sample that vanished or is not finite gets some direction: its lengths say what happened to it.
    block = ((logs - logs.amax(dim=1, keepdim=True)).exp().unsqueeze(-1) * rows).nan_to_num()
    directions: Tensor = torch.linalg.svd(block.transpose(1, 2), full_matrices=False).Vh
    return directions[:, :, 0]


def _root_mean_square(captured: Float[Tensor, "L B"], rest: Float[Tensor, "L K B"]) -> tuple[Tensor, Tensor]:
    largest = torch.maximum(captured, rest.amax(dim=1))
    scale = torch.where(largest.isneginf(), 0.0, largest)
    squares = (2.0 * (rest - scale.unsqueeze(1))).exp()
    total = (2.0 * (captured - scale)).exp() + squares.mean(dim=1)
    standard_error = squares.std(dim=1) / math.sqrt(squares.shape[1])
    return scale + 0.5 * total.log(), 0.5 * standard_error / torch.where(total == 0, 1.0, total)


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    largest = _positive(vectors.abs().amax(dim=-1, keepdim=True))
    lengths = torch.linalg.vector_norm(vectors / largest, dim=-1, keepdim=True)
    units = vectors / largest / torch.where(lengths == 0, 1.0, lengths)
    return units, (lengths.log() + largest.log()).squeeze(-1)


def _pull_all(maps: StepJacobians, rows: Tensor, last: int, lags: Sequence[int]) -> tuple[Tensor, Tensor]:
    rows, logs = _unit(rows)[0], rows.new_zeros(rows.shape[:2])
    found = []
    for lag in range(lags[-1] + 1):
        if lag > 0:
            rows, factors = _unit(maps.pull(last - lag + 1, rows))
            logs = logs + factors
        if lag in lags:
            found.append((logs, rows))
    return torch.stack([logs for logs, _ in found]), torch.stack([rows for _, rows in found])


def _push_each(maps: StepJacobians, columns: Tensor, last: int, lags: Sequence[int]) -> tuple[Tensor, Tensor]:
    columns, logs = columns.clone(), columns.new_zeros(columns.shape[:2])
    for t in range(last - lags[-1] + 1, last + 1):
        started = slice(sum(lag < last - t + 1 for lag in lags), None)
        columns[started], factors = _unit(maps.push(t, columns[started]))
        logs[started] += factors
    return logs, columns


def _pull_each(maps: StepJacobians, rows: Tensor, last: int, lags: Sequence[int]) -> tuple[Tensor, Tensor]:
    rows, logs = rows.clone(), rows.new_zeros(rows.shape[:2])
    for lag in range(1, lags[-1] + 1):
        unfinished = slice(sum(other < lag for other in lags), None)
        rows[unfinished], factors = _unit(maps.pull(last - lag + 1, rows[unfinished]))
        logs[unfinished] += factors
    return logs, rows
