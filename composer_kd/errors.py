"""The one exception for mistakes that a person can mend: one line that names the place and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ['UserError', 'nearest']


class UserError(ValueError):
    """Something outside our code is wrong; the message is one line: what, where, and what would be right.

    The command line prints it as it stands and exits with status 1. In a user's own script it is a ``ValueError``.
    """


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of an error line about an unknown ``name``: the nearest known one, and all of them where they are few."""
    names = sorted(known)
    close = get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return (
            f'did you mean {close[0]!r}? (known: {", ".join(names)})'
            if len(names) <= 12
            else f'did you mean {close[0]!r}?'
        )
    return f'known: {", ".join(names)}' if names else 'none is known'
