"""What measuring may build of a stranger's run: nothing else is imported, called or looked up."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from gradhorizon.config import ConfigError
from gradhorizon.late_measurement.command import main
from gradhorizon.late_measurement.trust import check_prefixes, check_trusted
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.measurements.recurrent_weights import RecurrentWeights
from tests.late_measurement.test_measure import CHEAP, SMALL
from tests.records_on_disk import rewrite_config
from tests.runs_on_disk import composed, run
from tests.shipped import shipped

LSTM = "gradhorizon.cells.lstm.LSTM"


def config_with(**changes: Any) -> dict[str, Any]:
    """A run's configuration, as far as it builds anything, with some groups replaced."""
    return {
        "seed": 0,
        "model": {"label": "lstm", "cell": {"_target_": LSTM, "_partial_": True}},
        "task": {"_target_": "gradhorizon.tasks.adding_arjovsky2016.AddingArjovsky2016"},
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True},
        "trainer": {"_target_": "gradhorizon.config.TrainerSettings"},
        **changes,
    }


def cell(target: Any, **arguments: Any) -> dict[str, Any]:
    """The same with a cell of one's own."""
    return config_with(model={"label": "lstm", "cell": {"_target_": target, **arguments}})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Packages of a stranger, each of which leaves a mark when it is imported; the mark."""
    mark = tmp_path / "imported"
    for name in ("strange_package", "strange_package_evil"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            f"import os, pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Cell: pass\ndef build(): pass\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    for name in ("strange_package", "strange_package_evil"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("label", sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml")))
def test_every_shipped_model_is_built_without_asking(label: str) -> None:
    own = ("model.label=own", f"model.cell._target_={LSTM}") if label == "external" else ()
    found: Any = OmegaConf.to_container(composed(f"model={label}", *own, "logger=none"), resolve=True)
    check_trusted({name: found[name] for name in ("model", "task", "optimizer", "trainer")})


CHOICES = [(group, name) for group in ("task", "optimizer") for name in shipped(group)]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_shipped_choice_is_built_without_asking(group: str, name: str) -> None:
    found: Any = OmegaConf.to_container(composed(f"{group}={name}"), resolve=True)
    check_trusted({group: found[group]})


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "functools.partial",
        "pandas.read_pickle",
        "subprocess.Popen",
        "torch.load",
        "torch.hub.load",
        "torch.jit.load",
        "torch.utils.data.DataLoader",
        "torch.serialization.load",
        "torch.nn.modules.module.torch.hub.load",
        "torch.nn.modules.module.Module.load_state_dict",
        "torch.nn.utils.parametrizations.orthogonal",
        "torch.nn.functional.relu",
        "torch.nn.init.normal_",
        "torch.nn.Parameter",
        "torch.nn.modules.linear.math.sqrt",
        "torch.optim.lr_scheduler.LambdaLR",
        "gradhorizon.cells.lstm.torch.load",
        "gradhorizon.cells.lstm.torch",
        "gradhorizon.cells.lstm.LSTM.segment",
        "gradhorizon.cells.lstm.nn.Linear",
        "gradhorizon.cells.lstm.Tensor",
        "gradhorizon.cells.initialization.uniform",
        "gradhorizon.records.reading.read_runs",
        "gradhorizon.late_measurement.trust.importlib.import_module",
        "gradhorizon.late_measurement.trust.check_trusted",
        "gradhorizon.late_measurement.command.main",
        "gradhorizon.records.checkpoints.load_checkpoint",
        "gradhorizon.tasks.adding_arjovsky2016.AddingArjovsky2016",
        "gradhorizon.readouts.StateReadout",
        "gradhorizon.cells_evil.Cell",
        "hydra.utils.instantiate",
        "hydra.utils.get_method",
        "hydra.utils.call",
        "pydoc.locate",
        "gradhorizon.cells.lstm.LSTM ",
        "\u043es.system",
        "gradhorizon.cells.lst\uff4d.LSTM",
        "gradhorizon.cells..LSTM",
        "gradhorizon",
        "",
        "???",
        None,
        3,
        ["os.system"],
        {"_target_": "os.system"},
    ],
)
def test_a_cell_of_another_kind_is_refused_in_one_line(target: Any) -> None:
    with pytest.raises(ConfigError, match=r"`model\.cell\._target_` of the run's configuration must be") as caught:
        check_trusted(cell(target))
    assert "\n" not in str(caught.value)
    assert "a cell of gradhorizon.cells or a torch.nn module" in str(caught.value)


def nested(node: Any) -> list[tuple[str, dict[str, Any]]]:
    """`node` in every kind of place where Hydra builds what it finds."""
    return [
        ("model.cell.some_arg", cell(LSTM, some_arg=node)),
        ("model.cell.some_arg.deeper", cell(LSTM, some_arg={"deeper": node})),
        ("model.cell.some_arg[1]", cell(LSTM, some_arg=[0, node])),
        ("model.cell._args_[0]", cell(LSTM, _args_=[node])),
        ("model.cell.initialization.x[0].y", cell(LSTM, initialization={"x": [{"y": node}]}, _recursive_=False)),
        ("model.readout", config_with(model={"readout": node})),
        ("model.encoder", config_with(model={"encoder": node})),
        ("model.other", config_with(model={"other": node})),
        ("task", config_with(task=node)),
        ("task.inner", config_with(task={"_target_": config_with()["task"]["_target_"], "inner": node})),
        ("optimizer", config_with(optimizer=node)),
        ("trainer", config_with(trainer=node)),
        ("seed", config_with(seed=node)),
        ("unheard_of", config_with(unheard_of=node)),
    ]


@pytest.mark.parametrize("extra", [{}, {"_partial_": True}, {"_args_": ["touch x"]}, {"_convert_": "object"}])
@pytest.mark.parametrize("index", range(len(nested({}))))
def test_what_is_asked_for_anywhere_is_held_to_its_kind(index: int, extra: dict[str, Any]) -> None:
    key, config = nested({"_target_": "os.system", **extra})[index]
    with pytest.raises(ConfigError) as caught:
        check_trusted(config)
    assert str(caught.value).startswith(f"`{key}._target_` of the run's configuration must be ")


@pytest.mark.parametrize(
    ("node", "is_good"),
    [
        ({"_target_": "hydra.utils.get_class", "path": "gradhorizon.readouts.AdditiveScore"}, True),
        ({"_target_": "hydra.utils.get_class", "path": "torch.nn.Linear"}, True),
        ({"_target_": "hydra.utils.get_class", "path": "subprocess.Popen"}, False),
        ({"_target_": "hydra.utils.get_class", "path": "torch.load"}, False),
        ({"_target_": "hydra.utils.get_class", "_args_": ["os.system"]}, False),
        ({"_target_": "hydra.utils.get_class", "path": "torch.nn.Linear", "_args_": ["os.system"]}, False),
        ({"_target_": "hydra.utils.get_class"}, False),
    ],
)
def test_a_class_that_is_only_looked_up_is_held_to_its_kind_too(node: dict[str, Any], is_good: bool) -> None:
    config = config_with(model={"readout": {"_target_": "gradhorizon.readouts.AttentionReadout", "score": node}})
    if is_good:
        check_trusted(config)
    else:
        with pytest.raises(ConfigError, match=r"model\.readout\.score\._target_"):
            check_trusted(config)


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("optimizer", "torch.optim.SGD"),
        ("optimizer", "torch.optim.adamw.AdamW"),
        ("trainer", "gradhorizon.config.TrainerSettings"),
    ],
)
def test_classes_of_a_groups_kind_are_built(group: str, target: str) -> None:
    check_trusted(config_with(**{group: {"_target_": target}}))


@pytest.mark.parametrize("target", ["torch.nn.LSTM", "torch.nn.modules.rnn.GRU"])
def test_modules_of_torch_are_built(target: str) -> None:
    check_trusted(cell(target))


@pytest.mark.parametrize(
    "text", ["${oc.env:HOME}", "a${seed}", "${oc.decode:'1'}", r"\${x}", "${hydra:job.name}", "${"]
)
def test_nothing_is_looked_up_for_a_stranger(text: str) -> None:
    for config in (config_with(runs_dir=text), cell(LSTM, some_arg=[text]), cell(LSTM, some_arg={text: 1})):
        with pytest.raises(ConfigError, match="must be plain data, got an interpolation"):
            check_trusted(config)


# --- packages of the user's own


def test_a_package_that_is_not_trusted_is_not_even_imported(package: Path) -> None:
    with pytest.raises(ConfigError, match=r"if you trust its package, --trust strange_package$"):
        check_trusted(cell("strange_package.Cell"))
    assert not package.exists()


@pytest.mark.parametrize("name", ["Cell", "build"])
def test_a_trusted_package_is_imported_and_what_it_defines_is_let_pass(package: Path, name: str) -> None:
    check_trusted(cell(f"strange_package.{name}"), ("other", "strange_package"))
    assert package.exists()


def test_to_trust_a_package_is_not_to_trust_one_whose_name_begins_like_it(package: Path) -> None:
    with pytest.raises(ConfigError, match="--trust strange_package_evil"):
        check_trusted(cell("strange_package_evil.Cell"), ("strange_package",))
    assert not package.exists()


@pytest.mark.parametrize("target", ["strange_package.os.system", "strange_package.pathlib", "strange_package.none"])
@pytest.mark.usefixtures("package")
def test_to_trust_a_package_is_not_to_trust_what_it_imports(target: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be imported|is no class or function that is defined in"):
        check_trusted(cell(target), ("strange_package",))


def test_a_part_of_torch_can_be_trusted() -> None:
    check_trusted(cell(LSTM, initialization={"_target_": "torch.nn.init.zeros_"}), ("torch.nn.init",))


@pytest.mark.parametrize(
    "prefix",
    ["torch", "torch.hub", "torch.utils", "os", "builtins", "hydra.utils", "gradhorizon", "", "a b", "a.", "*"],
)
def test_what_runs_whatever_it_is_given_cannot_be_trusted(prefix: str) -> None:
    with pytest.raises(ConfigError, match="--trust must name a package"):
        check_prefixes([prefix])


# --- the program


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs"), *SMALL, "~measurement.gates")


@pytest.fixture
def strange(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, whose configuration is to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "strange" / finished.name))


@pytest.mark.parametrize(
    ("path", "node"),
    [
        ("model.cell", {"_target_": "os.system", "_args_": ["touch {mark}"]}),
        ("model.cell.initialization", {"_target_": "os.system", "_args_": ["touch {mark}"]}),
        ("model.cell.more", [{"_target_": "os.system", "_args_": ["touch {mark}"]}]),
        ("task", {"_target_": "gradhorizon.cells.lstm.torch.load", "f": "{trap}", "weights_only": False}),
        ("optimizer", {"_target_": "pandas.read_pickle", "_args_": ["{trap}"]}),
        ("trainer", {"_target_": "builtins.exec", "_args_": ["open('{mark}', 'w')"]}),
    ],
)
def test_measuring_a_strangers_run_executes_nothing_of_it(
    strange: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, node: Any
) -> None:
    config = OmegaConf.load(strange / "config.yaml")
    OmegaConf.update(config, path, OmegaConf.create(node), merge=False)
    mark = tmp_path / "executed"
    text = OmegaConf.to_yaml(config).replace("{mark}", str(mark)).replace("{trap}", str(tmp_path / "trap"))
    rewrite_config(strange, text)
    (tmp_path / "trap").write_bytes(f"cos\nsystem\n(S'touch {mark}'\ntR.".encode())
    before = {file: file.read_bytes() for file in strange.rglob("*") if file.is_file()}
    with caplog.at_level(logging.INFO):
        assert main([str(strange), *CHEAP]) == 1
    assert not mark.exists()
    assert f"`{path.partition('.')[0]}" in caplog.text
    assert "must be" in caplog.text
    assert "Traceback" not in caplog.text
    assert {file: file.read_bytes() for file in strange.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    "content",
    [
        "!!python/object/apply:os.system ['touch {mark}']",
        "seed: !!python/name:os.system",
        "a: &a [1]\nb: *a\n",
        "a: &a [x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(9)),
        "[" * 100_000,
        "- " * 50_000 + "x",
        "a: 1\na: 2\n",
        "{a: 1, a: 2}",
        f"a: {'9' * 5000}",
        f"a: 0x{'f' * 100_000}",
        f"a: 1{':1' * 10_000}",
        "a: \0",
        "\ud800",
        "a: 1\n---\nb: 2\n",
        "model: 3\n",
        "1: 2\n",
        "",
        "- a",
        "task: [",
        "a: {b: 18446744073709551616}",
    ],
)
def test_a_configuration_that_no_run_writes_is_one_line(
    strange: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    mark = tmp_path / "executed"
    rewrite_config(strange, content.replace("{mark}", str(mark)).encode("utf-8", "surrogatepass"))
    with caplog.at_level(logging.INFO):
        assert main([str(strange), *CHEAP]) == 1
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "config.yaml" in errors[0]
    assert "\n" not in errors[0]
    assert len(errors[0]) < 700
    assert not mark.exists()


def test_what_is_asked_for_as_a_logger_is_never_built(strange: Path, tmp_path: Path) -> None:
    config = OmegaConf.load(strange / "config.yaml")
    mark = tmp_path / "executed"
    config.logger = {"_target_": "os.system", "_args_": [f"touch {mark}"]}
    config.measurement = {"gates": {"_target_": "os.system", "_args_": [f"touch {mark}"]}}
    rewrite_config(strange, OmegaConf.to_yaml(config))
    assert main([str(strange), *CHEAP]) == 0
    assert not mark.exists()


def test_a_run_of_ones_own_cell_is_measured_once_its_package_is_trusted(
    strange: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "own_cells.py").write_text(f"from {LSTM.rpartition('.')[0]} import LSTM\nclass Own(LSTM): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = (strange / "config.yaml").read_text().replace(LSTM, "own_cells.Own").replace("label: lstm", "label: own")
    rewrite_config(strange, text)
    assert main([str(strange), *CHEAP]) == 1
    assert "--trust own_cells" in caplog.text
    assert main([str(strange), "--trust", "own_cells", *CHEAP]) == 0
    assert list(strange.glob("seed-*/records/recurrent_weights.parquet"))


def test_a_measurement_of_the_users_own_comes_from_the_user(strange: Path) -> None:
    own = (
        "measurement=recurrent_weights",
        "measurement.recurrent_weights._target_=tests.late_measurement.test_trust.Own",
    )
    assert main([str(strange), *own]) == 0


class Own(RecurrentWeights):
    """A measurement of the user's own."""
