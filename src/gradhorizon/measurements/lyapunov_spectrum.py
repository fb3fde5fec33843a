r"""Finite-time Lyapunov exponents of every layer and direction along its own input of the probe batch.

.. math:: \lambda_i = \frac{1}{N - N_0} \sum_{t > N_0} \ln \lvert (R_t)_{ii} \rvert, \qquad J_t Q_{t-1} = Q_t R_t

:math:`J_t = \partial s_t / \partial s_{t-1}` is over the full state: over the hidden state alone an LSTM's exponents do
not see its forget gate. Complex parts are stored as real pairs, so that each complex exponent counts twice.

The dimension and the entropy rate are of the states that the given input drives, over its own window: with few steps
they say how the window's exponents are spread, not what an infinitely long input would give.

Notation: B batch, N steps, :math:`N_0` transient steps, S size of the full state, K exponents.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pandas as pd

from gradhorizon.jacobians.exponents import refuse_empty_window
from gradhorizon.jacobians.one_step import StepJacobians, state_size
from gradhorizon.measurements.exponent_rows import (
    Window,
    attractor_columns,
    attractor_summaries,
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


class LyapunovSpectrum(ProbeMeasurement):
    r"""Leading or all finite-time Lyapunov exponents, with a residual that says how far to trust them.

    All S exponents start from the identity frame and obey :math:`\sum_i \lambda_i = \overline{\ln |\det J_t|}` wherever
    no step is singular. Fewer start from a random frame, on which they depend as C/N; a second frame says how much.

    Args:
        schedule: when it fires.
        num_exponents: K, the leading ones; all S of every layer if None.
        num_samples: at most so many samples of the probe batch, its first ones.
        transient_steps: steps before the window, in each direction's own time.
        qr_every_steps: steps between two QR decompositions.

    Raises:
        ValueError: fewer than 1 exponent, sample or step between decompositions, or a negative transient.
    """

    table: ClassVar[Table] = Table(
        "lyapunov_spectrum",
        "finite-time Lyapunov exponents over the full state along the layer's own input, summarised over samples",
        (*exponent_columns("the full state"), *attractor_columns()),
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
            ValueError: more exponents than a layer's state has entries, or no step left after the transient.
        """
        for cell in recurrent_cells(network):
            self.window.count(cell, state_size(cell))
            refuse_empty_window(task.input_len, self.window.transient_steps)

    def read(self, probe: Probe) -> pd.DataFrame:
        """One row per layer, direction and exponent; no rows without a recurrent layer.

        Raises:
            ValueError: more exponents than the state has entries, or no step left after the transient.
        """
        return spectrum_rows(self.table, probe.trace.layers, self._columns)

    def _columns(self, trace: LayerTrace) -> dict[str, Any]:
        count = self.window.count(trace.cell, state_size(trace.cell))
        maps = StepJacobians(trace.cell, trace.inputs[: self.num_samples].detach())
        spectrum = self.window.spectrum(maps, count)
        return {**exponent_summaries(spectrum, self.window, maps), **attractor_summaries(spectrum, maps.size)}
