"""The one exception for mistakes that a person can mend: one line that names the place and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from operator import eq

__all__ = ['UserError', 'nearest']


class UserError(ValueError):
    """Something outside our code is wrong; the message is one line: what, where, and what would be right.

    The command line prints it as it stands and exits with status 1. In a user's own script it is a ``ValueError``.
    """


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of an error line about an unknown ``name``: the nearest known one, and all of them where they are few."""
    wanted, names = str(name).lower(), sorted(known)

    def nearness(known: str) -> tuple[float, list[bool]]:
        # Of equally near names the one that begins alike: for resnet21 that is resnet20, not resnet62.
        folded = known.lower()
        return SequenceMatcher(None, folded, wanted).ratio(), list(map(eq, folded, wanted))

    best = max(names, key=nearness, default='')
    if nearness(best)[0] >= 0.5:
        all_names = f' (known: {", ".join(names)})' if len(names) <= 12 else ''
        return f'did you mean {best!r}?{all_names}'
    return f'known: {", ".join(names)}' if names else 'none is known'
