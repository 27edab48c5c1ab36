"""How all pictures of a report look: colours for light and dark, a style for each arm, and a drawing as SVG and PNG.

Arms can be told apart without any colour. Pictures are narrow, so that on a phone their letters are as large as the
text beside them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = [
    'ACCENTS', 'GRID', 'INK', 'MUTED', 'PAPER', 'WIDTH', 'Figure', 'Shade', 'Style', 'css_variables', 'finished',
    'look', 'style_of', 'with_variables',
]  # fmt: skip


@dataclass(frozen=True)
class Shade:
    """One role in both schemes. Figures are drawn in ``light``, then its value is replaced by the CSS variable."""

    variable: str
    light: str
    dark: str


@dataclass(frozen=True)
class Style:
    """How an arm is drawn: colour, line and marker each differ, so that colour is never the only sign."""

    color: str
    line: Any
    marker: str


# Light values are also what the PNGs show. No two roles may share one: the figures are recoloured by value.
PAPER = Shade('--paper', '#ffffff', '#15181d')
INK = Shade('--ink', '#1d2329', '#e7eaee')
MUTED = Shade('--muted', '#5d6772', '#a3adb8')
GRID = Shade('--grid', '#dfe3e8', '#313842')
# Okabe and Ito's hues, darkened on white and lightened on black until each has a contrast of at least 3.
ACCENTS = (
    Shade('--arm-0', '#4a5560', '#c3cad2'),
    Shade('--arm-1', '#0072b2', '#58b4f0'),
    Shade('--arm-2', '#c94f00', '#ff9e63'),
    Shade('--arm-3', '#00845d', '#3fd0a0'),
    Shade('--arm-4', '#a5468a', '#eb9fcf'),
    Shade('--arm-5', '#8f6500', '#edc14a'),
    Shade('--arm-6', '#2b86b8', '#9bdcff'),
)
_ROLES = (PAPER, INK, MUTED, GRID, *ACCENTS)
_LINES = ('solid', (0, (5, 1.4)), (0, (1.4, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')


def style_of(index: int) -> Style:
    """The style of the ``index``-th arm; 0 is the baseline, in grey and solid. After 28 arms it repeats."""
    lap, place = divmod(index, len(ACCENTS))
    return Style(ACCENTS[place].light, _LINES[(place + lap) % len(_LINES)], _MARKERS[place])


def css_variables(dark: bool) -> str:
    return ' '.join(f'{shade.variable}: {shade.dark if dark else shade.light};' for shade in _ROLES)


def with_variables(svg: str) -> str:
    """The same drawing in the colours of the page around it."""
    for shade in _ROLES:
        svg = svg.replace(shade.light, f'var({shade.variable})')
    return svg


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
    """One picture. ``svg`` stands in a page as it is; ``png`` is the same on white paper."""

    name: str  # its file name, without the suffix
    title: str  # what it shows (it is inside the picture too)
    caption: str  # how to read it
    alt: str  # what one would see, in words and numbers
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
