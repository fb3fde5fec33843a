"""What a run was trained with, as its ``config.yaml`` keeps it: resolved, and so plain data.

Nothing in it is looked up: neither environment variables nor files nor other keys. Imports neither torch nor Hydra.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from gradhorizon.records.errors import DamagedFileError, RecordsError
from gradhorizon.records.layout import CONFIG, RUN_SHEET
from gradhorizon.records.listing import Listing
from gradhorizon.records.plain import MOST_DEPTH, MOST_WORDS, problem_of, read_bytes
from gradhorizon.records.seals import SealError, opened_text
from gradhorizon.records.sheets import look_at_run_sheet
from gradhorizon.terminal.words import one_line

MOST_BYTES = 2**20
"""Of a configuration: three hundred times what a run writes."""

_ADVICE = "it is written once and never changed: take it from where the run came from"
_GROUPS = ("model", "task", "measurement", "optimizer", "trainer", "logger")
_MOST_DIGITS = 400
_MOST_SHOWN = 80  # characters of what is wrong
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STARTS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
# As the configurations are written: 1e-3 is a number, and a date is text.
_FLOAT = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
    |\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


class _PlainLoader(_BASE):  # type: ignore[misc]  # whichever loader there is
    """The safe loader, which refuses a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if len(found) != len(node.value):
            names = [str(key.value) for key, _ in node.value]
            twice = next((name for name in names if names.count(name) > 1), "<<")
            raise yaml.YAMLError(f"the key `{twice}` stands there twice, from line {node.start_mark.line + 1} on")
        return found


_PlainLoader.yaml_implicit_resolvers = {
    start: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")
    ]
    for start, resolvers in _BASE.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read_configuration(run: Path) -> dict[str, Any]:
    """The resolved configuration of a run.

    Args:
        run: its folder.

    Raises:
        RecordsError: it is not there, cannot be read, or is not plain data as a run writes it.
    """
    path = run / CONFIG
    try:
        content, _ = read_bytes(path, MOST_BYTES, run)
        content = _as_written(content, run)
    except SealError as error:
        raise DamagedFileError(f"{path} {error}", _ADVICE) from error
    except FileNotFoundError as error:
        raise RecordsError(f"{path} cannot be read as a run's configuration: {error.strerror}") from error
    try:
        found = _parsed(content.decode())
        problem = problem_of(found)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        problem = one_line(error, MOST_WORDS)
    if problem:
        raise DamagedFileError(f"{path} cannot be read as a run's configuration: {problem}", _ADVICE)
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        kind = f"keys that are no text in a {type(found).__name__}" if isinstance(found, dict) else type(found).__name__
        raise DamagedFileError(
            f"{path} cannot be read as a run's configuration: it holds {kind}, expected names and values", _ADVICE
        )
    for group in _GROUPS:
        if not isinstance(found.get(group) or {}, dict):
            kind = type(found[group]).__name__
            raise DamagedFileError(f"{path}: `{group}` must be names and values, got {kind}", _ADVICE)
    return found


def _as_written(content: bytes, run: Path) -> bytes:
    """The text without its own digest, which must be right, and what the run's sheet lists."""
    text, _ = opened_text(content)
    sheet, _ = look_at_run_sheet(run)
    listing = Listing.read(sheet, run / RUN_SHEET)
    entry = None if listing is None else listing.files.get(CONFIG)
    if entry is not None:
        entry.check(content)
    return text


def _parsed(text: str) -> Any:
    depth = 0
    for event in yaml.parse(text, Loader=_BASE):
        depth += isinstance(event, _STARTS) - isinstance(event, _ENDS)
        problem = _problem(event, depth)
        if problem:
            raise yaml.YAMLError(problem)
    return yaml.load(text, Loader=_PlainLoader)  # noqa: S506, derived from the safe loader


def _problem(event: yaml.Event, depth: int) -> str:
    """What a resolved configuration never has."""
    if depth > MOST_DEPTH:
        return f"lists and mappings lie deeper than {MOST_DEPTH} in one another"
    for name in ("anchor", "tag"):  # an alias has the anchor that it stands for
        found = getattr(event, name, None)
        if found:
            return f"{'an' if name == 'anchor' else 'a'} {name}, {found[:_MOST_SHOWN]!r}, which no run writes"
    if isinstance(event, yaml.ScalarEvent) and not event.style:
        value = event.value
        if len(value) > _MOST_DIGITS and value[0] in "+-.0123456789" and not any(map(str.isspace, value)):
            return f"a number of {len(value)} characters"
    return ""


def interpolations(node: Any, at: str) -> list[str]:
    """Keys below `node` whose texts would be looked up elsewhere if they were taken for configuration.

    Args:
        node: plain containers and scalars.
        at: its own key.

    Example:
        >>> interpolations({"task": {"size": "${oc.env:SECRET}"}, "seed": 0}, "")
        ['task.size']
    """
    if isinstance(node, dict):
        return [
            found
            for key, value in node.items()
            for found in interpolations(value, f"{at}.{key}".lstrip(".")) + interpolations(key, f"{at}.{key}")
        ]
    if isinstance(node, list):
        return [found for index, value in enumerate(node) for found in interpolations(value, f"{at}[{index}]")]
    return [at] if isinstance(node, str) and "${" in node else []
