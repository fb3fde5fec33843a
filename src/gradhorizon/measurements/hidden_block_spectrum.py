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

from gradhorizon.cells.cell import Recurrent
from gradhorizon.jacobians.one_step import LeadingBlocks, StepMaps, component_sizes
from gradhorizon.measurements.exponent_rows import Spectrum, exponent_columns, exponent_summaries
from gradhorizon.measurements.spectrum import SpectrumMeasurement
from gradhorizon.network import LayerTrace
from gradhorizon.records.tables import Table


class HiddenBlockSpectrum(SpectrumMeasurement):
    """Growth rates of products of ∂h_t/∂h_{t−1} alone, along the layer's own input; not Lyapunov exponents of an LSTM.

    For a state of one component they are exactly `LyapunovSpectrum`'s. The residuals are the same two.

    Arguments and errors are those of `SpectrumMeasurement`.

    Source: the recipe of Vogt, Puelma Touzel, Shlizerman & Lajoie (2022), https://arxiv.org/abs/2006.14123, whose
        published code takes an LSTM's Jacobian with respect to h, c being held.
    """

    table: ClassVar[Table] = Table(
        "hidden_block_spectrum",
        "growth rates of products of the block ∂h_t/∂h_{t−1} of the first state component, the others held, along the "
        "layer's own input; Lyapunov exponents only of a state of one component; summarised over samples",
        exponent_columns("the first state component"),
    )
    what = "hidden block"

    def size(self, cell: Recurrent) -> int:
        """S, entries of the first component."""
        return component_sizes(cell)[0]

    def maps(self, trace: LayerTrace) -> StepMaps:
        """The blocks of the full state's Jacobians."""
        return LeadingBlocks(super().maps(trace), self.size(trace.cell))

    def summaries(self, spectrum: Spectrum, maps: StepMaps) -> dict[str, Any]:
        """Column name -> values, without dimension and entropy rate: no attractor has these exponents."""
        return exponent_summaries(spectrum, self.window, maps)
