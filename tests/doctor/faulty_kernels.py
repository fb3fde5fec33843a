"""A scan in chunks of 16 steps with a backward pass of its own, right; and the same with one fault each, as they occur.

s_t = λ ⊙ s_{t−1} + W x_t + b, y_t = s_t. Gradients by the adjoint g_t = ȳ_t + λ ⊙ g_{t+1}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import Recurrent, State

CHUNK = 16


class _Scan(torch.autograd.Function):
    """States at all steps, (B, N, H), of decay (H,), drive (B, N, H), start (B, H)."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor, start: Tensor, kernel: ScanCell) -> Tensor:
        state, states = start, []
        for t in range(drive.shape[1]):
            state = decay * kernel.handed_on(state, t, drive.shape[1]) + drive[:, t]
            states.append(state)
        made = torch.stack(states, dim=1)
        ctx.save_for_backward(decay, start, made)
        ctx.kernel = kernel
        return made

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        decay, start, states = ctx.saved_tensors
        num_steps = states.shape[1]
        before = torch.cat([start.unsqueeze(1), states[:, :-1]], dim=1)
        felt, of_drive = torch.zeros_like(start), torch.zeros_like(states)
        for t in reversed(range(num_steps)):
            felt = upstream[:, t] + decay * ctx.kernel.felt(felt, t, num_steps)
            of_drive[:, t] = felt
        products = ctx.kernel.products(of_drive, before)
        return products.sum((0, 1)), *ctx.kernel.gradients(of_drive, decay * felt), None


