r"""The same recipe as a Lyapunov spectrum, over the first state component alone: what not to call Lyapunov exponents.

.. math:: \lambda_i = \frac{1}{N - N_0} \sum_{t > N_0} \ln \lvert (R_t)_{ii} \rvert, \qquad
    \frac{\partial h_t}{\partial h_{t-1}} Q_{t-1} = Q_t R_t

The other components are held at the trajectory's values when :math:`h_{t-1}` is varied. These are the network's
Lyapunov exponents only where the state has no other component. The block of a product of Jacobians is not the product
of their blocks: a perturbation of :math:`h` that enters the memory cell and comes back a step later is cut off at every
step. An LSTM remembers in just that way, by :math:`\partial c_t / \partial c_{t-1} = f_t`, so that at PyTorch's default
initialisation its numbers here start near −1.9 to −2 nats per step, whatever its forget bias. Public code for recurrent
networks computes them; recorded beside `lyapunov_spectrum` they show the difference.

Notation: B batch, N steps, :math:`N_0` transient steps, S entries of the first component h, K exponents.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pandas as pd

from gradhorizon.jacobians.exponents import refuse_empty_window
from gradhorizon.jacobians.one_step import LeadingBlocks, StepJacobians, component_sizes
from gradhorizon.measurements.exponent_rows import (
    Window,
    exponent_columns,
    exponent_summaries,
    recurrent_cells,
    spectrum_rows,
)
from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.options import refuse_below
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import Schedule
from gradhorizon.network import LayerTrace, Network
from gradhorizon.records.tables import Table
from gradhorizon.tasks.task import Task

_BLOCK = "hidden block"


class HiddenBlockSpectrum(ProbeMeasurement):
    """Growth rates of products of ∂h_t/∂h_{t−1} alone, along the layer's own input; not Lyapunov exponents of an LSTM.

    For a state of one component they are exactly `LyapunovSpectrum`'s. The residuals are the same two.

    Args:
        schedule: when it fires.
        num_exponents: K, the leading ones; all S of every layer if None.
        num_samples: at most so many samples of the probe batch, its first ones.
        transient_steps: steps before the window, in each direction's own time.
        qr_every_steps: steps between two QR decompositions.

    Raises:
        ValueError: fewer than 1 exponent, sample or step between decompositions, or a negative transient.

    Source: the recipe of Vogt, Puelma Touzel, Shlizerman & Lajoie (2022), https://arxiv.org/abs/2006.14123, whose
        published code takes an LSTM's Jacobian with respect to h, c being held.
    """

    table: ClassVar[Table] = Table(
        "hidden_block_spectrum",
        "growth rates of products of the block ∂h_t/∂h_{t−1} of the first state component, the others held, along the "
        "layer's own input; Lyapunov exponents only of a state of one component; summarised over samples",
        exponent_columns("the first state component"),
    )

    def __init__(
        self,
        schedule: Schedule,
        num_exponents: int | None = 8,
        num_samples: int = 8,
        transient_steps: int = 0,
        qr_every_steps: int = 1,
    ) -> None:
        super().__init__(schedule)
        refuse_below("num_samples", num_samples, 1)
        self.num_samples = num_samples
        self.window = Window(num_exponents, transient_steps, qr_every_steps)

    def check(self, network: Network, task: Task) -> None:
        """Refuse what `read` would refuse, before any training.

        Args:
            network: built as it will be trained.
            task: the protocol.

        Raises:
            ValueError: more exponents than a layer's first component has entries, or no step after the transient.
        """
        for cell in recurrent_cells(network):
            self.window.count(cell, component_sizes(cell)[0], _BLOCK)
            refuse_empty_window(task.input_len, self.window.transient_steps)

    def read(self, probe: Probe) -> pd.DataFrame:
        """One row per layer, direction and exponent; no rows without a recurrent layer.

        Raises:
            ValueError: more exponents than the first component has entries, or no step left after the transient.
        """
        return spectrum_rows(self.table, probe.trace.layers, self._columns)

    def _columns(self, trace: LayerTrace) -> dict[str, Any]:
        size = component_sizes(trace.cell)[0]
        count = self.window.count(trace.cell, size, _BLOCK)
        maps = LeadingBlocks(StepJacobians(trace.cell, trace.inputs[: self.num_samples].detach()), size)
        return exponent_summaries(self.window.spectrum(maps, count), self.window, maps)
