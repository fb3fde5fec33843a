"""Refusals that measurements share."""

from __future__ import annotations


def refuse_below(name: str, value: int | None, lowest: int, why: str = "") -> None:
    """Refuse an option below its lowest value; None is no value.

    Args:
        name: the option's.
        value: what was given.
        lowest: the least that makes sense.
        why: in words, where it does not go without saying.

    Raises:
        ValueError: the value is too low.

    Example:
        >>> refuse_below("num_samples", 0, 1)
        Traceback (most recent call last):
            ...
        ValueError: `num_samples` must be at least 1, got 0
    """
    if value is not None and value < lowest:
        reason = f" ({why})" if why else ""
        raise ValueError(f"`{name}` must be at least {lowest}{reason}, got {value}")
