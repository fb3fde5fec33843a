"""Everything that runs have recorded as pandas tables: what `gradhorizon.read` returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from gradhorizon.analysis.reading.cohort import MEMBER, Cohort, read_cohort
from gradhorizon.analysis.reading.profiles import over_lag
from gradhorizon.analysis.statistics.growth import HORIZON_LEVEL, gradient_horizon, growth_rate
from gradhorizon.records.reading import read_member_rows, recorded_tables
from gradhorizon.records.tables import LEAD_COLUMNS, RecordsError


class Tables(Mapping[str, pd.DataFrame]):
    """Name of a table -> its rows over all members, with ``series``, the label that tells one curve from another.

    Attributes:
        members: one row per trained network: series, experiment, run, model, task, seq_len, input_len, seed, how it
            ended (status, outcome, outcome_step), its size, and its folder.
        digest: what stands for all records that were read; ``gradhorizon-verify`` prints it of the same folders.
    """

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        self._names = sorted(set().union(*(recorded_tables(Path(folder)) for folder in cohort.members["folder"])))
        self.members = cohort.members
        self.digest = cohort.digest

    def __getitem__(self, name: str) -> pd.DataFrame:
        """Rows of a table; a copy, yours to change.

        Raises:
            KeyError: no member recorded it; the error says which there are.
        """
        if name not in self._names:
            raise KeyError(f"no member recorded a table `{name}`, there are: {', '.join(self._names)}")
        return self._cohort.table(name).copy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def columns(self, name: str) -> pd.DataFrame:
        """What the columns of a table are: index column; unit, meaning.

        Frozen records are told by the measurements of this version, for which torch is imported.

        Args:
            name: of a table.

        Raises:
            KeyError: no member recorded it.
        """
        columns = self[name].columns.rename("column")
        told = {"series": ("name", "label of a curve: the model's, and what else differs between runs of that label")}
        told |= self._told_by_files(name) or _told_by_measurements(name)
        return pd.DataFrame([told.get(column, ("", "")) for column in columns], columns, ["unit", "meaning"])

    def _told_by_files(self, name: str) -> dict[str, tuple[str, str]]:
        recorded = (read_member_rows(Path(folder), name) for folder in self.members["folder"])
        fields = next(table.schema for table in recorded if table is not None)
        known = {field.name: field.metadata or {} for field in fields}
        return {
            column: (words[b"unit"].decode(), words.get(b"description", b"").decode())
            for column, words in known.items()
            if b"unit" in words
        }

    def horizons(self, level: float = HORIZON_LEVEL) -> pd.DataFrame:
        """Gradient horizon and growth rate of every member at every step at which its input gradients were measured.

        Args:
            level: relative norm under which the gradient counts as gone, dimensionless.

        Returns:
            Columns series, model, task, seq_len, input_len, experiment, run, seed, step (optimizer steps);
            horizon_steps (first lag from which the profile stays under `level`; the longest lag where
            ``is_censored``), is_censored (it never does: the horizon lies beyond), growth_rate_nats_per_step.

        Raises:
            AbsentTableError: no member recorded its input gradients.
        """
        rows = over_lag(self._cohort, self._cohort.table("input_gradients"))
        profiles = rows[rows["lag"] >= 0].drop_duplicates([*MEMBER, "step", "lag"]).sort_values("lag")
        keys = ["series", "model", "task", "seq_len", "input_len", *MEMBER, "step"]
        found = []
        for key, profile in profiles.groupby(keys, sort=True):
            lags, norms = profile["lag"].to_numpy(), profile["relative_gradient_norm_median"].to_numpy()
            horizon = gradient_horizon(lags, norms, level)
            found.append((*key, horizon.lag, horizon.is_censored, growth_rate(lags, norms)))
        return pd.DataFrame(found, columns=[*keys, "horizon_steps", "is_censored", "growth_rate_nats_per_step"])


def _told_by_measurements(name: str) -> dict[str, tuple[str, str]]:
    from gradhorizon.measurements.dictionary import tables  # noqa: PLC0415, it needs torch

    own = next((table.columns for table in tables() if table.name == name), ())
    return {column.name: (column.unit, column.description) for column in (*LEAD_COLUMNS, *own)}


def read(*folders: Path | str, partial: bool = False) -> Tables:
    """All records of runs, pooled.

    Args:
        folders: run folders, experiment folders or runs roots.
        partial: whether to go on without members that are unfinished, failed or missing.

    Raises:
        RecordsError: no folder was named, there is no run there, a file is damaged, runs cannot be pooled, or members
            are missing and `partial` is false, each of them listed.
    """
    if not folders:
        raise RecordsError("name at least one folder of runs, as in gradhorizon.read('runs/quickstart')")
    return Tables(read_cohort(folders, is_partial=partial))
