r"""What spectra have in common: exponents of a product of one-step matrices, of every layer and direction.

Notation: B samples, N steps, S rows of a one-step matrix, K exponents.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pandas as pd
import torch

from gradhorizon.cells.cell import Recurrent
from gradhorizon.jacobians.exponents import refuse_empty_window
from gradhorizon.jacobians.one_step import StepJacobians, StepMaps, state_size
from gradhorizon.measurements.exponent_rows import (
    Spectrum,
    Window,
    attractor_summaries,
    exponent_summaries,
    recurrent_cells,
)
from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.options import refuse_below
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import Schedule
from gradhorizon.measurements.summaries import stacked_rows, table_rows
from gradhorizon.network import LayerTrace, Network
from gradhorizon.tasks.task import Task


class SpectrumMeasurement(ProbeMeasurement):
    """Leading or all exponents, by default of the full state's Jacobians along the layer's own input.

    Args:
        schedule: when it fires.
        num_exponents: K, the leading ones; all S of every layer if None.
        num_samples: at most so many samples of the probe batch, its first ones.
        transient_steps: steps before the window, in each direction's own time.
        qr_every_steps: steps between two QR decompositions.

    Raises:
        ValueError: fewer than 1 exponent, sample or step between decompositions, or a negative transient.
    """

    what: ClassVar[str] = "state"
    """Whose entries S counts, in words."""

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
            ValueError: more exponents than S, or no step left after the transient.
        """
        for cell in recurrent_cells(network):
            self.window.count(cell, self.size(cell), self.what)
            refuse_empty_window(self.trajectory_len(task), self.window.transient_steps)

    def read(self, probe: Probe) -> pd.DataFrame:
        """One row per layer, direction and exponent; no rows without a recurrent layer.

        Raises:
            ValueError: more exponents than S, or no step left after the transient.
        """
        # A validation hook, from which a solved member is probed, runs in inference mode.
        with torch.inference_mode(mode=False):
            frames = [
                table_rows(self.table, {"layer": trace.layer, "direction": trace.direction, **self._columns(trace)})
                for trace in probe.trace.layers
            ]
        return stacked_rows(self.table, frames)

    def size(self, cell: Recurrent) -> int:
        """S of a cell."""
        return state_size(cell)

    def trajectory_len(self, task: Task) -> int:
        """N, the transient included."""
        return task.input_len

    def maps(self, trace: LayerTrace) -> StepMaps:
        """The one-step matrices of one layer and direction."""
        return StepJacobians(trace.cell, trace.inputs[: self.num_samples].detach())

    def summaries(self, spectrum: Spectrum, maps: StepMaps) -> dict[str, Any]:
        """Column name -> values of one layer and direction, which themselves are left out."""
        return {**exponent_summaries(spectrum, self.window, maps), **attractor_summaries(spectrum, maps.size)}

    def _columns(self, trace: LayerTrace) -> dict[str, Any]:
        count = self.window.count(trace.cell, self.size(trace.cell), self.what)
        maps = self.maps(trace)
        return self.summaries(self.window.spectrum(maps, count), maps)
