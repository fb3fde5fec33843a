r"""Data of your own: sequences with a class each, or one long series to be forecast.

With ``steps_ahead=null``, sequences of T = 4 steps and two features, and the class that is due at the end::

    t          1    2    3    4
    feature 0 .31  .92  .07  .55
    feature 1  0    1    0    0
    class                     "walking"

With ``steps_ahead=2``, a window of T = 4 steps of one series, and what is due at its end, two steps ahead::

    step       …   7    8    9   10   11   12   …
    series    …  .31  .92  .07  .55  .68  .14  …
    t              1    2    3    4
    target                        .14

Notation: B batch, N = T steps, D features, K = 1 loss step, O classes or forecast values, h steps ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from gradhorizon.tasks.arrays import forms, parts
from gradhorizon.tasks.arrays.objectives import Classes, Forecasts, Objective
from gradhorizon.tasks.arrays.reading import DataError, read_file
from gradhorizon.tasks.task import Batch, LastStepTask, one_answer


class FromArrays(LastStepTask):
    r"""Data of your own, from NumPy, CSV or Parquet: a class at the end, or a forecast.

    A class y is due at the end of each sequence by a softmax, or O values h steps after the end of a window:

    .. math:: L = -\ln p_T(y) \quad\text{or}\quad L = \tfrac{1}{O} \lVert \hat x_{T+h} - x_{T+h} \rVert^2

    Forms of a file. Classes: arrays ``inputs`` (samples, steps) or (samples, steps, features) and ``targets``
    (samples,) of an .npz; a table with a row a sample, whose columns are the steps and the class; a table with a row a
    step, where `sample_column` tells samples apart. Forecasts: an array ``inputs`` (steps,) or (steps, features), whose
    columns are called 0, 1, …; a table with a row a step. Sequences of unequal length, missing and infinite values,
    and whatever would have to be unpickled are refused.

    Parts. Of sequences, the held-out ones are drawn at random once, stratified by class, or are the last ones. Of a
    series, they are the windows of its end: no window and no target reaches into the other part. A random split of a
    series is refused, because its held-out steps would lie between steps that were trained on. Training batches are
    drawn with replacement, held-out ones without as long as they suffice.

    Standardised are features, and what is forecast, by mean and standard deviation of the training part alone, over its
    samples and steps; a feature that is constant there is only shifted. A forecast's loss is then in units of the
    target's variance.

    Metrics: ``loss``; ``accuracy``, of a forecast the share whose squared error a solved task may leave.

    Chance: the class frequencies of the held-out part, loss −Σ f ln f, accuracy max f; of a forecast, the mean target
    of the training part, scored on the held-out part. Persistence, the forecast that nothing changes after the last
    step, is no chance, as it looks at the input; it enters the criterion.

    Solved: ours. At most the share `solved_error` of chance's wrong answers is left; of a forecast, of the squared
    error of chance or of persistence, whichever is less.

    Args:
        seq_len: T: of sequences, the steps that they have; of a series, those of a window.
        path: file that ends in .npz, .npy, .csv or .parquet; a relative path starts in the folder of the launch.
        digest: what stands for the file's bytes, of which the run's identity is made; the configuration computes it.
        target: column of the class (``target`` by default), or those that are forecast (all that are fed by default).
        steps_ahead: h, from the last step that is fed to what is forecast; None for classes.
        sample_column: column of a table with a row a step that tells which sequence the row belongs to.
        time_column: column that must rise from row to row, within a sample; it is not fed.
        features: columns that are fed; all others by default.
        split: ``random`` or ``time``; by default the first of classes, the second of forecasts.
        held_out_fraction: of the samples, or of the series' steps.
        split_seed: of the random split, whatever generator samples it.
        standardize: whether to standardise.
        solved_error: see Solved.

    Raises:
        ValueError: an argument out of range, a file that cannot be read, data of another form, another `seq_len` than
            that of the sequences: what was wrong, what was received, what to do.

    Source: none; the data are yours.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        ...     np.save(file.name, np.sin(np.arange(500)))
        ...     task = FromArrays(seq_len=50, path=file.name, steps_ahead=3)
        >>> task.sample(np.random.default_rng(0), batch_size=4).inputs.shape, task.num_held_out
        (torch.Size([4, 50, 1]), 48)
    """

    name: ClassVar[str] = "from_arrays"

    def __init__(
        self,
        seq_len: int,
        path: str | None = None,
        digest: str | None = None,
        target: str | int | Sequence[str | int] | None = None,
        steps_ahead: int | None = None,
        sample_column: str | int | None = None,
        time_column: str | int | None = None,
        features: Sequence[str | int] | None = None,
        split: Literal["random", "time"] | None = None,
        held_out_fraction: float = 0.2,
        split_seed: int = 0,
        standardize: bool = True,
        solved_error: float = 0.05,
    ) -> None:
        super().__init__(seq_len)
        _check_ranges(steps_ahead, split, held_out_fraction, split_seed, solved_error)
        data = read_file(path, digest)
        columns = forms.Columns(target, sample_column, time_column, features)
        try:
            if steps_ahead is None:
                found = forms.sequences(data, columns)
                _check_length(seq_len, found.inputs.shape[1])
                chosen = split or "random"
                both = parts.sequence_parts(found, chosen, held_out_fraction, split_seed, standardize)
                objective: Objective = Classes(both[1], len(found.names), solved_error)
            else:
                series = forms.series(data, columns)
                both = parts.series_parts(series, seq_len, steps_ahead, held_out_fraction, standardize)
                objective = Forecasts(*both, solved_error)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        self._train, self._held_out = both
        self._objective = objective
        self.num_held_out = len(self._held_out.places)

    @property
    def input_size(self) -> int:
        """D, the features that are fed."""
        return int(self._train.inputs.shape[2])

    @property
    def output_size(self) -> int:
        """O, classes or values that are forecast."""
        return self._objective.output_size

    @property
    def chance(self) -> Mapping[str, float]:
        """See the class."""
        return self._objective.chance

    @property
    def solved_levels(self) -> Mapping[str, float]:
        """See the class."""
        return self._objective.solved_levels

    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:  # noqa: ARG002
        """A training batch; factor ``place``, shape (B,): row in the data of a sample, or of a window's first step."""
        return _batch(self._train, generator.choice(self._train.places.size, batch_size))

    def sample_held_out(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:  # noqa: ARG002
        """A batch that is never trained on, each sample at most once if `batch_size` allows."""
        size = self._held_out.places.size
        return _batch(self._held_out, generator.choice(size, batch_size, replace=batch_size > size))

    def loss(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Float[Tensor, "B K"]:
        """Cross-entropy in nats, or the squared error, shape (B, 1)."""
        return self._objective.loss(predictions, targets)

    def is_right(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Bool[Tensor, "B K"]:
        """The right class, or a squared error that a solved task may leave, shape (B, 1)."""
        return self._objective.is_right(predictions, targets)


def _batch(part: parts.Part, rows: np.ndarray) -> Batch:
    return one_answer(np.ascontiguousarray(part.inputs[rows]), part.targets[rows], place=part.places[rows])


def _check_length(seq_len: int, num_steps: int) -> None:
    if seq_len != num_steps:
        raise DataError(
            f"`seq_len` must be the steps of each sequence, {num_steps}, got {seq_len}: seq_len={num_steps}"
        )


def _check_ranges(
    steps_ahead: int | None, split: str | None, held_out_fraction: float, split_seed: int, solved_error: float
) -> None:
    if steps_ahead is not None and steps_ahead < 1:
        raise DataError(f"`steps_ahead` must be at least 1, or null for classes, got {steps_ahead}")
    if steps_ahead is not None and split == "random":
        raise DataError(
            "`split` must be time for a forecast, got random: held-out steps would lie between steps that were trained "
            "on, which tell of them; leave it out"
        )
    if split_seed < 0:
        raise DataError(f"`split_seed` must not be negative, got {split_seed}")
    for name, value in (("held_out_fraction", held_out_fraction), ("solved_error", solved_error)):
        if not 0 < value < 1:
            raise DataError(f"`{name}` must lie between 0 and 1, got {value}")
