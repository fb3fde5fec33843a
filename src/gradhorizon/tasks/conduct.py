"""How any task must behave to be trained on, held by a few samples before anything is trained or written.

Notation: B batch, N steps, K loss steps, D input size, O outputs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradhorizon.machine.randomness import kept_rng
from gradhorizon.tasks.task import Batch, Task
from gradhorizon.terminal.reasons import reason_of
from gradhorizon.terminal.words import shortened

BATCH_SIZE = 3
_MOST_SHOWN = 80
_NEEDED = ("loss", "accuracy")


class TaskError(ValueError):
    """A task that is not what a run would take it for."""


def check_declared(task: Task, seq_len: int) -> None:
    """Refuse a task whose sizes, chance or criterion are not those of the contract; nothing is sampled.

    Args:
        task: built.
        seq_len: of the configuration's root.

    Raises:
        TaskError: one line: what was wrong, what was received, what to do.
    """
    name = type(task).__name__
    if not hasattr(task, "seq_len"):
        raise TaskError(f"`{name}.__init__` must call super().__init__(seq_len), got a task without seq_len")
    if task.seq_len != seq_len:
        raise TaskError(
            f"`seq_len` must be that of the task, {task.seq_len}, got {seq_len}, by which records would call it: "
            f"seq_len={task.seq_len}"
        )
    for size in ("input_size", "output_size", "input_len"):
        value = _declared(task, size)
        if not _is_count(value):
            raise TaskError(f"`{name}.{size}` must be a whole number from 1 on, got {_shown(value)}")
    if task.num_held_out is not None and not _is_count(task.num_held_out):
        raise TaskError(f"`{name}.num_held_out` must be None or a whole number from 1 on, got {task.num_held_out!r}")
    for what in ("chance", "solved_levels"):
        value = _declared(task, what)
        if not isinstance(value, Mapping) or not value or not all(map(_is_finite, value.values())):
            raise TaskError(f"`{name}.{what}` must map names of metrics to finite numbers, got {_shown(value)}")
    if "loss" not in task.chance:
        raise TaskError(
            f"`{name}.chance` must have `loss`, the loss of a guess, got {', '.join(map(str, task.chance))}"
        )
    if set(task.solved_levels) <= set(task.chance) and Task.is_solved(task, task.chance):
        raise TaskError(
            f"`{name}.solved_levels` must be out of reach of chance, {_shown(task.chance)}, got "
            f"{_shown(task.solved_levels)}"
        )


def check_samples(task: Task) -> None:
    """Refuse a task whose batches, loss or metrics are not those of the contract, or that draws on its own.

    Args:
        task: as `check_declared` has let it pass.

    Raises:
        TaskError: one line: what was wrong, what was received, what to do.
    """
    name = type(task).__name__
    num_held_out = min(BATCH_SIZE, task.num_held_out or BATCH_SIZE)
    ways: tuple[tuple[str, Callable[..., Batch], int], ...] = (
        ("sample", task.sample, BATCH_SIZE),
        ("sample_held_out", task.sample_held_out, num_held_out),
    )
    with _kept_generators():
        for method, draw, size in ways:
            with _in_words(f"{name}.{method}"):
                batch = draw(np.random.default_rng(0), size, task.input_len)
                _check_batch(f"{name}.{method}", batch, task, size)
                again = draw(np.random.default_rng(0), size, task.input_len)
            if not _is_same(batch, again):
                raise TaskError(
                    f"`{name}.{method}` must be a function of its generator alone, got two batches of one seed that "
                    "differ: draw from `generator` only, and keep nothing between calls"
                )
            _check_scores(name, task, batch)


def _check_batch(method: str, batch: Any, task: Task, size: int) -> None:
    if not isinstance(batch, Batch):
        raise TaskError(f"`{method}` must return a gradhorizon.tasks.task.Batch, got {type(batch).__name__}")
    wanted = (size, task.input_len, task.input_size)
    _check_tensor(f"inputs of `{method}`", batch.inputs, wanted, torch.float32, "(B, input_len, input_size)")
    steps = batch.loss_steps
    is_good = isinstance(steps, tuple | list) and len(steps) > 0 and all(isinstance(step, int) for step in steps)
    if not is_good or list(steps) != sorted(set(steps)) or not 1 <= steps[0] <= steps[-1] <= task.input_len:
        raise TaskError(
            f"loss_steps of `{method}` must be ascending whole numbers in 1 … {task.input_len}, got {_shown(steps)}"
        )
    if isinstance(batch.targets, Tensor) and not batch.targets.is_floating_point():
        _check_tensor(f"targets of `{method}`", batch.targets, (size, len(steps)), torch.int64, "(B, K) of classes")
    else:
        values = (size, len(steps), task.output_size)
        _check_tensor(f"targets of `{method}`", batch.targets, values, torch.float32, "(B, K, output_size) of values")
    for factor, own in batch.factors.items():
        if not isinstance(own, Tensor) or own.shape[:1] != (size,):
            raise TaskError(f"factor `{factor}` of `{method}` must be a tensor of shape (B, …), got {_shown(own)}")


def _check_tensor(what: str, found: Any, shape: tuple[int, ...], dtype: torch.dtype, words: str) -> None:
    wanted = f"{what} must be a tensor of shape {shape}, {words}, in {dtype}"
    if not isinstance(found, Tensor):
        raise TaskError(f"{wanted}, got {_shown(found)}")
    if found.shape != shape or found.dtype != dtype:
        raise TaskError(f"{wanted}, got {tuple(found.shape)} in {found.dtype}")
    if not bool(found.isfinite().all()):
        raise TaskError(f"{what} must be finite, got NaN or infinite values")


def _check_scores(name: str, task: Task, batch: Batch) -> None:
    size, num_steps = len(batch.inputs), len(batch.loss_steps)
    predictions = torch.zeros(size, num_steps, task.output_size, requires_grad=True)
    with _in_words(f"{name}.loss"):
        loss = task.loss(predictions, batch.targets)
    if not isinstance(loss, Tensor) or loss.shape != (size, num_steps):
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else _shown(loss)
        raise TaskError(
            f"`{name}.loss` must return a value a sample and loss step, shape {(size, num_steps)}, got {shape}: "
            "reduction='none', and no mean"
        )
    if not loss.requires_grad:
        raise TaskError(f"`{name}.loss` must be differentiable in its predictions, got one without a gradient")
    with _in_words(f"{name}.metrics"):
        metrics = task.metrics(predictions.detach(), batch.targets)
    needed = [*_NEEDED, *task.chance, *task.solved_levels]
    missing = [key for key in needed if not isinstance(metrics, Mapping) or key not in metrics]
    if missing:
        raise TaskError(f"`{name}.metrics` must have `{missing[0]}`, got {_shown(list(metrics))}")
    for key, value in metrics.items():
        if not isinstance(value, Tensor) or value.shape != (size,):
            shape = tuple(value.shape) if isinstance(value, Tensor) else _shown(value)
            raise TaskError(f"`{name}.metrics` must have a value a sample, shape {(size,)}, got {shape} of `{key}`")


def _is_same(one: Batch, other: Batch) -> bool:
    same = torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)
    return same and tuple(one.loss_steps) == tuple(other.loss_steps)


def _declared(task: Task, what: str) -> Any:
    with _in_words(f"{type(task).__name__}.{what}"):
        return getattr(task, what)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _shown(value: Any) -> str:
    return shortened(f"{value}".replace("\n", " ") or "nothing", _MOST_SHOWN)


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    try:
        yield
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(f"`{what}` must run on {BATCH_SIZE} samples, got {reason_of(error)}") from error


@contextmanager
def _kept_generators() -> Iterator[None]:
    """Restore the global generators of torch, NumPy and Python, which a task must not, but may, draw from."""
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with kept_rng():
            yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)
