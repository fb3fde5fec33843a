"""How every figure looks: sizes, fonts, colours, footnotes, and files that are the same bytes when drawn again."""

from __future__ import annotations

import hashlib
import math
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from tueplots import axes as tueplots_axes
from tueplots import fontsizes

from gradhorizon.records.files import write_atomically

PANEL_WIDTH_IN = 3.0
PANEL_HEIGHT_IN = 2.15
INK = "#222222"
QUIET = "#6b7280"
GRID = "#e5e7eb"
TITLE_IN = 0.32
LINE_IN = 0.145
MOST_NAMED = 40
"""Series that a figure names; beyond, colours and markers come round again, and the legend outgrows the panels."""
CROWDED: dict[str, Any] = {"linewidth": 0.5, "alpha": 0.7}
"""Look of a curve among more than `MOST_NAMED`."""
MOST_CHARACTERS = 72
MOST_STEM_BYTES = 180
METADATA = {"PNG": {"Software": None}, "PDF": {"CreationDate": None, "ModDate": None}}


def style() -> dict[str, Any]:
    """Style parameters for `matplotlib.rc_context`.

    Source: font sizes of the NeurIPS 2024 style file, as tueplots gives them; DejaVu Sans ships with matplotlib,
    so the same figure is drawn everywhere.
    """
    return {
        **fontsizes.neurips2024(),
        **tueplots_axes.lines(base_width=0.6),
        **tueplots_axes.spines(top=False, right=False),
        "text.usetex": False,
        "font.family": "DejaVu Sans",
        "mathtext.fontset": "dejavusans",
        "axes.edgecolor": QUIET,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": QUIET,
        "ytick.color": QUIET,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.grid": True,
        "grid.color": GRID,
        "grid.linewidth": 0.5,
        "axes.axisbelow": True,
        "axes.titlelocation": "left",
        "lines.linewidth": 1.4,
        "lines.markersize": 4.0,
        "legend.frameon": False,
        "axes.labelsize": 8,
        "axes.titlesize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "figure.dpi": 100,
        "savefig.dpi": 200,
        "pdf.fonttype": 42,
        "path.simplify": True,
    }


