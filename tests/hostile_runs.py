"""Run folders as a stranger could hand them over: what each holds that no run of ours does."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from gradhorizon.records.layout import (
    CONFIG,
    FAILURE,
    KEPT,
    LOCK,
    LOG,
    MEMBER_SHEET,
    OUTPUT,
    RUN_SHEET,
    SWEEPS,
    member_folder,
    owner_path,
    table_path,
)
from tests.records_on_disk import relist, rewrite_config

SECRET = "a-secret-of-the-environment"  # noqa: S105, it is none
"""What an environment variable holds that no program may show."""

ESCAPE = "\x1b[31mred"
"""What no program may send to a terminal."""

DEEP = 200_000
Change = Callable[[Path, Path], None]
Named = tuple[str, Change]


class Payload:
    """What runs a command when it is unpickled.

    Args:
        sentinel: the file that the command makes.
    """

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sentinel,)


def sentinel_of(outside: Path) -> Path:
    """The file that is there once something was executed."""
    return outside.with_name("executed")


def files_of_a_run(run: Path) -> dict[str, Path]:
    member = member_folder(run, 0)
    return {
        RUN_SHEET: run / RUN_SHEET,
        CONFIG: run / CONFIG,
        LOG: run / LOG,
        FAILURE: run / FAILURE,
        MEMBER_SHEET: member / MEMBER_SHEET,
        "a claim": owner_path(member, 999),
        "the lock": member / LOCK,
        "a table": table_path(member, "metrics"),
        "a kept checkpoint": member / KEPT / "last.pt",
        "a sweep": run.parent / SWEEPS / "0123456789ab.json",
        "the launcher's output": run / OUTPUT,
    }


def with_content(name: str, content: bytes) -> Change:
    def change(run: Path, _: Path) -> None:
        path = _cleared(files_of_a_run(run)[name])
        path.write_bytes(content)
        if name == CONFIG:
            rewrite_config(run, content)

    return change


def _cleared(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


def with_pipe(name: str) -> Change:
    return lambda run, _: os.mkfifo(_cleared(files_of_a_run(run)[name]))


def with_folder(name: str) -> Change:
    return lambda run, _: _cleared(files_of_a_run(run)[name]).mkdir()


def with_link(name: str, is_dangling: bool = False) -> Change:
    """A link to a file outside, which holds what the file held."""

    def change(run: Path, outside: Path) -> None:
        path = files_of_a_run(run)[name]
        target = outside / f"target of {path.name}"
        if not is_dangling:
            target.write_bytes(path.read_bytes() if path.is_file() else b"{}")
        _cleared(path).symlink_to(target)

    return change


def with_folder_out(*parts: str) -> Change:
    """A folder of the run that is a link to one outside with the same content."""

    def change(run: Path, outside: Path) -> None:
        path = run.joinpath(*parts)
        shutil.move(path, outside / path.name)
        path.symlink_to(outside / path.name)

    return change


def _edited(name: str, edit: Callable[[dict[str, Any], Path], None]) -> Change:
    def change(run: Path, outside: Path) -> None:
        path = files_of_a_run(run)[name]
        load, dump = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
        content = load(path.read_text(encoding="utf-8"))
        edit(content, sentinel_of(outside))
        content.pop("digest", None)  # a stranger's digests are as right as anybody's
        path.write_text(dump(content), encoding="utf-8")
        if name == CONFIG:
            rewrite_config(run, dump(content))

    return change


def with_value(name: str, key: str, value: Any) -> Change:
    def edit(content: dict[str, Any], _: Path) -> None:
        *folders, last = key.split(".")
        for folder in folders:
            content = content.setdefault(folder, {})
        content[last] = value

    return _edited(name, edit)


def with_targets(target: str, **arguments: Any) -> list[tuple[str, Change]]:
    """One class or function that a stranger would like to be called, wherever a configuration names one."""

    def change_at(place: str) -> Change:
        def edit(content: dict[str, Any], sentinel: Path) -> None:
            pickled = sentinel.with_name("payload.pkl")
            pickled.write_bytes(pickle.dumps(Payload(sentinel)))
            node: Any = content
            for key in place.split(".")[:-1]:
                node = node.setdefault(key, {})
            known = {"PICKLE": str(pickled), "TOUCH": f"touch {sentinel}", "PYTHON": f"open({str(sentinel)!r}, 'w')"}
            node[place.rsplit(".", maxsplit=1)[-1]] = {
                "_target_": target,
                **{key: known.get(str(value), value) for key, value in arguments.items()},
            }

        return _edited(CONFIG, edit)

    places = ("model.cell", "task", "optimizer", "measurement.gates", "logger", "model.readout", "model.cell.extra")
    return [(f"{target} as {place}", change_at(place)) for place in places]


def with_pickled_checkpoint(run: Path, outside: Path) -> None:
    for name in ("init.pt", "last.pt"):
        torch.save(
            {"network": Payload(sentinel_of(outside)), "step": 0, "phase": "init"}, member_folder(run, 0) / KEPT / name
        )
    relist(member_folder(run, 0))


def with_pickled_metadata(run: Path, outside: Path) -> None:
    path = table_path(member_folder(run, 0), "metrics")
    table = pq.read_table(path, partitioning=None)
    own = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Payload(sentinel_of(outside))),
    }
    fields = [field.with_metadata(own) if field.name == "value" else field for field in table.schema]
    pq.write_table(table.cast(pa.schema(fields)).replace_schema_metadata({"pandas": "[" * DEEP}), path)
    relist(member_folder(run, 0))


def renamed(name: bytes) -> Change:
    return lambda run, _: os.rename(os.fsencode(run), os.path.join(os.fsencode(run.parent), name))  # noqa: PTH104, PTH118


def without_rights(*parts: str) -> Change:
    return lambda run, _: run.joinpath(*parts).chmod(0)


def with_many_seeds(run: Path, _: Path) -> None:
    for seed in range(2, 10_000):
        member_folder(run, seed).mkdir()


def with_huge_seeds(run: Path, _: Path) -> None:
    for seed in (2**31 - 1, 2**63 - 1, 9_999_999_999):
        member_folder(run, seed).mkdir()


def with_file_for_folder(*parts: str) -> Change:
    def change(run: Path, _: Path) -> None:
        _cleared(run.joinpath(*parts)).write_bytes(b"a file")

    return change
