"""A release, built and tried as a stranger gets it: `make release`. Nothing is uploaded, tagged or changed but dist/.

What is released is the commit, not the working tree: it is exported, the sdist is built from the export, the wheel from
the sdist, and the wheel is installed with the pinned dependencies into an environment of its own.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

import yaml
from packaging.metadata import Metadata

ROOT = Path(__file__).parents[1]
_NOTHING = "- Nothing."
_MOVED = {"src/": "", "conf/": "gradhorizon/conf/"}
"""Where the wheel puts what it carries of the repository."""


class Refused(Exception):  # noqa: N818
    """Why nothing is released: what was wrong, what was found and what to do."""


def check_state(root: Path) -> str:
    """The version that the commit at `root` releases.

    Raises:
        Refused: files differ from the commit; CHANGELOG.md has no dated section for the version, or has something left
            under Unreleased; CITATION.cff has another version or date.
    """
    if changed := _git(root, "status", "--porcelain").splitlines():
        raise Refused(
            f"the working tree must be clean, got {len(changed)} changed files ({changed[0].strip()}, …): commit"
        )
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    sections = _sections((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    dated = re.compile(rf"\[{re.escape(version)}\] - (\d{{4}}-\d{{2}}-\d{{2}})").fullmatch
    dates = [found[1] for found in map(dated, sections) if found]
    if not dates:
        raise Refused(f"CHANGELOG.md must have a section `## [{version}] - <date>`, got {', '.join(sections)}: date it")
    _check_nothing_is_left(sections)
    _check_citation(root, version, dates[0])
    return version


def check_wheel(names: Iterable[str], tracked: Iterable[str]) -> None:
    """Hold a wheel's files against the repository's: package, configuration, page files and type marker are in it.

    Raises:
        Refused: something is absent.
    """
    wanted = {
        new + name.removeprefix(old) for name in tracked for old, new in _MOVED.items() if name.startswith(old)
    } | {"gradhorizon/py.typed"}
    _check_nothing_is_absent("wheel", wanted - set(names))


def check_sdist(names: Iterable[str], tracked: Iterable[str]) -> None:
    """Hold an sdist's files against the repository's: all of them, tests too, but for hidden ones.

    Raises:
        Refused: something is absent.
    """
    below = {name.partition("/")[2] for name in names}
    _check_nothing_is_absent("sdist", {name for name in tracked if not name.startswith(".")} - below)


def main() -> int:
    """Build, check and try a release of this repository; 1 with one line where it is refused."""
    try:
        version = check_state(ROOT)
        with tempfile.TemporaryDirectory() as folder:
            built = _build(Path(folder))
            _check_contents(built)
            _try(next(path for path in built if path.suffix == ".whl"), version, Path(folder))
            placed = [Path(shutil.copy(path, ROOT / "dist")) for path in built]
    except Refused as refusal:
        print(f"not released: {refusal}", file=sys.stderr)  # noqa: T201
        return 1
    print(_what_next(version, placed))  # noqa: T201
    return 0


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"a release needs a git repository, and `git {arguments[0]}` said: {done.stderr.strip()}")
    return done.stdout


def _sections(changelog: str) -> dict[str, str]:
    headings = re.split(r"^## (.+)$", changelog, flags=re.MULTILINE)[1:]
    return dict(zip(headings[::2], headings[1::2], strict=True))


def _check_nothing_is_left(sections: dict[str, str]) -> None:
    left = [
        line for line in sections.get("[Unreleased]", "").splitlines() if line.startswith("- ") and line != _NOTHING
    ]
    if left:
        raise Refused(f"Unreleased in CHANGELOG.md must be empty, got `{left[0]}`: move it into the dated section")


def _check_citation(root: Path, version: str, date: str) -> None:
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    found = (str(citation.get("version")), str(citation.get("date-released")))
    if found != (version, date):
        raise Refused(
            f"CITATION.cff must say {version} of {date}, as CHANGELOG.md does, got {' of '.join(found)}: edit it"
        )


def _check_nothing_is_absent(kind: str, absent: set[str]) -> None:
    if absent:
        first = ", ".join(sorted(absent)[:3])
        raise Refused(
            f"the {kind} must carry all of the package, {len(absent)} files are absent ({first}): see [tool.hatch]"
        )


def _build(folder: Path) -> list[Path]:
    exported, out = folder / "commit", folder / "dist"
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(exported, filter="data")
    # The commit's own time, so that the same commit gives the same bytes.
    environment = {**os.environ, "SOURCE_DATE_EPOCH": _git(ROOT, "log", "-1", "--format=%ct").strip()}
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(exported)], env=environment, check=True)
    (ROOT / "dist").mkdir(exist_ok=True)
    return sorted(out.iterdir())


def _check_contents(built: list[Path]) -> None:
    tracked = _git(ROOT, "ls-files").splitlines()
    for path in built:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                check_wheel(wheel.namelist(), tracked)
                metadata = wheel.read(next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")))
        else:
            with tarfile.open(path) as sdist:
                check_sdist(sdist.getnames(), tracked)
                member = next(name for name in sdist.getnames() if re.fullmatch(r"[^/]+/PKG-INFO", name))
                metadata = sdist.extractfile(member).read()  # type: ignore[union-attr]
        Metadata.from_email(metadata, validate=True)


def _try(wheel: Path, version: str, folder: Path) -> None:
    """Install the wheel, and have each of its programs explain itself, in a folder that is not the repository."""
    environment, elsewhere = folder / "environment", folder / "elsewhere"
    elsewhere.mkdir()
    venv.create(environment, with_pip=True)
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(program: str, *arguments: str) -> str:
        command = [str(programs / program), *arguments]
        done = subprocess.run(command, cwd=elsewhere, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Refused(
                f"the wheel must work where it is installed, but `{program}` said: {done.stderr.strip()[-2000:]}"
            )
        return done.stdout

    run("python", "-m", "pip", "install", "-qq", "-c", str(ROOT / "constraints.txt"), str(wheel))
    installed = run("python", "-c", "import gradhorizon; print(gradhorizon.__version__)").strip()
    if installed != version:
        raise Refused(f"the wheel must be of version {version}, got {installed}")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    for program in scripts:
        print(run(program, "--help").splitlines()[0])  # noqa: T201


def _what_next(version: str, placed: list[Path]) -> str:
    files = " ".join(str(path.relative_to(ROOT)) for path in placed)
    return f"""
{files}: built from the commit, complete, installed and tried. Nothing was uploaded. By hand:
  git tag -a v{version} -m 'gradhorizon {version}' && git push origin v{version}
  upload {files} with the client of your package registry
  then open a new, empty Unreleased section in CHANGELOG.md"""


if __name__ == "__main__":
    sys.exit(main())
