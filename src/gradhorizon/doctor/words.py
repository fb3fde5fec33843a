"""What the doctor says: tables of numbers, where the worst was, what was asked, and what it all comes to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from gradhorizon.doctor.cases import pattern
from gradhorizon.doctor.checks import Check
from gradhorizon.doctor.comparison import Outcome
from gradhorizon.doctor.findings import GROUPS, Finding
from gradhorizon.doctor.survey import Subject
from gradhorizon.terminal.words import counted, shortened

_HEADINGS = ("outputs", "final\nstate", "input\ngrad.", "state\ngrad.", "param.\ngrad.")
_SHOWN = "what is computed here, forward and back, is what the cells' equations say, to the precision of each dtype."
_OF_ITSELF = (
    "the layer agrees with itself over batches, lengths and dtypes, and its gradient with differences. It has no step "
    "that it could be held against, unless `--step` names one."
)
_MOST_WORDS = 400  # characters of a problem
_STYLES = {"pass": "green", "FAIL": "bold red", "unsupported": "dim", "untested": "yellow", "note": "yellow"}


def title(subject: Subject) -> Text:
    """The subject's name, and the models that it stands for."""
    models = ", ".join(subject.models)
    return Text.assemble("\n", (subject.name, "bold"), "" if models == subject.name else f": {models}")


def table(own: Sequence[Finding], gap: int) -> Table:
    """A row a finding: the worst over its cases."""
    drawn = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for heading in ("where", "dtype"):
        drawn.add_column(f"\n{heading}", no_wrap=True)
    for heading in _HEADINGS:
        drawn.add_column(heading if "\n" in heading else f"\n{heading}", justify="right", no_wrap=True)
    drawn.add_column("\nlimit", justify="right", no_wrap=True)
    drawn.add_column("\nverdict", no_wrap=True)
    for one in own:
        limits = one.tolerances
        numbers = [_number(one.errors.get(name), limits.get(name, math.inf)) for name in GROUPS]
        verdict = Text(one.verdict, style=_STYLES[one.verdict])
        drawn.add_row(one.place, one.dtype, *numbers, Text(f"{one.tolerance:.0e}"), verdict)
    return drawn


def _number(error: float | None, limit: float) -> Text:
    if error is None:
        return Text("-", style="dim")
    return Text(f"{error:.1e}" if error else "0", style="" if error <= limit else _STYLES["FAIL"])


def remarks(subject: Subject, own: Sequence[Finding]) -> list[str]:
    """Where the worst was, what could not be compared, and what was raised.

    Args:
        subject: that was examined.
        own: its findings.
    """
    said = [line for one in own for line in _of_cases(one)] if any(len(one.outcomes) > 2 for one in own) else []  # noqa: PLR2004
    said += [f"hidden_size {size} is not built: {shortened(why, _MOST_WORDS)}" for size, why in subject.refused.items()]
    return said + _problems(own)


def _of_cases(one: Finding) -> list[str]:
    lines, wrong, worst = [], one.of("FAIL"), one.worst
    if wrong:
        where = pattern([own.case for own in wrong], [own.case for own in one.of("pass")])
        if {own.training for own in wrong} == {False} and any(own.training for own in one.outcomes):
            where += "; only in evaluation mode"
        lines.append(f"FAIL in {len(wrong)} of {counted(len(one.outcomes), 'case')}" + f": {where}" * bool(where))
    if worst is not None:
        lines.append(f"worst at {worst.words}")
    for verdict, why in (("untested", "overflow, or rounding alone changes them by half"), ("unsupported", "refused")):
        if one.of(verdict) and one.verdict != verdict:
            lines.append(f"{len(one.of(verdict))} cases {verdict} ({why}): {_lengths(one.of(verdict))}")
    return [f"{one.place} {one.dtype}: {'; '.join(lines)}"] if lines else []


def _lengths(outcomes: Sequence[Outcome]) -> str:
    lengths = sorted({own.case.num_steps for own in outcomes})
    return f"{', '.join(map(str, lengths))} steps"


