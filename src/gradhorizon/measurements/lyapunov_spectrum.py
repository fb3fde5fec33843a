r"""Finite-time Lyapunov exponents of every layer and direction along its own input of the probe batch.

.. math:: \lambda_i = \frac{1}{N - N_0} \sum_{t > N_0} \ln \lvert (R_t)_{ii} \rvert, \qquad J_t Q_{t-1} = Q_t R_t

:math:`J_t = \partial s_t / \partial s_{t-1}` is over the full state: over the hidden state alone an LSTM's exponents do
not see its forget gate. Complex parts are stored as real pairs, so that each complex exponent counts twice.

The dimension and the entropy rate are of the states that the given input drives, over its own window: with few steps
they say how the window's exponents are spread, not what an infinitely long input would give.

Notation: B batch, N steps, :math:`N_0` transient steps, S size of the full state, K exponents.
"""

from __future__ import annotations

from typing import ClassVar

from gradhorizon.measurements.exponent_rows import attractor_columns, exponent_columns
from gradhorizon.measurements.spectrum import SpectrumMeasurement
from gradhorizon.records.tables import Table


class LyapunovSpectrum(SpectrumMeasurement):
    r"""Leading or all finite-time Lyapunov exponents, with a residual that says how far to trust them.

    All S exponents start from the identity frame and obey :math:`\sum_i \lambda_i = \overline{\ln |\det J_t|}` wherever
    no step is singular. Fewer start from a random frame, on which they depend as C/N; a second frame says how much.

    Arguments and errors are those of `SpectrumMeasurement`.
    """

    table: ClassVar[Table] = Table(
        "lyapunov_spectrum",
        "finite-time Lyapunov exponents over the full state along the layer's own input, summarised over samples",
        (*exponent_columns("the full state"), *attractor_columns()),
    )
