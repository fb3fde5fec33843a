"""What a figure's module declares: where its charts stand in the report, and of a recorded quantity all else.

A module of `gradhorizon.analysis.figures` has ``SECTIONS``. Of a `Quantity` the figures and the charts follow; the
charts of a mere `Section` are drawn by the module of the same name in `gradhorizon.analysis.report.charts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from gradhorizon.analysis.drawing.theory_lines import TheoryLine
from gradhorizon.analysis.reading.cohort import Cohort

STEP = "step"
Theory = Callable[[str, Mapping[str, Any]], TheoryLine | None]
"""A facet's words and the configuration of a run -> what is expected at init, where that is known."""


def spaced(name: object) -> str:
    """A recorded name as words.

    Example:
        >>> spaced("forget_gate")
        'forget gate'
    """
    return str(name).replace("_", " ")


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        number: sections stand in order of it, and of one number in order of their modules' names.
        title: its heading.
        note: what lines and marks mean.
    """

    number: int
    title: str
    note: str


@dataclass(frozen=True)
class Reference:
    """A value to compare with, as a dotted line.

    Attributes:
        value: in the unit of the axis.
        label: what it is.
        facet: where it holds, one of the facets' words; everywhere if empty.
    """

    value: float
    label: str
    facet: str = ""


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        column: of the rows.
        label: what it is, its unit in brackets.
        scale: a vertical one may be linear or log; a horizontal one symlog too, which is linear up to 1.
        per_unit: units of the column per unit drawn.
        limits: of the axis; where the values lie if None.
        censored: column that says whether the truth lies beyond the value; of none if empty.
        references: values to compare with.
    """

    column: str
    label: str
    scale: Literal["linear", "log", "symlog"] = "linear"
    per_unit: float = 1.0
    limits: tuple[float, float] | None = None
    censored: str = ""
    references: tuple[Reference, ...] = ()

    @property
    def words(self) -> str:
        """The label without its unit."""
        return self.label.partition(" [")[0]

    def is_beyond(self, values: pd.Series | np.ndarray) -> np.ndarray:
        """Where a value has no place on the axis below its marks: an exact zero of a logarithmic one, or −∞."""
        found = np.asarray(values, dtype=float)
        return np.isneginf(found) | ((found == 0) & (self.scale == "log"))

    @property
    def lowest(self) -> str:
        """What the marks on the lower edge are."""
        return "exactly 0" if self.scale == "log" else "−∞"


LAG = Axis("lag", "lag τ [steps]")
OPTIMIZER_STEP = Axis(STEP, "optimizer step [steps]", "symlog")


@dataclass(frozen=True, kw_only=True)
class Quantity(Section):
    """A recorded quantity: what is drawn of it.

    Attributes:
        stem: of the files.
        table: that it is read from.
        x: horizontal axis; against `STEP` every probe is drawn, otherwise those at init and after training.
        ys: vertical axes, each in panels of its own.
        facets: columns whose values have panels of their own, beside layer and direction, and their words.
        keep: the rows that are drawn.
        rows: reads them; the table if None.
        ends_with_training: whether a solved member, frozen since, has it no more; otherwise it keeps its last value.
        theory: what the first of `ys` is at init, where that is known.
    """

    stem: str
    table: str
    x: Axis
    ys: tuple[Axis, ...]
    facets: tuple[tuple[str, Callable[[Any], str]], ...] = ()
    keep: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    rows: Callable[[Cohort], pd.DataFrame] | None = None
    ends_with_training: bool = False
    theory: Theory | None = None

    @property
    def is_staged(self) -> bool:
        """Whether it is drawn at init and after training, and not against the optimizer's steps."""
        return self.x.column != STEP

    def read(self, cohort: Cohort) -> pd.DataFrame:
        """The rows that are drawn; none where another figure shows as much.

        Args:
            cohort: whose members they are.

        Raises:
            AbsentTableError: no member recorded the table.
        """
        rows = self.rows(cohort) if self.rows else cohort.table(self.table)
        return self.keep(rows) if self.keep else rows
