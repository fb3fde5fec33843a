"""Every choice of ``conf/logger`` builds a mirror."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.mirrors import Mirror, NoMirror
from gradhorizon.mirrors.weights_and_biases import WandbMirror


def logger_node(name: str) -> Any:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(f"logger/{name}").logger


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF_DIR / "logger").glob("*.yaml")))
def test_logger_is_a_mirror(name: str) -> None:
    assert isinstance(instantiate(logger_node(name)), Mirror)


def test_logger_none_is_no_mirror() -> None:
    assert isinstance(instantiate(logger_node("none")), NoMirror)


@pytest.mark.parametrize(("name", "is_online"), [("wandb", False), ("wandb_online", True)])
def test_only_wandb_online_needs_an_account(name: str, is_online: bool) -> None:
    mirror = instantiate(logger_node(name))
    assert isinstance(mirror, WandbMirror)
    assert (mirror.effective_mode == "online") == is_online
