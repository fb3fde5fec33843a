"""What `gradhorizon-measure` may build of a run that somebody else has trained: classes of known kinds, and no more.

A configuration names what it builds by import paths, and to import or to call one can do anything at all. So each
``_target_`` is held to its kind before it is imported: gradhorizon's own classes, `torch.nn` modules, `torch.optim`
optimizers, and those of packages that the user trusts. A path is the name of a class in a module and never leads
through another module (``gradhorizon.cells.lstm.torch.load``); what it names must be defined below where it was found.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from gradhorizon.config import ConfigError
from gradhorizon.records.configurations import interpolations
from gradhorizon.terminal.words import one_line

_TARGET = "_target_"
_OF_THIS_LAUNCH = ("measurement", "logger", "plan")
_LOOKS_UP = "hydra.utils.get_class"
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")
_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_MOST_SHOWN = 100


@dataclass(frozen=True)
class _Kind:
    """What a key may build.

    Attributes:
        words: for people.
        packages: where it is defined.
        base: import path of the class that it derives from.
        has_functions: functions are let pass, too.
    """

    words: str
    packages: tuple[str, ...]
    base: str = ""
    has_functions: bool = False


_CELL = _Kind("a cell of gradhorizon.cells", ("gradhorizon.cells",), "gradhorizon.cells.cell.Layer")
_INITIALIZATION = _Kind("an initialisation of gradhorizon.cells", ("gradhorizon.cells",), has_functions=True)
_READOUT = _Kind("a readout of gradhorizon.readouts", ("gradhorizon.readouts",), "torch.nn.Module")
_MODULE = _Kind("a torch.nn module", ("torch.nn.modules",), "torch.nn.Module")
_ENCODER = _Kind("an encoder of gradhorizon.network", ("gradhorizon.network",), "torch.nn.Module")
_TASK = _Kind("a task of gradhorizon.tasks", ("gradhorizon.tasks",), "gradhorizon.tasks.task.Task")
_OPTIMIZER = _Kind("a torch.optim optimizer", ("torch.optim",), "torch.optim.Optimizer")
_SETTINGS = _Kind("gradhorizon.config.TrainerSettings", ("gradhorizon.config",), "gradhorizon.config.TrainerSettings")

_ALLOWED: Mapping[str, tuple[_Kind, ...]] = {
    "model.cell": (_CELL, _MODULE),
    "model.readout": (_READOUT, _MODULE),
    "model.encoder": (_ENCODER, _MODULE),
    "model": (_INITIALIZATION, _CELL, _READOUT, _MODULE),
    "task": (_TASK,),
    "optimizer": (_OPTIMIZER,),
    "trainer": (_SETTINGS,),
}
"""Key -> what may be built there; of a key that lies deeper, its group's."""

_OFFERED_BY = {"torch.nn.modules": "torch.nn"}
_NEVER = frozenset({"torch", "hydra", "gradhorizon"}) | sys.stdlib_module_names
_OF_TORCH = ("torch.nn.", "torch.optim.")


def check_prefixes(trusted: Sequence[str]) -> None:
    """Refuse what is no name of a package.

    Args:
        trusted: as the user typed them.

    Raises:
        ConfigError: one is no name, or is too wide: to trust all of torch is to trust its `torch.load`.
    """
    for prefix in trusted:
        if not _PREFIX.fullmatch(prefix):
            raise ConfigError(f"--trust must name a package, such as my_package, got {prefix!r}")
        if not _can_be_trusted(prefix):
            raise ConfigError(f"--trust must name a package of yours, got {prefix}, which can run whatever it is given")


def _can_be_trusted(prefix: str) -> bool:
    return prefix.partition(".")[0] not in _NEVER or any(f"{prefix}.".startswith(name) for name in _OF_TORCH)


def with_recorded(composed: DictConfig, recorded: Mapping[str, Any], trusted: Sequence[str] = ()) -> DictConfig:
    """A configuration with what a run was trained with, but for its measurements and its logger.

    Args:
        composed: by the user.
        recorded: by the run, as plain data.
        trusted: see `check_trusted`.

    Raises:
        ConfigError: it would build what is not trusted.
        OmegaConfBaseException: it has keys that no configuration has.
    """
    taken = {name: value for name, value in recorded.items() if name not in _OF_THIS_LAUNCH}
    check_trusted(taken, trusted)
    found = composed.copy()
    for name, value in taken.items():
        found[name] = value
    return found