@contextmanager
def styled() -> Iterator[None]:
    """The project's style on top of matplotlib's defaults, whatever the user's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(style())  # type: ignore[arg-type]
        yield


def panels(num_rows: int, num_columns: int, height_in: float = PANEL_HEIGHT_IN) -> tuple[Figure, np.ndarray]:
    """A figure of equal panels and its axes, shape (num_rows, num_columns); no window, no global state.

    Args:
        num_rows: panels from top to bottom.
        num_columns: panels from left to right.
        height_in: of one panel with its title and labels, in inches.
    """
    width_in = (PANEL_WIDTH_IN if num_columns > 1 else 5.0) * num_columns
    figure = Figure(figsize=(width_in, height_in * num_rows))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(num_rows, num_columns, squeeze=False)


def series_handles(table: pd.DataFrame) -> list[Line2D]:
    """One legend entry per series of `table` (columns series, color, marker), in order of name; none of too many."""
    look = table[["series", "color", "marker"]].drop_duplicates("series").sort_values("series")
    if len(look) > MOST_NAMED:
        return []
    return [
        Line2D([], [], color=row.color, marker=row.marker, label=short(row.series), markersize=4.5)  # type: ignore[arg-type]
        for row in look.itertuples()
    ]


def is_crowded(table: pd.DataFrame) -> bool:
    """Whether `table` (column series) has more series than a figure can tell apart."""
    return int(table["series"].nunique()) > MOST_NAMED


def unnamed(table: pd.DataFrame, without: str = "names, markers and bands") -> str:
    """Sentence that says why no series of `table` is named; empty if they are.

    Args:
        table: what is drawn (column series).
        without: what is left out.
    """
    if not is_crowded(table):
        return ""
    return (
        f" {table['series'].nunique()} series, too many to tell apart here, so without {without}: "
        f"report.html draws them in panels of {MOST_NAMED}, verdicts.csv lists them."
    )


def mark(curve: pd.DataFrame) -> dict[str, Any]:
    """Colour and marker of one curve (columns color, marker), as keywords of `Axes.plot`."""
    marker = curve["marker"].iloc[0]
    return {"color": curve["color"].iloc[0], "marker": marker, "markeredgewidth": 1.0 if marker in "+x" else 0.0}


def sparse(num_points: int, number: int, count: int = 7) -> tuple[int, int]:
    """``markevery`` of the curve with this number: about `count` markers, staggered between curves."""
    every = max(num_points // count, 1)
    return number * every // 5 % every, every


def escape(label: object) -> str:
    """`label` as plain text: matplotlib reads ``$`` as mathematics and hides labels that start with ``_``."""
    text = str(label).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def short(label: object) -> str:
    """`label` as plain text, without its middle if it is longer than a legend is wide."""
    text = str(label)
    is_long = len(text) > MOST_CHARACTERS
    return escape(f"{text[: MOST_CHARACTERS - 21]}…{text[-20:]}" if is_long else text)


def finish(figure: Figure, title: str, legends: Sequence[Sequence[Any]], footnote: str) -> None:
    """Title on top, legends and footnote below the panels, everything placed in inches.

    Args:
        figure: whose panels are drawn.
        title: plain text.
        legends: blocks of legend entries, one below the other.
        footnote: what the marks mean; wrapped.
    """
    width_in, panels_in = figure.get_size_inches()
    lines = textwrap.wrap(footnote, int(width_in * 20.5))
    blocks = [(handles, legend_columns(handles, width_in)) for handles in legends if handles]
    rows = [math.ceil(len(handles) / columns) for handles, columns in blocks]
    footnote_in = LINE_IN * 0.76 * len(lines) + 0.1
    below_in = footnote_in + sum(LINE_IN * count + 0.05 for count in rows)
    height_in = panels_in + below_in + TITLE_IN
    figure.set_figheight(height_in)
    _place_panels(figure, width_in, height_in, below_in)
    title = title if len(title) <= width_in * 12 else f"{title[: int(width_in * 12) - 1]}…"
    figure.text(0.1 / width_in, 1 - 0.1 / height_in, title, fontsize=10, fontweight="bold", va="top", parse_math=False)
    top_in = below_in - 0.02
    for (handles, columns), count in zip(blocks, rows, strict=True):
        _add_legend(figure, handles, columns, (0.1 / width_in, top_in / height_in))
        top_in -= LINE_IN * count + 0.05
    figure.text(
        0.1 / width_in, 0.07 / height_in, "\n".join(lines), fontsize=6, color=QUIET, va="bottom", linespacing=1.3,
        parse_math=False,
    )  # fmt: skip


def _place_panels(figure: Figure, width_in: float, height_in: float, below_in: float) -> None:
    grid = figure.axes[0].get_subplotspec().get_gridspec()  # type: ignore[union-attr]
    rows, columns = grid.nrows, grid.ncols
    left, right, gap_x = 0.62, 0.12, 0.5
    bottom, top, gap_y = 0.42, 0.22, 0.52
    panel_width = (width_in - left - right - gap_x * (columns - 1)) / columns
    panel_height = (height_in - TITLE_IN - below_in - bottom - top - gap_y * (rows - 1)) / rows
    figure.subplots_adjust(
        left=left / width_in,
        right=1 - right / width_in,
        bottom=(below_in + bottom) / height_in,
        top=1 - (TITLE_IN + top) / height_in,
        wspace=gap_x / panel_width,
        hspace=gap_y / panel_height,
    )


def _add_legend(figure: Figure, handles: Sequence[Any], columns: int, corner: tuple[float, float]) -> None:
    figure.legend(
        handles=_row_major(handles, columns), loc="upper left", bbox_to_anchor=corner, ncol=columns, fontsize=7,
        handlelength=2.0, columnspacing=1.4, labelspacing=0.35, borderaxespad=0, borderpad=0,
    )  # fmt: skip


def _row_major(handles: Sequence[Any], columns: int) -> list[Any]:
    # Legends fill column by column, and readers read row by row.
    rows = math.ceil(len(handles) / columns)
    short = rows * columns - len(handles)
    heights = [rows - (column >= columns - short) for column in range(columns)]
    return [handles[row * columns + column] for column in range(columns) for row in range(heights[column])]


def legend_columns(handles: Sequence[Any], width_in: float) -> int:
    """How many legend columns fit a figure of `width_in` inches."""
    entry_in = 0.058 * max(len(str(handle.get_label())) for handle in handles) + 0.48
    return max(1, min(len(handles), int((width_in - 0.1) / entry_in)))


def save(figures: dict[str, Callable[[], Figure]], folder: Path) -> list[Path]:
    """Draw figures and write each as PDF and PNG, the same bytes every time.

    Args:
        figures: file stem -> draws it.
        folder: created if need be.

    Returns:
        Paths of the PNG and PDF files.
    """
    written: list[Path] = []
    strange: set[str] = set()
    for stem, draw in figures.items():
        with styled(), _glyphs_noted(strange):
            figure = draw()
            for kind, metadata in METADATA.items():
                written.append(folder / f"{stem}.{kind.lower()}")
                buffer = BytesIO()
                figure.savefig(buffer, format=kind.lower(), metadata=metadata)
                write_atomically(buffer.getvalue(), written[-1])
    if strange:
        _say_once(f"note: the figures' font lacks {len(strange)} of the labels' characters, drawn as boxes")
    return written


@cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def _glyphs_noted(strange: set[str]) -> Iterator[None]:
    """Adds what matplotlib warns of once per text, and four times per figure, to `strange`."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in said:
        text = str(warning.message)
        if text.startswith("Glyph ") and "missing from" in text:
            strange.add(text.split()[1])
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def stem(*parts: object) -> str:
    """A file name's stem from parts, with nothing in it that a shell or a file system would mind.

    Where something is replaced or cut, a digest keeps it apart from what would be called the same.
    """
    text = "-".join(str(part) for part in parts).replace(":", "_")  # of a device
    kept = "".join(letter if letter.isalnum() or letter in "-_.=" else "_" for letter in text)
    if kept == text and len(kept.encode()) <= MOST_STEM_BYTES:
        return kept
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:6]
    return f"{kept.encode()[:MOST_STEM_BYTES].decode(errors='ignore')}-{digest}"
