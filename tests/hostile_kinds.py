"""What a stranger could hand over, kind by kind: names of changes, and what makes them in a copy of a run."""

from __future__ import annotations

import json
from pathlib import Path

from gradhorizon.records.layout import CONFIG, FAILURE, KEPT, LOG, MEMBER_SHEET, RECORDS, RUN_SHEET, SWEEPS
from tests.hostile_runs import (
    DEEP,
    ESCAPE,
    Named,
    files_of_a_run,
    renamed,
    with_content,
    with_file_for_folder,
    with_folder,
    with_folder_out,
    with_huge_seeds,
    with_link,
    with_many_seeds,
    with_pickled_checkpoint,
    with_pickled_metadata,
    with_pipe,
    with_targets,
    with_value,
    without_rights,
)

_LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
_SHEETS = (RUN_SHEET, MEMBER_SHEET, FAILURE, "a claim", "a sweep")
_SPOILT = (*_SHEETS, CONFIG, LOG)


def _deep_or_huge() -> list[Named]:
    return [
        *((f"deep lists in {name}", with_content(name, b"[" * DEEP)) for name in _SHEETS),
        *((f"deep objects in {name}", with_content(name, b'{"a":' * DEEP + b"1" + b"}" * DEEP)) for name in _SHEETS),
        *((f"a long number in {name}", with_content(name, b'{"step": ' + b"9" * 10**6 + b"}")) for name in _SHEETS),
        (f"64 MiB in {RUN_SHEET}", with_content(RUN_SHEET, b'{"run": "' + b"x" * 2**26 + b'"}')),
        (f"64 MiB in {CONFIG}", with_content(CONFIG, b"a: " + b"x" * 2**26)),
        ("deep YAML", with_content(CONFIG, b"[" * DEEP)),
        ("YAML aliases", with_content(CONFIG, _LAUGHS.encode())),
    ]


def _wants_to_be_executed() -> list[Named]:
    return [
        *with_targets("pandas.read_pickle", filepath_or_buffer="PICKLE"),
        *with_targets("torch.load", f="PICKLE", weights_only=False),
        *with_targets("os.system", command="TOUCH"),
        *with_targets("builtins.exec", source="PYTHON"),
        ("YAML that makes objects", with_content(CONFIG, b"a: !!python/object/apply:os.system ['touch executed']\n")),
        ("pickles in checkpoints", with_pickled_checkpoint),
        ("a pickle in a table's metadata", with_pickled_metadata),
        ("interpolation of the environment", with_value(CONFIG, "logger.project", "${oc.env:TORTURE_SECRET}")),
    ]


def _links_out() -> list[Named]:
    return [
        *((f"{name} is a link", with_link(name)) for name in files_of_a_run(Path())),
        *((f"{name} is a link to nothing", with_link(name, is_dangling=True)) for name in (LOG, "the lock", FAILURE)),
        ("records are elsewhere", with_folder_out("seed-0", RECORDS)),
        ("checkpoints are elsewhere", with_folder_out("seed-0", KEPT)),
        ("a member is elsewhere", with_folder_out("seed-0")),
    ]


def _pipes() -> list[Named]:
    return [(f"{name} is a pipe", with_pipe(name)) for name in files_of_a_run(Path())]


def _folders_for_files() -> list[Named]:
    return [
        *((f"{name} is a folder", with_folder(name)) for name in files_of_a_run(Path())),
        *(
            (f"{'/'.join(parts)} is a file", with_file_for_folder(*parts))
            for parts in (("seed-0",), ("seed-0", RECORDS), ("seed-0", KEPT), ("..", SWEEPS))
        ),
    ]


def _other_encodings() -> list[Named]:
    return [
        *((f"no UTF-8 in {name}", with_content(name, b'{"run": "\xff\xfe\x00"}')) for name in _SPOILT),
        *((f"UTF-16 in {name}", with_content(name, '{"run": 1}'.encode("utf-16"))) for name in _SPOILT),
        ("no UTF-8 in a folder's name", renamed(b"run\xff-0123456789")),
    ]


def _out_of_reach() -> list[Named]:
    return [
        ("the run", without_rights()),
        ("a member", without_rights("seed-0")),
        ("records", without_rights("seed-0", RECORDS)),
        (RUN_SHEET, without_rights(RUN_SHEET)),
        (MEMBER_SHEET, without_rights("seed-0", MEMBER_SHEET)),
    ]


def _many_or_odd_seeds() -> list[Named]:
    return [
        ("10 000 members", with_many_seeds),
        ("members beyond any seed", with_huge_seeds),
        *(
            (f"seeds {words}", with_value(RUN_SHEET, "launches", [{"seeds": seeds}]))
            for words, seeds in (
                ("as words", ["a"]),
                ("negative", [-1]),
                ("beyond", [10**300]),
                ("of nothing", None),
                ("by thousands", [*range(10_000)]),
                ("infinite", [float("inf")]),
                ("as floats", [0.5]),
            )
        ),
    ]


def _names() -> list[Named]:
    return [
        ("control characters in a folder's name", renamed(b"\x1b[31mred\n[bold]x[/bold]-0123456789")),
        *(
            (f"{key} that would act", with_value(RUN_SHEET, key, f"{ESCAPE}\n[link=x]<script>alert(1)</script>"))
            for key in ("model", "task", "experiment", "run", "variant", "color")
        ),
        ("a reason that would act", with_content(FAILURE, json.dumps({"reason": f"{ESCAPE}\n[bold]"}).encode())),
    ]


def _well_formed_wrong() -> list[Named]:
    return [
        *(
            (f"{key} of {name} is {value}", with_value(name, key, value))
            for name, key, value in (
                (RUN_SHEET, "chance", None),
                (RUN_SHEET, "launches", None),
                (RUN_SHEET, "launches", [None]),
                (RUN_SHEET, "outcomes", []),
                (RUN_SHEET, "outcomes", {"0": None}),
                (RUN_SHEET, "seq_len", "8"),
                (RUN_SHEET, "num_steps", float("nan")),
                (RUN_SHEET, "results_version", "2"),
                (RUN_SHEET, "identity", 5),
                (MEMBER_SHEET, "launch", None),
                (MEMBER_SHEET, "outcome", []),
                (MEMBER_SHEET, "outcome_step", None),
                (MEMBER_SHEET, "status", {}),
                (MEMBER_SHEET, "step", 10**400),
                (MEMBER_SHEET, "seed", 1),
                (MEMBER_SHEET, "measured_later", []),
                (CONFIG, "task", None),
                (CONFIG, "trainer", None),
                (CONFIG, "model", []),
                (CONFIG, "measurement", [1]),
                (CONFIG, "logger", {"tags": 3}),
            )
        ),
        *(
            (f"{words} for {name}", with_content(name, content))
            for name in (*_SHEETS, CONFIG)
            for words, content in (("nothing", b""), ("null", b"null"), ("a list", b"[]"), ("a number", b"1e999"))
        ),
    ]


def collection() -> dict[str, list[Named]]:
    """Kind -> what is changed in a copy of a run, by name; a change is given the run and a folder outside it."""
    return {
        "deep or huge": _deep_or_huge(),
        "wants to be executed": _wants_to_be_executed(),
        "links out": _links_out(),
        "pipes": _pipes(),
        "folders for files": _folders_for_files(),
        "other encodings": _other_encodings(),
        "out of reach": _out_of_reach(),
        "many or odd seeds": _many_or_odd_seeds(),
        "names": _names(),
        "well-formed, wrong": _well_formed_wrong(),
    }
