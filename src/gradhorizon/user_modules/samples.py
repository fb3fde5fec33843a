"""Whether the samples of a batch are left alone by one another, and the batch is not taken for time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradhorizon.user_modules.outputs import tensors_of

_MIXED = "samples must not interact, got {found}. {cause}"


def refuse_interaction(losses: Tensor, tensors: Sequence[Tensor], module: nn.Module) -> None:
    """Refuse losses of which one feels another sample's tensors.

    Halves of the batch are held against the other halves, so many that any two samples are in two of them once.

    Args:
        losses: one per sample, shape (B,).
        tensors: batch first.
        module: whose layers are named if they take time first.

    Raises:
        ValueError: samples that interact, or a loss that depends on none of the tensors.
    """
    for number, own in enumerate(_halves(len(losses))):
        chosen = own.to(losses.device)
        found = torch.autograd.grad(losses[chosen].sum(), tensors, retain_graph=True, allow_unused=True)
        felt = [gradient for gradient in found if gradient is not None]
        if not felt and number == 0:
            raise ValueError("`loss` must depend on the inputs, got one that does not; check which output it reads")
        # Where parameters are NaN, 0 · NaN reaches every sample: that is counted, not refused.
        if any(_is_felt(gradient[~chosen]) for gradient in felt):
            raise ValueError(_MIXED.format(found="a loss of one sample that depends on others", cause=_cause(module)))


def _halves(batch_size: int) -> Iterator[Tensor]:
    """Masks of samples, such that for any two of them one mask holds the first alone, and one the second."""
    numbers = torch.arange(batch_size)
    yield numbers == batch_size - 1
    for digit in range((batch_size - 1).bit_length()):
        is_set = (numbers >> digit) % 2 == 1
        yield from (is_set, ~is_set)


def refuse_batch_as_time(call: Callable[[Tensor], Any], x: Tensor, module: nn.Module) -> None:
    """Refuse a module that takes the batch for time, where one sample alone cannot tell.

    Args:
        call: calls the module.
        x: inputs of one sample, shape (1, N, D).
        module: whose layers are looked at where it takes no second sample.

    Raises:
        ValueError: one of two samples feels the other, or no output has a sample of its own.
    """
    if len(x) > 1 or x.shape[1] == 1:
        return
    pair = torch.cat([x.detach(), x.detach().flip(1)]).requires_grad_()
    one = tensors_of(call(x))
    try:
        two = tensors_of(call(pair))
    except Exception:  # noqa: BLE001, not every module takes any number of samples
        _refuse_layers_fed_batch_first(call, x, module)
        return
    dimensions = [_grown_dimension(single, double) for single, double in zip(one, two, strict=False)]
    checked = [(own, at) for own, at in zip(two, dimensions, strict=False) if own.requires_grad and at is not None]
    felt = [(single, double) for single, double in zip(one, two, strict=False) if double.requires_grad]
    if felt and all(single.shape == double.shape for single, double in felt):
        raise ValueError(_MIXED.format(found="outputs of one size for one sample and two", cause=_cause(module)))
    for sample in (0, 1):
        if any(_is_felt(gradient[1 - sample]) for gradient in _gradients(checked, sample, pair)):
            raise ValueError(
                _MIXED.format(found="outputs of one sample that depend on a second one's", cause=_cause(module))
            )


def _gradients(outputs: list[tuple[Tensor, int]], sample: int, pair: Tensor) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for output, dimension in outputs:
        own = output.select(dimension, sample)
        # Sums of normalised outputs have no gradient; weighted ones do.
        weights = torch.rand(own.shape, generator=generator, dtype=own.dtype, device="cpu").to(own.device)
        (gradient,) = torch.autograd.grad((own * weights).sum(), pair, retain_graph=True, allow_unused=True)
        if gradient is not None:
            yield gradient


def _grown_dimension(single: Tensor, double: Tensor) -> int | None:
    if single.ndim != double.ndim:
        return None
    grown = [at for at, sizes in enumerate(zip(single.shape, double.shape, strict=True)) if sizes[0] != sizes[1]]
    return grown[0] if len(grown) == 1 and double.shape[grown[0]] == 2 else None  # noqa: PLR2004


def _is_felt(gradient: Tensor) -> bool:
    return bool((gradient.isfinite() & (gradient != 0)).any())


def _time_first_layers(module: nn.Module) -> dict[str, nn.Module]:
    return {name: own for name, own in module.named_modules() if getattr(own, "batch_first", True) is False}


def _cause(module: nn.Module) -> str:
    for name, layer in _time_first_layers(module).items():
        own = f"`{name}` ({type(layer).__name__})" if name else f"this {type(layer).__name__}"
        return (
            f"A module without batch_first=True takes the batch for time: build {own} with batch_first=True, or "
            "transpose its inputs and outputs"
        )
    return "A module without batch_first=True takes the batch for time; norms over the batch mix samples too"


def _refuse_layers_fed_batch_first(call: Callable[[Tensor], Any], x: Tensor, module: nn.Module) -> None:
    with _shapes_seen(_time_first_layers(module)) as seen:
        call(x)
    if (1, x.shape[1]) in seen:
        raise ValueError(_MIXED.format(found="inputs (1, N, D) of a layer that takes time first", cause=_cause(module)))


@contextmanager
def _shapes_seen(layers: dict[str, nn.Module]) -> Iterator[set[tuple[int, ...]]]:
    seen: set[tuple[int, ...]] = set()

    def note(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen.update(tuple(own.shape[:2]) for own in arguments[:1] if isinstance(own, Tensor) and own.ndim > 2)  # noqa: PLR2004

    handles = [layer.register_forward_pre_hook(note) for layer in layers.values()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
