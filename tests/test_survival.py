"""A sweep survives: whatever dies, the same command launched again ends with the bits of an undisturbed sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradhorizon.status.sweep import run_folders
from tests.survival import NUM_RUNS, disturbed, together, undisturbed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = undisturbed(tmp_path_factory.mktemp("whole"))
    assert len(list(run_folders(folder))) == NUM_RUNS
    return folder


def test_a_sweep_killed_all_over_and_launched_again_ends_with_the_same_bits(whole: Path, tmp_path: Path) -> None:
    story = disturbed(tmp_path, whole, seed=0, num_faults=7)
    assert not story.complaints, "\n".join([str(story), *story.complaints])
    assert len(story.faults) >= 5
    assert len(story.codes) >= 3


def test_two_launchers_train_one_sweep_together_and_nothing_twice(whole: Path, tmp_path: Path) -> None:
    story = together(tmp_path, whole)
    assert not story.complaints, "\n".join([str(story), *story.complaints])
