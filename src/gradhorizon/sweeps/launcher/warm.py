"""What every run imports, imported once where fresh processes are forked from: to import this module is to use it."""

import importlib
import pkgutil

import pyarrow.dataset  # noqa: F401, by the first Parquet file that is read
import pytorch_lightning  # noqa: F401
import torch  # noqa: F401

from gradhorizon import cells, measurements, mirrors, tasks  # noqa: F401
from gradhorizon.config import shipped_cells
from gradhorizon.runs.provenance import provenance
from gradhorizon.sweeps.launcher import worker  # noqa: F401
from gradhorizon.training import fit  # noqa: F401

for package in (cells, measurements, tasks):
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
shipped_cells()
provenance()
