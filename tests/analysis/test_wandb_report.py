"""The W&B report: saved on a stub, written as JSON, and every panel's keys found in a run's own W&B file."""

from __future__ import annotations

import html
import json
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb
from markdown_it import MarkdownIt

from gradhorizon.analysis import verdicts
from gradhorizon.analysis.reading.cohort import Cohort, read_cohort
from gradhorizon.analysis.wandb_report import report as wandb_report
from gradhorizon.analysis.wandb_report.keys import EmptyPanelError, logged_keys
from gradhorizon.analysis.wandb_report.panels import Grid, wr
from gradhorizon.analysis.wandb_report.text import markdown_table, question
from gradhorizon.mirrors import run_log
from tests.analysis.conftest import HOSTILE, ODD
from tests.mirrors.offline_reader import OfflineRun, read_offline_run
from tests.runs_on_disk import run
from tests.synthetic_runs import SyntheticRun, exponential
from tests.wandb_stub import API_KEY, WandbStub

Spec = dict[str, Any]


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_ENTITY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in ("WANDB_CONFIG_DIR", "WANDB_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    wandb.teardown()  # what it has read of an earlier test's environment


@pytest.fixture(scope="module")
def spec(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Spec:
    """The JSON of the small sweep, written while every connection is refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _refuse)
        return written(cohort, tmp_path_factory.mktemp("report"))


def _refuse(*_: Any) -> None:
    raise AssertionError("the network was asked")


def written(cohort: Cohort, out: Path) -> Spec:
    path = wandb_report.write(cohort, out, "lab", "horizons")
    content: Spec = json.loads(path.read_text(encoding="utf-8"))
    return content


def blocks(spec: Spec, kind: str) -> list[dict[str, Any]]:
    return [block for block in spec["spec"]["blocks"] if block["type"] == kind]


def run_sets(spec: Spec) -> list[dict[str, Any]]:
    return [run_set for grid in blocks(spec, "panel-grid") for run_set in grid["metadata"]["runSets"]]


def panels(spec: Spec) -> list[dict[str, Any]]:
    return [
        panel for grid in blocks(spec, "panel-grid") for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]
    ]


def titles(spec: Spec) -> list[str]:
    return [panel["config"]["chartTitle"] for panel in panels(spec)]


def test_report_asks_the_question_and_has_all_sections(spec: Spec) -> None:
    headings = [block["children"][0]["text"] for block in blocks(spec, "heading") if block["level"] == 1]
    assert headings == ["Question", "Findings", "Verdicts", "How far back the gradient reaches",
                        "Reach against sequence length", "Training", "Methods", "Provenance"]  # fmt: skip
    assert (spec["project"]["entityName"], spec["project"]["name"]) == ("lab", "horizons")


def test_report_is_the_same_when_written_again(cohort: Cohort, spec: Spec, tmp_path: Path) -> None:
    assert written(cohort, tmp_path) == spec


def test_package_loads_the_report_back(spec: Spec) -> None:
    internal = pytest.importorskip("wandb_workspaces.reports.v2.internal")
    model = internal.ReportViewspec.model_validate(spec)
    report = wr.Report._from_model(model)
    grids: list[Any] = [block for block in report.blocks if isinstance(block, wr.PanelGrid)]
    assert [panel.title for grid in grids for panel in grid.panels] == titles(spec)
    again = {"spec": json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))}
    assert blocks(again, "panel-grid") == blocks(spec, "panel-grid")
    assert blocks(again, "markdown-block") == blocks(spec, "markdown-block")


def test_run_sets_are_grouped_by_the_configurations_model(spec: Spec) -> None:
    assert all(run_set["grouping"][0] == {"section": "config", "name": "model.value"} for run_set in run_sets(spec))
    lines = [panel["config"] for panel in panels(spec) if panel["viewType"] == "Run History Line Plot"]
    assert {(line["groupBy"], line["groupAgg"], line["groupArea"]) for line in lines} == {
        ("model.value", "median", "minmax")
    }


def test_profiles_are_drawn_over_lag_with_the_members_range(spec: Spec) -> None:
    lines = [panel["config"] for panel in panels(spec) if panel["config"]["xAxis"] == "lag"]
    assert [line["chartTitle"] for line in lines] == ["Profile at init", "Profile after training"] * 2
    assert lines[0]["metrics"] == [f"{run_log.PROFILE_KEY}_init/{name}" for name in ("median", "low", "high")]


def test_horizon_is_drawn_against_length_on_logarithmic_axes(spec: Spec) -> None:
    scatters = [panel["config"] for panel in panels(spec) if panel["viewType"] == "Scatter Plot"]
    horizons = [scatter for scatter in scatters if "gradient_horizon_steps" in scatter["yAxis"]]
    assert len(horizons) == 3
    assert all(scatter["xAxis"] == "config:seq_len.value" for scatter in scatters)
    assert all(scatter["xAxisLogScale"] and scatter["yAxisLogScale"] for scatter in horizons)


def test_censored_horizons_have_a_panel_of_their_own(spec: Spec, tmp_path: Path) -> None:
    # At init lstm is measured and the other model censored; after training everything reaches beyond.
    key = run_log.HORIZON_KEY
    drawn = {panel["config"].get("yAxis"): panel["config"]["chartTitle"] for panel in panels(spec)}
    assert drawn[f"summary:{key}_init/median"].startswith("Gradient horizon at init")
    assert drawn[f"summary:{key}_init/median_beyond"].startswith("Censored: gradient horizon at init beyond")
    assert drawn[f"summary:{key}_last/median_beyond"].startswith("Censored: gradient horizon after training beyond")
    assert f"summary:{key}_last/median" not in drawn
    SyntheticRun(outcomes=(None,), trained=exponential(-0.4)).write(tmp_path)
    of_one = written(read_cohort([tmp_path]), tmp_path)
    assert not any("Censored" in title for title in titles(of_one))


def test_training_curves_show_the_spread_over_members(spec: Spec) -> None:
    curves = [panel["config"]["metrics"] for panel in panels(spec) if panel["config"]["xAxis"] == "step"]
    assert curves
    for metrics in curves:
        assert [name.rpartition("/")[2] for name in metrics] == ["median", "low", "high"]
        assert len({name.rpartition("/")[0] for name in metrics}) == 1


def test_run_sets_hold_exactly_the_runs_of_their_setting(cohort: Cohort, spec: Spec) -> None:
    chosen = [{part["key"]["name"]: part["value"] for part in run_set["filters"]["filters"]}
              for run_set in run_sets(spec)]  # fmt: skip
    members = cohort.members
    expected = [sorted(rows["run"].unique()) for _, rows in members.groupby(["task", "seq_len"])]
    assert [names["run.value"] for names in chosen] == [*expected, sorted(members["run"].unique()), *expected]
    assert {tuple(names["experiment.value"]) for names in chosen} == {("synthetic",)}


def test_models_keep_the_colours_of_the_figures(cohort: Cohort, spec: Spec) -> None:
    colors = dict(zip(cohort.look["series"], cohort.look["color"], strict=True))
    found = blocks(spec, "panel-grid")[0]["metadata"]
    (run_set,) = found["runSets"]
    assert found["customRunColors"] == {
        f"{run_set['id']}-config:model.value:{model}": color for model, color in colors.items()
    }


def cells(markdown: str) -> list[list[str]]:
    """The texts of a table's body, by an independent Markdown renderer."""
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)[1:]
    return [[html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row, re.DOTALL)] for row in rows]


