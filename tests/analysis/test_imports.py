"""What reading and drawing needs, and what it must not."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "analysis").rglob("*.py")
    if path.stem != "__init__"
)
PROGRAMS = [name for name in MODULES if "\ndef main(" in (ROOT / f"{name.replace('.', '/')}.py").read_text("utf-8")]


def test_analysis_imports_neither_torch_nor_hydra_nor_pyplot() -> None:
    code = (
        f"import sys\nfor name in {MODULES}: __import__(name)\n"
        "print([name for name in ('torch', 'hydra', 'pytorch_lightning', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", PROGRAMS)
def test_program_explains_itself(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(module).main(["--help"])
    assert "run folders" in capsys.readouterr().out
