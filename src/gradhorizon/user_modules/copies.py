"""A copy of anybody's module to be measured: in evaluation mode, in one number format, in surroundings of its own."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map

from gradhorizon.kernels.casting import NoComplexFormatError, cast
from gradhorizon.kernels.surroundings import default_dtype, own_surroundings
from gradhorizon.machine.randomness import kept_rng

_OF_MODULES = ("_parameters", "_buffers", "_modules")


@contextmanager
def measured_copy(module: Any, inputs: Tensor, dtype: torch.dtype) -> Iterator[nn.Module]:
    """A copy of `module` in evaluation mode and `dtype`, and surroundings that do not depend on the caller's.

    Inside, gradients are on, ``torch.zeros`` and the like make tensors of `dtype` on the device of `inputs`, and no
    backward hook of the module alters a gradient. On leaving, the caller finds all as it was, random states included.

    Args:
        module: is left as it is.
        inputs: what it will be called with.
        dtype: a real floating format.

    Raises:
        TypeError: `module` is no module, or `dtype` no floating format.
        ValueError: a module that cannot be copied, has parameters of no size yet, or lies on another device.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"a torch.nn.Module is measured, got {type(module).__name__}; wrap a function in a module")
    if not dtype.is_floating_point:
        raise TypeError(f"`dtype` must be a floating format such as torch.float64, got {dtype}")
    module = _unwrapped(module)
    _check_parameters(module, inputs.device)
    with _surroundings(inputs.device, dtype):
        yield _copied(module, dtype)


def _check_parameters(module: nn.Module, device: torch.device) -> None:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in tensors.items():
        if is_lazy(tensor):
            raise ValueError(
                f"`{name}` must have its shape before it is measured, got a lazy one; call the module once"
            )
        if tensor.device != device:
            raise ValueError(
                f"`inputs` and the module must lie on one device, got {device} and {tensor.device} (`{name}`); move "
                "one of them with `.to(device)`"
            )


def _unwrapped(module: nn.Module) -> nn.Module:
    """What ``torch.compile`` or data parallelism has wrapped: the same function, one process, no compiler."""
    while True:
        if hasattr(module, "_orig_mod"):
            module = module.get_submodule("_orig_mod")
        elif isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        else:
            return module


def _copied(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    # Tensors inside of a graph (old-style weight norm, stored activations) cannot be copied with it.
    stored = {id(tensor): tensor.detach().clone() for tensor in _tensors_in_graphs(module)}
    try:
        # Warnings are of what a copy does not take along; scripted modules would take the graph to the original.
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            measured = cast(copy.deepcopy(module, stored), dtype).eval()
    except NoComplexFormatError as error:
        raise ValueError(str(error)) from error
    except Exception as error:
        raise ValueError(
            f"a copy of the module is measured, and {type(module).__name__} cannot be copied ({first_line(error)}); "
            "drop what an earlier forward pass stored on it, or pass a freshly built module"
        ) from error
    if isinstance(measured, torch.jit.ScriptModule) and not hasattr(measured, "forward"):
        raise ValueError(
            "a copy of the module is measured, and scripts of overloaded methods cannot be copied, got that of "
            f"{measured.original_name}; pass the module that was scripted"
        )
    for part in list(measured.modules()):
        part._backward_hooks.clear()  # noqa: SLF001, a hook that clips would be measured instead of the module
        part._backward_pre_hooks.clear()  # noqa: SLF001
        for name, child in part.named_children():
            setattr(part, name, _unwrapped(child))
        _cast_attributes(part, dtype)
    return measured


def _cast_attributes(module: nn.Module, dtype: torch.dtype) -> None:
    """Constants that are no buffers follow too, complex ones and those in containers as well."""

    def followed(value: Any) -> Any:
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            return value
        return value.to(dtype.to_complex() if value.is_complex() else dtype)

    for name, value in list(vars(module).items()):
        if name not in _OF_MODULES and any(own is not followed(own) for own in _tensors(value)):
            vars(module)[name] = tree_map(followed, value)


def _tensors_in_graphs(module: nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        for name, value in vars(part).items():
            if name not in _OF_MODULES:
                yield from (tensor for tensor in _tensors(value) if tensor.grad_fn is not None)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


@contextmanager
def _surroundings(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(own_surroundings(device))
        if device.type != "cpu":
            stack.enter_context(device)
        # cuDNN refuses a backward pass in evaluation mode; the native kernels do not.
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(np.errstate(all="ignore"))
        stack.enter_context(default_dtype(dtype))
        stack.enter_context(_flags())
        stack.enter_context(_kept_generators())
        yield


@contextmanager
def _flags() -> Iterator[None]:
    precision = torch.get_float32_matmul_precision()
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(mode=False)
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(is_deterministic, warn_only=warns)


@contextmanager
def _kept_generators() -> Iterator[None]:
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


@contextmanager
def same_draws() -> Iterator[None]:
    """Random states as before on leaving: what draws noise draws the same when it is called again."""
    with kept_rng(), _kept_generators():
        yield


@contextmanager
def said_in_one_line(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Errors of PyTorch's inside of somebody's module or loss as one line that says what to do.

    Raises:
        ValueError: instead of any error but a `ValueError` of one line, which is ours or what its author wanted said.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and "\n" not in str(error):
            raise
        name = type(module).__name__
        text = first_line(error)
        raise ValueError(
            f"{name} must run on `inputs` in {dtype}, got {type(error).__name__}: {text}; {_advice(text)}"
        ) from error


_ADVICE = {
    ("inplace", "in-place"): "write `x * a` for `x.mul_(a)`, and so on: nothing that is measured may be overwritten",
    ("dtype", "double", "scalar type"): (
        "make constants in the format of the inputs, by `x.new_zeros(…)`, `.to(x)` or `register_buffer`, and convert "
        "targets in the loss by `.to(outputs)`"
    ),
    ("device",): "make constants on the device of the inputs, by `x.new_zeros(…)`, `.to(x)` or `register_buffer`",
    ("numpy",): "compute in torch, without `.numpy()`, or no gradient passes",
}


def _advice(text: str) -> str:
    for words, advice in _ADVICE.items():
        if any(word in text.lower() for word in words):
            return advice
    return "inputs are (batch, steps, features), batch first"


def first_line(error: Exception) -> str:
    """The first line of what an error says, at most 200 characters."""
    return (str(error).strip().splitlines() or ["no words"])[0][:200]
