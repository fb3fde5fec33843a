"""What the curves of one label are told apart by: the settings in which their runs differ, in short words.

A run whose model differs from what its shipped label stands for is named with the difference, even when it is alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gradhorizon.analysis.reading.configurations import configuration
from gradhorizon.composition.shipped_models import shipped_settings
from gradhorizon.composition.variants import TELL_NO_RUN
from gradhorizon.records.launches import launches_of
from gradhorizon.records.sheets import read_member_sheet, read_run_sheet

Flat = dict[str, Any]
"""Dotted key -> value of a configuration; a node that builds something stands under its own key."""

MAX_VALUE_CHARACTERS = 24


class ImportPath(str):
    """What a node builds: its last part is what people call it."""

    __slots__ = ()


_NOT_TOLD = ("model.label", "model.color", "model.marker")
_SHORT = {"learning_rate": "lr"}
_LOOKS_UP = "hydra.utils.get_"
_ABSENT = "default"
_RECORDED = ("hidden_size", "clip_norm", "num_steps")


def printable(text: str) -> str:
    r"""`text` with characters spelled out that no page, file or terminal should be given; quotes if it is blank.

    Spelled out are control characters, lone surrogates, line separators, and marks that turn the direction of what
    follows.

    Args:
        text: a label, as a stranger may have written it.

    Example:
        >>> printable("a\x1b[31mb"), printable("größer")
        ('a\\u001b[31mb', 'größer')
    """
    if not text.strip():
        return repr(text)
    return "".join(f"\\u{ord(letter):04x}" if _is_unprintable(letter) else letter for letter in text)


def _is_unprintable(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _TURNING


_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def series_names(members: pd.DataFrame) -> pd.Series:
    """The name of every member's curve: its model's label, and in brackets what tells it from others of that label.

    Args:
        members: as `gradhorizon.records.reading.Runs.members`.
    """
    groups = [_of_one_label(str(label), group) for label, group in members.groupby("model", sort=False)]
    return pd.concat(groups).reindex(members.index)


def _of_one_label(label: str, group: pd.DataFrame) -> pd.Series:
    first = group.drop_duplicates("identity").set_index("identity")
    flat = {str(identity): _settings(row) for identity, row in first.iterrows()}
    cells = [list(cell["identity"].astype(str)) for _, cell in first.reset_index().groupby(["task", "seq_len"])]
    changed = {key for identity, row in first.iterrows() for key in _changed(label, row, flat[str(identity)])}
    words = variant_words(flat, cells, changed)
    names = {identity: f"{label} ({said})" if said else label for identity, said in words.items()}
    return group["identity"].map(names)


def _settings(row: pd.Series) -> Flat:
    config = configuration(Path(row["folder"]).parent)
    found = flattened({key: value for key, value in config.items() if key not in TELL_NO_RUN})
    recorded = {name: row[name] for name in _RECORDED if name not in found}
    found |= {name: None if pd.isna(value) else value for name, value in recorded.items()}
    found["device"] = _device(Path(row["folder"])) or found.get("device")
    return {key: value for key, value in found.items() if key not in _NOT_TOLD}


def _device(member: Path) -> str:
    """Kind of the device that ``auto`` stood for; empty if no launch says."""
    launches = [*launches_of(read_run_sheet(member.parent)), *launches_of(read_member_sheet(member))]
    return next((str(one["device"]).partition(":")[0] for one in launches if one.get("device")), "")


def _changed(label: str, row: pd.Series, found: Flat) -> Iterator[str]:
    """Keys of a shipped label's own settings that are not what its file says, where the run kept its configuration."""
    config = configuration(Path(row["folder"]).parent)
    scalars = {key: value for key, value in config.items() if not isinstance(value, dict | list)}
    if "model" in config:
        shipped = flattened(shipped_settings(label, scalars))
        for key in [*found, *(key for key in shipped if key not in found)]:
            is_own = key in shipped or (key.startswith("model.") and shipped)
            is_of_another = key not in found and any(_value(found, at) != _value(shipped, at) for at in _parents(key))
            is_told = is_own and key not in _NOT_TOLD and not is_of_another
            if is_told and _value(found, key) != _value(shipped, key):
                yield key