def test_verdict_table_says_what_the_local_report_says(cohort: Cohort, spec: Spec) -> None:
    shown = [row for block in blocks(spec, "markdown-block") for row in cells(block["content"])]
    expected = verdicts.spoken(verdicts.summarise(cohort)).drop(columns=["task", "T"]).to_numpy().tolist()
    assert shown[: len(expected)] == expected


@pytest.mark.parametrize(
    "label",
    [HOSTILE, "a|b", "a\\|b", "![x](//evil)", "[x](javascript:1)", "*b*", "_a_", "__a__", "~~a~~", "`a`", "$a$",
     "&lt;b&gt;", "rnn_tanh", "\\*", "<a href=x>"],
)  # fmt: skip
def test_label_is_text_in_a_markdown_table(label: str) -> None:
    table = markdown_table(["model", "other"], [[label, "1"]])
    assert cells(table) == [[label, "1"]]


def test_labels_line_break_does_not_end_the_row() -> None:
    assert cells(markdown_table(["model"], [["a\n| b"]])) == [["a | b"]]


def test_run_name_with_operators_is_filtered_by_as_it_is(tmp_path: Path) -> None:
    SyntheticRun(model="k=1<2 and 'x'", outcomes=(None,)).write(tmp_path)
    cohort = read_cohort([tmp_path])
    for run_set in run_sets(written(cohort, tmp_path)):
        assert run_set["filters"]["filters"][1]["value"] == [cohort.members["run"].iloc[0]]


