"""Profiles over lag: in networks that are read at both ends, over the distance to the nearest end."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gradhorizon.analysis.reading.cohort import MEMBER, Cohort
from gradhorizon.analysis.reading.configurations import configuration
from gradhorizon.records.read_ends import by_read_end, is_bidirectional


def over_lag(cohort: Cohort, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with a column ``has_two_ends``; where it holds, lag is the distance to the nearest end that is read.

    Args:
        cohort: whose members they are.
        rows: of the table ``input_gradients``.
    """
    folders = cohort.members.drop_duplicates(MEMBER[:2]).set_index(MEMBER[:2])["folder"]
    two_ends = {run: is_bidirectional(configuration(Path(folder).parent)) for run, folder in folders.items()}
    rows = rows.assign(has_two_ends=[two_ends[run] for run in rows[MEMBER[:2]].itertuples(index=False, name=None)])
    if not rows["has_two_ends"].any():
        return rows
    return pd.concat(
        [by_read_end(own, bool(own["has_two_ends"].iloc[0])) for _, own in rows.groupby(MEMBER[:2], sort=False)]
    )
