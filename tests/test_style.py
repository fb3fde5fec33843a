"""Sizes and documentation of the code, as the contribution guide promises them."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median, quantiles

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("src", "analysis", "experiments") for path in (ROOT / folder).rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _functions(path: Path) -> list[Function]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def _body_lines(function: Function) -> int:
    statements = function.body[ast.get_docstring(function, clean=False) is not None :]
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1 if statements else 0


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_file_has_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_function_body_exceeds_50_lines(path: Path) -> None:
    assert [function.name for function in _functions(path) if _body_lines(function) > 50] == []


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_public_functions_are_documented(path: Path) -> None:
    public = _public_functions(ast.parse(path.read_text(encoding="utf-8")))
    assert [function.name for function in public if ast.get_docstring(function) is None] == []


def _public_functions(scope: ast.Module | ast.ClassDef) -> list[Function]:
    public = [node for node in scope.body if not getattr(node, "name", "_").startswith("_")]
    of_classes = [_public_functions(node) for node in public if isinstance(node, ast.ClassDef)]
    return [*(node for node in public if isinstance(node, Function)), *(one for found in of_classes for one in found)]


def test_median_function_body_has_at_most_8_lines() -> None:
    assert median(_all_body_lines()) <= 8


def test_nine_of_ten_function_bodies_have_at_most_25_lines() -> None:
    assert quantiles(_all_body_lines(), n=10)[-1] <= 25


def _all_body_lines() -> list[int]:
    return [_body_lines(function) for path in FILES for function in _functions(path)]


def test_readme_fits_150_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_contribution_guide_fits_one_screen() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 50
