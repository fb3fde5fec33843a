"""Where the tests run besides the environment at hand: lesser instruction sets, the lowest declared versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import instruction_sets, lowest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("best", "lesser"),
    [("AVX512", ["DEFAULT", "AVX2"]), ("AVX2", ["DEFAULT"]), ("DEFAULT", []), ("SVE256", []), ("NO AVX", [])],
)
def test_sets_that_a_processor_lacks_are_never_forced(best: str, lesser: list[str]) -> None:
    assert list(instruction_sets.lesser_sets(best)) == lesser


def test_a_failure_under_any_set_is_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def fails(*given: Any) -> bool:
        seen.append(given)
        return True

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(instruction_sets, "_fails", fails)
    assert instruction_sets.main(["-x"]) == 1
    assert seen == [("DEFAULT", ["-x"])]
    said = capsys.readouterr().out
    assert "AVX2: left out (what `make test` runs here)" in said
    assert "AVX512: left out (this processor lacks it)" in said


def test_one_set_can_be_asked_for_and_the_others_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")

    def passes(*given: Any) -> bool:
        seen.append(given)
        return False

    monkeypatch.setattr(instruction_sets, "_fails", passes)
    assert instruction_sets.main(["DEFAULT", "-x"]) == 0
    assert seen == [("DEFAULT", ["-x"])]
    assert "AVX2: left out (not asked for)" in capsys.readouterr().out


@pytest.mark.parametrize(("claimed", "is_failure"), [("DEFAULT", False), ("AVX2", True)])
def test_tests_run_under_the_set_and_their_failure_is_seen(
    claimed: str, is_failure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, settings = tmp_path / "test_set.py", tmp_path / "pytest.ini"
    settings.write_text("[pytest]\n")
    path.write_text(f"""
import numpy as np
import torch

def test_set():
    assert torch.backends.cpu.get_cpu_capability() == "{claimed}"
    assert not np.show_config(mode="dicts")["SIMD Extensions"].get("found")
""")
    monkeypatch.setattr(instruction_sets, "NUMERICAL", (str(path),))
    assert instruction_sets._fails("DEFAULT", ["-c", str(settings)]) == is_failure


@pytest.mark.parametrize("path", instruction_sets.NUMERICAL)
def test_numerical_tests_are_where_they_are_named(path: str) -> None:
    assert (ROOT / path).exists()


def test_floors_are_the_lowest_versions_that_requirements_allow() -> None:
    stated = ["hydra-core>=1.3.2,<1.4", "numpy>=1.26", "pandas-stubs", "Types-tqdm>=4.70.0.20260101"]
    assert lowest.floors(stated) == ["hydra-core==1.3.2", "numpy==1.26", "Types-tqdm==4.70.0.20260101"]


def test_whatever_the_package_needs_states_its_floor() -> None:
    """A version that pip may choose freely is one that nothing tries."""
    needed = lowest.project()["dependencies"]
    assert len(lowest.floors(needed)) == len(needed)