def test_variants_of_one_label_are_run_sets_of_their_own(tmp_path: Path) -> None:
    for hidden_size in (8, 16):
        SyntheticRun(hidden_size=hidden_size, outcomes=(None,)).write(tmp_path)
    found = run_sets(written(read_cohort([tmp_path]), tmp_path))
    assert [run_set["name"] for run_set in found[:2]] == ["lstm (hidden_size=16)", "lstm (hidden_size=8)"]
    assert len({run_set["filters"]["filters"][1]["value"][0] for run_set in found[:2]}) == 2


def test_unfinished_run_has_curves_and_no_profile(tmp_path: Path) -> None:
    SyntheticRun(outcomes=(300, "running")).write(tmp_path)
    spec = written(read_cohort([tmp_path], is_partial=True), tmp_path)
    assert titles(spec) == ["validation loss", "validation accuracy [–]", "gradient norm before clipping",
                            "fraction of steps clipped [–]"]  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_runs_are_reported(case: str, tmp_path: Path) -> None:
    ODD[case]().write(tmp_path)
    assert "validation loss" in titles(written(read_cohort([tmp_path]), tmp_path))


def test_profile_without_a_number_has_no_panel(tmp_path: Path) -> None:
    ODD["all nan"]().write(tmp_path)
    assert [title for title in titles(written(read_cohort([tmp_path]), tmp_path)) if "init" in title] == []


def test_panel_of_a_table_that_nobody_recorded_is_left_out(tmp_path: Path) -> None:
    SyntheticRun(outcomes=(300,), tables=("metrics", "input_gradients")).write(tmp_path)
    assert "gradient norm before clipping" not in titles(written(read_cohort([tmp_path]), tmp_path))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was really trained, with W&B's offline file beside its records."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(folder / name.lower()))
        return run(folder / "runs", "logger=wandb", "logger.project=tiny_project", "num_steps=6")


@pytest.fixture(scope="module")
def logged(tiny: Path) -> OfflineRun:
    """What W&B's own file holds of the run."""
    (file,) = tiny.glob("wandb/offline-run-*/*.wandb")
    return read_offline_run(file)


def test_every_panels_keys_are_in_the_wandb_file_of_a_real_run(tiny: Path, logged: OfflineRun, tmp_path: Path) -> None:
    spec = written(read_cohort([tiny]), tmp_path)
    keys_per_row = [set(row) for row in logged.rows]
    for panel in panels(spec):
        config = panel["config"]
        if panel["viewType"] == "Run History Line Plot":
            for key in config["metrics"]:
                assert any({config["xAxis"], key} <= keys for keys in keys_per_row), key
        else:
            assert config["xAxis"].removeprefix("config:").removesuffix(".value") in logged.config
            assert config["yAxis"].removeprefix("summary:") in logged.summary.keys() | set().union(*keys_per_row)
    assert len(panels(spec)) == 9


