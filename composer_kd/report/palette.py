"""The colours of a report, for light and dark, and how one arm is told from another without any colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ['ACCENTS', 'GRID', 'INK', 'MUTED', 'PAPER', 'Shade', 'Style', 'css_variables', 'style_of', 'with_variables']


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
