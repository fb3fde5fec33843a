"""The numerical tests as lesser processors would run them: `make test-isa`.

PyTorch, MKL, oneDNN and NumPy choose their kernels by the instructions that a processor has; switches limit the choice.
The best set is what `make test` runs, and one that the processor lacks would end it, so the lesser ones are left.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import torch

SWITCHES = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
SETS = {
    "DEFAULT": ("default", "SSE4_2", "SSE41"),
    "AVX2": ("avx2", "AVX2", "AVX2"),
    "AVX512": ("avx512", "AVX512", "AVX512_CORE"),
}
"""PyTorch's name of a set, the least first -> values of `SWITCHES`."""

NUMERICAL = (
    "tests/analysis/test_decay_law.py",
    "tests/analysis/test_gaussian_products.py",
    "tests/analysis/test_growth.py",
    "tests/analysis/test_precision_horizon.py",
    "tests/analysis/test_quantities.py",
    "tests/analysis/test_random_tanh_spectrum.py",
    "tests/analysis/test_ring_initialization.py",
    "tests/analysis/test_solving.py",
    "tests/analysis/test_spectra.py",
    "tests/analysis/test_tables.py",
    "tests/analysis/test_theory_lines.py",
    "tests/analysis/test_two_ends.py",
    "tests/cells",
    "tests/kernels",
    "tests/measurements",
    "tests/theory",
    "tests/user_modules",
    "tests/test_ensemble.py",
    "tests/test_network.py",
    "tests/test_profiles.py",
    "tests/records/test_read_ends.py",
    "tests/test_readouts.py",
    "tests/test_unroll.py",
)


def lesser_sets(best: str) -> Iterator[str]:
    """Names of the sets below the one that PyTorch chooses by itself; none where it has kernels of another kind."""
    for name in SETS if best in SETS else ():
        if name == best:
            return
        yield name


def switches(name: str) -> dict[str, str]:
    """Environment variables that leave PyTorch, MKL, oneDNN and NumPy no better set."""
    found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    better = [own for own in found if name == "DEFAULT" or own.startswith(("AVX512", "X86_V4"))]
    return {**dict(zip(SWITCHES, SETS[name], strict=True)), "NPY_DISABLE_CPU_FEATURES": " ".join(better)}


def main(arguments: list[str]) -> int:
    """Run the tests once for every lesser set, all of them even if one fails.

    Args:
        arguments: names of `SETS`, all without one, then options of pytest.

    Returns:
        How many sets had a test that failed.
    """
    best = torch.backends.cpu.get_cpu_capability()
    asked = [name for name in SETS if name in arguments] or list(SETS)
    sets = [name for name in lesser_sets(best) if name in asked]
    arguments = [one for one in arguments if one not in SETS]
    for name in SETS:
        if name not in sets:
            why = "not asked for" if name not in asked else "this processor lacks it"
            why = "what `make test` runs here" if name == best else why
            print(f"--- {name}: left out ({why})", flush=True)  # noqa: T201
    return sum(_fails(name, arguments) for name in sets)


def _fails(name: str, arguments: list[str]) -> bool:
    print(f"--- {name}", flush=True)  # noqa: T201
    environment = {**os.environ, **switches(name)}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *arguments, *NUMERICAL]
    return subprocess.run(command, env=environment, check=False).returncode != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
