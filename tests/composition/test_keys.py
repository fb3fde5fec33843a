"""No key is ignored: what nothing reads is refused with the nearest key; a plus adds what a class takes, no more."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from gradhorizon.composition.explanations import explanation
from gradhorizon.composition.keys import check_keys, nearest, plain
from gradhorizon.config import ConfigError
from gradhorizon.late_measurement import command as measure
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.sweeps.launch import launch
from tests.runs_on_disk import TINY

SHORT = (
    *(item for item in TINY if not item.startswith("measurement.")),
    "num_steps=2",
    "num_seeds=1",
    "measurement=[input_gradients]",
)


def composed(*overrides: str) -> DictConfig:
    """The configuration with Hydra's own node, as the command line composes it."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=True)


def run(runs_dir: Path, *overrides: str) -> Path:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return launch(compose("train", overrides=[f"runs_dir={runs_dir}", *overrides])).folder


def refusal(*overrides: str) -> str:
    """What the command line says, composed or not."""
    try:
        check_keys(composed(*overrides))
    except ConfigError as error:
        return str(error)
    except (HydraException, ValueError) as error:
        return explanation(error, overrides).removeprefix("Error: ")
    pytest.fail(f"accepted: {overrides}")


UNKNOWN = {
    "num_step=5": "num_steps",
    "modle=lstm": "model",
    "Seed=3": "seed",
    "momentum=0.9": "optimizer.momentum",
    "scheduler._target_=torch.optim.lr_scheduler.CosineAnnealingLR": "measurement.input_gradients.schedule",
    "model.hidden=3": "model.cell.hidden_size",
    "model.bidirektional=true": "model.bidirectional",
    "model.cell.nonlinearty=relu": "model.cell.nonlinearity",
    "model.readout.scores=3": "model.readout",
    "task.seqlen=5": "task.seq_len",
    "optimizer.Momentum=0.5": "optimizer.momentum",
    "optimizer.weight_decya=0.5": "optimizer.weight_decay",
    "trainer.log_every_step=3": "trainer.log_every_steps",
    "measurement.input_gradients.max_lag=3": "measurement.input_gradients.max_lags",
    "measurement.input_gradients.schedule.num_point=3": "measurement.input_gradients.schedule.num_points",
    "hydra.run.dri=x": "hydra.run.dir",
}


@pytest.mark.parametrize("prefix", ["", "+"])
@pytest.mark.parametrize("override", UNKNOWN)
def test_an_unknown_key_is_refused_with_the_nearest_whatever_stands_before_it(override: str, prefix: str) -> None:
    words = refusal("model=rnn_tanh", "optimizer=sgd", f"{prefix}{override}")
    path = re.escape(override.partition("=")[0])
    assert re.match(rf"`{path}|`scheduler`", words)
    if "readout" not in override:  # whose class takes nothing that is not handed over
        assert f"the nearest is `{UNKNOWN[override]}`" in words
    assert "\n" not in words
    assert f"+{override.partition('=')[0]}" not in words


