"""One table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ['NOTHING', 'markdown_table']

NOTHING = '–'


def markdown_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = '') -> str:
    if not rows:
        return ''
    lines = [title if title.startswith('#') else f'**{title}**', '']
    lines += [f'| {" | ".join(head)} |', '|---|' + '---:|' * (len(head) - 1)]
    lines += [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join(lines + (['', note] if note else []))
