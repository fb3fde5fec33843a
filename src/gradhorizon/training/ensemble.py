"""Members: independent networks that train side by side, each as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gradhorizon.kernels.casting import real_numbers
from gradhorizon.machine.randomness import forked_rng
from gradhorizon.measurements.measurement import StepReading
from gradhorizon.network import Network
from gradhorizon.tasks.task import Batch, Task
from gradhorizon.training.streams import initialization_seed

OutcomeKind = Literal["solved", "budget exhausted", "diverged"]


@dataclass(frozen=True)
class Outcome:
    """How a member's training ended: what happened, and after how many optimizer steps."""

    kind: OutcomeKind
    step: int


class Member(nn.Module):
    """One network of the ensemble, with its seed and its fate.

    Args:
        seed: decides its initial parameters and its training batches.
        build: builds the network; it may draw from torch's global generator, which is seeded and restored around it.
    """

    def __init__(self, seed: int, build: Callable[[], Network]) -> None:
        super().__init__()
        self.seed = seed
        with forked_rng(initialization_seed(seed)):
            self.network = build()
        self.outcome: Outcome | None = None
        self.solved_at: int | None = None
        self.num_clipped = 0
        self.num_steps_since_reading = 0
        self.last_loss = float("nan")
        self.last_metrics: dict[str, float] = {}

    @property
    def is_training(self) -> bool:
        """Whether it still takes optimizer steps."""
        return self.outcome is None

    def state(self) -> dict[str, Any]:
        """All that resuming needs besides the optimizer: tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "outcome": None if self.outcome is None else asdict(self.outcome),
            "solved_at": self.solved_at,
            "num_clipped": self.num_clipped,
            "num_steps_since_reading": self.num_steps_since_reading,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.outcome = None if state["outcome"] is None else Outcome(**state["outcome"])
        self.solved_at = state["solved_at"]
        self.num_clipped = state["num_clipped"]
        self.num_steps_since_reading = state["num_steps_since_reading"]


class Ensemble(nn.Module):
    """Members that take the same number of steps side by side; no member's numbers depend on another.

    This one loops over its members. What drives it sees members, their losses and their readings alone, so that
    an ensemble that is batched over members can take its place.

    Args:
        members: the members.
        task: the protocol they learn.
        clip_norm: threshold on each member's gradient norm; None for no clipping.

    Raises:
        ValueError: no members.
    """

    def __init__(self, members: Sequence[Member], task: Task, clip_norm: float | None = None) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one member, got none")
        self.members = nn.ModuleList(members)
        self.task = task
        self.clip_norm = clip_norm

    def __iter__(self) -> Iterator[Member]:
        """Members in the order of their seeds."""
        return iter(self.members)  # type: ignore[arg-type]

    def training_loss(self, member: Member, batch: Batch, with_metrics: bool) -> Tensor:
        """Mean loss of one member on its batch, a 0-dim tensor with gradient.

        Args:
            member: the member.
            batch: its training batch.
            with_metrics: whether to keep the batch's metrics in `member.last_metrics`.
        """
        predictions = member.network(batch.inputs, batch.loss_steps)
        loss = self.task.loss(predictions, batch.targets).mean()
        if with_metrics:
            with torch.no_grad():
                metrics = self.task.metrics(predictions.detach(), batch.targets)
            member.last_metrics = {name: float(values.mean()) for name, values in metrics.items()}
        return loss

    def clip(self, member: Member, with_reading: bool) -> StepReading | None:
        """Clip one member's gradient in place, and return a reading of it if one is due.

        Args:
            member: the member, whose parameters hold the gradient of this step.
            with_reading: whether a step measurement fires now.
        """
        member.num_steps_since_reading += 1
        if self.clip_norm is None and not with_reading:
            return None
        norms = _gradient_norms(member.network)
        total = torch.linalg.vector_norm(torch.stack(list(norms.values())))
        if self.clip_norm is not None and bool(total > self.clip_norm):
            member.num_clipped += 1
            scale = self.clip_norm / total
            for parameter in member.network.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(scale.to(parameter.grad.dtype))
        if not with_reading:
            return None
        reading = StepReading(norms, total, self.clip_norm, member.num_clipped, member.num_steps_since_reading)
        member.num_clipped = member.num_steps_since_reading = 0
        return reading

    @torch.no_grad()
    def evaluate(self, member: Member, batches: Iterable[Batch]) -> dict[str, float]:
        """Metrics of one member, means over all samples of `batches`."""
        sums: dict[str, Tensor] = {}
        count = 0
        member.network.eval()
        for batch in batches:
            predictions = member.network(batch.inputs, batch.loss_steps)
            count += batch.inputs.shape[0]
            for name, values in self.task.metrics(predictions, batch.targets).items():
                sums[name] = sums.get(name, values.new_zeros((), dtype=torch.float64)) + values.double().sum()
        member.network.train()
        return {name: float(total) / count for name, total in sums.items()}


def _gradient_norms(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.linalg.vector_norm(real_numbers(parameter.grad), dtype=torch.float64)
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


class LoneTraining:
    """Loss and clipping of one network, as its ensemble computes them.

    Args:
        network: takes the steps.
        task: the protocol.
        clip_norm: threshold on the gradient's norm, or None.
    """

    def __init__(self, network: Network, task: Task, clip_norm: float | None) -> None:
        self._member = Member(0, lambda: network)
        self._ensemble = Ensemble([self._member], task, clip_norm)

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss of a training batch, a 0-dim tensor with gradient."""
        return self._ensemble.training_loss(self._member, batch, with_metrics=False)

    def clip(self) -> None:
        """Clip the gradient in place."""
        self._ensemble.clip(self._member, with_reading=False)
