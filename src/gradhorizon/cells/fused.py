r"""Cells that PyTorch has a fused kernel for: what they have in common.

The kernel's weights of all gates are stacked, each gate having rows of its own. Two bias vectors, as in ``torch.nn``.

Notation: B batch, N steps, D input size, H hidden size, G rows of the weights (H per gate and candidate).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from gradhorizon.cells.cell import Recurrent, State


class FusedCell(Recurrent):
    """A recurrence whose `segment` is a ``torch.nn`` layer of one direction.

    Args:
        input_size: D.
        hidden_size: H.
        kernel: builds the layer; called as ``torch.nn.RNN`` is.
    """

    gate_names: ClassVar[tuple[str, ...]]
    """Whose rows of the weights are whose, in their order; the candidate's among them."""

    def __init__(self, input_size: int, hidden_size: int, kernel: Callable[..., nn.RNNBase]) -> None:
        super().__init__(input_size, hidden_size)
        self.rnn = kernel(input_size, hidden_size, batch_first=True)

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The hidden state h, (H,)."""
        return {"h": (self.hidden_size,)}

    def project(self, x: Float[Tensor, "B N D"], first_step: int = 0) -> Float[Tensor, "B N G"]:  # noqa: ARG002
        """Input part of all preactivations, shape (B, N, G)."""
        weight_ih, _, bias_ih, _ = self.rnn.all_weights[0]
        return linear(x, weight_ih, bias_ih)

    def project_state(self, h: Float[Tensor, "B H"]) -> Float[Tensor, "B G"]:
        """Recurrent part of all preactivations, shape (B, G)."""
        _, weight_hh, _, bias_hh = self.rnn.all_weights[0]
        return linear(h, weight_hh, bias_hh)

    def segment(
        self,
        x: Float[Tensor, "B N D"],
        state: State,
        first_step: int = 0,  # noqa: ARG002
    ) -> tuple[Float[Tensor, "B N H"], State]:
        """Outputs (B, N, H) and the last state, by the fused kernel."""
        return run_kernel(self.rnn, x, state)

    def recurrent_weights(self) -> dict[str, Tensor]:
        """The recurrent matrices of the gates and the candidate, shape (H, H) each."""
        blocks = self.rnn.all_weights[0][1].chunk(len(self.gate_names))
        return {f"weight_hh_{name}": block for name, block in zip(self.gate_names, blocks, strict=True)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore: Callable[[dict[str, Any]], None] = super().__setstate__
        restore(state)
        # A deep copy scatters the weights that cuDNN wants in one block, and warns at every call.
        self.rnn.flatten_parameters()


def run_kernel(kernel: nn.RNNBase, x: Float[Tensor, "B N D"], state: State) -> tuple[Float[Tensor, "B N H"], State]:
    """Outputs (B, N, H) and the last state of a ``torch.nn`` layer of one direction, batch first or not.

    Args:
        kernel: the layer.
        x: inputs, shape (B, N, D).
        state: s_0, one tensor (B, …) per component.
    """
    x = x if kernel.batch_first else x.transpose(0, 1)
    layered = tuple(part.contiguous().unsqueeze(0) for part in state)
    outputs, last = kernel(x, layered if len(layered) > 1 else layered[0])
    last = (last,) if isinstance(last, Tensor) else last
    return outputs if kernel.batch_first else outputs.transpose(0, 1), tuple(part[0] for part in last)
