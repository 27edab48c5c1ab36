"""A table for the terminal and one for Markdown."""

from __future__ import annotations

import re
import unicodedata

from composer_kd.report.tables import Table

__all__ = ['WIDTH', 'markdown_escape', 'markdown_table', 'text_table', 'wrapped']

WIDTH = 100
_LONGEST_LABEL = 28
_GAP = '  '


def text_table(table: Table, width: int = WIDTH) -> str:
    """Aligned columns; those that do not fit follow below, with the names of the rows again."""
    cells = [table.columns, *table.rows]
    labels = [[_shortened(cell) for cell in row[: table.labels]] for row in cells]
    label_widths = _widths(labels)
    room = width - sum(label_widths) - len(_GAP) * len(label_widths)
    values = [[_shortened(cell) for cell in row[table.labels :]] for row in cells]
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
    return wrapped(table.title) + '\n' + '\n\n'.join(blocks)


def markdown_table(table: Table) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return '| ' + ' | '.join(map(markdown_escape, cells)) + ' |'

    rule = '|' + '|'.join(['---'] * table.labels + ['---:'] * (len(table.columns) - table.labels)) + '|'
    return '\n'.join([f'**{markdown_escape(table.title)}**', '', line(table.columns), rule, *map(line, table.rows)])


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
