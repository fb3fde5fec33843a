"""Number formats of modules that hold complex numbers: real and imaginary parts together, or not at all.

``nn.Module.to(dtype)`` keeps the real part of a complex tensor alone, with a warning. Nothing here does.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from gradhorizon.cells.called import name_of

_COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}

SomeModule = TypeVar("SomeModule", bound=nn.Module)


class NoComplexFormatError(RuntimeError):
    """A module with complex numbers is asked to compute in a format that knows none."""


def cast(module: SomeModule, dtype: torch.dtype, device: torch.device | str | None = None) -> SomeModule:
    """`module` itself, its real tensors in `dtype` and its complex ones in the complex format of the same precision.

    Args:
        module: changed in place, as ``nn.Module.to`` does.
        dtype: a real floating format.
        device: where it goes; where it is if None.

    Raises:
        NoComplexFormatError: it holds complex tensors, and `dtype` has no complex partner (16 bits).

    Example:
        >>> cell = torch.nn.Module()
        >>> cell.register_buffer("eigenvalue", torch.tensor(1 + 2j))
        >>> cast(cell, torch.float64).eigenvalue
        tensor(1.+2.j, dtype=torch.complex128)
    """
    if not is_complex(module):
        return module.to(device=device, dtype=dtype)
    if dtype not in _COMPLEX:
        raise NoComplexFormatError(
            f"complex tensors are not supported in {dtype}, got a {name_of(module)} that holds some; use float32 "
            "or float64, or store (real, imaginary) pairs"
        )
    formats = {True: _COMPLEX[dtype], False: dtype}

    def own_format(tensor: Tensor) -> torch.dtype | None:
        return formats[tensor.is_complex()] if tensor.is_complex() or tensor.is_floating_point() else None

    module._apply(lambda tensor: tensor.to(device=device, dtype=own_format(tensor)))  # type: ignore[no-untyped-call]  # noqa: SLF001
    return module


def is_complex(module: nn.Module) -> bool:
    """Whether a parameter or buffer of `module` is complex."""
    return any(tensor.is_complex() for tensor in (*module.parameters(), *module.buffers()))


def real_dtype(module: nn.Module) -> torch.dtype:
    """The real floating format that `module` computes in: that of its first tensor; PyTorch's default without any."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point() or tensor.is_complex():
            return tensor.dtype.to_real()
    return torch.get_default_dtype()


def real_numbers(tensor: Tensor) -> Tensor:
    """`tensor` as real numbers: a complex one as pairs on a last dimension of 2, a real one as it is.

    Example:
        >>> real_numbers(torch.tensor([1 + 2j]))
        tensor([[1., 2.]])
    """
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def num_real_numbers(module: nn.Module) -> int:
    """How many real numbers the parameters of `module` are; a complex one counts twice."""
    return sum(parameter.numel() * (1 + parameter.is_complex()) for parameter in module.parameters())
