"""Programs as tests call them."""

from __future__ import annotations

from collections.abc import Sequence

from gradhorizon.analysis import command


def draw_report(arguments: Sequence[str]) -> None:
    """The page alone.

    Args:
        arguments: of `gradhorizon-report`.
    """
    command.main([*arguments, "--only", "report"])
