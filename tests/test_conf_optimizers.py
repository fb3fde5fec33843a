"""Every file of ``conf/optimizer`` trains at the root's learning rate, and resumes where it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from gradhorizon.machine.installed import CONF_DIR
from tests.shipped import shipped

NAMES = shipped("optimizer")
LEARNING_RATE = 0.01


def optimizer(name: str, parameter: nn.Parameter) -> torch.optim.Optimizer:
    config = OmegaConf.create({"learning_rate": LEARNING_RATE, "optimizer": content(name)})
    built: torch.optim.Optimizer = instantiate(config.optimizer)([parameter])
    return built


def content(name: str) -> dict[str, Any]:
    """The file's keys and values, with references as they are written."""
    loaded: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "optimizer" / f"{name}.yaml"))
    return dict(loaded)


def target(start: nn.Parameter) -> Tensor:
    """A bowl, steeper in some directions than in others; least at 0."""
    return (torch.arange(1.0, len(start) + 1) * start.square()).sum()


def train(chosen: torch.optim.Optimizer, parameter: nn.Parameter, num_steps: int) -> None:
    for _ in range(num_steps):
        chosen.zero_grad()
        target(parameter).backward()
        chosen.step()


@pytest.mark.parametrize("name", NAMES)
def test_file_names_an_optimizer_whose_settings_are_what_it_says(name: str) -> None:
    chosen = optimizer(name, nn.Parameter(torch.ones(3)))
    assert isinstance(chosen, torch.optim.Optimizer)
    own = {key: value for key, value in content(name).items() if not key.startswith("_")}
    assert {key: chosen.defaults[key] for key in own} == {**own, "lr": LEARNING_RATE}


@pytest.mark.parametrize("name", NAMES)
def test_learning_rate_comes_from_the_root(name: str) -> None:
    assert content(name)["lr"] == "${learning_rate}"


@pytest.mark.parametrize("name", NAMES)
def test_steps_go_downhill(name: str) -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    before = float(target(parameter).detach())
    train(optimizer(name, parameter), parameter, 20)
    assert float(target(parameter).detach()) < 0.9 * before


@pytest.mark.parametrize("name", NAMES)
def test_training_that_was_broken_off_goes_on_to_the_same_bits(name: str) -> None:
    whole = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    broken = nn.Parameter(whole.detach().clone())
    train(optimizer(name, whole), whole, 9)
    first = optimizer(name, broken)
    train(first, broken, 4)
    second = optimizer(name, broken)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second, broken, 5)
    assert torch.equal(broken, whole)
