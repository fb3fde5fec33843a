"""Every shipped model, collected from ``conf/model``, so that a new file is tested by existing."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from gradhorizon.cells.cell import Recurrent, State
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.network import Network

MODELS = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml") if path.stem != "external")


@functools.cache
def _composed(name: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(f"model/{name}", ["+hidden_size=1", "+seq_len=1"])


def compose_model(name: str, hidden_size: int = 5, seq_len: int = 20) -> DictConfig:
    """``conf/model/<name>.yaml`` with the root scalars that it may refer to."""
    cfg = copy.deepcopy(_composed(name))
    cfg.hidden_size, cfg.seq_len = hidden_size, seq_len
    return cfg


def build_cell(name: str, input_size: int = 3, hidden_size: int = 5, seq_len: int = 20) -> Recurrent:
    """One layer of a shipped model."""
    cell: Recurrent = instantiate(compose_model(name, hidden_size, seq_len).model.cell)(input_size=input_size)
    return cell


def build_network(name: str, input_size: int = 3, output_size: int = 2, **sizes: int) -> Network:
    """A shipped model as the harness builds it."""
    cfg = compose_model(name, **sizes)
    parts: dict[str, Any] = instantiate(cfg.model)
    return Network(
        cell=parts["cell"],
        input_size=input_size,
        output_size=output_size,
        num_layers=cfg.get("num_layers", 1),
        bidirectional=parts["bidirectional"],
        readout=parts["readout"],
        encoder=parts["encoder"],
    )


def random_state(cell: Recurrent, batch_size: int) -> State:
    """A non-zero initial state that requires grad."""
    return tuple(torch.randn_like(part).requires_grad_() for part in cell.initial_state(batch_size))
