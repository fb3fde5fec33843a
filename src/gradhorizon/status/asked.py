"""What the disk tells of runs, and what sweeps have asked for, put together: failed and missing ones count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from gradhorizon.composition.variants import variant
from gradhorizon.runs.asked import AskedRun, failure_of, read_asked
from gradhorizon.runs.failures import Failure
from gradhorizon.status.run import MemberLook, RunLook


def with_asked(looks: Sequence[RunLook], sweeps: Iterable[Path]) -> list[RunLook]:
    """`looks`, and the runs and members that sweeps have asked for and the disk does not know.

    A run counts by its identity, whichever launch has trained it.

    Args:
        looks: runs that have a folder.
        sweeps: folders in which sweeps have written down what they asked for.
    """
    found = {look.folder: look for look in looks}
    by_identity = {(look.folder.parent, look.folder.name.rpartition("-")[2]): look.folder for look in looks}
    for folder in sweeps:
        asked, problems = read_asked(folder)
        found |= {path: _unreadable(path, why) for path, why in problems.items()}
        for run in asked:
            places = [by_identity.get((folder.parent, identity)) for identity in run.identities]
            place = next((place for place in places if place is not None), None)
            name = run.identities[0] if run.identities else run.key
            look = found[place] if place is not None else _unseen(folder.parent, run)
            found[look.folder] = _with_members(_named(look, run), run.seeds, failure_of(folder, run))
            by_identity[folder.parent, name] = look.folder
    return list(found.values())


def _unreadable(path: Path, why: str) -> RunLook:
    """Stands for the runs that a sweep has asked for, where its record cannot be read."""
    words = f"what a sweep has asked for cannot be read: {why}; launch that sweep again, or move the file away"
    return RunLook(path, "unreadable", path.parents[1].name, problem=words)


def _unseen(experiment: Path, run: AskedRun) -> RunLook:
    name = run.run.replace("/", "_")
    return RunLook(
        experiment / name,
        "missing",
        experiment.name,
        run.model,
        run.task,
        run.seq_len,
        run.num_steps,
        variant(run.overrides),
    )


def _named(look: RunLook, run: AskedRun) -> RunLook:
    """A run that failed before its sheet was written is known by what was asked for."""
    if look.model is not None:
        return look
    return replace(look, model=run.model, task=run.task, seq_len=run.seq_len, num_steps=run.num_steps)


def _with_members(look: RunLook, seeds: Iterable[int], failure: Failure | None) -> RunLook:
    known = {member.seed for member in look.members}
    is_missing = failure is None and look.status != "unreadable"  # of which nobody knows what lies there
    new = [MemberLook(seed, False, is_missing=is_missing) for seed in seeds if seed not in known]
    members = sorted([*look.members, *new], key=lambda member: member.seed)
    if all(member.is_finished for member in members) or look.status not in ("missing", "finished"):
        return replace(look, members=members)
    status = "missing" if failure is None else "failed"
    return replace(look, status=status, members=members, failure=failure)
