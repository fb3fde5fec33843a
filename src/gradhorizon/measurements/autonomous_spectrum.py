r"""Lyapunov exponents of every layer and direction left to itself: no input, from random states.

.. math:: s_t = \mathrm{recur}(\mathrm{project}(0),\, s_{t-1}), \qquad s_0 \sim \mathcal N(0, I)

Biases stay. A layer above the first one is alone too: what the lower ones would feed it is 0 as well. This is the
system of random-network theory (`gradhorizon.theory.mean_field_tanh_growth_rate`), and says what a recurrence does of
its own accord; what it does along the task's input is `lyapunov_spectrum`.

Exponents over a finite window from a few trajectories are estimates: a network with several attractors has several
spectra, and trajectories that share a spectrum scatter about it as the window's length allows.

Notation: B trajectories, N steps, S size of the full state, K exponents.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from gradhorizon.cells.cell import Recurrent, State
from gradhorizon.jacobians.exponents import refuse_empty_window
from gradhorizon.jacobians.one_step import StepJacobians, StepMaps
from gradhorizon.measurements.exponent_rows import attractor_columns, exponent_columns
from gradhorizon.measurements.options import refuse_below
from gradhorizon.measurements.schedule import Schedule
from gradhorizon.measurements.spectrum import SpectrumMeasurement
from gradhorizon.network import LayerTrace
from gradhorizon.records.tables import Table
from gradhorizon.tasks.task import Task


class AutonomousSpectrum(SpectrumMeasurement):
    """Leading or all Lyapunov exponents of each recurrence without input, from random initial states.

    It reads the cells alone, and of the probe batch nothing. The residuals are those of `LyapunovSpectrum`.

    Args:
        schedule: when it fires.
        num_exponents: K, the leading ones; all S of every layer if None.
        num_steps: N, the transient included.
        transient_steps: steps before the window, in which the state finds its attractor.
        num_trajectories: B, initial states with entries drawn from N(0, 1), the same ones always.
        qr_every_steps: steps between two QR decompositions.

    Raises:
        ValueError: fewer than 1 exponent, trajectory or step between decompositions, a negative transient, or one as
            long as the trajectory.

    Source: Sompolinsky, Crisanti & Sommers (1988), https://doi.org/10.1103/PhysRevLett.61.259, for the large random
        network without input; Engelken, Wolf & Abbott (2023), https://doi.org/10.1103/PhysRevResearch.5.043044, for
        its full spectrum, dimension and entropy rate.
    """

    table: ClassVar[Table] = Table(
        "autonomous_spectrum",
        "Lyapunov exponents over the full state of a layer without input, summarised over random initial states",
        (*exponent_columns("the full state", "trajectories"), *attractor_columns("trajectories")),
    )

    def __init__(
        self,
        schedule: Schedule,
        num_exponents: int | None = 8,
        num_steps: int = 1000,
        transient_steps: int = 200,
        num_trajectories: int = 2,
        qr_every_steps: int = 1,
    ) -> None:
        refuse_below("num_trajectories", num_trajectories, 1)
        super().__init__(schedule, num_exponents, num_trajectories, transient_steps, qr_every_steps)
        refuse_empty_window(num_steps, transient_steps)
        self.num_steps = num_steps

    def trajectory_len(self, task: Task) -> int:  # noqa: ARG002, no task is fed
        """N, the transient included."""
        return self.num_steps

    def maps(self, trace: LayerTrace) -> StepMaps:
        """The full state's Jacobians along each trajectory."""
        state = random_states(trace.cell, self.num_samples)
        inputs = state[0].new_zeros(1, 1, 1).expand(self.num_samples, self.num_steps, trace.cell.input_size)
        return StepJacobians(trace.cell, inputs, state)


def random_states(cell: Recurrent, count: int) -> State:
    """States with entries from N(0, 1), drawn by a private generator of fixed seed: the same ones always.

    Args:
        cell: whose states, with the dtype and device of its own initial state.
        count: B.
    """
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part) for part in cell.initial_state(count)
    )
