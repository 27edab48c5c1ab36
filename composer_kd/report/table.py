"""A table of a report, before it has a format."""

from __future__ import annotations

from dataclasses import dataclass

from composer_kd.report.wording import MISSING

__all__ = ['Table', 'filled']


@dataclass(frozen=True)
class Table:
    """Cells as plain text; every format escapes them in its own way.

    Args:
        title: What it shows, with the unit.
        columns: Headings.
        rows: As many cells as columns each.
        labels: How many leading columns name the row.
        section: The part of the report that it belongs to: a measure's name, ``'ensembles'``, ``'size'``,
            ``'fidelity'``, ``'robustness'``, ``'attack'``, ``'takeover'``, ``'cost'``, ``'archive'`` or ``'runs'``.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1
    section: str = ''


def filled(
    columns: tuple[str, ...], rows: list[tuple[str, ...]]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Without the columns in which no row has a number."""
    kept = [index for index in range(len(columns)) if any(row[index] != MISSING for row in rows)]
    return tuple(columns[index] for index in kept), tuple(tuple(row[index] for index in kept) for row in rows)
