"""What comes of reading something: a value, to the bit, a refusal in words, or a traceback."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from gradhorizon.config import ConfigError
from gradhorizon.records.errors import RecordsError
from gradhorizon.runs.claims import Claim

Thunk = Callable[[], Any]
Reader = Callable[[Path, Sequence[int]], Iterator[tuple[str, Thunk]]]
"""Given a folder and the members to read, the things that are read, each with how."""


@dataclass(frozen=True)
class Outcome:
    """What one reader made of one thing that it reads.

    Attributes:
        kind: value, refused or traceback.
        digest: of the value, to the bit.
        words: what was said: the refusal, the traceback, or warnings and all texts within the value.
    """

    kind: str
    digest: str = ""
    words: str = ""


class Words(logging.Handler):
    """All that is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def outcomes(places: Mapping[str, Path], readers: Mapping[str, Reader], seeds: Sequence[int]) -> dict[str, Outcome]:
    """What the readers make of what lies there, by reader and thing.

    Args:
        places: ``run`` and ``experiment``: folders.
        readers: those to ask.
        seeds: members to read, where each is read by itself.
    """
    found: dict[str, Outcome] = {}
    for name, reader in readers.items():
        things = reader(places["experiment" if name == "status" else "run"], seeds)
        while True:
            label, thunk = next(things, ("", None))
            if thunk is None:
                break
            found[f"{name}: {label}"] = outcome(thunk)
    return found


def outcome(thunk: Thunk) -> Outcome:
    """What comes of one call."""
    heard = Words()
    root = logging.getLogger()
    root.addHandler(heard)
    try:
        value = thunk()
        words = "\n".join([*heard.said, *texts(value)])
        return Outcome("value", digest(value), words)
    except (RecordsError, ConfigError) as error:
        return Outcome("refused", words="\n".join([str(error), *heard.said]))
    except Exception as error:  # noqa: BLE001, that is what is looked for
        return Outcome("traceback", words=f"{type(error).__name__}: {error}")
    finally:
        root.removeHandler(heard)


def digest(value: Any) -> str:
    """Hexadecimal digits that stand for every bit of a value."""
    sha = hashlib.sha256()
    _feed(sha, value)
    return sha.hexdigest()[:24]


def _feed(sha: Any, value: Any) -> None:
    if isinstance(value, pd.DataFrame):
        for name in value.columns:
            _feed(sha, [str(name), str(value[name].dtype), value[name].to_numpy()])
    elif isinstance(value, torch.Tensor):
        _feed(sha, value.detach().cpu().numpy())
    elif isinstance(value, np.ndarray):
        sha.update(f"{value.dtype}{value.shape}".encode())
        sha.update(repr(value.tolist()).encode(errors="replace") if value.dtype == object else value.tobytes())
    elif isinstance(value, Mapping):
        _feed(sha, sorted(value.items(), key=lambda item: repr(item[0])))
    elif isinstance(value, list | tuple):
        sha.update(f"[{len(value)}".encode())
        for one in value:
            _feed(sha, one)
    elif dataclasses.is_dataclass(value):
        _feed(sha, vars(value))
    else:
        sha.update(f"{type(value).__name__} {value!r};".encode(errors="replace"))


def texts(value: Any) -> Iterator[str]:
    """The strings within plain data and dataclasses."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts(list(value.items()))
    elif isinstance(value, list | tuple | set | frozenset):
        for one in value:
            yield from texts(one)
    elif isinstance(value, Claim):
        yield value.place
    elif dataclasses.is_dataclass(value):
        yield from texts(vars(value))
