"""A copy of this tree with a history of its own, and what runs in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_OUTCOME = re.compile(r"^(PASSED|FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)
_DURATION = re.compile(r"^([\d.]+)s (?:call|setup|teardown) +(.+)$", re.MULTILINE)


class MissedError(Exception):
    """An addition that was not found, or a mistake that was not noticed."""


@dataclass(frozen=True)
class Done:
    """What a program did.

    Attributes:
        code: exit status.
        output: standard output and error.
        seconds: how long it took.
    """

    code: int
    output: str
    seconds: float


@dataclass(frozen=True)
class Session:
    """What a session of pytest did.

    Attributes:
        outcomes: id -> PASSED, FAILED or ERROR.
        seconds: id -> set up, call and tear down.
        output: what it printed.
    """

    outcomes: dict[str, str]
    seconds: dict[str, float]
    output: str


@dataclass(frozen=True)
class Copy:
    """A copy of a tree.

    Attributes:
        root: its folder, a repository with one commit.
    """

    root: Path

    @classmethod
    def of(cls, source: Path, root: Path) -> Copy:
        """All files of `source` that git tracks or would offer to, committed in `root`.

        Args:
            source: a working tree.
            root: a folder that does not exist.
        """
        root.mkdir()
        listed = _git(source, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
        for name in listed:
            if (source / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / name, root / name)
        _git(root, "init", "--quiet")
        _git(root, "add", "--all")
        _git(root, "-c", "user.name=copy", "-c", "user.email=copy@localhost", "commit", "--quiet", "--message=copy")
        return cls(root)

    def twin(self, root: Path) -> Copy:
        """The same files once more, without runs, caches and history.

        Args:
            root: a folder that does not exist.
        """
        root.mkdir()
        for path in self.root.iterdir():
            if path.is_dir() and path.name not in {".git", ".mypy_cache", "runs"}:
                shutil.copytree(path, root / path.name)
            elif path.is_file():
                shutil.copy2(path, root / path.name)
        return Copy(root)

    def lay(self, folder: Path, names: Sequence[str]) -> None:
        """Add files.

        Args:
            folder: where they lie.
            names: below `folder` and below the root.

        Raises:
            MissedError: the tree has one of that name, or none lies in the folder.
        """
        for name in names:
            if (self.root / name).exists():
                raise MissedError(f"an addition edits no file, but the tree has {name}")
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / name, self.root / name)

    def changed(self) -> list[str]:
        """Tracked files that are not as they were, deleted ones too."""
        return _git(self.root, "diff", "--name-only").splitlines()

    def added(self) -> list[str]:
        """Files that git does not track and would offer to."""
        return _git(self.root, "ls-files", "--others", "--exclude-standard").splitlines()

    def run(self, *arguments: str) -> Done:
        """``python -m`` with `arguments`, on the copy's own sources."""
        environment = {**os.environ, "PYTHONPATH": str(self.root / "src"), "WANDB_MODE": "offline"}
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=self.root, env=environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, time.perf_counter() - started)

    def succeed(self, *arguments: str) -> Done:
        """`run`, of what has to succeed.

        Raises:
            MissedError: it failed.
        """
        done = self.run(*arguments)
        if done.code:
            raise MissedError(f"python -m {' '.join(arguments)} failed:\n{done.output}")
        return done

    def test(self, *arguments: str) -> Session:
        """A session of pytest over `arguments`, slow tests included."""
        shown = ("-q", "-rpfE", "--durations=0", "-vv", "-p", "no:cacheprovider")
        return session(self.run("pytest", *shown, *arguments).output)


def session(output: str) -> Session:
    r"""What pytest printed, test by test.

    Args:
        output: with ``-rpfE --durations=0 -vv``.

    Example:
        >>> session("0.50s call     tests/test_a.py::test_b[c]\nPASSED tests/test_a.py::test_b[c]").seconds
        {'tests/test_a.py::test_b[c]': 0.5}
    """
    outcomes = {name: outcome for outcome, name in _OUTCOME.findall(output)}
    seconds = dict.fromkeys(outcomes, 0.0)
    for duration, name in _DURATION.findall(output):
        seconds[name] = seconds.get(name, 0.0) + float(duration)
    return Session(outcomes, seconds, output)


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout
