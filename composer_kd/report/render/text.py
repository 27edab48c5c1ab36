"""Numbers, names and tables as text: one unit a column, spreads, and layouts for the terminal and for Markdown."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from composer_kd.report.stats import Spread

__all__ = [
    'MEGABYTES', 'MISSING', 'NATS', 'PARTIAL', 'PERCENT', 'SHARED', 'UNFINISHED', 'WIDTH', 'Table', 'Unit',
    'and_join', 'capital', 'markdown_escape', 'mean_text', 'percent', 'seeds', 'times', 'unit_for', 'with_spread',
    'wrapped',
]  # fmt: skip

WIDTH = 100
_LONGEST_LABEL = 28
_GAP = '  '
MISSING = '–'
# Beside a name or a number that a caveat is about.
SHARED, UNFINISHED, PARTIAL = '†', '‡', '*'


@dataclass(frozen=True)
class Unit:
    """A scale for one kind of number; ``name`` is what stands behind it."""

    name: str
    size: float = 1.0
    digits: int = 1

    def text(self, value: float, decimals: int | None = None) -> str:
        return f'{value / self.size:,.{self.digits if decimals is None else decimals}f}'

    def quantity(self, value: float) -> str:
        """Number and unit, for a sentence: whole numbers bare, others with about three figures."""
        scaled = value / self.size
        decimals = 0 if scaled == round(scaled) or scaled >= 100 else 1 if scaled >= 10 or self.size == 1 else 2
        name = 'epoch' if self.name == 'epochs' and scaled == 1 else self.name
        return f'{scaled:,.{decimals}f}\u00a0{name}'.rstrip()


PERCENT = Unit('%', 0.01, 2)
NATS = Unit('', digits=3)
MEGABYTES = Unit('MB', 1e6, 2)
_SCALES = {
    'epochs': (Unit('epochs'),),
    'outputs': (Unit('outputs', digits=0), Unit('thousand', 1e3), Unit('million', 1e6, 2)),
    'seconds': (Unit('s'), Unit('min', 60.0), Unit('h', 3600.0)),
    'multiply_adds': tuple(
        Unit(prefix, 1000.0**power, 2) for power, prefix in enumerate(('', 'k', 'M', 'G', 'T', 'P', 'E', 'Z'))
    ),
}


def unit_for(cost: str, values: Iterable[Spread | float | None]) -> Unit:
    """The largest unit of ``cost`` in which the largest of ``values`` is still a comfortable number."""
    known = (value.mean if isinstance(value, Spread) else value for value in values if value is not None)
    scales, largest = _SCALES[cost], max(known, default=0.0)
    if cost == 'seconds':
        return scales[2] if largest >= 6 * 3600 else scales[1] if largest >= 600 else scales[0]
    return next((unit for unit in reversed(scales) if largest >= unit.size), scales[0])


def with_spread(spread: Spread | None, unit: Unit, of: int | None = None) -> str:
    """``'41.23 ±0.60'``; ``' (2/3)'`` behind it where fewer than ``of`` runs are in the mean."""
    text = mean_text(spread, unit)
    if spread is None:
        return text
    if spread.sd is not None:
        text += f' ±{unit.text(spread.sd)}'
    return text if of is None or spread.n == of else f'{text} ({spread.n}/{of})'


def mean_text(spread: Spread | None, unit: Unit) -> str:
    """The mean alone; the epoch of a single run is a whole number."""
    if spread is None:
        return MISSING
    return unit.text(spread.mean, 0 if unit.name == 'epochs' and spread.n == 1 else None)


def percent(value: float) -> str:
    """A threshold: ``'40 %'``, ``'62.5 %'``; the space does not break."""
    return f'{100 * value:.4g}\u00a0%'


def times(ratio: float | None) -> str:
    """``'1.33×'``; two figures where two decimals would leave less: ``'0.00064×'``."""
    if ratio is None:
        return MISSING
    if 0 < ratio < 0.1:
        return f'{ratio:.{1 - math.floor(math.log10(ratio))}f}'.rstrip('0') + '×'
    return f'{ratio:.2f}×'


def seeds(n: int) -> str:
    return '1 seed' if n == 1 else f'{n} seeds'


def and_join(names: Sequence[str]) -> str:
    """``'a, b and c'``."""
    return ' and '.join([*([', '.join(names[:-1])] if len(names) > 1 else []), names[-1]])


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Table:
    """Cells as plain text; every format escapes them in its own way."""

    title: str  # what it shows, with the unit
    columns: tuple[str, ...]  # headings
    rows: tuple[tuple[str, ...], ...]  # as many cells as columns each
    labels: int = 1  # how many leading columns name the row
    brief: bool = True  # whether it is shown at the end of a training too

    @classmethod
    def of(
        cls,
        title: str,
        items: Iterable[tuple],
        columns: Mapping[str, Callable[..., str]],
        labels: int = 1,
        brief: bool = True,
    ) -> Table:
        """Make a row of each item; a column is a heading and what makes its cell of the parts of an item."""
        rows = tuple(tuple(cell(*item) for cell in columns.values()) for item in items)
        return cls(title, tuple(columns), rows, labels, brief)

    def filled(self) -> Table:
        """Leave out the columns in which no row has a number."""
        kept = [place for place, cells in enumerate(zip(*self.rows, strict=True)) if {*cells} != {MISSING}]
        columns, *rows = (tuple(row[place] for place in kept) for row in (self.columns, *self.rows))
        return replace(self, columns=columns, rows=tuple(rows))

    def text(self, width: int = WIDTH) -> str:
        """Aligned columns; those that do not fit follow below, with the names of the rows again."""
        cells = [self.columns, *self.rows]
        labels = [[_shortened(cell) for cell in row[: self.labels]] for row in cells]
        label_widths = _widths(labels)
        room = width - sum(label_widths) - len(_GAP) * len(label_widths)
        values = [[_shortened(cell) for cell in row[self.labels :]] for row in cells]
        blocks = []
        for first, last in _chunks(_widths(values), room):
            part = [row[first:last] for row in values]
            widths = _widths(part)
            lines = [
                _GAP.join([*map(_left, label, label_widths), *map(_right, row, widths)]).rstrip()
                for label, row in zip(labels, part, strict=True)
            ]
            rule = '─' * max(map(_columns, lines))
            blocks.append('\n'.join([lines[0], rule, *lines[1:]]))
        return wrapped(self.title) + '\n' + '\n\n'.join(blocks)

    def markdown(self) -> str:
        """Write the table in GitHub's dialect."""

        def line(cells: tuple[str, ...]) -> str:
            return '| ' + ' | '.join(map(markdown_escape, cells)) + ' |'

        rule = '|' + '|'.join(['---'] * self.labels + ['---:'] * (len(self.columns) - self.labels)) + '|'
        return '\n'.join([f'**{markdown_escape(self.title)}**', '', line(self.columns), rule, *map(line, self.rows)])


