"""One picture of a report: how all of them look, and how a drawing becomes the SVG of the page and a PNG.

They are narrow, so that on a phone their letters are as large as the text beside them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from composer_kd.report.palette import GRID, INK, MUTED, PAPER, with_variables

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ['WIDTH', 'Figure', 'finished', 'look']

WIDTH = 3.6  # inches
_LOOK = {
    'font.size': 8.6,
    'axes.edgecolor': MUTED.light,
    'axes.facecolor': 'none',
    'axes.labelcolor': MUTED.light,
    'axes.linewidth': 0.7,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'figure.facecolor': PAPER.light,
    'savefig.facecolor': PAPER.light,
    'grid.color': GRID.light,
    'grid.linewidth': 0.6,
    'lines.linewidth': 1.5,
    'lines.markersize': 3.6,
    'svg.fonttype': 'none',
    'text.color': INK.light,
    'text.parse_math': False,
    'xtick.color': MUTED.light,
    'xtick.major.size': 0,
    'ytick.color': MUTED.light,
    'ytick.major.size': 0,
}


@dataclass(frozen=True)
class Figure:
    """One picture. ``svg`` stands in a page as it is; ``png`` is the same on white paper.

    Args:
        name: Its file name, without the suffix.
        title: What it shows (it is inside the picture too).
        caption: How to read it.
        alt: What one would see, in words and numbers.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    png: bytes


@contextmanager
def look() -> Iterator[None]:
    """Whatever the user's own settings are, a report looks the same; the backend is not touched."""
    import matplotlib as mpl

    settings: dict[Any, Any] = {**mpl.rcParamsDefault, **_LOOK}
    settings.pop('backend')
    with mpl.rc_context(settings):
        yield


def finished(canvas: Canvas, name: str, title: str, caption: str, alt: str) -> Figure:
    """The figure of a drawing, in both forms."""
    return Figure(name, title, caption, alt, _svg(canvas, name), _png(canvas))


def _svg(canvas: Canvas, name: str) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    # The salt makes ids reproducible, and different between the pictures of one page.
    with mpl.rc_context({'svg.hashsalt': name}):
        canvas.savefig(buffer, format='svg', metadata={'Date': None})
    svg = buffer.getvalue()
    svg = svg[svg.index('<svg') :]
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
    svg = re.sub(r'<!--.*?-->', '', svg, flags=re.DOTALL)
    # The page decides how large it is; the view box keeps the proportions.
    for side in ('width', 'height'):
        svg = re.sub(rf'(<svg[^>]*?) {side}="[^"]*"', r'\1', svg, count=1)
    # Groups are named alike in every picture, and nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', '<g', svg)
    svg = re.sub(r'\n\s*', '\n', svg)
    return with_variables(svg)


def _png(canvas: Canvas) -> bytes:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format='png', dpi=200, metadata={'Software': None})
    return buffer.getvalue()
