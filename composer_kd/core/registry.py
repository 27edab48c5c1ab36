"""Names to factories: how a YAML's words become objects, and how other packages add words of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from typing import Any, Generic, TypeVar

from composer_kd.core.errors import UserError, nearest

__all__ = ['Registry']

T = TypeVar('T')


class Registry(Generic[T]):
    """A table of names for one kind of thing.

    Another package adds to it with an entry point in the group ``composer_kd.<kind>`` (``composer_kd.losses``, say),
    which is loaded when a name is looked up that we do not have, or when all names are listed.

    Args:
        kind: What is registered, in the plural, as it stands in error lines and in the entry point's group.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, tuple[T | str, str]] = {}
        self._plugins_seen = False

    def register(self, name: str, summary: str = '') -> Callable[[T], T]:
        """Decorator that enters a function or class under ``name``; ``summary`` is its line in ``composer-kd list``."""

        def enter(entry: T) -> T:
            self.add(name, entry, summary or _first_line(entry))
            return entry

        return enter

    def add(self, name: str, entry: T | str, summary: str = '') -> None:
        """Enter ``entry``, or a string ``'package.module:attribute'`` that is imported when it is asked for."""
        if name in self._entries:
            raise ValueError(f'{self.kind}: the name {name!r} is registered twice')
        self._entries[name] = (entry, summary)

    def get(self, name: str, where: str = '') -> T:
        """The entry called ``name``; a :class:`UserError` that begins with ``where`` if there is none."""
        found = self._find(name)
        if found is None:
            place = f'{where}: ' if where else ''
            raise UserError(f'{place}{name!r} is not one of the {self.kind}; {nearest(name, self._entries)}')
        name = found
        entry, summary = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(':')
            entry = getattr(import_module(module), attribute)
            self._entries[name] = (entry, summary)
        return entry  # type: ignore[return-value]

    def names(self) -> list[str]:
        self._load_plugins()
        return sorted(self._entries, key=_in_order)

    def summaries(self) -> Iterator[tuple[str, str]]:
        """Pairs of name and one-line summary, in the order of :meth:`names`."""
        for name in self.names():
            entry, summary = self._entries[name]
            yield name, summary or _first_line(entry)

    def __contains__(self, name: object) -> bool:
        return self._find(name) is not None

    def _find(self, name: object) -> str | None:
        """The entry's own name for ``name``, whatever its case and underscores: label_smoothing is LabelSmoothing."""
        if name not in self._entries:
            self._load_plugins()
        if name in self._entries:
            return str(name)
        return next((entry for entry in self._entries if _folded(entry) == _folded(str(name))), None)

    def _load_plugins(self) -> None:
        if self._plugins_seen:
            return
        self._plugins_seen = True
        for point in metadata.entry_points(group=f'composer_kd.{self.kind.replace(" ", "_")}'):
            if point.name not in self._entries:
                self.add(point.name, point.value, f'from {point.dist.name}' if point.dist else 'from a plugin')


def _folded(name: str) -> str:
    return name.replace('_', '').replace('-', '').lower()


def _in_order(name: str) -> list[str | int]:
    """Numbers inside names count as numbers: resnet20 comes before resnet110."""
    return [int(part) if part.isdecimal() else part for part in re.split(r'(\d+)', name)]


def _first_line(entry: Any) -> str:
    return (getattr(entry, '__doc__', None) or '').strip().partition('\n')[0]
