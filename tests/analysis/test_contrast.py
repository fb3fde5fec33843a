"""Every colour of a curve is seen on paper and on night, and is changed no more than that needs."""

from __future__ import annotations

import re

import pytest
from omegaconf import OmegaConf

from gradhorizon.analysis.drawing.contrast import DAY_BAND, LEAST_CONTRAST, NIGHT, NIGHT_BAND, WHITE, contrast, readable
from gradhorizon.analysis.reading.cohort import RESERVED_COLORS
from gradhorizon.analysis.report import report
from gradhorizon.analysis.report.night import _NIGHTLY, dark_charts, swatch
from gradhorizon.machine.installed import CONF_DIR

STYLE = (report.PAGE / "style.css").read_text("utf-8")
SHIPPED = {path.stem: OmegaConf.load(path) for path in (CONF_DIR / "model").glob("*.yaml")}
COLORS = sorted(
    {str(OmegaConf.select(node, "color") or OmegaConf.select(node, "model.color")) for node in SHIPPED.values()}
    - {"None"}
    | set(RESERVED_COLORS)
    | {"#000000", "#ffffff"}
)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # a near miss of 4.5
    assert contrast("#ffffff", "#ffffff") == 1.0


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("background", [DAY_BAND, NIGHT_BAND])
def test_every_colour_is_seen_on_band_and_paper(color: str, background: str) -> None:
    found = readable(color, background)
    for adjoining in (DAY_BAND, WHITE) if background == DAY_BAND else (NIGHT_BAND, NIGHT):
        assert contrast(found, adjoining) >= LEAST_CONTRAST
    if contrast(color, background) >= LEAST_CONTRAST:
        assert found == color.lower()
    else:
        assert contrast(found, background) < LEAST_CONTRAST + 0.15


@pytest.mark.parametrize(
    ("ink", "paper"),
    [("ink", "paper"), ("quiet", "paper"), ("accent", "paper"), ("ink", "soft"), ("on-pill", "pill")]
    + [(f"on-{verdict}", verdict) for verdict in ("vanishing", "stable", "exploding")],
)
@pytest.mark.parametrize("scheme", [0, 1])
def test_text_is_read_in_both_schemes(ink: str, paper: str, scheme: int) -> None:
    colors = [re.findall(rf"--{name}: (#[0-9a-f]{{6}})", STYLE)[scheme] for name in (ink, paper)]
    assert contrast(*colors) >= 4.5


def test_dark_style_sheet_recolours_what_the_charts_draw() -> None:
    sheet = dark_charts(["#222255", "#000000"])
    assert sheet.startswith("@media screen and (prefers-color-scheme: dark)")
    for light, dark in {**_NIGHTLY, "#222255": readable("#222255", NIGHT_BAND)}.items():
        assert f'.chart svg [stroke="{light}" i]{{stroke:{dark}}}' in sheet
    assert contrast(_NIGHTLY["#222222"], NIGHT) > 7
    assert swatch("#000000") == f"--light:#000000;--dark:{readable('#000000', NIGHT_BAND)}"
