"""What lies in a run's archive, and who its teachers are: read out of files of any version."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from composer_kd.report.collect import Run

__all__ = ['Recordings', 'Teacher', 'View', 'recordings', 'teachers']


@dataclass(frozen=True)
class View:
    """The logits of one view.

    Args:
        number: Of the view.
        source: ``'model'``, ``'training'`` or ``'fill'``, as far as the manifest tells.
        top_k: How many logits of a sample are kept; ``None`` for all.
        bytes: On disk.
        seconds: What making it took; ``None`` where that is not told. So are the multiply-adds.
    """

    number: int
    source: str
    top_k: int | None
    bytes: float
    seconds: float | None
    multiply_adds: float | None


@dataclass(frozen=True)
class Recordings:
    """The tables of one archive: bytes on disk of each, and of the list of samples that they share."""

    samples: float = 0.0
    losses: tuple[float, ...] = ()
    adversarial: tuple[float, ...] = ()
    views: tuple[View, ...] = field(default=())


@dataclass(frozen=True)
class Teacher:
    """A teacher as ``run.yaml`` names it: a run directory; ``live`` if it never looks up, ``fill`` if it records."""

    run: str
    live: bool = False
    fill: bool = False


def recordings(run: Run) -> Recordings:
    """What the run's manifest says of its archive; nothing where it says nothing that can be understood."""
    archive, files = _mapping(run.manifest.get('archive')), _mapping(run.manifest.get('files'))

    def size(name: Any) -> float:
        return _amount(_mapping(files.get(name) if isinstance(name, str) else None).get('bytes')) or 0.0

    def sizes(kind: str) -> tuple[float, ...]:
        return tuple(size(table.get('file')) for _, table in _tables(archive, kind))

    return Recordings(
        samples=size(archive.get('samples')),
        losses=sizes('loss'),
        adversarial=sizes('adversarial'),
        views=tuple(
            View(
                number=number,
                source=str(table.get('source')),
                top_k=top_k if isinstance(top_k := table.get('top_k'), int) and not isinstance(top_k, bool) else None,
                bytes=size(table.get('file')),
                seconds=_amount(table.get('seconds')),
                multiply_adds=_amount(table.get('multiply_adds')),
            )
            for number, table in _tables(archive, 'logits')
        ),
    )


def teachers(run: Run) -> list[Teacher]:
    """The teachers that the run's algorithms name; those that are no run directories are left out."""
    return list(_teachers(run.config.get('algorithms')))


def _teachers(section: Any) -> Iterator[Teacher]:
    if isinstance(section, list):
        for value in section:
            yield from _teachers(value)
    elif isinstance(section, Mapping):
        named = section.get('teachers')
        for entry in named if isinstance(named, list) else ():
            options = entry if isinstance(entry, Mapping) else {'recorded': entry}
            place = options.get('recorded', options.get('live'))
            if isinstance(place, str):
                yield Teacher(place, 'recorded' not in options, options.get('fill') is True)
        for key, value in section.items():
            if key != 'teachers':
                yield from _teachers(value)


def _tables(archive: Mapping[str, Any], kind: str) -> list[tuple[int, Mapping[str, Any]]]:
    tables = _mapping(archive.get(kind))
    return [
        (int(number), table)
        for number, table in tables.items()
        if isinstance(number, str) and number.isascii() and number.isdigit() and isinstance(table, Mapping)
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _amount(value: Any) -> float | None:
    """A number that counts something; ``None`` for whatever is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        amount = float(value)
    except OverflowError:
        return None
    return amount if math.isfinite(amount) and amount >= 0 else None
