"""What Hydra says of a configuration that it cannot compose, in one line that leads out.

Hydra's own words recommend a ``+`` for every key that is not there. Here it is recommended where it is right alone:
for what the configured class takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import CompactHydraException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from gradhorizon.composition.composing import composed_train
from gradhorizon.composition.keys import check_keys, nearest, plain, said_unknown
from gradhorizon.config import ConfigError, demand
from gradhorizon.machine.installed import CONF_DIR

_FOLDER = re.compile(r"provider=(?:main|command-line|hydra\.searchpath[\w -]*), path=(?:file://)?(/.*)")
_KINDS = {
    "could not be converted to Integer": "a whole number",
    "could not be converted to Float": "a number",
    "is not a valid bool": "true or false",
    "could not be converted to String": "text",
}
DOORS = {
    "model": "model=external model.label=mine model.cell._target_=my_package.MyCell",
    "task": "task=external task._target_=my_package.MyTask, or data: task=from_arrays task.path=data.csv",
    "measurement": "measurement=external measurement.external._target_=my_package.MyMeasurement",
    "optimizer": "optimizer=external optimizer._target_=my_package.MyOptimizer",
}
"""How a class, or data, of the user's own is chosen, by group."""
_NOT_A_NAME = "Config group override"
_NOT_A_WORD = re.compile(r"(null|true|false|[-+.\de]*|\{.*\}|\[.*\])", re.IGNORECASE)


def is_explained(error: Exception) -> bool:
    """Whether the error is a user's, to be said in one line, and no fault that needs its traceback.

    Args:
        error: what came out of Hydra.
    """
    known = isinstance(error, CompactHydraException | YAMLError)
    return known or str(error).startswith((_NOT_A_NAME, "Only one of --run"))


def explanation(error: Exception, overrides: Sequence[str]) -> str:
    """One line: what was wrong, what was received, what to do.

    Args:
        error: what Hydra raised while it composed.
        overrides: what it was to compose with.
    """
    text = str(error)
    if text.startswith("Error: "):  # the project's own words
        return text
    return f"Error: {_words(error, text, overrides)}"


def _words(error: Exception, text: str, overrides: Sequence[str]) -> str:
    if isinstance(error, MissingConfigException):
        return _of_missing_file(error, text)
    if isinstance(error, OverrideParseException):
        reason = _one_line(text.partition("See https")[0])
        return f"{error.override} cannot be read as key=value: {reason}; quote a value that holds special characters"
    if isinstance(error, YAMLError):
        return _of_unreadable_file(error)
    found = re.match(r"In '([^']*)': .*Key '[^']*' (?:is )?not in .*full_key: (\S+)", text, re.DOTALL)
    if found and found[2] == found[1].partition("/")[0]:
        return f"{found[1]} must begin with the line `# @package _global_`, to set keys of the root; it is not there"
    if found:
        return f"{found[1]}: {said_unknown(found[2], _content(()))}"
    for pattern, words in _EXPLAINED:
        found = re.search(pattern, text)
        if found:
            return words(found[1], overrides, error)
    return _one_line(_all(error))


def _of_unreadable_file(error: YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    if not isinstance(error, MarkedYAMLError) or mark is None:
        return f"a configuration file is no YAML: {_one_line(str(error))}"
    return f"{mark.name} is no YAML from line {mark.line + 1} on: {error.problem}"


def _all(error: Exception) -> str:
    cause = error.__cause__
    return f"{error}\n{cause}" if isinstance(cause, OmegaConfBaseException) else str(error)


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "To append to your" not in line]
    return " ".join(line for line in lines if line and not re.match(r"(full_key|reference_type|object_type)", line))


def _of_missing_file(error: MissingConfigException, text: str) -> str:
    name = error.missing_cfg_file or next(iter(re.findall(r"'([^']+)'", text.splitlines()[0].rpartition(":")[2])), "")
    group, _, option = name.rpartition("/")
    if not group:
        return (
            f"`--config-name`={name} is no file of the configuration; leave out --config-name and --config-path: files "
            "of your own are found with --config-dir=FOLDER"
        )
    places = [CONF_DIR, *map(Path, _FOLDER.findall(text))]
    files = {path.stem for place in places for path in (place / group).glob("*.yaml")}
    options = sorted({*(error.options or ()), *files})
    if not options:
        return f"`{group}` is no group of the configuration; the nearest is `{nearest(group, _groups())}`"
    close, each = nearest(option, options), ", ".join(options)
    own = DOORS.get(group)
    door = f"; for one of your own: {own}" if own else ""
    return f"`{group}`={option} is not there; the nearest is `{close}`; there are: {each}{door}"


