"""Words of the W&B report: the question that a study answers, what its quantities mean, tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gradhorizon.analysis.statistics.decay_law import MAX_MISFIT
from gradhorizon.analysis.statistics.growth import HORIZON_LEVEL, MIN_SEEDS, spoken_coverage
from gradhorizon.machine.installed import CONF_DIR

STUDIES = CONF_DIR.parent / "experiments"
"""Of a clone; installed, there are none, and questions are those of the configurations."""
_MARKUP = re.compile(r"[\\`*\[\]<&|~$]|(?<![^\W_])_|_(?![^\W_])")
METHODS = f"""
- **Lag** τ = t\\* − t, in steps: the probe objective is the loss at one step t\\*, and x at t\\* − τ was fed τ steps
  earlier.
- **Relative input gradient** g(τ) = ‖∂L/∂x at t\\* − τ‖ / ‖∂L/∂x at t\\*‖, dimensionless, per sample; a member's
  profile is the median over samples.
- **Bidirectional networks**: wherever it says lag, the distance to the nearest end that is read; of the two steps at
  one distance the larger gradient counts.
- **Growth rate** λ, in nats per step: least-squares slope of ln g(τ) for τ ≥ 1; −∞ if exact zeros cut a profile off.
- **Gradient horizon**, in steps: first lag from which the median profile stays under {HORIZON_LEVEL:g}; "> n" if it
  never does within the sequence. A run's summary has a number of steps only where it was measured; one that is
  censored stands under _beyond, and in panels of its own.
- **Intervals over seeds** run from one seed's value to another's, and cover the median with a known probability:
  {spoken_coverage([MIN_SEEDS])} with {MIN_SEEDS} seeds, where it is their range; 95 % or more from {MIN_SEEDS + 1} on.
- **Verdict**: *stable* if the interval of the median rate over seeds lies inside ± ln 10 / longest lag,
  *vanishing* or *exploding* if it lies wholly beyond, else *undecided*; not estimable with fewer than {MIN_SEEDS}
  seeds.
- **Decay law**: *exponential* or *power law* if that line explains the profile; *neither* if what the better of the
  two leaves over is structured and exceeds {100 * MAX_MISFIT:.1f} % of its change. See the profile then.
- **Solved**: Wilson interval; steps to solve: Kaplan–Meier median, censored at the budget.
- **Panels** read what each run has logged: low, median and high are taken over the members (seeds) of one run; where
  several runs of a model share a panel, the line is their median and the band their range. A member that diverged is
  part of a panel at its last measurement, and of no number "after training" in the table.
"""


def question(experiment: str) -> str:
    """The question that an experiment answers, from its study's README or else its configuration file.

    Args:
        experiment: its name; one that is no plain file name is nobody's.
    """
    if Path(experiment).name == experiment:
        study = STUDIES / experiment / "README.md"
        found = re.search(r"^## Question\s+(.*?)\s*(?:^## |\Z)", _text(study), re.DOTALL | re.MULTILINE)
        if found:
            return " ".join(found[1].split())
        lines = _text(CONF_DIR / "experiment" / f"{experiment}.yaml").splitlines()
        if len(lines) > 1 and lines[1].startswith("#"):
            return lines[1].lstrip("# ").strip()
    return "no question is written down for this experiment"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table whose cells are text, whatever they hold.

    Args:
        header: column names.
        rows: cells, shown as ``str`` shows them.
    """
    lines = [[_literal(name) for name in header]]
    lines += [["---"] * len(lines[0]), *([_literal(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _literal(content: Any) -> str:
    # Character references are never read as markup, unlike backslashes before a cell's bar or W&B's own mathematics.
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", " ".join(str(content).split()))
