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
    RECORDS,
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

_DEEP = 200_000
_Change = Callable[[Path, Path], None]


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


def _files(run: Path) -> dict[str, Path]:
    member = member_folder(run, 0)
    return {
        RUN_SHEET: run / RUN_SHEET, CONFIG: run / CONFIG, LOG: run / LOG, FAILURE: run / FAILURE,
        MEMBER_SHEET: member / MEMBER_SHEET, "a claim": owner_path(member, 999), "the lock": member / LOCK,
        "a table": table_path(member, "metrics"), "a kept checkpoint": member / KEPT / "last.pt",
        "a sweep": run.parent / SWEEPS / "0123456789ab.json", "the launcher's output": run / OUTPUT,
    }  # fmt: skip


def _content(name: str, content: bytes) -> _Change:
    def change(run: Path, _: Path) -> None:
        path = _cleared(_files(run)[name])
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


def _fifo(name: str) -> _Change:
    return lambda run, _: os.mkfifo(_cleared(_files(run)[name]))


def _folder(name: str) -> _Change:
    return lambda run, _: _cleared(_files(run)[name]).mkdir()


def _link(name: str, is_dangling: bool = False) -> _Change:
    """A link to a file outside, which holds what the file held."""

    def change(run: Path, outside: Path) -> None:
        path = _files(run)[name]
        target = outside / f"target of {path.name}"
        if not is_dangling:
            target.write_bytes(path.read_bytes() if path.is_file() else b"{}")
        _cleared(path).symlink_to(target)

    return change


def _folder_out(*parts: str) -> _Change:
    """A folder of the run that is a link to one outside with the same content."""

    def change(run: Path, outside: Path) -> None:
        path = run.joinpath(*parts)
        shutil.move(path, outside / path.name)
        path.symlink_to(outside / path.name)

    return change


def _edited(name: str, edit: Callable[[dict[str, Any], Path], None]) -> _Change:
    def change(run: Path, outside: Path) -> None:
        path = _files(run)[name]
        load, dump = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
        content = load(path.read_text(encoding="utf-8"))
        edit(content, sentinel_of(outside))
        content.pop("digest", None)  # a stranger's digests are as right as anybody's
        path.write_text(dump(content), encoding="utf-8")
        if name == CONFIG:
            rewrite_config(run, dump(content))

    return change


def _set(name: str, key: str, value: Any) -> _Change:
    def edit(content: dict[str, Any], _: Path) -> None:
        *folders, last = key.split(".")
        for folder in folders:
            content = content.setdefault(folder, {})
        content[last] = value

    return _edited(name, edit)


def _targets(target: str, **arguments: Any) -> list[tuple[str, _Change]]:
    """One class or function that a stranger would like to be called, wherever a configuration names one."""

    def change_at(place: str) -> _Change:
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


def _pickled_checkpoint(run: Path, outside: Path) -> None:
    for name in ("init.pt", "last.pt"):
        torch.save(
            {"network": Payload(sentinel_of(outside)), "step": 0, "phase": "init"}, member_folder(run, 0) / KEPT / name
        )
    relist(member_folder(run, 0))


def _pickled_metadata(run: Path, outside: Path) -> None:
    path = table_path(member_folder(run, 0), "metrics")
    table = pq.read_table(path, partitioning=None)
    own = {b"ARROW:extension:name": b"arrow.py_extension_type",
           b"ARROW:extension:metadata": pickle.dumps(Payload(sentinel_of(outside)))}  # fmt: skip
    fields = [field.with_metadata(own) if field.name == "value" else field for field in table.schema]
    pq.write_table(table.cast(pa.schema(fields)).replace_schema_metadata({"pandas": "[" * _DEEP}), path)
    relist(member_folder(run, 0))


def _renamed(name: bytes) -> _Change:
    return lambda run, _: os.rename(os.fsencode(run), os.path.join(os.fsencode(run.parent), name))  # noqa: PTH104, PTH118


def _mode(*parts: str) -> _Change:
    return lambda run, _: run.joinpath(*parts).chmod(0)


def _many_seeds(run: Path, _: Path) -> None:
    for seed in range(2, 10_000):
        member_folder(run, seed).mkdir()


def _huge_seeds(run: Path, _: Path) -> None:
    for seed in (2**31 - 1, 2**63 - 1, 9_999_999_999):
        member_folder(run, seed).mkdir()


def _file_for_folder(*parts: str) -> _Change:
    def change(run: Path, _: Path) -> None:
        _cleared(run.joinpath(*parts)).write_bytes(b"a file")

    return change


_LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
_SHEETS = (RUN_SHEET, MEMBER_SHEET, FAILURE, "a claim", "a sweep")
_SPOILT = (*_SHEETS, CONFIG, LOG)


