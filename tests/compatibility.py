"""``docs/compatibility.md``: which published cells and layers pass, and why others do not, by running each of them.

    python -m tests.compatibility --out docs/compatibility.md

Every class is trained 20 steps, broken off, resumed and measured; see `tests.external.proofs`. A difference anywhere is
an error, so that what the page says holds where it was made.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from tests.external.proofs import TABLES, Proof, proved
from tests.external.specimens import ALL, Specimen, is_killed

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"
_PACKAGES = {
    "torchrecurrent": "recurrent cells of the literature, and a layer of each",
    "torch": "the recurrences of `torch.nn`, and one layer without a state",
    "mambapy": "Mamba in plain PyTorch",
    "minGRU-pytorch": "minimal recurrences, computed by a parallel scan",
}
_SHOWN = {
    "input_gradients": "input gradients",
    "state_gradients": "state gradients",
    "lyapunov_spectrum": "Lyapunov spectrum",
    "temporal_contributions": "temporal contributions",
    "state_jacobians": "state Jacobians",
}
_HEAD = """# Cells and layers of other people

What `gradhorizon model=external model.cell._target_=<import path>` does with every cell and layer of four packages.
This page is not written but made, by running each of them:

```sh
python -m tests.compatibility --out docs/compatibility.md
```

Versions: {versions}. How to use one: [own_cell.md](own_cell.md).

## How to read it

- **How it is called** is what the run says when it starts: found by running a copy once, as a cell with one step's
  input, as a layer with a carried state, or as a layer without one. Sizes are those of `hidden_size=4`.
- **Measured** lists the tables. Each is held against naive autograd on the trained weights, the module called step by
  step as its authors document it: to a relative 1e-9, exponents to what the conditioning of their steps allows.
- **Resumed**: a training of 20 steps that breaks off in its 14th, and is launched again, leaves the same records and
  parameters, to the bit, as one that does not. (`*`: its process is killed.)
- **All** is: {everything}.
  A layer without a state has no states to measure: input gradients alone.
- An **output that is no part of the state** joins it as the component `output`, so that what the loss reads is a part
  of the state. No step consumes it: it adds a column of zeros to each Jacobian, and its exponents are below resolution.
- **Mamba's** authors keep two weights in float32 whatever the format around them (`.float()`): gradients are those of
  the rounded weights, which the run says once.
- **tauGRUCell** takes a delayed state that it does not return, so that nobody but its layer can carry it: the cell is
  refused, and the layer is measured as one without a state.
- Layers that want inputs of their own width stand behind `model/encoder=linear`; further arguments are added with a
  plus, `+model.cell.num_layers=2`.
"""


def page(proofs: Mapping[Specimen, Proof]) -> str:
    """The whole page.

    Args:
        proofs: of every specimen.
    """
    parts = [head()]
    for package, words in _PACKAGES.items():
        rows = [row(proof) for specimen, proof in proofs.items() if specimen.package == package]
        title = f"## {package}: {words}\n\n| class | how it is called | measured | resumed |\n|---|---|---|---|"
        parts.append("\n".join([title, *rows, ""]))
    return "\n".join(parts)


def head() -> str:
    """All above the tables."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name).partition('+')[0]}" for name in _PACKAGES)
    return _HEAD.format(versions=versions, everything=", ".join(_SHOWN.values()))


def row(proof: Proof) -> str:
    """One line of a table."""
    if proof.refusal:
        return f"| `{proof.specimen.name}` | refused: {proof.refusal.replace('|', '∣')} | – | – |"
    measured = "all" if proof.tables == TABLES else ", ".join(_SHOWN[name] for name in proof.tables)
    star = "*" if is_killed(proof.specimen) else ""
    return f"| `{proof.specimen.name}` | {proof.calling} | {measured} | yes{star} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything and write the page.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=PAGE, help="file to write")
    out = parser.parse_args(arguments).out
    torch.set_num_threads(1)
    proofs = {specimen: proved(specimen) for specimen in ALL}
    out.write_text(page(proofs), encoding="utf-8")
    refused = sum(bool(proof.refusal) for proof in proofs.values())
    sys.stdout.write(f"{os.fspath(out)}: {len(proofs)} classes, {refused} of them refused{os.linesep}")


if __name__ == "__main__":
    main()
