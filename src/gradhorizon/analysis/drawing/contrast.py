"""Colours that can be seen on the paper they are drawn on, light or dark."""

from __future__ import annotations

LEAST_CONTRAST = 3.0
"""Of graphical objects against what adjoins them. Source: W3C, "Web Content Accessibility Guidelines 2.2", 1.4.11."""
WHITE, NIGHT = "#ffffff", "#14171f"
DAY_BAND, NIGHT_BAND = "#eef2ff", "#1d2540"
"""What is shaded on either: curves are seen on it too, and it is the harder background of the two."""
_STEPS = 200


def readable(color: str, background: str, least: float = LEAST_CONTRAST) -> str:
    """`color`, mixed with as little black or white as gives it a contrast of at least `least`.

    Args:
        color: ``#rrggbb``.
        background: ``#rrggbb``.
        least: contrast ratio, dimensionless.

    Example:
        >>> readable("#0072b2", "#ffffff"), readable("#000000", "#14171f")
        ('#0072b2', '#656565')
    """
    towards = "#000000" if luminance(background) > 0.18 else WHITE  # noqa: PLR2004, where both give the same contrast
    mixed = (_mixed(color, towards, step / _STEPS) for step in range(_STEPS + 1))
    return next((found for found in mixed if contrast(found, background) >= least), towards)


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, from 1 to 21, dimensionless.

    Args:
        first: ``#rrggbb``.
        second: ``#rrggbb``.
    """
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    """Relative luminance, from 0 to 1, dimensionless.

    Args:
        color: ``#rrggbb``.
    """
    red, green, blue = (_linear(part / 255) for part in _parts(color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4  # noqa: PLR2004, the standard's own


def _parts(color: str) -> list[int]:
    return [int(color[start : start + 2], 16) for start in (1, 3, 5)]


def _mixed(color: str, other: str, share: float) -> str:
    pairs = zip(_parts(color), _parts(other), strict=True)
    return "#" + "".join(f"{round(one + (two - one) * share):02x}" for one, two in pairs)
