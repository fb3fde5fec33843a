"""Tables in long format: lead columns, a quantity's own columns, and the unit of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd
import pyarrow as pa

from gradhorizon.records.errors import RecordsError

Dtype = Literal["string", "int64", "float64", "bool"]
_ARROW: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}


class AbsentTableError(RecordsError):
    """A table that no run has recorded, and what to do about it."""


@dataclass(frozen=True)
class Column:
    """One column: its unit stands in its name where it has a dimension, and always in `unit`."""

    name: str
    dtype: Dtype
    unit: str
    description: str


LEAD_COLUMNS: tuple[Column, ...] = (
    Column("experiment", "string", "name", "experiment the run belongs to"),
    Column("run", "string", "name", "name of the run's folder"),
    Column("model", "string", "name", "label of the model"),
    Column("task", "string", "name", "name of the task's protocol"),
    Column("seq_len", "int64", "steps", "T, the length that the protocol's paper prints"),
    Column("input_len", "int64", "steps", "N, steps fed"),
    Column("seed", "int64", "dimensionless", "seed of the member"),
    Column("step", "int64", "optimizer steps", "optimizer steps completed when the row was measured"),
    Column("phase", "string", "name", "why it was measured then: init, train, solved, last or diverged"),
)


RUN_COLUMNS = ("experiment", "run", "model", "task", "seq_len", "input_len")
"""Lead columns that are the same for all members of a run."""


def type_of(column: Column) -> pa.DataType:
    """The Arrow type of a column."""
    return _ARROW[column.dtype]


@dataclass(frozen=True)
class Table:
    """One quantity's table: the lead columns, then its own."""

    name: str
    description: str
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema, with unit and description in every field's metadata."""
        fields = [
            pa.field(
                column.name,
                type_of(column),
                metadata={"unit": column.unit, "description": column.description},
            )
            for column in (*LEAD_COLUMNS, *self.columns)
        ]
        return pa.schema(fields, metadata={"table": self.name, "description": self.description})

    def to_arrow(self, frame: pd.DataFrame) -> pa.Table:
        """`frame` in this table's schema.

        Raises:
            RecordsError: a column is missing or is not in the schema.
        """
        expected = [field.name for field in self.schema]
        if set(frame.columns) != set(expected):
            missing = sorted(set(expected) - set(frame.columns))
            unknown = sorted(set(frame.columns) - set(expected))
            raise RecordsError(
                f"rows do not fit table `{self.name}`: missing columns {missing}, unknown columns {unknown}"
            )
        return pa.Table.from_pandas(frame[expected], schema=self.schema, preserve_index=False)


METRICS = Table(
    "metrics",
    "loss and task metrics on training batches and on the held-out stream",
    (
        Column("split", "string", "name", "train (the batch of this step) or validation (held-out)"),
        Column("metric", "string", "name", "loss or one of the task's metrics"),
        Column("value", "float64", "as the metric", "mean over the split's samples"),
    ),
)
