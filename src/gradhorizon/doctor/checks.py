"""What is asked of a module once, by name: conduct, samples, gradients against differences, independence of the length.

Everything here runs on the CPU in float64.

Notation: B batch, N steps, D input size, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradhorizon.cells.cell import Layer, Recurrent
from gradhorizon.doctor.layers import Answer, LayerExam
from gradhorizon.kernels.contract import contract_checks
from gradhorizon.kernels.gate import check_independent_samples
from gradhorizon.terminal.reasons import reason_of
from gradhorizon.terminal.words import one_line

_SPOILS = ("keeps nothing between calls", "mixes no samples")
_GRADIENT = "its gradient"  # differences of a module that keeps or mixes are those of another function


@dataclass(frozen=True)
class Check:
    """The answer to one question.

    Attributes:
        cell: the module's name.
        name: what must hold, in words.
        verdict: pass, FAIL, untested, unsupported, or note (a fact that is no fault).
        words: what was found, and what to do; nothing after a pass.
    """

    cell: str
    name: str
    verdict: str
    words: str = ""


def checks_of(name: str, module: Layer, lengths: Sequence[int]) -> list[Check]:
    """All answers, in order; if the first is a failure, nothing else is asked.

    Args:
        name: the module's.
        module: left as it is.
        lengths: N at which a layer without a step is examined.
    """
    asked = _asked_of_cell(module) if isinstance(module, Recurrent) else LayerExam(module, lengths).asked()
    return list(_answers(name, asked))


def _asked_of_cell(cell: Recurrent) -> Mapping[str, Callable[[], Answer]]:
    asked: dict[str, Callable[[], None]] = contract_checks(cell)
    mixes = asked["mixes no samples"]

    def ask_samples() -> None:
        mixes()
        check_independent_samples(cell)

    return {**asked, "mixes no samples": ask_samples}


def _answers(name: str, asked: Mapping[str, Callable[[], Answer]]) -> Iterator[Check]:
    said: set[str] = set()
    spoilt = ""
    for index, (words, ask) in enumerate(asked.items()):
        try:
            answer = ask() if not (spoilt and words.startswith(_GRADIENT)) else ("untested", f"must first: {spoilt}")
        except Exception as error:  # noqa: BLE001, whatever a module raises is a finding
            problem = one_line(error) if isinstance(error, ValueError) else reason_of(error)
            # What an earlier question has found keeps a later one from being asked.
            answer = ("untested", "see above") if problem in said else ("FAIL", problem)
            said.add(problem)
        if words in _SPOILS and answer is not None and answer[0] == "FAIL":
            spoilt = words
        yield Check(name, words, *(answer or ("pass", "")))
        if index == 0 and answer is not None and answer[0] == "FAIL":
            return