def flattened(node: Any, prefix: str = "") -> Flat:
    """Every setting below `node` by its dotted key; what a node builds stands under the key of the node.

    Args:
        node: plain containers and scalars.
        prefix: its own key.

    Example:
        >>> flattened({"optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}})
        {'optimizer': 'torch.optim.SGD', 'optimizer.lr': 0.1}
    """
    if not isinstance(node, dict) or not node:
        return {prefix: node} if prefix else {}
    target = node.get("_target_")
    if isinstance(target, str) and target.startswith(_LOOKS_UP):
        return {prefix: ImportPath(node.get("path"))}
    found: Flat = {prefix: ImportPath(target)} if target is not None else {}
    for key, value in node.items():
        if key not in ("_target_", "_partial_", "_convert_", "_recursive_"):
            found |= flattened(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def variant_words(
    flat: Mapping[str, Flat], cells: Iterable[Sequence[str]], changed: Iterable[str] = ()
) -> dict[str, str]:
    """What each configuration is called beside the others: ``lr=0.01 clip_norm=1``, empty where nothing differs.

    Args:
        flat: identity -> settings.
        cells: identities that share a task and a length, and so a panel.
        changed: keys that are said whether they differ or not.

    Example:
        >>> variant_words({"a": {"learning_rate": 0.1}, "b": {"learning_rate": 0.01}}, [["a", "b"]])
        {'a': 'lr=0.1', 'b': 'lr=0.01'}
    """
    cells, changed = [list(cell) for cell in cells], set(changed)
    order = list(dict.fromkeys(key for settings in flat.values() for key in settings))
    varied = {key for cell in cells for key in _varied([flat[identity] for identity in cell], order)} - changed
    implied = {key for key in varied if _follows(key, flat, varied | changed)}
    told = [key for key in [*order, *sorted(changed - set(order))] if key in (varied - implied) | changed]
    names, values = short_keys(told), {key: _short_values(key, flat) for key in told}
    words = {
        identity: " ".join(
            f"{names[key]}={values[key][_spelled(settings[key]) if key in settings else _ABSENT]}"
            for key in told
            if key in settings or not _belongs_elsewhere(key, settings, flat)
        )
        for identity, settings in flat.items()
    }
    return _made_unique(words, cells)


def _varied(settings: Sequence[Flat], order: Sequence[str]) -> list[str]:
    return [key for key in order if len({_value(one, key) for one in settings}) > 1]


def _value(settings: Flat, key: str) -> str:
    return _spelled(settings[key]) if key in settings else _ABSENT


def _follows(key: str, flat: Mapping[str, Flat], told: set[str]) -> bool:
    """Whether another key says the same: a root scalar that it copies, or what is built above it."""
    last = _SHORT.get(key.rpartition(".")[2], key.rpartition(".")[2])
    for other in told - {key}:
        is_root = "." not in other and "." in key and last in (other, _SHORT.get(other))
        if is_root and all(_value(one, key) in (_value(one, other), _ABSENT) for one in flat.values()):
            return True
        if key.startswith(f"{other}.") and _is_function_of(key, other, flat):
            return True
    return False


def _is_function_of(key: str, other: str, flat: Mapping[str, Flat]) -> bool:
    pairs = {(_value(one, other), _value(one, key)) for one in flat.values()}
    return len(pairs) == len({value for value, _ in pairs})


def _belongs_elsewhere(key: str, settings: Flat, flat: Mapping[str, Flat]) -> bool:
    """Whether an absent key is an argument of something that is not built here."""
    above = [parent for parent in _parents(key) if any(parent in one for one in flat.values())]
    owners = [one for one in flat.values() if key in one]
    return bool(owners) and any(
        all(_value(settings, parent) != _value(one, parent) for one in owners) for parent in above
    )


def _parents(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Each key's shortest ending that no other key shares.

    Args:
        keys: dotted keys.

    Example:
        >>> short_keys(["model.cell.gain", "optimizer.momentum", "task.gain"])
        {'model.cell.gain': 'cell.gain', 'optimizer.momentum': 'momentum', 'task.gain': 'task.gain'}
    """
    return {key: _SHORT.get(key, _shortest(key, [other for other in keys if other != key])) for key in keys}


def _shortest(key: str, others: Sequence[str]) -> str:
    parts = key.split(".")
    endings = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
    taken = [f".{_SHORT.get(other, other)}" for other in others]
    return next((ending for ending in endings if not any(f"{other}".endswith(f".{ending}") for other in taken)), key)


def _short_values(key: str, flat: Mapping[str, Flat]) -> dict[str, str]:
    """Full spelling -> a short one that no other value of the key has."""
    spelled = dict.fromkeys(_value(one, key) for one in flat.values())
    is_path = any(isinstance(one.get(key), ImportPath) for one in flat.values())
    for shorten in (*((_last_part,) if is_path else ()), _head, _tail):
        short = {value: shorten(value) for value in spelled}
        if len(set(short.values())) == len(short) and all(len(one) <= MAX_VALUE_CHARACTERS for one in short.values()):
            return short
    return {value: _around_the_difference(value, list(spelled)) for value in spelled}


def _last_part(value: str) -> str:
    return value.rpartition(".")[2]


def _head(value: str) -> str:
    return value if len(value) <= MAX_VALUE_CHARACTERS else f"{value[: MAX_VALUE_CHARACTERS - 1]}…"


def _tail(value: str) -> str:
    return value if len(value) <= MAX_VALUE_CHARACTERS else f"…{value[1 - MAX_VALUE_CHARACTERS :]}"


def _around_the_difference(value: str, values: Sequence[str]) -> str:
    others = [other for other in values if other != value]
    start = min((_common(value, other) for other in others), default=0)
    end = max((_common(value, other) for other in others), default=0) + 1
    cut = value[max(start - 2, 0) : max(end, start + MAX_VALUE_CHARACTERS - 4)]
    return f"{'…' if start > 2 else ''}{cut}{'…' if value and not value.endswith(cut) else ''}"  # noqa: PLR2004


def _common(first: str, second: str) -> int:
    pairs = zip(first, second, strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _spelled(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_spelled(one)}' for key, one in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(_spelled, value))}]"
    return printable(" ".join(str(value).split()))


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _made_unique(words: dict[str, str], cells: Iterable[Sequence[str]]) -> dict[str, str]:
    """`words`, with the identity where nothing that can be read tells two configurations of a panel apart."""
    unclear = {
        identity for cell in cells for identity in cell if sum(words[other] == words[identity] for other in cell) > 1
    }
    return {
        identity: " ".join(filter(None, [said, identity[:6] if identity in unclear else ""]))
        for identity, said in words.items()
    }
