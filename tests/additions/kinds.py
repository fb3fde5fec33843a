"""The six kinds of additions: their files, the tests that find them, and the mistakes that those tests must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = Path(__file__).parent / "files"
EXPERIMENT = "janet_dimension"
FROZEN = Path("experiments") / EXPERIMENT
"""The study's folder, where its records and figures come to lie."""


@dataclass(frozen=True)
class Mistake:
    """A change of one place of an addition, and the test that has to notice it.

    Attributes:
        file: where it is made.
        right: text that stands there once.
        wrong: what it becomes.
        noticed_by: a test of `Addition.found_by`, with its parameters.
    """

    file: str
    right: str
    wrong: str
    noticed_by: str


@dataclass(frozen=True)
class Addition:
    """One addition.

    Attributes:
        kind: what it is.
        name: what stands in the id of every test that finds it.
        files: below `FILES`, and below the root of the copy.
        found_by: test files, none of which names it, and its own; at least one of its tests must pass in each.
        mistakes: what has to be noticed.
    """

    kind: str
    name: str
    files: tuple[str, ...]
    found_by: tuple[str, ...]
    mistakes: tuple[Mistake, ...]


ADDITIONS = (
    Addition(
        "cell",
        "janet",
        ("src/gradhorizon/cells/janet.py", "conf/model/janet.yaml", "tests/cells/test_janet.py"),
        (
            "tests/cells/test_janet.py",
            "tests/cells/test_recurrence.py",
            "tests/cells/test_cell.py",
            "tests/test_conf_models.py",
            "tests/composition/test_keys.py",
            "tests/late_measurement/test_trust.py",
        ),
        (
            Mistake(
                "src/gradhorizon/cells/janet.py",
                "(1 - torch.sigmoid(s - self.beta)) * torch.tanh",
                "(1 - torch.sigmoid(s + self.beta)) * torch.tanh",
                "tests/cells/test_janet.py::test_state_is_the_equation_worked_out_one_number_at_a_time[1.0]",
            ),
            Mistake(
                "src/gradhorizon/cells/janet.py",
                "        (h,) = state\n",
                "        h = state[0].detach() + 0 * state[0]\n",
                "tests/cells/test_recurrence.py::test_step_passes_gradcheck[janet]",
            ),
        ),
    ),
    Addition(
        "task",
        "latch_hochreiter1997",
        (
            "src/gradhorizon/tasks/latch_hochreiter1997.py",
            "conf/task/latch_hochreiter1997.yaml",
            "tests/tasks/test_latch_hochreiter1997.py",
        ),
        (
            "tests/tasks/test_latch_hochreiter1997.py",
            "tests/tasks/test_task_contract.py",
            "tests/tasks/test_conf_tasks.py",
            "tests/runs/test_task_names.py",
            "tests/composition/test_keys.py",
            "tests/late_measurement/test_trust.py",
        ),
        (
            Mistake(
                "src/gradhorizon/tasks/latch_hochreiter1997.py",
                "(sign > 0).astype",
                "(sign < 0).astype",
                "tests/tasks/test_task_contract.py::test_targets_follow_from_the_inputs_alone[latch_hochreiter1997]",
            ),
            Mistake(
                "src/gradhorizon/tasks/latch_hochreiter1997.py",
                '"loss": 1 / 4',
                '"loss": 1 / 3',
                "tests/tasks/test_task_contract.py::test_blind_predictor_scores_the_chance_loss[latch_hochreiter1997]",
            ),
        ),
    ),
    Addition(
        "measurement",
        "state_dimension",
        (
            "src/gradhorizon/measurements/state_dimension.py",
            "conf/measurement/state_dimension.yaml",
            "tests/measurements/test_state_dimension.py",
        ),
        (
            "tests/measurements/test_state_dimension.py",
            "tests/measurements/test_conf_measurement.py",
            "tests/composition/test_keys.py",
        ),
        (
            Mistake(
                "tests/measurements/test_state_dimension.py",
                "for column in StateDimension.table.columns]",
                'for column in StateDimension.table.columns if column.name != "total_variance"]',
                "tests/measurements/test_conf_measurement.py"
                "::test_an_oracle_notices_a_wrong_column[state_dimension-total_variance]",
            ),
            Mistake(
                "src/gradhorizon/measurements/state_dimension.py",
                "1 / ((values / total) ** 2).sum()",
                "1 / ((values / total) ** 4).sum()",
                "tests/measurements/test_state_dimension.py::test_table_equals_the_slow_twin",
            ),
        ),
    ),
    Addition(
        "figure",
        "state_dimension",
        ("src/gradhorizon/analysis/figures/state_dimension.py", "tests/analysis/test_state_dimension.py"),
        ("tests/analysis/test_state_dimension.py", "tests/analysis/test_figures.py"),
        (
            Mistake(
                "src/gradhorizon/analysis/figures/state_dimension.py",
                'TABLES = ("state_dimension",)',
                'TABLES = ("state_dimensions",)',
                "tests/analysis/test_figures.py::test_it_reads_tables_that_are_measured[state_dimension]",
            ),
        ),
    ),
    Addition(
        "optimizer",
        "rmsprop_graves2013",
        ("conf/optimizer/rmsprop_graves2013.yaml",),
        ("tests/test_conf_optimizers.py", "tests/composition/test_keys.py", "tests/late_measurement/test_trust.py"),
        (
            Mistake(
                "conf/optimizer/rmsprop_graves2013.yaml",
                "centered: true",
                "centred: true",
                "tests/composition/test_keys.py::test_every_shipped_file_has_known_keys_alone[optimizer-rmsprop_graves2013]",
            ),
            Mistake(
                "conf/optimizer/rmsprop_graves2013.yaml",
                "lr: ${learning_rate}",
                "lr: 0.0001",
                "tests/test_conf_optimizers.py::test_learning_rate_comes_from_the_root[rmsprop_graves2013]",
            ),
        ),
    ),
    Addition(
        "study",
        EXPERIMENT,
        (
            f"conf/experiment/{EXPERIMENT}.yaml",
            f"experiments/{EXPERIMENT}/README.md",
            f"experiments/{EXPERIMENT}/figure.py",
        ),
        ("tests/analysis/test_freeze.py", "tests/test_conf_experiments.py", "tests/analysis/test_imports.py"),
        (
            Mistake(
                f"experiments/{EXPERIMENT}/README.md",
                "(state_dimension-latch_hochreiter1997.png)",
                "(state_dimension.png)",
                f"tests/analysis/test_freeze.py::test_every_figure_of_a_study_is_shown_on_its_page[{EXPERIMENT}]",
            ),
            Mistake(
                f"conf/experiment/{EXPERIMENT}.yaml",
                "learning_rate: 0.003",
                "learning_rates: 0.003",
                f"tests/test_conf_experiments.py::test_every_point_of_a_sweep_builds[{EXPERIMENT}-"
                "model=gru-task=latch_hochreiter1997-optimizer=rmsprop_graves2013-seq_len=20]",
            ),
        ),
    ),
)