def _groups() -> list[str]:
    return sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir())


def _of_unknown_key(key: str, overrides: Sequence[str], error: Exception) -> str:
    del error
    group = key.partition("@")[0]
    written = next((item for item in overrides if item.lstrip("+~").partition("=")[0] == key), f"{key}=…")
    content = _content(overrides)
    if "/" in key and content:
        return f"`{key}` is no group; the nearest is `{nearest(key, content['hydra']['runtime']['choices'])}`"
    if group in _groups():
        return f"`{group}` {demand(group)}, got {written}"
    if not written.startswith("~") and _may_be_added(written, overrides):
        return f"`{key}` is not in the configuration yet, and its class takes it: add it with a plus: +{written}"
    return said_unknown(key, content)


def _may_be_added(override: str, overrides: Sequence[str]) -> bool:
    key = override.partition("=")[0].lstrip("+")
    # One value of several that are swept may be no value alone; null is one where no type stands against it.
    return any(_is_taken(f"+{item}", overrides) for item in (override.lstrip("+"), f"{key}=null"))


def _is_taken(override: str, overrides: Sequence[str]) -> bool:
    try:
        check_keys(_composed([*filter(_is_choice, overrides), override]))
    except (ConfigError, HydraException, OmegaConfBaseException, ValueError):
        return False
    return True


def _of_needless_plus(key: str, overrides: Sequence[str], error: Exception) -> str:
    del error
    written = next((item for item in overrides if item.lstrip("+").partition("=")[0] == key), f"{key}=…")
    return f"`{key}` is in the configuration already; leave out the plus: {written.lstrip('+')}"


def _of_wrong_value(override: str, overrides: Sequence[str], error: Exception) -> str:
    key, _, value = override.lstrip("+~").partition("=")
    cause = str(error.__cause__ or "").partition("\n")[0]
    kind = next((words for said, words in _KINDS.items() if said in cause), None)
    if "of type 'dict'" in cause or "Key '" in cause:
        return said_unknown(key, _content(overrides))
    if "is not Optional" in cause:
        return f"`{key}` must have a value, got {value}; leave it out for the one that conf/train.yaml gives"
    return f"`{key}` must be {kind}, got {value}" if kind else f"`{key}`: {cause}, got {value}"


def _of_null_group(_: str, overrides: Sequence[str], error: Exception) -> str:
    for item in overrides:
        key, _, value = item.lstrip("+~").partition("=")
        if item.startswith("~") and key in _groups():
            return f"`{item}` cannot be left out like this; choose what stays: {key}=…, or leave out one: ~{key}.<name>"
        if key in _groups() and _NOT_A_WORD.fullmatch(value):
            return f"`{key}` {demand(key)}, got {value or 'nothing'}"
    return _one_line(str(error))


def _content(overrides: Sequence[str]) -> dict[str, Any]:
    """What the choices of groups among `overrides` give, in plain containers: the keys that there are."""
    for chosen in (list(filter(_is_choice, overrides)), []):
        try:
            return dict(plain(_composed(chosen)))
        except (HydraException, OmegaConfBaseException, ValueError):
            continue
    return {}


def _composed(overrides: Sequence[str]) -> DictConfig:
    firsts = [item if "[" in item else item.partition(",")[0] for item in overrides]
    return composed_train(firsts, with_hydra=True)


def _is_choice(override: str) -> bool:
    key = override.partition("=")[0]
    return key in _groups() or key.startswith("hydra/") or key == "hydra.searchpath"


_EXPLAINED: Sequence[tuple[str, Callable[[str, Sequence[str], Exception], str]]] = (
    (r"Could not (?:override|delete from config\.|delete) '([^']+)'", _of_unknown_key),
    (r"(?:An item is already at '|Multiple values for )([\w./@]*\w)", _of_needless_plus),
    (r"Error merging override (.*)", _of_wrong_value),
    (rf"({_NOT_A_NAME})", _of_null_group),
)
"""What Hydra 1.3 says, and who says it better."""
