"""What `gradhorizon-status` shows of a sweep, as lines that fit 80 columns.

Labels, reasons and tracebacks come from files that anybody may have written: no character of them controls the terminal
or is taken for markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import set_cell_size
from rich.text import Text

from gradhorizon.composition.variants import settings
from gradhorizon.runs.failures import Failure
from gradhorizon.status.run import RunLook
from gradhorizon.status.sweep import BROKEN, SweepLook, outcomes
from gradhorizon.terminal.progress import format_duration
from gradhorizon.terminal.words import counted, printable

_STYLES = {
    "running": "green",
    "failed": "bold red",
    "stale": "yellow",
    "unreadable": "bold red",
    "queued": "cyan",
    "missing": "yellow",
    "finished": "dim",
}
_MEANINGS = {
    "stale": "the same command goes on",
    "queued": "waits, or was interrupted",
    "missing": "asked for, never begun",
}
_STATUS, _DONE, _STEP, _LEFT = 11, 7, 14, 12  # columns
_MIN_TITLE = 12
_SHOWN = 10  # runs of a status other than running


def lines(look: SweepLook, width: int, show_all: bool = False) -> list[Text]:
    """A sweep at one moment.

    Args:
        look: all its runs.
        width: columns of the terminal.
        show_all: every run on a line of its own, finished ones too.
    """
    found = [Text()]
    listed = [run for run in look.runs if show_all or run.status != "finished"]
    if listed:
        found += [
            _row("status", "run", "done", "step", "time left", width, "bold"),
            *_rows(listed, look, width, show_all),
        ]
    finished = [run for run in look.runs if run.status == "finished"]
    if finished and not show_all:
        found += [*([Text()] if listed else []), *_by_model(finished, width)]
    return [*_summary(look), *(_cut(line, width) for line in found)]


def tracebacks(look: SweepLook) -> list[Text]:
    """Runs that broke, with their folders and all that is known of why.

    Args:
        look: all runs.
    """
    found: list[Text] = []
    for run in look.runs:
        if run.status in BROKEN:
            found += [
                Text(printable(_title(run)), "bold"),
                Text(f"  {printable(str(run.folder))}"),
                Text(f"  {printable(run.why)}", "red"),
            ]
            failure = run.failure or Failure("")
            found += [Text(f"  while {printable(failure.phase)}")] if failure.phase else []
            found += [*(Text(f"    {printable(line)}") for line in failure.lines), Text()]
    return found or [Text("no run has failed")]


def _summary(look: SweepLook) -> Iterator[Text]:
    runs, members = look.summary
    head, colon, counts = runs.partition(": ")
    yield Text.assemble((f"{head}{colon}", "bold"), counts)
    yield Text(members)
    facts = [] if look.steps_per_s is None else [f"{_speed(look.steps_per_s)} of all runs together"]
    if num_late := look.num_finished_last_hour:
        facts.append(f"{counted(num_late, 'run')} finished in the last hour")
    if look.left_s is not None:
        facts.append(f"about {format_duration(look.left_s)} left for these at most")
    if facts:
        yield Text(", ".join(facts))


def _rows(runs: Iterable[RunLook], look: SweepLook, width: int, show_all: bool) -> Iterator[Text]:
    shown: Counter[str] = Counter()
    shared = _shared_settings(look.runs)
    for run in runs:
        shown[run.status] += 1
        if show_all or run.status == "running" or shown[run.status] <= _SHOWN:
            yield from _run(run, look.at_s, width, shared)
        elif shown[run.status] == _SHOWN + 1:
            more = look.num_runs[run.status] - _SHOWN
            yield Text(f"{'':{_STATUS}}… and {more} more {run.status}; --all shows them", "dim")


def _shared_settings(runs: Sequence[RunLook]) -> set[str]:
    """What is said of every run, and so tells none apart."""
    variants = [set(settings(run.variant)) for run in runs if run.model is not None or run.variant]
    return set.intersection(*variants) if variants else set()


def _run(run: RunLook, now_s: float, width: int, shared: set[str]) -> Iterator[Text]:
    done = f"{sum(member.is_finished for member in run.members)}/{len(run.members)}" if run.members else ""
    step = "" if run.step is None or run.num_steps is None else f"{run.step}/{run.num_steps}"
    left = "" if run.left_s is None else format_duration(run.left_s)
    yield _row(run.status, printable(_title(run)), done, step, left, width, _STYLES[run.status])
    reason = "" if run.failure is None else run.failure.reason
    own = " ".join(item for item in settings(run.variant) if item not in shared)
    details = printable("; ".join(filter(None, (own, reason, *_details(run, now_s), _ends(run)))))
    if details:
        yield Text(f"{'':{_STATUS}}{details}", "red" if run.status in ("failed", "unreadable") else "dim")


def _details(run: RunLook, now_s: float) -> Iterator[str]:
    if run.problem is not None:
        yield f"unreadable: {run.problem}" if run.status == "unreadable" else run.problem
    if run.status == "running" and run.owner is not None:
        yield run.owner.place
        yield "" if run.steps_per_s is None else _speed(run.steps_per_s)
        commit = run.committed_at_s
        yield "no commit yet" if commit is None else f"last commit {format_duration(max(now_s - commit, 0))} ago"
    if run.status == "stale" and run.owner is not None:
        silence = format_duration(max(now_s - run.owner.beat_at_s, 0))
        yield f"{run.owner.place} is {'gone' if run.owner.is_here else f'silent for {silence}'}"
    if run.status in _MEANINGS and run.problem is None:
        yield _MEANINGS[run.status]
    num_missing = sum(member.is_missing for member in run.members)
    if 0 < num_missing < len(run.members) and run.problem is None:
        yield f"{counted(num_missing, 'member')} never begun"


def _ends(run: RunLook) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes([run]).items() if count)


def _speed(steps_per_s: float) -> str:
    return f"{steps_per_s:.3g} steps/s"


def _title(run: RunLook) -> str:
    """What fits a narrow column, its last part least."""
    if run.model is None:
        return run.folder.name
    seq_len = f"T={run.seq_len}" if run.seq_len is not None else None
    return " ".join(part for part in (run.model, seq_len, run.task) if part is not None)


def _by_model(finished: Sequence[RunLook], width: int) -> Iterator[Text]:
    models: dict[str, list[RunLook]] = {}
    for run in finished:
        models.setdefault(run.model or "?", []).append(run)
    yield _model_row("finished", ("runs", "members", "solved", "diverged", "exhausted"), width, "bold")
    for model, own in sorted(models.items()):
        num_members = sum(len(run.members) for run in own)
        counts = (len(own), num_members, *outcomes(own).values())
        yield _model_row(printable(model), tuple(map(str, counts)), width, "")


def _model_row(model: str, cells: Sequence[str], width: int, style: str) -> Text:
    own = max(min(width - 51, 44), _MIN_TITLE)
    return Text(set_cell_size(_shortened(model, own), own) + "".join(f"{cell:>10}" for cell in cells), style)


def _row(status: str, title: str, done: str, step: str, left: str, width: int, style: str) -> Text:
    own = max(width - _STATUS - _DONE - _STEP - _LEFT - 1, _MIN_TITLE)
    numbers = f"{done:>{_DONE}}{step:>{_STEP}}{left:>{_LEFT}}"
    return Text.assemble((f"{status:<{_STATUS}}", style), set_cell_size(_shortened(title, own), own), numbers)


def _shortened(text: str, width: int) -> str:
    found = Text(text)
    found.truncate(width, overflow="ellipsis")
    return found.plain


def _cut(line: Text, width: int) -> Text:
    line.no_wrap = True
    line.truncate(width, overflow="ellipsis")
    return line
