"""Keys of the configuration held against what reads them: the root's schema, and the constructors that groups name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import SequenceMatcher
from itertools import chain
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gradhorizon.config import ConfigError, RunConfig
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.machine.signatures import Signature, find_signature

MODEL_KEYS = ("label", "color", "marker", "cell", "bidirectional", "readout", "encoder")
"""What is read of a model: it is no constructor's node, but says how a network is put together."""

_OF_INSTANTIATE = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")
_SUPPLIED: Mapping[str, tuple[str, ...]] = {
    "model.cell": ("input_size",),
    "model.cell.initialization": ("cell",),
    "model.encoder": ("input_size",),
    "model.readout": ("num_features", "output_size"),
    "optimizer": ("params",),
}
"""Arguments that the run itself hands over when it builds what a node describes."""

_FOR_THOSE_THAT_TAKE_IT = ("model.cell.hidden_size", "${hidden_size}")
"""A key and its value in the file for modules from elsewhere, which is left out where the class does not take it."""

_NEIGHBOUR = 0.2  # what a key beside the unknown one is ahead of others
_SCALAR = re.compile(r"(int|float|bool|str|None|Tensor|[| ])+")


def check_keys(cfg: DictConfig) -> None:
    """Refuse keys that nothing reads, which would change a run's name and nothing else.

    Args:
        cfg: the composed configuration; nothing of it needs to be resolved or complete.

    Raises:
        ConfigError: a key that is not in the root's schema, or no argument of the class that its node names.
    """
    content = {name: plain(cfg._get_node(name)) for name in map(str, cfg) if name != "hydra"}  # noqa: SLF001
    whole: Any = cfg if "hydra" in cfg else HydraConfig.instance().cfg
    hydra = whole.hydra if whole is not None else None
    for unknown in chain(_unknown(content), _unknown_of_hydra(hydra, "hydra")):
        raise ConfigError(said_unknown(unknown, content | {"hydra": plain(hydra)}))


def plain(node: Any) -> Any:
    """A configuration in plain containers, nothing of it resolved.

    Args:
        node: the configuration, or a value of it.
    """
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def _unknown(content: Mapping[str, Any]) -> Iterator[str]:
    for name, node in content.items():
        if name == "hydra":
            continue
        if name not in RunConfig.__dataclass_fields__:
            yield name
        elif name == "measurement" and isinstance(node, dict):
            yield from _unknown_measurements(node)
        else:
            yield from _unknown_below(node, name)


def _unknown_measurements(nodes: Mapping[str, Any]) -> Iterator[str]:
    for key, node in nodes.items():
        if isinstance(node, dict) and node and "_target_" not in node:  # settings of one that was not chosen
            yield f"measurement.{key}.{next(iter(node))!s}"
        else:
            yield from _unknown_below(node, f"measurement.{key}")


def _unknown_below(node: Any, at: str) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _unknown_below(item, at)
    if not isinstance(node, dict):
        return
    annotations, takes_anything = _taken(node, at)
    for key, value in node.items():
        path = f"{at}.{key}"
        if not takes_anything and key not in annotations:
            if (path, value) != _FOR_THOSE_THAT_TAKE_IT:
                yield path
        elif isinstance(value, dict) and value and _is_value(path, annotations.get(key, "")):
            yield f"{path}.{next(iter(value))!s}"
        else:
            yield from _unknown_below(value, path)


def _is_value(path: str, annotation: str) -> bool:
    return path in ("model.label", "model.color", "model.marker") or bool(_SCALAR.fullmatch(annotation))


def _taken(node: Mapping[str, Any], at: str) -> tuple[Mapping[str, str], bool]:
    """What may stand in a node, with annotations, and whether anything may."""
    if at == "model":
        return dict.fromkeys(MODEL_KEYS, ""), False
    target = node.get("_target_")
    signature = find_signature(target) if isinstance(target, str) else None
    if signature is None:  # a plain mapping, or what cannot be imported, which is said where it is built
        return {}, True
    own = [name for name in _OF_INSTANTIATE if name != "_partial_" or not _is_built_at_once(at)]
    return {**dict.fromkeys(own, ""), **_configurable(signature, at)}, signature.takes_anything


def _is_built_at_once(at: str) -> bool:
    return at in ("task", "trainer", "logger") or (at.startswith("measurement.") and at.count(".") == 1)


def _configurable(signature: Signature, at: str) -> dict[str, str]:
    return {name: words for name, words in signature.annotations.items() if name not in _SUPPLIED.get(at, ())}


def _unknown_of_hydra(node: Any, at: str) -> Iterator[str]:
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():  # noqa: SLF001
        return
    schema = OmegaConf.get_type(node)
    known = {item.name for item in fields(schema)} if schema is not None and is_dataclass(schema) else None
    for key in map(str, node):
        path = f"{at}.{key}"
        if known is not None and key not in known and path != "hydra.env":  # where Hydra itself adds one
            yield path
        else:
            yield from _unknown_of_hydra(node._get_node(key), path)  # noqa: SLF001


