r"""The W&B report, built by code: question, verdicts, profiles over lag, scaling, training curves, methods.

Usage: ``gradhorizon-wandb-report RUNS… [--entity NAME] [--project NAME]`` saves it on W&B and prints its address; with
``--offline`` it is written as wandb_report.json below ``--out``, without account or network. Numbers in its text are
those of the local report; its panels read what the runs' mirror has logged, and a panel on a key that no run logs is
refused.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import wandb
from wandb.errors import UsageError

from gradhorizon.analysis import verdicts
from gradhorizon.analysis.drawing.saving import save_text
from gradhorizon.analysis.reading import provenance
from gradhorizon.analysis.reading.cohort import Cohort, absence, read_cohort
from gradhorizon.analysis.reading.configurations import configuration
from gradhorizon.analysis.report.findings import findings
from gradhorizon.analysis.wandb_report.keys import EmptyPanelError, logged_keys
from gradhorizon.analysis.wandb_report.panels import Grid, curve_grids, profile_grids, scaling_grids, wr
from gradhorizon.analysis.wandb_report.text import METHODS, markdown_table, question
from gradhorizon.records.out_folder import refuse_unfit
from gradhorizon.records.tables import RecordsError
from gradhorizon.terminal.program import refusing

TABLES = ("metrics", "input_gradients", "parameter_gradients")
DEFAULT_PROJECT = "gradhorizon"
FILE_NAME = "wandb_report.json"
MAX_TITLE_CHARACTERS = 128
_KEY_IS_WRONG = re.compile(r"\b401\b|40\+ characters")  # of the server's answer, and of a key that is cut short
_RANDOM_ID = re.compile(r'"(?:__id__|id)": "([0-9a-z]{8,})"')
_SECTIONS = (
    (
        "How far back the gradient reaches",
        "Median over the members of a run, with the lowest and the highest member. Exact zeros have no point.",
        profile_grids,
    ),
    (
        "Reach against sequence length",
        "Logarithmic axes. A horizon beyond the longest lag is censored: it has no point among those measured.",
        scaling_grids,
    ),
    ("Training", "Median, smallest and largest member of a run; a solved member keeps its last values.", curve_grids),
)


@dataclass(frozen=True)
class Destination:
    """Where a report goes: empty names are the login's own entity, and no lookup of the project."""

    entity: str
    project: str
    is_online: bool


def build(cohort: Cohort, destination: Destination) -> Any:
    """The report.

    Args:
        cohort: what is reported.
        destination: where it goes; online, making its model asks W&B for the project.

    Raises:
        EmptyPanelError: a panel asks for a key that no run of its run set logs.
    """
    table = verdicts.summarise(cohort)
    names = sorted(cohort.members["experiment"].unique())
    return wr.Report(
        entity=destination.entity,
        project=destination.project,
        title=f"Gradient horizon: {', '.join(names)}"[:MAX_TITLE_CHARACTERS],
        description="How far back in time the gradient reaches. Written by gradhorizon-wandb-report.",
        width="fluid",
        blocks=[
            wr.TableOfContents(),
            wr.H1("Question"),
            *(wr.P(f"{name}: {question(name)}") for name in names),
            wr.H1("Findings"),
            wr.UnorderedList(items=[*findings(table, provenance.unseen(cohort))]),
            wr.H1("Verdicts"),
            *_verdict_blocks(table),
            *_grid_blocks(cohort, destination),
            wr.H1("Methods"),
            wr.MarkdownBlock(METHODS),
            wr.H1("Provenance"),
            *_provenance_blocks(cohort),
        ],
    )


def _verdict_blocks(table: pd.DataFrame) -> Iterator[Any]:
    for (task, seq_len), rows in table.groupby(["task", "seq_len"], sort=True):
        shown = verdicts.spoken(rows).drop(columns=["task", "T"])
        yield wr.H3(f"{task} · T = {seq_len} (N = {rows['input_len'].iloc[0]} steps)")
        yield wr.MarkdownBlock(markdown_table(shown.columns, shown.to_numpy().tolist()))
    note = verdicts.not_estimable(table)
    if note:
        yield wr.P(note)


def _grid_blocks(cohort: Cohort, destination: Destination) -> Iterator[Any]:
    logged = logged_keys(cohort)
    owner = (destination.entity, destination.project) if destination.is_online else ("", "")
    for title, note, grids in _SECTIONS:
        yield wr.H1(title)
        found: list[Grid] = list(grids(cohort))
        yield wr.P(note if found else "Nothing to draw: no run that has ended has recorded it.")
        for grid in found:
            grid.check(logged)
            yield wr.H3(grid.title)
            yield grid.block(cohort.look, *owner)


