"""Published cells: resumed to the same bits, measured as naive autograd does, and told of as they are."""

from __future__ import annotations

import inspect

import pytest
import torchrecurrent
from torch import nn

from tests.compatibility import PAGE, head, row
from tests.external.proofs import proved
from tests.external.specimens import ALL, Specimen, as_parameters, is_cell

LINES = PAGE.read_text(encoding="utf-8").splitlines()
CELLS = [name for name, _ in inspect.getmembers(torchrecurrent, inspect.isclass) if name.endswith("Cell")]


@pytest.mark.parametrize("specimen", as_parameters(filter(is_cell, ALL)))
def test_a_published_cell_is_what_the_page_says_that_it_is(specimen: Specimen) -> None:
    assert row(proved(specimen)) in LINES


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_passes_but_the_one_that_keeps_its_state_to_itself(name: str) -> None:
    (line,) = [line for line in LINES if line.startswith(f"| `{name}` |")]
    assert ("refused" in line) == (name == "tauGRUCell")
    assert ("| all | yes" in line) == (name != "tauGRUCell")


def test_the_page_has_its_head_and_a_line_for_every_class_and_no_other() -> None:
    assert "\n".join(LINES).startswith(head())
    shown = [line for line in LINES if line.startswith("| `")]
    assert [line.partition("` |")[0] for line in shown] == [f"| `{specimen.name}" for specimen in ALL]
    kinds = [kind for _, kind in inspect.getmembers(torchrecurrent, inspect.isclass) if issubclass(kind, nn.Module)]
    assert len(kinds) == sum(specimen.package == "torchrecurrent" for specimen in ALL)