def said_unknown(path: str, content: Mapping[str, Any]) -> str:
    """One line about a key that nothing reads.

    Args:
        path: the key, dotted.
        content: a configuration in plain containers, for the keys that there are.
    """
    parent, at = _deepest(path, content)
    above, _ = _deepest(at, content)
    name = path[len(at) + 1 if at else 0 :].partition(".")[0]
    target = parent.get("_target_") if isinstance(parent, dict) and at != "model" else None
    annotations = _taken(above, at.rpartition(".")[0])[0] if isinstance(above, dict) else {}
    if not isinstance(parent, dict) or _is_value(at, annotations.get(at.rpartition(".")[2], "")):
        return f"`{path}` is no key: `{at}` is a value, with none below it; write {at}=…"
    if path.startswith("measurement.") and not isinstance(target, str):
        return _said_unchosen(path)
    if name in _SUPPLIED.get(at, ()):
        return f"`{path}` cannot be set: the run itself hands `{name}` over when it builds `{at}`; leave it out"
    path = f"{at}.{name}".lstrip(".")  # nothing below it is known either
    owner = f"no argument of {target}" if isinstance(target, str) else "no key of the configuration"
    if _is_referred(path, content):
        return f"`{path}` is {owner}; leave it out: ~{path}"
    known = [key for key in all_paths(content) if not _is_at_or_below(key, path) and not _is_at_or_below(path, key)]
    if isinstance(target, str):
        known = [key for key in known if _is_at_or_below(key, at) or key.rpartition(".")[2] == name]
    if not known:
        return f"`{path}` is {owner}, which takes none; leave it out"
    close = nearest(path, known)
    plus = "" if _is_there(close, content) else f", to be added with a plus: +{close}=…"
    return f"`{path}` is {owner}; the nearest is `{close}`{plus}"


def _said_unchosen(path: str) -> str:
    name, names = path.split(".")[1], sorted(file.stem for file in (CONF_DIR / "measurement").glob("*.yaml"))
    close = nearest(name, names)
    words = "is of a measurement that is not chosen" if close == name else f"is of none; the nearest is `{close}`"
    return f"`{path}` {words}; choose it: 'measurement=[{close}]', with others if you like"


def _is_at_or_below(key: str, other: str) -> bool:
    return f"{key}.".startswith(f"{other}.")


def _deepest(path: str, content: Mapping[str, Any]) -> tuple[Any, str]:
    """The deepest node on the way to `path`, short of its own, and that node's key."""
    node: Any = content
    at: list[str] = []
    for name in path.split(".")[:-1]:
        if not isinstance(node, Mapping) or name not in node:
            break
        node = node[name]
        at.append(name)
    return node, ".".join(at)


def _is_referred(path: str, content: Mapping[str, Any]) -> bool:
    """Whether a file hands a value of the root on, as the templates for classes of one's own do."""
    parent, at = _deepest(path, content)
    value = parent.get(path[len(at) + 1 :]) if isinstance(parent, Mapping) else None
    return at != "" and isinstance(value, str) and value.startswith("${")


def _is_there(path: str, content: Mapping[str, Any]) -> bool:
    parent, at = _deepest(path, content)
    return isinstance(parent, Mapping) and path[len(at) + 1 if at else 0 :] in parent


def all_paths(content: Any, at: str = "") -> list[str]:
    """Every key that can be set, dotted: those of the configuration, and arguments that their classes take.

    Args:
        content: a configuration in plain containers, or a node of it.
        at: the node's own key.
    """
    if not isinstance(content, dict):
        return []
    target = content.get("_target_")
    signature = find_signature(target) if isinstance(target, str) else None
    names = [*map(str, content), *(_configurable(signature, at) if signature is not None else ())]
    found = []
    for name in dict.fromkeys(name for name in names if name not in _OF_INSTANTIATE):
        path = f"{at}.{name}".lstrip(".")
        found += [path, *all_paths(content.get(name), path)]
    roots = (*RunConfig.__dataclass_fields__, "hydra")
    return found if at else [path for path in found if path.partition(".")[0] in roots]


def nearest(word: str, known: Iterable[str]) -> str:
    """Whichever of `known` is most like `word`; capitals do not matter.

    Whole paths are compared, and their last parts, so that a key that stands elsewhere is found; one beside `word` wins
    over others that are about as like.

    Args:
        word: a key or a name.
        known: those that there are, at least one.

    Example:
        >>> nearest("num_step", ["num_seeds", "num_steps", "optimizer.momentum"])
        'num_steps'
        >>> nearest("momentun", ["num_seeds", "num_steps", "optimizer.momentum"])
        'optimizer.momentum'
    """
    return max(known, key=lambda one: _likeness(word.lower(), one.lower()))


def _likeness(one: str, other: str) -> float:
    (parent, _, leaf), (other_parent, _, other_leaf) = one.rpartition("."), other.rpartition(".")
    whole = SequenceMatcher(a=one, b=other).ratio() if parent != other_parent else 0.0
    return max(whole, SequenceMatcher(a=leaf, b=other_leaf).ratio()) + _NEIGHBOUR * (parent == other_parent)
