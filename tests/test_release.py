"""What `make release` refuses, and what it holds wheel and sdist against."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests import release

CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n- Nothing.\n\n## [1.2.0] - 2030-01-02\n\n- Something.\n"
TRACKED = [
    "src/gradhorizon/py.typed",
    "src/gradhorizon/page/page.css",
    "conf/train.yaml",
    "tests/test_it.py",
    ".ci/run",
]


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n', encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    (tmp_path / "CITATION.cff").write_text("version: 1.2.0\ndate-released: 2030-01-02\n", encoding="utf-8")
    _git(tmp_path, "init", "-q")
    _commit(tmp_path)
    return tmp_path


def _commit(root: Path) -> None:
    _git(root, "add", "--all")
    _git(root, "commit", "-q", "-m", "m")


def _commit_changed(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text(encoding="utf-8")
    assert old in text
    (root / name).write_text(text.replace(old, new), encoding="utf-8")
    _commit(root)


def test_a_clean_commit_that_agrees_with_itself_is_released(root: Path) -> None:
    assert release.check_state(root) == "1.2.0"


@pytest.mark.parametrize("name", ["CITATION.cff", "new.py"])
def test_a_changed_or_unknown_file_is_refused(root: Path, name: str) -> None:
    with (root / name).open("a", encoding="utf-8") as file:
        file.write("\n")
    with pytest.raises(release.Refused, match=f"must be clean, got 1 changed files .*{re.escape(name)}"):
        release.check_state(root)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("CHANGELOG.md", "[1.2.0] - 2030-01-02", "[1.2.0]", r"a section `## \[1.2.0\] - <date>`, got \[Unreleased\]"),
        ("CHANGELOG.md", "[1.2.0] -", "[1.2.0.1] -", r"got \[Unreleased\], \[1.2.0.1\]"),
        ("CHANGELOG.md", "- Nothing.", "- A cell.", r"Unreleased .* must be empty, got `- A cell.`"),
        ("pyproject.toml", "1.2.0", "1.3.0", r"a section `## \[1.3.0\]"),
        ("CITATION.cff", "version: 1.2.0", "version: 1.1.0", "must say 1.2.0 of 2030-01-02.* got 1.1.0 of 2030-01-02"),
        ("CITATION.cff", "2030-01-02", "2030-01-03", "got 1.2.0 of 2030-01-03"),
        ("CITATION.cff", "date-released: 2030-01-02\n", "", "got 1.2.0 of None"),
    ],
)
def test_what_does_not_agree_is_refused(root: Path, name: str, old: str, new: str, said: str) -> None:
    _commit_changed(root, name, old, new)
    with pytest.raises(release.Refused, match=said):
        release.check_state(root)


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(release.Refused, match="needs a git repository"):
        release.check_state(tmp_path)


def test_a_refusal_is_one_line_and_exit_code_1(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "new.py").touch()
    monkeypatch.setattr(release, "ROOT", root)
    assert release.main() == 1
    assert re.fullmatch(r"not released: .*must be clean.*\n", capsys.readouterr().err)
    assert not (root / "dist").exists()


WHEEL = ["gradhorizon/py.typed", "gradhorizon/page/page.css", "gradhorizon/conf/train.yaml", "g-1.dist-info/METADATA"]


@pytest.mark.parametrize("absent", WHEEL[:3])
def test_a_wheel_without_a_file_of_the_package_is_refused(absent: str) -> None:
    release.check_wheel(WHEEL, TRACKED)
    with pytest.raises(release.Refused, match=rf"1 files are absent \({absent}\)"):
        release.check_wheel([name for name in WHEEL if name != absent], TRACKED)


@pytest.mark.parametrize("absent", TRACKED[:4])
def test_an_sdist_without_a_file_of_the_repository_is_refused(absent: str) -> None:
    names = [f"gradhorizon-1/{name}" for name in TRACKED[:4]]
    release.check_sdist(names, TRACKED)
    with pytest.raises(release.Refused, match=rf"1 files are absent \({absent}\)"):
        release.check_sdist([name for name in names if not name.endswith(absent)], TRACKED)


def test_this_version_is_dated_and_cited() -> None:
    """All but the clean tree holds in every commit between two releases, or `make release` would come as a surprise."""
    version = tomllib.loads((release.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    sections = release._sections((release.ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    (dated,) = [heading for heading in sections if heading.startswith(f"[{version}] - ")]
    release._check_citation(release.ROOT, version, dated.rpartition(" ")[2])
