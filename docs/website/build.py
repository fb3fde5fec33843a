"""The site, built: ``python -m docs.website.build`` writes site/, of which every page opens without a network.

Warnings are errors: a link that leads nowhere, an equation that cannot be drawn, a docstring that is no markup.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd import build as sphinx

from docs.website import pages

ROOT = Path(__file__).parents[2]
_MARK = ".buildinfo"


def main(arguments: list[str] | None = None) -> int:
    """Build the site, and return 0 unless there was a warning."""
    parser = argparse.ArgumentParser(prog="python -m docs.website.build", description="Build the documentation site.")
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="folder of the site (default: site)")
    out = parser.parse_args(arguments).out
    if out.exists() and any(out.iterdir()) and not (out / _MARK).is_file():
        parser.error(f"--out must be absent, empty or a site that was built before, got {out}, which holds other files")
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "pages")
        source.mkdir()
        pages.lay_out(ROOT, source)
        settings = ["-c", str(Path(__file__).parent), "-d", str(Path(folder, "doctrees"))]
        status: int = sphinx.main(["-q", "-W", "--keep-going", "-b", "html", *settings, str(source), str(out)])
    if status == 0:
        print(f"{out / 'index.html'}: {len(list(out.rglob('*.html')))} pages")  # noqa: T201
    return status


if __name__ == "__main__":
    sys.exit(main())