@pytest.mark.parametrize("override", ["~num_step", "~taks", "~measurement.gate", "~optimizer.lrr", "~seed.x"])
def test_leaving_out_what_is_not_there_is_refused(override: str) -> None:
    assert re.match(rf"`{re.escape(override[1:])}` is no", refusal(override)) or "is of" in refusal(override)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("++num_step=5",), "`num_step` is no key of the configuration; the nearest is `num_steps`"),
        (("+tbptt=5",), "`tbptt` is no key of the configuration; the nearest is"),
        (("+measurement.input_gradients.probed_step=3",), "is no argument of gradhorizon.measurements.input_gradients"),
        (
            ("logger=none", "+logger.project=x"),
            "is no argument of gradhorizon.mirrors.NoMirror, which takes none; leave it out",
        ),
        (("+model/extra=3",), "`model/extra` is no key"),
        (("+model@other=gru",), "`other` is no key of the configuration"),
        (("+model._target_=a.b",), "`model._target_` is no key"),
        (("+trainer._partial_=true",), "`trainer._partial_` is no argument"),
        (("+model.cell.input_size=3",), "the run itself hands `input_size` over when it builds `model.cell`"),
        (("+optimizer.params=[1]",), "the run itself hands `params` over"),
        (("+seed.x=3",), "`seed` is a value, with none below it; write seed=…"),
        (("++optimizer.lr.x=3",), "`optimizer.lr` is a value, with none below it"),
        (("++model.label.x=3",), "`model.label` is a value"),
        (
            ("measurement.lyapunov_spectrum.num_exponents=3",),
            "not chosen; choose it: 'measurement=[lyapunov_spectrum]'",
        ),
        (("+measurement.lyapunov_spectrum.num_exponents=3",), "choose it: 'measurement=[lyapunov_spectrum]'"),
        (("+measurement.gate.schedule=3",), "is of none; the nearest is `gates`; choose it: 'measurement=[gates]'"),
        (("optimizer=adam", "+optimizer.nesterov=true"), "`optimizer.nesterov` is no argument of torch.optim.Adam"),
        (("+hydra.job.chdri=true",), "the nearest is `hydra.job.chdir`"),
    ],
)
def test_each_kind_of_wrong_key_has_its_words(overrides: tuple[str, ...], words: str) -> None:
    assert words in refusal(*overrides)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("+seed=3",), "`seed` is in the configuration already; leave out the plus: seed=3"),
        (("+model=gru",), "`model` is in the configuration already; leave out the plus: model=gru"),
        (("optimizer.weight_decay=0.1",), "add it with a plus: +optimizer.weight_decay=0.1"),
        (("model.encoder._target_=a.B",), "add it with a plus: +model.encoder._target_=a.B"),
        (("hydra.job.env_set.NAME=x",), "add it with a plus: +hydra.job.env_set.NAME=x"),
        (("model=lsmt",), "`model`=lsmt is not there; the nearest is `lstm`; there are: bigru,"),
        (
            ("measurement=[gates,input_gradient]",),
            "`measurement`=input_gradient is not there; the nearest is `input_grad",
        ),
        (("experiment=quickstrt",), "`experiment`=quickstrt is not there; the nearest is `quickstart`"),
        (("hydra/launchr=local",), "`hydra/launchr` is no group; the nearest is `hydra/launcher`"),
        (("hydra/launcher=lokal",), "`hydra/launcher`=lokal is not there; the nearest is `local`"),
        (("task=null",), "`task` must be the name of a configuration file, such as adding_arjovsky2016,"),
        (("measurement=null",), "for none write measurement=[], got null"),
        (("~measurement",), "for none write measurement=[], got ~measurement"),
        (("~measurement=[gates]",), "leave out one: ~measurement.<name>"),
        (("num_steps=abc",), "`num_steps` must be a whole number, got abc"),
        (("num_steps=1e2",), "`num_steps` must be a whole number, got 1e2"),
        (("learning_rate=fast",), "`learning_rate` must be a number, got fast"),
        (("plan=maybe",), "`plan` must be true or false, got maybe"),
        (("seed=[1",), "seed=[1"),
        (("+a",), "+a cannot be read as key=value"),
    ],
)
def test_what_hydra_refuses_is_said_in_one_line_that_leads_out(overrides: tuple[str, ...], words: str) -> None:
    said = refusal(*overrides)
    assert words in said
    assert "\n" not in said
    assert "To append" not in said