def markdown_escape(text: str) -> str:
    """A name is a name: no markup, no HTML, no new column."""
    return re.sub(r'([\\`*_{}\[\]<>|#~$!&])', r'\\\1', text)


def wrapped(text: str, width: int = WIDTH, indent: str = '') -> str:
    """Lines of at most ``width`` columns, broken at plain spaces, and inside words too long for any."""
    lines, line = [], ''
    for word in text.split(' '):
        joined = f'{line} {word}' if line.strip() else line + word
        if _columns(joined) <= width:
            line = joined
            continue
        if line.strip():
            lines.append(line)
        line = indent
        for char in word:
            if _columns(line + char) > width:
                lines.append(line)
                line = indent
            line += char
    return '\n'.join([*lines, line])


def _chunks(widths: list[int], room: int) -> list[tuple[int, int]]:
    """Ranges of columns that fit into ``room``; at least one column each."""
    chunks, first, used = [], 0, 0
    for index, size in enumerate(widths):
        if index > first and used + size + len(_GAP) > room + len(_GAP):
            chunks.append((first, index))
            first, used = index, 0
        used += size + len(_GAP)
    return [*chunks, (first, len(widths))]


def _widths(rows: list[list[str]]) -> list[int]:
    return [max(map(_columns, column)) for column in zip(*rows, strict=True)]


def _columns(text: str) -> int:
    """Columns on a terminal: wide East Asian characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in 'WF' else 1 for char in text
    )


def _shortened(text: str) -> str:
    if _columns(text) <= _LONGEST_LABEL:
        return text
    while _columns(text) >= _LONGEST_LABEL:
        text = text[:-1]
    return text + '…'


def _left(text: str, width: int) -> str:
    return text + ' ' * (width - _columns(text))


def _right(text: str, width: int) -> str:
    return ' ' * (width - _columns(text)) + text
