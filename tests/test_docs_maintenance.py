"""Hosted CI, hooks, templates and decisions name what exists, and cover what pyproject.toml claims."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
WORKFLOW_TEXT = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load(WORKFLOW_TEXT)
JOBS = WORKFLOW["jobs"]
TARGETS = set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
DECISIONS = sorted((ROOT / "docs/decisions").glob("0*.md"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]


def _steps(key: str) -> list[str]:
    return [step[key] for job in JOBS.values() for step in job["steps"] if key in step]


def _pythons(os: str) -> set[str]:
    """Versions of Python that the job `test` runs on systems of a name."""
    matrix = JOBS["test"]["strategy"]["matrix"]
    pairs = [(name, python) for name in matrix["os"] for python in matrix["python"]]
    pairs += [(one["os"], one["python"]) for one in matrix["include"]]
    return {python for name, python in pairs if name.startswith(os)}


def test_hosted_tests_run_every_python_that_is_claimed_and_no_other() -> None:
    claimed = {
        found[1]
        for found in (
            re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", one) for one in PROJECT["classifiers"]
        )
        if found
    }
    assert _pythons("ubuntu") == claimed
    assert _pythons("macos") <= claimed
    assert len(_pythons("macos")) == 1


def test_hosted_tests_begin_at_the_lowest_python_that_is_allowed() -> None:
    allowed = SpecifierSet(PROJECT["requires-python"])
    lowest = min(_pythons("ubuntu"), key=lambda version: int(version.split(".")[1]))
    assert all(allowed.contains(f"{version}.0") for version in _pythons("ubuntu"))
    assert not allowed.contains(f"3.{int(lowest.split('.')[1]) - 1}.99")


def test_hosted_commands_are_targets_that_exist() -> None:
    commands = _steps("run")
    assert {command.split()[1] for command in commands} <= TARGETS
    assert {command.split()[0] for command in commands} == {"make"}
    assert {"lint", "test", "test-all", "docs", "coverage"} == {command.split()[1] for command in commands}


def test_hosted_python_is_the_one_that_make_is_told() -> None:
    """Else make would build its environment with whatever python3 the system has."""
    for job in JOBS.values():
        (version,) = [
            step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})
        ]
        first = next(step["run"] for step in job["steps"] if "run" in step)
        assert first.endswith(f" PYTHON=python{version}")


def test_hosted_jobs_may_only_read_and_are_cancelled_by_the_next() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert WORKFLOW["concurrency"]["cancel-in-progress"] is True
    assert [name for name, job in JOBS.items() if "permissions" in job or "timeout-minutes" not in job] == []
    assert "secrets." not in WORKFLOW_TEXT


@pytest.mark.parametrize("action", sorted(set(_steps("uses"))))
def test_actions_are_pinned_to_a_version_or_a_commit(action: str) -> None:
    assert re.fullmatch(r"actions/[a-z-]+@(v\d+|[0-9a-f]{40})", action)


def test_hooks_are_local_and_run_what_make_lint_runs() -> None:
    assert [repo["repo"] for repo in HOOKS] == ["local"]
    entries = [hook["entry"] for hook in HOOKS[0]["hooks"]]
    tools = [re.fullmatch(r"\.venv/bin/python -m (ruff check|ruff format|mypy)( --[a-z-]+)*", one) for one in entries]
    assert [found and found[1] for found in tools] == ["ruff check", "ruff format", "mypy"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_form_asks_and_names_only_what_exists(path: Path) -> None:
    form: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(form)
    asked = [entry["id"] for entry in form["body"] if entry["type"] != "markdown"]
    assert len(asked) == len(set(asked)) > 0
    assert any(entry.get("validations", {}).get("required") for entry in form["body"])
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"`(gradhorizon-?[a-z-]*)", text)) <= set(PROJECT["scripts"])
    assert [name for name in re.findall(r"\((docs/[\w/]+\.md)\)", text) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("name", ["bug", "wrong_number"])
def test_reports_bring_the_doctors_word_and_the_version(name: str) -> None:
    form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text(encoding="utf-8"))
    required = [str(entry["attributes"]) for entry in form["body"] if entry.get("validations", {}).get("required")]
    assert any("gradhorizon-doctor" in one for one in required)
    assert any("Version of gradhorizon" in one for one in required)


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_decision_says_all_that_a_decision_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert headings == ["Context", "Decision", "Why", "Consequences", "What would change our mind"]
    assert text.startswith(f"# {int(path.name[:4])}. ")
    assert re.search(
        r"^Status: (accepted|replaced by \d{4})\. Recorded: \d{4}-\d{2}-\d{2}\.$", text, flags=re.MULTILINE
    )


@pytest.mark.parametrize(
    ("path", "link"),
    [
        (path, link)
        for path in sorted((ROOT / "docs").glob("**/*.md"))
        for link in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
        if "://" not in link
    ],
)
def test_links_between_documents_lead_somewhere(path: Path, link: str) -> None:
    assert (path.parent / link).is_file()


@pytest.mark.parametrize("requirement", PROJECT["optional-dependencies"]["docs"])
def test_tools_of_the_documentation_are_pinned_within_their_range(requirement: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    wanted = Requirement(requirement)
    assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)])
