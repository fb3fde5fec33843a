"""The report's dark half: style sheets that turn what the charts draw in ink on white into light on night.

Charts are drawn once, in the colours of paper, which an export or a print keeps; the sheet recolours them on a screen
whose reader prefers the dark, and back, without drawing again.
"""

from __future__ import annotations

from collections.abc import Iterable

from gradhorizon.analysis.drawing.appearance import INK, QUIET
from gradhorizon.analysis.drawing.contrast import DAY_BAND, NIGHT, NIGHT_BAND, WHITE, readable
from gradhorizon.analysis.report.panels import GRID

_NIGHTLY = {INK: "#e6e8ec", QUIET: "#98a2b3", GRID: "#2a303c", DAY_BAND: NIGHT_BAND, WHITE: NIGHT}


def swatch(color: str) -> str:
    """Custom properties of an element that shows a series' colour.

    Args:
        color: ``#rrggbb``, as the records carry it.
    """
    return f"--light:{readable(color, DAY_BAND)};--dark:{readable(color, NIGHT_BAND)}"


def dark_charts(colors: Iterable[str]) -> str:
    """Rules that recolour the charts for readers who prefer the dark.

    Args:
        colors: of the series, as the records carry them.
    """
    series = {readable(color, DAY_BAND): readable(color, NIGHT_BAND) for color in colors}
    rules = "".join(
        f'.chart svg [{kind}="{light}" i]{{{kind}:{dark}}}'
        for light, dark in {**series, **_NIGHTLY}.items()
        for kind in ("fill", "stroke")
    )
    return f"@media screen and (prefers-color-scheme: dark){{{rules}}}"