@pytest.mark.parametrize("group", ["model", "task", "optimizer", "trainer", "logger"])
def test_a_group_left_out_is_refused_with_what_there_is(tmp_path: Path, group: str) -> None:
    with pytest.raises(ConfigError, match=f"`{group}` must be the name of a configuration file, such as"):
        run(tmp_path, f"~{group}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "override",
    [
        "+optimizer.weight_decay=0.1",
        "++optimizer.amsgrad=true",
        "+optimizer._convert_=all",
        "~optimizer.lr",
        "+measurement.input_gradients.schedule.at_last=false",
        "~trainer.log_every_steps",
        "experiment=quickstart",
        "+measurement.mine._target_=gradhorizon.measurements.gates.Gates",
        "+hydra.job.env_set.NAME=x",
        "+model.encoder._target_=collections.OrderedDict",
        "+hydra.callbacks.mine._target_=a.B",
        "~measurement.gates",
    ],
)
def test_what_a_class_takes_may_be_added_or_left_out(override: str) -> None:
    check_keys(composed(override))


SHIPPED = [
    (group, path.stem)
    for group in ("model", "task", "measurement", "optimizer", "trainer", "logger")
    for path in sorted((CONF_DIR / group).glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "name"), SHIPPED)
def test_every_shipped_file_has_known_keys_alone(group: str, name: str) -> None:
    check_keys(composed(f"{group}=[{name}]" if group == "measurement" else f"{group}={name}"))


USERS = """
class Plain:
    def __init__(self, input_size, hidden_size, rate=1.0):
        pass


class Open(Plain):
    def __init__(self, input_size, **options):
        pass


class Child(Plain):
    pass


def decorated(call):
    return lambda anything: call


@decorated
def wrapped(cell, gain):
    pass
"""


def test_classes_of_ones_own_are_read_without_being_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_cells.py").write_text(f"raise SystemError('was run')\n{USERS}")
    monkeypatch.syspath_prepend(tmp_path)
    own = ("model=external", "model.label=mine")
    check_keys(composed(*own, "model.cell._target_=users_cells.Child", "+model.cell.rate=2"))
    check_keys(composed(*own, "model.cell._target_=users_cells.Open", "+model.cell.anything=2"))
    for name in ("Plain", "Child"):
        words = refusal(*own, f"model.cell._target_=users_cells.{name}", "+model.cell.rat=2")
        assert f"`model.cell.rat` is no argument of users_cells.{name}; the nearest is `model.cell.rate`" in words


def test_a_finished_run_is_not_said_to_be_done_with_a_key_that_it_does_not_know(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, *SHORT)
    caplog.set_level(logging.INFO)
    for key in ("+measurement.input_gradients.probed_step=3", "+trainer.x=1", "+tbptt=5", "+optimizer.typo=1"):
        with pytest.raises(ConfigError, match="the nearest is"):
            run(tmp_path, *SHORT, key)
    assert "finished, skipped" not in caplog.text
    assert len(list((tmp_path / "default").iterdir())) == 1


def test_late_measurements_refuse_unknown_keys_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = run(tmp_path, *SHORT)
    for setting, words in (
        ("+measurement.gates.typo=3", "is no argument of gradhorizon.measurements.gates.Gates"),
        ("measurement.gates.typo=3", "is no argument of gradhorizon.measurements.gates.Gates"),
        ("measurement=gats", "the nearest is `gates`"),
    ):
        caplog.clear()
        arguments = [str(folder), "measurement=gates", setting]
        assert measure.main(arguments) == 1
        assert words in caplog.text
        assert "To append" not in caplog.text
    assert not list(folder.rglob("gates.parquet"))


def test_the_nearest_is_one_beside_it_or_one_of_the_same_name_elsewhere() -> None:
    known = ["seed", "num_seeds", "optimizer.lr", "optimizer.momentum", "trainer.log_every_steps"]
    assert nearest("SEED", known) == "seed"
    assert nearest("lr", known) == "optimizer.lr"
    assert nearest("optimizer.momentun", known) == "optimizer.momentum"


def test_a_configuration_in_plain_containers_is_not_resolved() -> None:
    assert plain(OmegaConf.create({"a": "${b}", "b": [1, "???"]})) == {"a": "${b}", "b": [1, "???"]}
