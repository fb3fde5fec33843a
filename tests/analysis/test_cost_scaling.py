"""Exponents of cost against the power laws that the records were written with."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from gradhorizon.analysis import command as figures
from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.figures import cost_scaling
from gradhorizon.analysis.reading.cohort import Cohort, read_cohort, records
from gradhorizon.measurements.cost import Cost, fed_lengths
from gradhorizon.records.parquet import write_parquet
from tests.analysis.conftest import HOSTILE
from tests.records_on_disk import list_as_found
from tests.synthetic_runs import SyntheticRun

MIB = 2**20


def write_costs(
    root: Path, exponents: Sequence[float], peak: bool = False, device: str = "cpu", **settings: Any
) -> SyntheticRun:
    """A run whose seeds take 0.01 · n^p seconds and save n MiB; with `peak`, they hold 2 n² MiB at most."""
    run = SyntheticRun(outcomes=(None,) * len(exponents), tables=(), **{"input_len": 80, **settings})
    lead = {name: getattr(run, name) for name in ("experiment", "model", "task", "seq_len", "input_len")}
    folder = run.write(root)
    for seed, power in enumerate(exponents, start=run.first_seed):
        n = np.array(fed_lengths(run.input_len, 4))
        peaks = 2.0 * n**2 * MIB if peak else np.full(len(n), np.nan)
        rows = pd.DataFrame({"input_len_fed": n, "saved_for_backward_bytes": n * MIB, "peak_allocated_bytes": peaks})
        rows = rows.assign(step_time_low_s=0.01 * n**power, step_time_median_s=1.0, step_time_high_s=2.0)
        rows = rows.assign(num_loss_steps=1, num_repetitions=9)
        rows = rows.assign(device=device, precision="32-true", num_threads=1, batch_size=32)
        rows = rows.assign(**lead, run=run.name, seed=seed, step=0, phase="init")
        write_parquet(Cost.table.to_arrow(rows), folder / f"seed-{seed}" / "records" / "cost.parquet")
        list_as_found(folder / f"seed-{seed}", seed)
    return run


def exponents_of(cohort: Cohort) -> pd.DataFrame:
    return cost_scaling.summarise(cohort).set_index("quantity")


def test_exponents_are_those_of_the_power_laws(tmp_path: Path) -> None:
    write_costs(tmp_path, [0.8, 1.0, 1.3], peak=True)
    table = exponents_of(read_cohort([tmp_path]))
    assert table["exponent"].to_dict() == pytest.approx({"time": 1.0, "saved": 1.0, "peak": 2.0}, rel=1e-12)
    assert list(table.loc["time", ["exponent_least", "exponent_greatest"]]) == pytest.approx([0.8, 1.3], rel=1e-12)
    assert table["at_full_length"].to_dict() == pytest.approx({"time": 0.8, "saved": 80.0, "peak": 12800.0}, rel=1e-12)
    assert table[["fed_from", "fed_to", "num_seeds"]].to_numpy().tolist() == [[10, 80, 3]] * 3


def test_five_seeds_have_an_interval_around_the_median(tmp_path: Path) -> None:
    write_costs(tmp_path, [0.9, 0.95, 1.0, 1.05, 1.1])
    row = exponents_of(read_cohort([tmp_path])).loc["time"]
    assert 0.9 - 1e-9 < row["exponent_low"] < 1.0 < row["exponent_high"] < 1.1 + 1e-9


def test_fewer_seeds_have_none_and_say_so(tmp_path: Path) -> None:
    write_costs(tmp_path, [0.9, 0.95, 1.0, 1.05])
    table = cost_scaling.summarise(read_cohort([tmp_path]))
    assert table[["exponent_low", "exponent_high"]].isna().to_numpy().all()
    assert (cost_scaling.spoken(table)["interval"] == "–").all()
    assert cost_scaling.markdown(table).count("not estimable with 4 seeds; an interval needs 5") == 1


def test_what_was_measured_later_does_not_count(tmp_path: Path) -> None:
    run = write_costs(tmp_path, [1.0])
    path = tmp_path / run.experiment / run.name / "seed-0" / "records" / "cost.parquet"
    first = pd.read_parquet(path)
    later = first.assign(step=100, step_time_low_s=first["step_time_low_s"] ** 3)
    write_parquet(Cost.table.to_arrow(pd.concat([first, later])), path)
    list_as_found(path.parents[1])
    assert exponents_of(read_cohort([tmp_path])).loc["time", "exponent"] == pytest.approx(1.0, rel=1e-12)


def test_quantity_that_the_device_does_not_tell_has_no_row(tmp_path: Path) -> None:
    write_costs(tmp_path, [1.0])
    assert set(cost_scaling.summarise(read_cohort([tmp_path]))["quantity"]) == {"time", "saved"}


def test_one_length_has_no_exponent(tmp_path: Path) -> None:
    write_costs(tmp_path, [1.0, 1.0], input_len=1, seq_len=1)
    table = cost_scaling.summarise(read_cohort([tmp_path]))
    assert table["exponent"].isna().all()
    assert (cost_scaling.spoken(table)["exponent"] == "–").all()


@pytest.mark.parametrize("values", [[0.0, 2.0, 4.0], [math.inf, 2.0, 4.0], [math.nan, 2.0, 4.0]])
def test_values_without_a_logarithm_do_not_enter_the_fit(values: list[float]) -> None:
    assert cost_scaling.exponent(np.array([1.0, 2.0, 4.0]), np.array(values)) == pytest.approx(1.0, rel=1e-12)


def test_two_programs_are_told_apart(tmp_path: Path) -> None:
    write_costs(tmp_path, [1.0])
    write_costs(tmp_path, [2.0], device="cuda:0", first_seed=1, experiment="other")
    cohort = read_cohort([tmp_path])
    table = cost_scaling.summarise(cohort)
    assert table[table["quantity"] == "time"].set_index("device")["exponent"].to_dict() == pytest.approx(
        {"cpu": 1.0, "cuda:0": 2.0}, rel=1e-12
    )
    assert list(cost_scaling.figures(cohort)) == [
        "cost_scaling-copy_arjovsky2016-cpu-32-true-1-32",
        "cost_scaling-copy_arjovsky2016-cuda_0-32-true-1-32",
    ]


def test_curves_hold_the_range_of_few_seeds_and_the_quartiles_of_many(tmp_path: Path) -> None:
    write_costs(tmp_path, [0.0, 1.0, 2.0], seq_len=50)
    write_costs(tmp_path, [0.0, 0.5, 1.0, 1.5, 2.0], seq_len=100)
    table = cost_scaling.curves(read_cohort([tmp_path]))
    whole = table[(table["n"] == 80) & (table["quantity"] == "time")].set_index("seq_len")
    assert list(whole.loc[50, ["low", "median", "high"]]) == pytest.approx([0.01, 0.8, 64.0], rel=1e-12)
    ends = [0.01 * 80**power for power in (0.5, 1.0, 1.5)]
    assert list(whole.loc[100, ["low", "median", "high"]]) == pytest.approx(ends, rel=1e-12)


@pytest.fixture
def drawn(tmp_path: Path) -> Figure:
    write_costs(tmp_path, [1.0, 1.1], peak=True)
    write_costs(tmp_path, [2.0], model=HOSTILE, color=None, marker=None)
    with appearance.styled():
        (draw,) = cost_scaling.figures(read_cohort([tmp_path])).values()
        return draw()


def test_figure_has_a_panel_per_quantity_and_both_reference_slopes(drawn: Figure) -> None:
    assert [ax.get_title(loc="left") for ax in drawn.axes] == [own.label for own in cost_scaling.QUANTITIES.values()]
    for ax in drawn.axes:
        *_, one, two = [np.polyfit(np.log(line.get_xdata()), np.log(line.get_ydata()), 1)[0] for line in ax.lines]
        assert (one, two) == pytest.approx((1.0, 2.0), rel=1e-9)


def test_figure_names_seeds_band_and_program(drawn: Figure) -> None:
    said = " ".join(text.get_text() for text in drawn.texts).replace("\n", " ")
    assert "median over 1 to 2 seeds" in said
    assert "range of the seeds" in said
    assert "cpu, 32-true, 1 thread, batch 32" in said


def test_program_writes_table_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_costs(tmp_path / "runs", [1.0])
    figures.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--only", "cost_scaling"])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    stem = "cost_scaling-copy_arjovsky2016"
    assert names == {"cost_scaling.csv", "cost_scaling.md", f"{stem}.png", f"{stem}.pdf"}
    written = pd.read_csv(tmp_path / "out" / "cost_scaling.csv")
    assert written["exponent"].tolist() == pytest.approx([1.0, 1.0], rel=1e-9)
    assert "lstm" in capsys.readouterr().out


def test_runs_without_costs_are_refused(tmp_path: Path) -> None:
    SyntheticRun(outcomes=(None,)).write(tmp_path)
    with pytest.raises(SystemExit, match="no run recorded `cost`; `gradhorizon-measure RUNS measurement=cost`"):
        figures.main([str(tmp_path), "--only", "cost_scaling"])


def test_hostile_label_is_written_as_text(tmp_path: Path) -> None:
    write_costs(tmp_path, [1.0], model=HOSTILE)
    table = cost_scaling.summarise(read_cohort([tmp_path]))
    assert "<script>" not in cost_scaling.markdown(table)
    shown = io.StringIO()
    cost_scaling.show(table, Console(file=shown, width=100))
    assert records(cost_scaling.spoken(table))[0]["model"] == HOSTILE
    assert "<scrip" in shown.getvalue()