def collection() -> dict[str, list[tuple[str, _Change]]]:
    """Kind -> what is changed in a copy of a run, by name; a change is given the run and a folder outside it."""
    return {
        "deep or huge": [
            *((f"deep lists in {name}", _content(name, b"[" * _DEEP)) for name in _SHEETS),
            *((f"deep objects in {name}", _content(name, b'{"a":' * _DEEP + b"1" + b"}" * _DEEP)) for name in _SHEETS),
            *((f"a long number in {name}", _content(name, b'{"step": ' + b"9" * 10**6 + b"}")) for name in _SHEETS),
            (f"64 MiB in {RUN_SHEET}", _content(RUN_SHEET, b'{"run": "' + b"x" * 2**26 + b'"}')),
            (f"64 MiB in {CONFIG}", _content(CONFIG, b"a: " + b"x" * 2**26)),
            ("deep YAML", _content(CONFIG, b"[" * _DEEP)),
            ("YAML aliases", _content(CONFIG, _LAUGHS.encode())),
        ],
        "wants to be executed": [
            *_targets("pandas.read_pickle", filepath_or_buffer="PICKLE"),
            *_targets("torch.load", f="PICKLE", weights_only=False),
            *_targets("os.system", command="TOUCH"),
            *_targets("builtins.exec", source="PYTHON"),
            ("YAML that makes objects", _content(CONFIG, b"a: !!python/object/apply:os.system ['touch executed']\n")),
            ("pickles in checkpoints", _pickled_checkpoint),
            ("a pickle in a table's metadata", _pickled_metadata),
            ("interpolation of the environment", _set(CONFIG, "logger.project", "${oc.env:TORTURE_SECRET}")),
        ],
        "links out": [
            *((f"{name} is a link", _link(name)) for name in _files(Path())),
            *((f"{name} is a link to nothing", _link(name, is_dangling=True)) for name in (LOG, "the lock", FAILURE)),
            ("records are elsewhere", _folder_out("seed-0", RECORDS)),
            ("checkpoints are elsewhere", _folder_out("seed-0", KEPT)),
            ("a member is elsewhere", _folder_out("seed-0")),
        ],
        "pipes": [(f"{name} is a pipe", _fifo(name)) for name in _files(Path())],
        "folders for files": [
            *((f"{name} is a folder", _folder(name)) for name in _files(Path())),
            *((f"{'/'.join(parts)} is a file", _file_for_folder(*parts))
              for parts in (("seed-0",), ("seed-0", RECORDS), ("seed-0", KEPT), ("..", SWEEPS))),
        ],
        "other encodings": [
            *((f"no UTF-8 in {name}", _content(name, b'{"run": "\xff\xfe\x00"}')) for name in _SPOILT),
            *((f"UTF-16 in {name}", _content(name, '{"run": 1}'.encode("utf-16"))) for name in _SPOILT),
            ("no UTF-8 in a folder's name", _renamed(b"run\xff-0123456789")),
        ],
        "out of reach": [
            ("the run", _mode()), ("a member", _mode("seed-0")), ("records", _mode("seed-0", RECORDS)),
            (RUN_SHEET, _mode(RUN_SHEET)), (MEMBER_SHEET, _mode("seed-0", MEMBER_SHEET)),
        ],
        "many or odd seeds": [
            ("10 000 members", _many_seeds), ("members beyond any seed", _huge_seeds),
            *((f"seeds {words}", _set(RUN_SHEET, "launches", [{"seeds": seeds}])) for words, seeds in (
                ("as words", ["a"]), ("negative", [-1]), ("beyond", [10**300]), ("of nothing", None),
                ("by thousands", [*range(10_000)]),
                ("infinite", [float("inf")]), ("as floats", [0.5]))),
        ],
        "names": [
            ("control characters in a folder's name", _renamed(b"\x1b[31mred\n[bold]x[/bold]-0123456789")),
            *((f"{key} that would act", _set(RUN_SHEET, key, f"{ESCAPE}\n[link=x]<script>alert(1)</script>"))
              for key in ("model", "task", "experiment", "run", "variant", "color")),
            ("a reason that would act", _content(FAILURE, json.dumps({"reason": f"{ESCAPE}\n[bold]"}).encode())),
        ],
        "well-formed, wrong": [
            *((f"{key} of {name} is {value}", _set(name, key, value)) for name, key, value in (
                (RUN_SHEET, "chance", None), (RUN_SHEET, "launches", None), (RUN_SHEET, "launches", [None]),
                (RUN_SHEET, "outcomes", []), (RUN_SHEET, "outcomes", {"0": None}), (RUN_SHEET, "seq_len", "8"),
                (RUN_SHEET, "num_steps", float("nan")), (RUN_SHEET, "results_version", "2"), (RUN_SHEET, "identity", 5),
                (MEMBER_SHEET, "launch", None), (MEMBER_SHEET, "outcome", []), (MEMBER_SHEET, "outcome_step", None),
                (MEMBER_SHEET, "status", {}), (MEMBER_SHEET, "step", 10**400), (MEMBER_SHEET, "seed", 1),
                (MEMBER_SHEET, "measured_later", []), (CONFIG, "task", None), (CONFIG, "trainer", None),
                (CONFIG, "model", []), (CONFIG, "measurement", [1]), (CONFIG, "logger", {"tags": 3}))),
            *((f"{words} for {name}", _content(name, content)) for name in (*_SHEETS, CONFIG)
              for words, content in (("nothing", b""), ("null", b"null"), ("a list", b"[]"), ("a number", b"1e999"))),
        ],
    }  # fmt: skip