class ScanCell(Recurrent):
    """Right: what the faulty ones change is the identity here."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.inp = nn.Linear(input_size, hidden_size)
        self.decay = nn.Parameter(torch.linspace(0.7, 0.99, hidden_size))

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"s": (self.hidden_size,)}

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        return self.inp(x)

    def recur(self, projected_t: Tensor, state: State) -> State:
        return (self.decay * state[0] + projected_t,)

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        states: Tensor = _Scan.apply(self.decay, self.project(x, first_step), state[0], self)
        return states, (states[:, -1],)

    def handed_on(self, state: Tensor, t: int, num_steps: int) -> Tensor:  # noqa: ARG002
        """The state that step t consumes, t from 0."""
        return state

    def felt(self, felt: Tensor, t: int, num_steps: int) -> Tensor:  # noqa: ARG002
        """What reaches step t from the step after it."""
        return felt

    def products(self, of_drive: Tensor, before: Tensor) -> Tensor:
        """Whose sum is the gradient of the decay."""
        return of_drive * before

    def gradients(self, of_drive: Tensor, of_start: Tensor) -> tuple[Tensor, Tensor]:
        """Of the drive, and of the initial state."""
        return of_drive, of_start


class DropsATerm(ScanCell):
    """The first step's share of the decay's gradient is left out."""

    def products(self, of_drive: Tensor, before: Tensor) -> Tensor:
        return (of_drive * before)[:, 1:]


class OffByOneAtAChunk(ScanCell):
    """The adjoint is lost between a chunk and the next."""

    def felt(self, felt: Tensor, t: int, num_steps: int) -> Tensor:
        return 0 * felt if t + 1 < num_steps and (t + 1) % CHUNK == 0 else felt


class StaleState(ScanCell):
    """The first step of each further chunk starts from what was handed to the chunk before."""

    def handed_on(self, state: Tensor, t: int, num_steps: int) -> Tensor:
        if t == 0:
            self.first = state.detach()
        return self.first if t % CHUNK == 0 and t > 0 else super().handed_on(state, t, num_steps)


class ForgetsTheStart(ScanCell):
    """No gradient of the initial state."""

    def gradients(self, of_drive: Tensor, of_start: Tensor) -> tuple[Tensor, Tensor]:
        return of_drive, torch.zeros_like(of_start)


class WrongBeyondAChunk(ScanCell):
    """The gradient of the inputs is half of what it should be in sequences longer than a chunk."""

    def gradients(self, of_drive: Tensor, of_start: Tensor) -> tuple[Tensor, Tensor]:
        return of_drive * (0.5 if of_drive.shape[1] > CHUNK else 1.0), of_start


class WrongAtAMultiple(ScanCell):
    """The last chunk is left out of the gradient where it is full."""

    def gradients(self, of_drive: Tensor, of_start: Tensor) -> tuple[Tensor, Tensor]:
        if of_drive.shape[1] % CHUNK == 0:
            of_drive = torch.cat([of_drive[:, :-CHUNK], 0 * of_drive[:, -CHUNK:]], dim=1)
        return of_drive, of_start


class WrongAlone(ScanCell):
    """A batch of one gets the gradient of its decay twice."""

    def products(self, of_drive: Tensor, before: Tensor) -> Tensor:
        return of_drive * before * (2 if len(before) == 1 else 1)


class WrongInOddSizes(ScanCell):
    """The last unit has no gradient where two do not fill a vector."""

    def gradients(self, of_drive: Tensor, of_start: Tensor) -> tuple[Tensor, Tensor]:
        if self.hidden_size % 2:
            of_drive = torch.cat([of_drive[..., :-1], 0 * of_drive[..., -1:]], dim=-1)
        return of_drive, of_start


class WrongInBFloat16(ScanCell):
    """The gradient of the decay misses every other step in one format."""

    def products(self, of_drive: Tensor, before: Tensor) -> Tensor:
        found = of_drive * before
        return found[:, ::2] if found.dtype == torch.bfloat16 else found


class WrongInFloat32(ScanCell):
    """The adjoint is too small by a thousandth in one format."""

    def felt(self, felt: Tensor, t: int, num_steps: int) -> Tensor:  # noqa: ARG002
        return 0.999 * felt if felt.dtype == torch.float32 else felt


class ForgetsWhereItWasCut(ScanCell):
    """Starts anew wherever a segment begins late."""

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        return super().segment(x, tuple(part * (first_step < CHUNK) for part in state), first_step)


class SpoilsWhatIsUnread(ScanCell):
    """A sequence of which only an early output is read gets a gradient behind that output."""

    def gradients(self, of_drive: Tensor, of_start: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(of_drive == 0, of_drive.abs().max(), of_drive), of_start


FAULTS: Mapping[type[ScanCell], tuple[str, str]] = {
    DropsATerm: ("parameter_gradient", ""),
    OffByOneAtAChunk: ("input_gradient", "only at 17, 31, 32, 33, 63, 64, 65 steps (right at 1, 2, 15, 16)"),
    StaleState: ("outputs", "only at 17, 31, 32, 33, 63, 64, 65 steps (right at 1, 2, 15, 16)"),
    ForgetsTheStart: ("initial_state_gradient", ""),
    WrongBeyondAChunk: ("input_gradient", "only at 17, 31, 32, 33, 63, 64, 65 steps (right at 1, 2, 15, 16)"),
    WrongAtAMultiple: ("input_gradient", "only at 16, 32, 64"),
    WrongAlone: ("parameter_gradient", "only with batch 1"),
    WrongInOddSizes: ("input_gradient", "only with hidden_size 5, 7"),
    WrongInBFloat16: ("parameter_gradient", ""),
    WrongInFloat32: ("initial_state_gradient", ""),
    ForgetsWhereItWasCut: ("outputs", "only with a sequence that is cut"),
    SpoilsWhatIsUnread: ("input_gradient", "only with an early loss"),
}
"""Cell -> a quantity that must be found wrong, and words that must say where."""


class Chaotic(Recurrent):
    """h_t = f(W x_t + U h_{t−1}) with weights so large that rounding grows by the step, and `segment` its own loop."""

    def __init__(self, input_size: int, hidden_size: int, gain: float = 5.0, nonlinearity: str = "tanh") -> None:
        super().__init__(input_size, hidden_size)
        self.nonlinearity = nonlinearity
        self.inp = nn.Linear(input_size, hidden_size)
        self.rec = nn.Parameter(gain * hidden_size**-0.5 * torch.randn(hidden_size, hidden_size))

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"h": (self.hidden_size,)}

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        return self.inp(x)

    def recur(self, projected_t: Tensor, state: State) -> State:
        made: Tensor = getattr(torch, self.nonlinearity)(projected_t + state[0] @ self.rec.T)
        return (made,)

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        # The same sums in another order: right, and other bits.
        order = torch.arange(self.hidden_size - 1, -1, -1, device=x.device)
        (h,), outputs = state, []
        for drive in self.project(x, first_step).unbind(1):
            h = getattr(torch, self.nonlinearity)(drive + h[:, order] @ self.rec[:, order].T)
            outputs.append(h)
        return torch.stack(outputs, dim=1), (h,)


class ChaoticAndWrong(Chaotic):
    """Its initial state gets no gradient."""

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        return super().segment(x, tuple(part.detach() for part in state), first_step)