def _problems(own: Sequence[Finding]) -> list[str]:
    """What was raised, each with where it was."""
    raised: dict[str, list[str]] = {}
    is_one = len({one.problem for one in own}) == 1
    for one in own:
        if one.problem:
            # The same words about another dtype are the same problem.
            words = one.problem if is_one else one.problem.replace(one.dtype, "…")
            raised.setdefault(words, []).append(f"{one.place} {one.dtype}")
    return [f"{', '.join(where)}: {shortened(words, _MOST_WORDS)}" for words, where in raised.items()]


def answers(checks: Sequence[Check]) -> list[Text]:
    """A line for all that passes, and one for each answer that is no pass."""
    passed = [one.name for one in checks if one.verdict == "pass"]
    lines = [Text.assemble("  ", ("pass", _STYLES["pass"]), f"  {'; '.join(passed)}")] if passed else []
    for one in checks:
        if one.verdict != "pass":
            words = shortened(one.words, _MOST_WORDS)
            lines.append(Text.assemble("  ", (one.verdict, _STYLES[one.verdict]), f"  {one.name}: {words}"))
    return lines


def conclusion(found: Sequence[Finding], checks: Sequence[Check] = ()) -> str:
    """What it all comes to, in a sentence or two.

    Args:
        found: all findings.
        checks: all answers; at least one of either.
    """
    counts = Counter([one.verdict for one in found] + [one.verdict for one in checks])
    number = len(found) + len(checks)
    if counts["FAIL"]:
        words = (
            f"{counts['FAIL']} of {counted(number, 'check')} FAIL: {'; '.join(_failing(found, checks))}. What is "
            f"trained or measured there does not follow the cell's equation; {_advice(found, checks)}."
        )
    elif any(one.verdict == "pass" for one in found):
        words = (
            f"{_passing(counts['pass'], number)}: {_SHOWN if all(one.has_equation for one in found) else _OF_ITSELF}"
        )
    else:
        words = "Nothing was shown."
    untested, unsupported = (sum(one.verdict == word for one in found) for word in ("untested", "unsupported"))
    if untested:
        words += f" Not tested: {untested}; from these weights even the float64 loop overflows."
    if unsupported:
        words += f" Not supported here: {unsupported}."
    asked = [f"{one.cell} {one.name}" for one in checks if one.verdict == "untested"]
    return words + f" Could not be decided: {'; '.join(asked)}." * bool(asked)


def _passing(num_passed: int, number: int) -> str:
    if number == 1:
        return "The check passes"
    return f"All {number} checks pass" if num_passed == number else f"{num_passed} of {number} checks pass, none FAILs"


def _advice(found: Sequence[Finding], checks: Sequence[Check]) -> str:
    is_said = all(one.problem for one in found if one.verdict == "FAIL")
    if is_said or any(one.verdict == "FAIL" for one in checks):
        return "mend the cell as said above, or use another device or dtype if it runs there"
    return "mend `segment`, delete it (the default loops over `recur`), or use another device or dtype"


def _failing(found: Sequence[Finding], checks: Sequence[Check]) -> list[str]:
    dtypes: dict[tuple[str, str], list[str]] = {}
    for one in found:
        if one.verdict == "FAIL":
            dtypes.setdefault((one.cell, one.place), []).append(one.dtype)
    rows = [f"{cell} on {place} in {', '.join(own)}" for (cell, place), own in dtypes.items()]
    return rows + [f"{one.cell}: not so that it {one.name}" for one in checks if one.verdict == "FAIL"]


def document(found: Sequence[Finding], checks: Sequence[Check]) -> dict[str, Any]:
    """Everything, as JSON has it: NaN and infinity as null."""
    return {"findings": [_plain(one) for one in found], "checks": [asdict(one) for one in checks]}


def _plain(one: Finding) -> dict[str, Any]:
    names = ("cell", "models", "place", "dtype", "tolerance", "verdict", "problem")
    cases = [
        {
            **asdict(own.case),
            "training": own.training,
            "verdict": own.verdict,
            "errors": _finite(dict(own.errors)),
            "limits": _finite(dict(own.limits)),
            "problem": own.problem,
        }
        for own in one.outcomes
    ]
    return {**{name: getattr(one, name) for name in names}, "errors": _finite(one.errors), "cases": cases}


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}
