"""Seconds of several callables, measured in turns, so that a machine's moods hit all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float


@dataclass(frozen=True)
class Spread:
    """One number per round, summarised.

    Attributes:
        of_medians: the quantity computed from the medians of its parts over rounds; what a target is held against.
        median: median of the quantity computed round by round.
        low: its least value.
        high: its greatest value.
    """

    of_medians: float
    median: float
    low: float
    high: float


Seconds = dict[str, Float[np.ndarray, " R"]]
"""Name -> seconds of each of R rounds."""


def interleaved(callables: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> Seconds:
    """Seconds of each callable in each round; a round runs every one of them, in an order of its own.

    The order is drawn anew each round, so that none is always the one that follows the heaviest. Garbage is collected
    between rounds, never within.

    Args:
        callables: what is timed, by name.
        rounds: R.
        warm_up: rounds that are run first and not counted.

    Raises:
        ValueError: `rounds` below 1.

    Example:
        >>> sorted(interleaved({"a": list, "b": dict}, rounds=3))
        ['a', 'b']
    """
    if rounds < 1:
        raise ValueError(f"`rounds` must be at least 1, got {rounds}")
    order = np.random.default_rng(0)
    seconds = {name: np.zeros(rounds) for name in callables}
    with _collector_off():
        for index in range(-warm_up, rounds):
            gc.collect()
            for name in order.permutation(list(callables)):
                elapsed_s = _seconds(callables[name])
                if index >= 0:
                    seconds[name][index] = elapsed_s
    return seconds


def _seconds(callable_: Callable[[], object]) -> float:
    start = time.perf_counter()
    callable_()
    return time.perf_counter() - start


@contextmanager
def _collector_off() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    gc.freeze()  # what the imports left need not be searched in every round
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def spread(seconds: Seconds, quantity: Callable[[dict[str, float]], float]) -> Spread:
    """A quantity made of several timings, over the rounds.

    Args:
        seconds: what `interleaved` returned.
        quantity: name -> seconds, to the quantity.

    Example:
        >>> spread({"a": np.array([1.0, 2.0]), "b": np.array([2.0, 2.0])}, lambda s: s["b"] / s["a"])
        Spread(of_medians=1.3333333333333333, median=1.5, low=1.0, high=2.0)
    """
    rounds = [dict(zip(seconds, values, strict=True)) for values in zip(*seconds.values(), strict=True)]
    values = np.array([quantity(own) for own in rounds])
    medians = {name: float(np.median(own)) for name, own in seconds.items()}
    return Spread(float(quantity(medians)), float(np.median(values)), float(values.min()), float(values.max()))


def ratio(seconds: Seconds, name: str, base: str) -> Spread:
    """Seconds of `name` over seconds of `base`, dimensionless."""
    return spread(seconds, lambda own: own[name] / own[base])


@contextmanager
def threads(count: int) -> Iterator[None]:
    """`count` CPU threads for torch inside, as many as before on leaving."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
