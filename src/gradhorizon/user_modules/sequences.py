"""Sequences that are handed in: of one length, or padded and each with a length of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

_OWN_ROUNDING = 64.0


def check_inputs(inputs: Any) -> None:
    """Refuse what is no batch of sequences (B, N, D) of finite floating numbers.

    Raises:
        TypeError: no tensor, or one that has no gradients.
        ValueError: another shape, an empty one, entries that are not finite, or a call inside of ``torch.func``.
    """
    if torch._C._functorch.maybe_current_level() is not None:  # noqa: SLF001
        raise ValueError("a profile is measured by autograd, got a call inside of a torch.func transform; call outside")
    if isinstance(inputs, PackedSequence):
        raise TypeError(
            "`inputs` must be one padded tensor, got a PackedSequence; unpack it by pad_packed_sequence(…, "
            "batch_first=True), pack inside of the module, and pass `lengths`"
        )
    if not isinstance(inputs, Tensor) or inputs.layout != torch.strided or inputs.is_nested:
        got = f"a tensor of layout {inputs.layout}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"`inputs` must be a dense tensor (batch, steps, features), got {got}; pad and pass `lengths`")
    if not inputs.is_floating_point():
        raise TypeError(
            f"`inputs` must be floating point to have gradients, got {inputs.dtype}; embed or one-hot them, and "
            "measure what comes after the embedding"
        )
    if inputs.ndim != 3:  # noqa: PLR2004
        raise ValueError(f"`inputs` must have shape (batch, steps, features), got {tuple(inputs.shape)}")
    if 0 in inputs.shape:
        raise ValueError(f"`inputs` must hold at least one sample, step and feature, got shape {tuple(inputs.shape)}")
    if not inputs.isfinite().all():
        raise ValueError(f"`inputs` must be finite, got {int((~inputs.isfinite()).sum())} infinite or NaN entries")


def probed_steps(probed_step: Any, lengths: Any, batch_size: int, input_len: int) -> Int[np.ndarray, " B"]:
    """t* of every sample, shape (B,): its length, or one step for all.

    Args:
        probed_step: t* of all samples; N if neither is given.
        lengths: B whole numbers in 1 … N, a tensor, a list or an array.
        batch_size: B.
        input_len: N.

    Raises:
        TypeError: lengths or a step that are no whole numbers.
        ValueError: both, or lengths of another number, or outside of the sequence.
    """
    if lengths is None:
        return np.full(batch_size, _checked_step(input_len if probed_step is None else probed_step, input_len))
    if probed_step is not None:
        raise ValueError(f"lags count from `probed_step` or from `lengths`, got both ({probed_step} and {lengths})")
    found = np.asarray(lengths.numpy(force=True) if isinstance(lengths, Tensor) else lengths)
    if found.shape != (batch_size,):
        raise ValueError(f"`lengths` must hold one number per sample, shape ({batch_size},), got {found.shape}")
    if found.dtype.kind not in "iu":
        raise TypeError(f"`lengths` must be whole numbers, got {found.dtype}; round them by `.long()`")
    if found.min() < 1 or found.max() > input_len:
        raise ValueError(
            f"`lengths` must lie in 1 … {input_len} (the steps of `inputs`), got {found.min()} … {found.max()}"
        )
    return found.astype(np.int64)


def _checked_step(probed_step: Any, input_len: int) -> int:
    if isinstance(probed_step, bool) or not isinstance(probed_step, int | np.integer):
        raise TypeError(f"`probed_step` must be a whole number, got {probed_step!r}; pass `lengths` for one per sample")
    if not 1 <= probed_step <= input_len:
        raise ValueError(f"`probed_step` must lie in 1 … {input_len} (the steps of `inputs`), got {probed_step}")
    return int(probed_step)


def refuse_no_influence(norms: Float[np.ndarray, "B N"], probed: Int[np.ndarray, " B"], has_lengths: bool) -> list[int]:
    """Samples of which the probed step has no influence; refused where that is all of them, or without lengths some.

    Samples whose loss nothing moves (a dead ReLU, a margin that is kept) are no reason to refuse the others.

    Args:
        norms: of the gradient of each sample's own loss.
        probed: t* of every sample.
        has_lengths: whether `probed` was given sample by sample.

    Raises:
        ValueError: no relative profile is defined, the last steps differ, or steps after a sample's own end are felt.
    """
    is_felt = norms != 0
    is_moved = is_felt.any(axis=1)
    last = is_felt.shape[1] - is_felt[:, ::-1].argmax(axis=1)
    if has_lengths:
        _refuse_padding_that_is_felt(norms, probed)
    is_unfelt = ~is_felt[np.arange(len(probed)), probed - 1]
    if not is_moved.any():
        raise ValueError(
            "the loss must depend on the inputs, got a gradient of exactly 0 at every step of every sample"
        )
    ends = sorted(set(last[is_moved].tolist()))
    if is_unfelt.all():
        advice = f"pass probed_step={ends[0]}" if len(ends) == 1 else "pass lengths=, the steps of each sample"
        raise ValueError(
            f"the probed step must move the loss, or no relative norm is defined, got a gradient of exactly 0 at step "
            f"{_listed(probed)}; the last that does is {_listed(last[is_moved])}: {advice}"
        )
    # A maximum over steps leaves gaps before the last one that is felt; padding does not.
    num_felt = last - is_felt.argmax(axis=1)
    if not has_lengths and (is_unfelt & is_moved & (is_felt.sum(axis=1) == num_felt)).any():
        raise ValueError(
            f"the probed step {probed[0]} must move the loss of every sample, got {_listed(last[is_moved])} as the "
            f"last that do; pass lengths=, the steps of each sample if they are padded, {norms.shape[1]} if not"
        )
    return np.flatnonzero(is_unfelt).tolist()


def _listed(steps: np.ndarray) -> str:
    return ", ".join(map(str, sorted(set(steps.tolist()))[:8]))


def _refuse_padding_that_is_felt(norms: np.ndarray, lengths: np.ndarray) -> None:
    is_padding = np.arange(norms.shape[1]) >= lengths[:, None]
    largest = np.max(norms, axis=1, keepdims=True, initial=0.0)
    rounding = _OWN_ROUNDING * np.finfo(np.float64).eps  # of transforms over all steps, such as long convolutions
    felt = np.argwhere(is_padding & np.isfinite(norms) & (norms > rounding * largest))
    if len(felt):
        sample, step = felt[0]
        raise ValueError(
            f"padding must not be felt, got a gradient at step {step + 1} of sample {sample}, whose length is "
            f"{lengths[sample]}; read its outputs there, and pack or mask what runs backward or attends"
        )
