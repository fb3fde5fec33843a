"""What reading and drawing needs, and what it must not."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
    for root, place in ((ROOT / "src", "gradhorizon/analysis"), (ROOT, "experiments"), (ROOT, "analysis"))
    for path in sorted((root / place).rglob("*.py"))
}
PROGRAMS = [name for name, path in SOURCES.items() if "\ndef main(" in path.read_text("utf-8")]


def test_analysis_imports_neither_torch_nor_hydra_nor_pyplot() -> None:
    code = (
        f"import sys\nfor name in {list(SOURCES)}: __import__(name)\n"
        "print([name for name in ('torch', 'hydra', 'pytorch_lightning', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", PROGRAMS)
def test_program_explains_itself(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(module).main(["--help"])
    assert "run folders" in capsys.readouterr().out
