"""Equations as outlines inside the page: no script, no font and no network is needed to read them.

LaTeX is drawn as SVG in the colour of the text around it, with the LaTeX as the text that a screen reader is given.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import ziamath
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_LOGGER = logging.getLogger(__name__)
_SIZE = 18.0
_BAR = re.compile(r"(?<!\\left)(?<!\\right)\\[lr](v|V)ert\b")
_ENVIRONMENT = re.compile(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL)

ziamath.config.svg2 = False  # no shared glyphs, whose names would collide on a page of several equations


def drawn(latex: str, *, is_block: bool) -> str:
    r"""One equation as an ``<svg>`` element, measured in ``em``.

    Args:
        latex: the equation, without delimiters.
        is_block: whether it stands by itself.

    Returns:
        The element, its baseline on that of the text.

    Raises:
        ValueError: the equation cannot be read, or holds a command that is not known.

    Example:
        >>> drawn(r"\\lambda^\\tau", is_block=False)[:4]
        '<svg'
    """
    try:
        equation = ziamath.Latex(
            _aligned(_with_plain_bars(latex)), size=_SIZE, inline=not is_block, color="currentColor"
        )
    except Exception as error:
        raise ValueError(f"the equation `{latex}` cannot be drawn: {error!r}; write it in simpler LaTeX") from error
    if unknown := re.findall(r"\\\w+", equation.mathmlstr()):
        raise ValueError(f"the equation `{latex}` holds commands that are not known: {', '.join(unknown)}")
    return _sized(equation.svgxml(), equation.getyofst(), latex)


def _with_plain_bars(latex: str) -> str:
    r"""As in LaTeX, only what follows ``\left`` or ``\right`` grows with what it encloses."""
    return _BAR.sub(lambda found: {"v": "{|}", "V": r"{\|}"}[found[1]], latex)


def _aligned(latex: str) -> str:
    plain = _ENVIRONMENT.sub("", latex)
    return rf"\begin{{aligned}}{latex}\end{{aligned}}" if r"\\" in plain or "&" in plain else latex


def _sized(svg: ET.Element, below_px: float, latex: str) -> str:
    for side in ("width", "height"):
        svg.set(side, f"{float(svg.get(side, '0').removesuffix('px')) / _SIZE:.4f}em")
    svg.set("style", f"vertical-align: {below_px / _SIZE:.4f}em")
    svg.set("role", "img")
    svg.set("aria-label", " ".join(latex.split()))
    return ET.tostring(svg, encoding="unicode")


def _visit(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    is_block = isinstance(node, nodes.math_block)
    try:
        svg = drawn(node.astext(), is_block=is_block)
    except ValueError as error:
        _LOGGER.warning("%s", error, location=node, type="mathematics")
        svg = translator.encode(node.astext())
    tag = "div" if is_block else "span"
    translator.body.append(f'<{tag} class="equation">{svg}</{tag}>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Have Sphinx draw equations in this way."""
    app.add_html_math_renderer("outlines", inline_renderers=(_visit, None), block_renderers=(_visit, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
