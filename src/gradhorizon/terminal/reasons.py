"""Why something broke, in one line, and what an exception carries to whoever catches it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gradhorizon.terminal.words import one_line, printable, shortened

_MOST_WORDS = 1000  # characters of a reason


class RunFailedError(RuntimeError):
    """A run that started and broke; its traceback is in its own log."""


class StoppedIterationError(Exception):
    """A `StopIteration`, which whatever iterates over batches would take for their end."""


def reason_of(error: BaseException) -> str:
    r"""Why something broke, in one line that a terminal can show.

    Args:
        error: what was raised; our own errors say what is wrong, others need their type's name.

    Example:
        >>> reason_of(ValueError("shapes differ:\n  (2, 3)\n  (3, 2)"))
        'ValueError: shapes differ: (2, 3) (3, 2)'
        >>> reason_of(StopIteration())
        'StopIteration (no message)'
        >>> reason_of(SystemExit(3))
        'SystemExit: exited with code 3'
    """
    name = type(error).__name__
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return f"{name}: exited with code {int(error.code or 0)}"
    words = shortened(printable(one_line(_words(error))), _MOST_WORDS)
    if type(error).__module__.partition(".")[0] == "gradhorizon" and words:
        return words
    return f"{name}: {words}" if words else f"{name} (no message)"


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001, an exception whose own words break is no reason to break here
        return ""


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Have what is raised within say what was being done.

    Args:
        name: of the phase; the innermost one counts.
    """
    try:
        yield
    except StopIteration as error:
        broken = StoppedIterationError(reason_of(error))
        attach(broken, "phase", name)
        raise broken from error
    except BaseException as error:
        attach(error, "phase", attached(error, "phase") or name)
        raise


def attach(error: BaseException, name: str, value: Any) -> None:
    """Let `error` carry a fact to whoever catches it; quiet where it cannot.

    Args:
        error: on its way.
        name: of the fact: phase, reason, folder (of the run), has_started (training), is_logged (with its traceback, in
            the run's own log).
        value: the fact.
    """
    with suppress(AttributeError, TypeError):
        setattr(error, f"_gradhorizon_{name}", value)


def attached(error: BaseException, name: str) -> Any:
    """What `attach` has let `error` carry under `name`; None if nothing."""
    return getattr(error, f"_gradhorizon_{name}", None)


def traceback_of(error: BaseException) -> list[str]:
    """Where `error` was raised, as Python prints it, and what led to it."""
    return "".join(traceback.format_exception(error)).splitlines()