def test_run_sets_choose_the_real_run(tiny: Path, logged: OfflineRun, tmp_path: Path) -> None:
    for run_set in run_sets(written(read_cohort([tiny]), tmp_path)):
        for part in run_set["filters"]["filters"]:
            assert logged.config[part["key"]["name"].removesuffix(".value")] in part["value"]
        for part in run_set["grouping"]:
            assert part["name"].removesuffix(".value") in logged.config


def test_keys_told_from_records_are_those_of_the_wandb_file(tiny: Path, logged: OfflineRun) -> None:
    (told,) = logged_keys(read_cohort([tiny])).values()
    axes = {"step", "lag"}
    in_file = {(axis, key) for row in logged.rows for axis in axes & row.keys() for key in row.keys() - axes}
    assert told.history == in_file - {("step", run_log.HEAT_MAP_KEY)}
    assert told.config <= logged.config.keys()
    assert {key for key in told.summary if "horizon" in key} <= logged.summary.keys()


def made_up(panel: Any, members: pd.DataFrame) -> Grid:
    return Grid("adding", members, [panel])


@pytest.mark.parametrize(
    ("panel", "said"),
    [
        (wr.LinePlot(title="mine", x="lag", y=["profile/no_such/median"], groupby=wr.Config("model")),
         "'mine, adding' asks for the history key 'profile/no_such/median' against 'lag'"),
        (wr.LinePlot(title="mine", x="lag", y=["validation/loss/median"], groupby=wr.Config("model")),
         "history key 'validation/loss/median' against 'lag'"),
        (wr.LinePlot(title="mine", x="step", y=["validation/loss/median"], groupby=wr.Config("label")),
         "config key 'label'"),
        (wr.ScatterPlot(title="mine", x=wr.Config("seq_len"), y=wr.SummaryMetric("horizon")), "summary key 'horizon'"),
    ],
)  # fmt: skip
def test_panel_on_a_key_that_nobody_logs_is_refused(cohort: Cohort, panel: Any, said: str) -> None:
    with pytest.raises(EmptyPanelError, match=re.escape(said)):
        made_up(panel, cohort.members).check(logged_keys(cohort))


def test_key_that_the_mirror_renames_is_refused(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "HORIZON_KEY", "profile/renamed")
    with pytest.raises(SystemExit, match=r"Error: the panel 'Gradient horizon at init .* would be empty"):
        wandb_report.main([str(sweep), "--offline", "--out", str(tmp_path)])


def test_question_is_that_of_the_study() -> None:
    assert question("reach_at_initialization").startswith("How far back does each variant reach before")


def test_question_without_a_study_is_that_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\n# Who wins?\nseed: 0\n")
    monkeypatch.setattr("gradhorizon.analysis.wandb_report.text.CONF_DIR", tmp_path / "conf")
    assert question("mine") == "Who wins?"
    assert question("yours") == question("../mine") == "no question is written down for this experiment"


