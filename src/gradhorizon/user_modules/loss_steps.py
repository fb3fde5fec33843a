"""What a loss returns, and which steps of the outputs it reads: a profile is that of one step's loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def checked_losses(losses: Any, batch_size: int) -> Tensor:
    """`losses`, one per sample.

    Raises:
        ValueError: of another shape, or without gradient.
    """
    if not isinstance(losses, Tensor) or losses.shape != (batch_size,):
        got = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"`loss` must return one number per sample, shape ({batch_size},), got {got}. A mean over the batch would "
            "divide every gradient by its size: use reduction='none' and reduce over all dimensions but the first"
        )
    if not losses.requires_grad:
        raise ValueError(
            "`loss` must depend on the inputs, got a tensor without gradient; look for a detach or no_grad"
        )
    return losses


def step_dimensions(
    outputs: Sequence[Tensor], shorter: Sequence[Tensor] | None, batch_size: int, input_len: int
) -> list[int | None]:
    """Dimension of the steps of every output, if it has one beside that of the batch.

    Args:
        outputs: what a module returned for N steps.
        shorter: what it returned for N − 1; None if it takes N alone.
        batch_size: B.
        input_len: N.
    """
    if shorter is None or len(shorter) != len(outputs):
        return [1 if own.ndim > 2 and own.shape[:2] == (batch_size, input_len) else None for own in outputs]  # noqa: PLR2004
    return [_shortened(own, other, input_len) for own, other in zip(outputs, shorter, strict=True)]


def _shortened(output: Tensor, shorter: Tensor, input_len: int) -> int | None:
    if output.ndim != shorter.ndim:
        return None
    sizes = zip(output.shape, shorter.shape, strict=True)
    found = [at for at, (own, other) in enumerate(sizes) if own != other]
    return found[0] if len(found) == 1 and output.shape[found[0]] == input_len else None


def refuse_other_steps(
    losses: Tensor,
    outputs: Sequence[Tensor],
    dimensions: Sequence[int | None],
    lists: Sequence[Sequence[Tensor]],
    probed: np.ndarray,
) -> None:
    """Refuse a loss that reads other steps of the outputs than the probed one.

    Args:
        losses: shape (B,).
        outputs: what `losses` were made from, each a tensor of its own.
        dimensions: where their steps are.
        lists: of those, the ones that hold one step each, in order.
        probed: t* of every sample, shape (B,).

    Raises:
        ValueError: it reads several steps, another one, or each sample's own without `lengths`.
    """
    read = _steps_read(losses, outputs, dimensions, lists)
    if read is None:
        return
    first, last = read.argmax(axis=1) + 1, read.shape[1] - read[:, ::-1].argmax(axis=1)
    is_read = read.any(axis=1)
    first, last, probed = first[is_read], last[is_read], probed[is_read]
    if (first == probed).all() and (last == probed).all():
        return
    if (first != last).any():
        sample = int((first != last).argmax())
        raise ValueError(
            f"`loss` must read the outputs of one step, the probed one, got steps {first[sample]} … {last[sample]}: "
            "the profile would be no horizon; read `outputs[:, t - 1]`, or move what joins steps (pooling, the ends of "
            "a bidirectional layer) into the module"
        )
    is_one, has_lengths = (first == first[0]).all(), (probed != probed[0]).any()
    found = f"step {first[0]}" if is_one else f"steps {sorted(set(first.tolist()))} of different samples"
    advice = f"pass probed_step={first[0]}" if is_one else "pass lengths=, the steps of each"
    raise ValueError(
        f"`loss` must read the probed step {'of each sample' if has_lengths else probed[0]}, got {found}; "
        + ("read `outputs[torch.arange(B), lengths - 1]`, by the same `lengths`" if has_lengths else advice)
    )


def _steps_read(
    losses: Tensor, outputs: Sequence[Tensor], dimensions: Sequence[int | None], lists: Sequence[Sequence[Tensor]]
) -> np.ndarray | None:
    """Whether each sample's loss has a gradient at each step of some output, shape (B, N)."""
    with_steps = [
        (own, at) for own, at in zip(outputs, dimensions, strict=True) if at is not None and own.requires_grad
    ]
    gradients = [(_gradients(losses, [own])[0], at) for own, at in with_steps]
    gradients += [(torch.stack(_gradients(losses, own)), 0) for own in lists]
    read = [_by_sample(gradient, at, len(losses)) for gradient, at in gradients]
    felt = [own for own in read if own is not None]
    return np.any(felt, axis=0) if felt else None


def _gradients(losses: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    felt = [own for own in tensors if own.requires_grad]
    found = torch.autograd.grad(losses.sum(), felt, retain_graph=True, materialize_grads=True) if felt else ()
    by_tensor = dict(zip(map(id, felt), found, strict=True))
    return [by_tensor.get(id(own), torch.zeros_like(own)) for own in tensors]


def _by_sample(gradient: Tensor, steps: int, batch_size: int) -> np.ndarray | None:
    others = [at for at in range(gradient.ndim) if at != steps and gradient.shape[at] == batch_size]
    if not others:
        return None
    ordered = gradient.movedim((others[0], steps), (0, 1))
    return (ordered != 0).reshape(*ordered.shape[:2], -1).any(dim=2).numpy(force=True)