def _provenance_blocks(cohort: Cohort) -> Iterator[Any]:
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions(cohort).items())
    yield wr.P(f"{len(cohort.members)} trained networks. {versions}")
    unsent = [names for names in _mirrors(cohort) if names is None]
    if unsent:
        yield wr.P(
            f"{len(unsent)} runs name no W&B project in their configuration: panels show them once they have been sent "
            "(gradhorizon-wandb-push)."
        )
    absent = provenance.absent(cohort, TABLES)
    if len(absent):
        yield wr.P(f"Absent from some or all of the above. {absence(cohort, TABLES)}".rstrip())
        yield wr.MarkdownBlock(markdown_table(absent.columns, absent.to_numpy().tolist()))


def as_json(report: Any) -> str:
    """The report as W&B stores it, with numbered instead of random identifiers, so that it is the same when rewritten.

    Args:
        report: of `build`.
    """
    content = json.loads(report._to_model().model_dump_json(by_alias=True, exclude_none=True))  # noqa: SLF001, the only way to it without a server
    text = json.dumps(content, indent=1, ensure_ascii=False)
    for number, name in enumerate(dict.fromkeys(_RANDOM_ID.findall(text))):
        text = text.replace(name, f"{number:04d}")
    return text + "\n"


def mirrored_to(cohort: Cohort) -> tuple[str, str]:
    """Entity and project that the runs' mirror logs to; empty and the default project where nobody says.

    Raises:
        RecordsError: runs of several projects.
    """
    found = sorted({names for names in _mirrors(cohort) if names})
    if len(found) > 1:
        listed = ", ".join("/".join(filter(None, names)) for names in found)
        raise RecordsError(
            f"the runs are mirrored to several projects ({listed}); name one with --project and --entity"
        )
    return found[0] if found else ("", DEFAULT_PROJECT)


def _mirrors(cohort: Cohort) -> list[tuple[str, str] | None]:
    """Entity and project of every run, None for one without W&B."""
    folders = sorted({Path(folder).parent for folder in cohort.members["folder"]})
    loggers = [configuration(folder).get("logger") or {} for folder in folders]
    return [(str(node.get("entity") or ""), str(node["project"])) if "project" in node else None for node in loggers]


def save(cohort: Cohort, entity: str, project: str) -> str:
    """Save the report on W&B; returns its address.

    Args:
        cohort: what is reported.
        entity: user or team; the login's default if empty.
        project: where the runs are.

    Raises:
        RecordsError: no login, no such project, or no answer.
        EmptyPanelError: a panel asks for a key that no run of its run set logs.
    """
    login_entity = _asked(_login)
    report = build(cohort, Destination(entity or login_entity, project, is_online=True))
    return _asked(lambda: str(report.save().url))


def _login() -> str:
    """The login's own entity."""
    if not wandb.login(prompt=False, verify=False):
        raise UsageError("no API key")
    return str(wandb.Api().default_entity)


def _asked(ask: Callable[[], str]) -> str:
    """What W&B answers; whatever it or its client raises instead becomes one message."""
    try:
        return ask()
    except Exception as error:
        said = " ".join(str(error).split())
        if isinstance(error, UsageError) or _KEY_IS_WRONG.search(said):
            problem = f"saving on W&B needs a login, got: {said}; run `wandb login`, or write the report with --offline"
        elif isinstance(error, ValueError):
            problem = f"W&B refuses the report ({said}); send the runs there first, or name another --project"
        else:
            problem = f"W&B gives no answer to build on ({said}); --offline writes the report instead"
        raise RecordsError(problem) from error


def write(cohort: Cohort, out: Path, entity: str, project: str) -> Path:
    """Write wandb_report.json, asking nobody; returns its path.

    Args:
        cohort: what is reported.
        out: folder to write to.
        entity: user or team that it would belong to; may be empty.
        project: where it would be saved.
    """
    report = build(cohort, Destination(entity, project, is_online=False))
    return save_text(as_json(report), out / FILE_NAME)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gradhorizon-wandb-report", description=(__doc__ or "").split("\n\n", maxsplit=1)[0]
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, experiment folders or runs roots, pooled")
    parser.add_argument("--entity", help="user or team (default: the runs' mirror's, or the login's)")
    parser.add_argument("--project", help="W&B project that holds the runs (default: the runs' mirror's)")
    parser.add_argument("--offline", action="store_true", help=f"write {FILE_NAME} instead; no account, no network")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for --offline (default: figures)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Save or write the report of the runs named on the command line; what is missing is listed in it, not refused."""
    options = _options(arguments)
    with refusing({RecordsError: str, EmptyPanelError: str}):
        if options.offline:
            refuse_unfit(options.out)
        cohort = read_cohort(options.runs, is_partial=True)
        entity, project = ("", "") if options.project else mirrored_to(cohort)
        entity, project = options.entity or entity, options.project or project
        if options.offline:
            print(write(cohort, options.out, entity, project))
        else:
            print(save(cohort, entity, project))


if __name__ == "__main__":
    main()