def check_trusted(config: Mapping[str, Any], trusted: Sequence[str] = ()) -> None:
    """Refuse a configuration that would build something of no allowed kind, or that would be looked up elsewhere.

    Args:
        config: of a run, as plain data.
        trusted: packages, or modules, whose classes and functions are let pass.

    Raises:
        ConfigError: which key, what it asks for, what is allowed.
    """
    for group, node in config.items():
        found = interpolations(node, str(group)) + interpolations(group, "a key")
        if found:
            raise ConfigError(
                f"`{found[0][:_MOST_SHOWN]}` of the run's configuration must be plain data, got an interpolation "
                "(${…}), which no run has recorded; nothing was looked up for it"
            )
        for key, parent in _targets(node, str(group)):
            _check(key, parent, trusted)


def _targets(node: Any, at: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node at or below `node` that names something to import, with its key."""
    if isinstance(node, dict):
        if _TARGET in node:
            yield at, node
        for key, value in node.items():
            yield from _targets(value, f"{at}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _targets(value, f"{at}[{index}]")


def _check(key: str, node: Mapping[str, Any], trusted: Sequence[str]) -> None:
    target = node[_TARGET]
    if target == _LOOKS_UP and node.keys() == {_TARGET, "path"}:  # which imports a class, and calls nothing
        target = node["path"]
    kinds = _kinds(key)
    if not isinstance(target, str) or not _PATH.fullmatch(target):
        raise _refusal(key, target, kinds, "is no import path")
    package = target.partition(".")[0]
    own = next((prefix for prefix in trusted if target.startswith(f"{prefix}.")), None)
    if own is not None:
        found = _found(key, target, kinds)
        if not _is_defined_in(found, (own,)):
            where = getattr(found, "__module__", None) or "nowhere"
            raise _refusal(key, target, kinds, f"is no class or function that is defined in {own}, but in {where}")
        return
    near = [kind for kind in kinds if any(_leads_to(target, place) for place in kind.packages)]
    if not near:
        raise _refusal(key, target, kinds, package=package)
    found = _found(key, target, kinds)
    if not any(_is(found, kind) for kind in near):
        raise _refusal(key, target, kinds)


def _kinds(key: str) -> tuple[_Kind, ...]:
    return _ALLOWED.get(key) or _ALLOWED.get(re.split(r"[.\[]", key, maxsplit=1)[0], ())


def _leads_to(target: str, package: str) -> bool:
    return target.startswith(f"{package}.") or target.rpartition(".")[0] == _OFFERED_BY.get(package)


def _found(key: str, target: str, kinds: Sequence[_Kind]) -> Any:
    """What a path names: something in a module, not in something that a module holds."""
    module, _, name = target.rpartition(".")
    try:
        return vars(importlib.import_module(module))[name]
    except Exception as error:
        words = f"cannot be imported ({type(error).__name__}: {one_line(error)[:_MOST_SHOWN]})"
        raise _refusal(key, target, kinds, words) from error


def _is(found: Any, kind: _Kind) -> bool:
    if not _is_defined_in(found, kind.packages):
        return False
    if not inspect.isclass(found):
        return kind.has_functions
    if not kind.base:
        return False
    module, _, name = kind.base.rpartition(".")
    return issubclass(found, getattr(importlib.import_module(module), name))


def _is_defined_in(found: Any, packages: Sequence[str]) -> bool:
    module = getattr(found, "__module__", None)
    is_of_kind = inspect.isclass(found) or inspect.isfunction(found)
    return is_of_kind and any(module == name or str(module).startswith(f"{name}.") for name in packages)


def _refusal(key: str, target: Any, kinds: Sequence[_Kind], fact: str = "", package: str = "") -> ConfigError:
    allowed = " or ".join(kind.words for kind in kinds) or "plain data"
    remedy = f"; if you trust its package, --trust {package}" if package and _can_be_trusted(package) else ""
    return ConfigError(
        f"`{key[:_MOST_SHOWN]}.{_TARGET}` of the run's configuration must be {allowed}, "
        f"got {str(target)[:_MOST_SHOWN]!r}{fact and f', which {fact}'}; nothing of it was run{remedy}"
    )
