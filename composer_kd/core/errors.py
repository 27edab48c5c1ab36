"""The one exception for mistakes that a person can mend: one line that names the place and the remedy."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from difflib import SequenceMatcher
from operator import eq

__all__ = ['UserError', 'first_line', 'name_fault', 'nearest', 'one_line', 'path_fault']

_LONGEST_LINE = 300
_LONGEST_NAME = 100
# What Linux holds: of a whole path 4,095 bytes, of which files in a run directory take some, and of one of its parts.
_LONGEST_PATH = 3500
_LONGEST_PART = 255
# The nearest name is sought for a word, not for a page: comparing takes time.
_LONGEST_WORD = 100


class UserError(ValueError):
    """Something outside our code is wrong; the message is one line: what, where, and what would be right.

    The command line prints it as it stands and exits with status 1. In a user's own script it is a ``ValueError``.
    """


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of an error line about an unknown ``name``: the nearest known one, and all of them where they are few."""
    wanted, names = str(name)[:_LONGEST_WORD].lower(), sorted(known)

    def nearness(known: str) -> tuple[float, list[bool]]:
        # Of equally near names the one that begins alike: for resnet21 that is resnet20, not resnet62.
        folded = known.lower()
        return SequenceMatcher(None, folded, wanted).ratio(), list(map(eq, folded, wanted))

    best = max(names, key=nearness, default='')
    if nearness(best)[0] >= 0.5:
        all_names = f' (known: {", ".join(names)})' if len(names) <= 12 else ''
        return f'did you mean {best!r}?{all_names}'
    return f'known: {", ".join(names)}' if names else 'none is known'


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return str(error).strip().partition('\n')[0] or type(error).__name__


def one_line(text: str) -> str:
    """Make ``text`` a line of at most 300 characters that a terminal shows as it is.

    Control characters and those that turn the direction of writing are escaped. What is too much is left out of the
    middle: an error line begins with the place and ends with the remedy.
    """
    line = ' '.join(text.split())
    line = ''.join(one if one.isprintable() else one.encode('unicode_escape').decode() for one in line)
    if len(line) <= _LONGEST_LINE:
        return line
    end = _LONGEST_LINE // 3
    return f'{line[: _LONGEST_LINE - end - 5]} ... {line[-end:]}'


def name_fault(text: str) -> str | None:
    """What is wrong with a name that becomes a folder and part of lines, if anything."""
    if not _is_shown(text):
        return 'has a character that no terminal shows; leave it out'
    if len(text) > _LONGEST_NAME or len(os.fsencode(text)) > _LONGEST_PART - 15:  # Room for a seed and an ending.
        return f'is too long for a name; use at most {_LONGEST_NAME} characters'
    return None


def path_fault(text: str) -> str | None:
    """What is wrong with a path or an address, if anything."""
    if not _is_shown(text):
        return 'has a character that no terminal shows; leave it out'
    bytes_of = os.fsencode(text)
    if len(bytes_of) > _LONGEST_PATH or any(len(part) > _LONGEST_PART for part in bytes_of.split(b'/')):
        return f'is too long for a path; use at most {_LONGEST_PATH} bytes, and {_LONGEST_PART} between two slashes'
    return None


def _is_shown(text: str) -> bool:
    """Whether nothing in a text acts on the terminal or hides; blanks of all widths are well."""
    return all(one.isprintable() or unicodedata.category(one) == 'Zs' for one in text)
