"""Published layers: resumed to the same bits, measured as naive autograd does, and told of as they are."""

from __future__ import annotations

import pytest

from tests.compatibility import PAGE, row
from tests.external.proofs import proved
from tests.external.specimens import ALL, Specimen, as_parameters, is_cell

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
LINES = PAGE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("specimen", as_parameters(one for one in ALL if not is_cell(one)))
def test_a_published_layer_is_what_the_page_says_that_it_is(specimen: Specimen) -> None:
    assert row(proved(specimen)) in LINES
