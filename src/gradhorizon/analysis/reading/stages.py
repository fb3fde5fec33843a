"""The two moments that are compared: at init, and after training."""

from __future__ import annotations

import pandas as pd

from gradhorizon.analysis.reading.cohort import MEMBER, Cohort

STAGES = ("at init", "after training")


def staged(cohort: Cohort, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows measured at step 0 and at each member's end, with a column ``stage``.

    The end is a member's largest step of the phases solved and last. Members that diverged have no end: they are
    listed in `Cohort.diverged`, and only their rows at init are kept.

    Args:
        cohort: whose members they are.
        rows: rows of one table.
    """
    init = rows[rows["phase"] == "init"]
    return pd.concat([init.assign(stage=STAGES[0]), _end(cohort, rows).assign(stage=STAGES[1])], ignore_index=True)


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows whose column ``stage`` sorts by time.

    Args:
        table: with it.
    """
    return table.assign(stage=pd.Categorical(table["stage"], STAGES, ordered=True))


def _end(cohort: Cohort, rows: pd.DataFrame) -> pd.DataFrame:
    diverged = pd.MultiIndex.from_frame(
        pd.concat([cohort.diverged[MEMBER], rows.loc[rows["phase"] == "diverged", MEMBER]])
    )
    ends = rows[rows["phase"].isin(["solved", "last"])]
    ends = ends[~pd.MultiIndex.from_frame(ends[MEMBER]).isin(diverged)]
    ends = ends[ends["step"] == ends.groupby(MEMBER)["step"].transform("max")]
    # A member solved at its last step has both phases at that step, with the same numbers.
    both = ends.groupby(MEMBER)["phase"].transform("nunique") > 1
    return ends[~both | (ends["phase"] == "last")]
