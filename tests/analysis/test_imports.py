"""What reading and drawing needs, and what it must not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MODULES = sorted(path.stem for path in (Path(__file__).parents[2] / "analysis").glob("*.py") if path.stem != "__init__")


def test_analysis_imports_neither_torch_nor_hydra_nor_pyplot() -> None:
    code = (
        f"import sys\nfor name in {MODULES}: __import__(f'analysis.{{name}}')\n"
        "print([name for name in ('torch', 'hydra', 'pytorch_lightning', 'matplotlib.pyplot') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module", ["gradient_profile", "sequence_length_scaling", "training_curves", "verdicts", "report", "figures"]
)
def test_program_explains_itself(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    program = __import__(f"analysis.{module}", fromlist=["main"])
    with pytest.raises(SystemExit, match="0"):
        program.main(["--help"])
    assert "run folders" in capsys.readouterr().out
