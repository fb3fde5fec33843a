"""Two data files to try: ``python make_data.py`` writes moves.npz, moves.csv and tide.csv, the same whenever it is run.

A move is a noisy oscillation of 30 steps that began slow or fast: which one is told by its first third alone. The tide
is a sum of two oscillations, 1500 steps long.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

NUM_MOVES, NUM_STEPS, LENGTH = 400, 30, 1500


def moves(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions, shape (400, 30), and what kind of move each is."""
    is_fast = generator.integers(0, 2, NUM_MOVES)
    steps = np.arange(NUM_STEPS)
    phase = generator.uniform(0, 2 * np.pi, (NUM_MOVES, 1))
    pace = np.where(steps < NUM_STEPS // 3, np.where(is_fast, 1.5, 0.5)[:, None], 1.0)
    positions = np.sin(phase + np.cumsum(pace, axis=1)) + generator.normal(scale=0.1, size=pace.shape)
    return positions, np.where(is_fast, "fast", "slow")


def tide(generator: np.random.Generator) -> pd.DataFrame:
    """Hours and the level of the water [m]."""
    hours = np.arange(LENGTH)
    level = 2 * np.sin(2 * np.pi * hours / 12.42) + 0.7 * np.sin(2 * np.pi * hours / 12.0)
    return pd.DataFrame({"hour": hours, "level": level + generator.normal(scale=0.05, size=LENGTH)})


def main() -> None:
    """Write the files."""
    generator = np.random.default_rng(0)
    positions, kinds = moves(generator)
    np.savez("moves.npz", inputs=positions, targets=kinds)
    pd.DataFrame(positions).add_prefix("step_").assign(target=kinds).to_csv("moves.csv", index=False)
    tide(generator).to_csv("tide.csv", index=False)


if __name__ == "__main__":
    main()
