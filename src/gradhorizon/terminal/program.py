"""What all programs share: how their help is laid out, and how they refuse and end; imports next to nothing."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from gradhorizon.terminal.words import show_any_text

log = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

Refusals: TypeAlias = Mapping[type[Exception], Callable[[Any], str]]
"""What a user can do wrong -> its words; of several that fit, the first one counts."""


def parser_of(prog: str, description: str | None, epilog: str, usage: str | None = None) -> argparse.ArgumentParser:
    """A parser whose help shows its texts as they are written.

    Args:
        prog: the program's name.
        description: the module's docstring.
        epilog: examples.
        usage: in place of what the arguments give.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog, usage, description, epilog, formatter_class=formatter)


@contextmanager
def refusing(refusals: Refusals) -> Iterator[None]:
    """Say what a user has done wrong in one line, in place of a traceback.

    Args:
        refusals: what that can be.

    Raises:
        SystemExit: with the line, which Python prints; exit code 1.
    """
    try:
        yield
    except tuple(refusals) as error:
        words = next(words for kind, words in refusals.items() if isinstance(error, kind))
        raise SystemExit(f"Error: {words(error)}") from error


def program(act: Callable[[], int], refusals: Refusals, interrupted: str = "") -> int:
    """Run a program to its exit code: what `act` returns, or 1 once it has said what was refused.

    Args:
        act: what it does.
        refusals: what a user can do wrong.
        interrupted: what is said after Ctrl-C; if nothing, it goes on to whoever calls.
    """
    show_any_text()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        with refusing(refusals):
            return act()
    except SystemExit as ended:
        if not isinstance(ended.code, str):
            raise
        log.error("%s", ended.code)  # noqa: TRY400, a user's mistake needs no traceback
        return 1
    except KeyboardInterrupt:
        if not interrupted:
            raise
        log.warning("interrupted; %s", interrupted)
        return INTERRUPTED