def test_offline_program_writes_where_the_runs_are_mirrored_to(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb_report.main([str(tiny), "--offline", "--out", str(tmp_path)])
    path = Path(capsys.readouterr().out.strip())
    assert json.loads(path.read_text(encoding="utf-8"))["project"]["name"] == "tiny_project"


def test_without_a_key_there_is_one_message(sweep: Path) -> None:
    with pytest.raises(SystemExit, match=r"Error: saving on W&B needs a login, got: no API key; run `wandb login`"):
        wandb_report.main([str(sweep)])


class ReportStub(WandbStub):
    """The server with reports: one project, and every report that was saved."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[dict[str, Any]] = []
        self.operations |= {
            "GetDefaultEntity": lambda _: {"viewer": {"id": "user", "entity": "lab"}},
            "ProjectInternalId": self._project_id,
            "GetProjects": self._projects,
            "upsertView": self._upsert_view,
        }

    def _project_id(self, variables: dict[str, Any]) -> Mapping[str, Any]:
        return {"project": {"id": "p", "internalId": "p1"} if variables["projectName"] == "horizons" else None}

    def _projects(self, variables: dict[str, Any]) -> Mapping[str, Any]:
        del variables
        user: dict[str, Any] = dict.fromkeys(("id", "name", "username", "email", "entity", "flags"), "ada")
        user |= {"admin": False, "deletedAt": None, "apiKeys": None, "teams": None}
        node = {"id": "p", "name": "horizons", "entityName": "lab", "createdAt": "2026-01-01", "isBenchmark": False}
        node["user"] = user
        return {"models": {"edges": [{"node": node, "cursor": "c"}],
                           "pageInfo": {"endCursor": "c", "hasNextPage": False}}}  # fmt: skip

    def _upsert_view(self, variables: dict[str, Any]) -> Mapping[str, Any]:
        self.saved.append(variables)
        project = {"id": "p", "name": variables["projectName"], "entityName": variables["entityName"]}
        view = {"id": "VmlldzoxMjM=", "type": "runs", "name": variables["name"], "project": project,
                "displayName": variables["displayName"], "description": variables["description"],
                "spec": variables["spec"], "updatedAt": "2026-01-01T00:00:00"}  # fmt: skip
        return {"upsertView": {"view": view, "inserted": True}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReportStub]:
    with ReportStub() as stub:
        monkeypatch.setenv("WANDB_BASE_URL", stub.url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        yield stub
    wandb.teardown()


def test_report_is_saved_and_its_address_printed(
    server: ReportStub, sweep: Path, spec: Spec, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb_report.main([str(sweep), "--project", "horizons"])
    (saved,) = server.saved
    assert (
        capsys.readouterr().out.strip()
        == f"{server.url}/lab/horizons/reports/Gradient-horizon:-synthetic--VmlldzoxMjM="
    )
    assert (saved["entityName"], saved["projectName"], saved["type"]) == ("lab", "horizons", "runs")
    content = {"spec": json.loads(saved["spec"])}
    assert titles(content) == titles(spec)
    assert {json.dumps(run_set.pop("project"), sort_keys=True) for run_set in run_sets(content)} == {
        '{"entityName": "lab", "id": "p1", "name": "horizons"}'
    }
    assert [run_set["filters"] for run_set in run_sets(content)] == [run_set["filters"] for run_set in run_sets(spec)]
    assert blocks(content, "markdown-block") == blocks(spec, "markdown-block")


def test_project_that_is_not_there_is_named(server: ReportStub, sweep: Path) -> None:
    with pytest.raises(SystemExit, match=r"Error: W&B refuses the report .*'lab/nowhere' not found"):
        wandb_report.main([str(sweep), "--project", "nowhere", "--entity", "lab"])
    assert server.saved == []


@pytest.mark.parametrize(("key", "status"), [(API_KEY, 401), ("short", None)])
def test_wrong_key_is_said_in_one_message(
    server: ReportStub, sweep: Path, monkeypatch: pytest.MonkeyPatch, key: str, status: int | None
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    server.status = status
    with pytest.raises(SystemExit, match=r"Error: saving on W&B needs a login, got: .*; run `wandb login`"):
        wandb_report.main([str(sweep), "--project", "horizons"])


@pytest.mark.slow
def test_server_that_is_gone_is_said_in_one_message(server: ReportStub, sweep: Path) -> None:
    server.die()
    with pytest.raises(
        SystemExit, match=r"Error: W&B gives no answer to build on \(.*--offline writes the report instead"
    ):
        wandb_report.main([str(sweep), "--project", "horizons"])
