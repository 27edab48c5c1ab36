"""An algorithm that can say how it was made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Set
from typing import Any

from composer.core import Algorithm
from torch import nn

from composer_kd.core.errors import UserError
from composer_kd.core.options import one_of

__all__ = ['Described', 'check_mode']


def check_mode(mode: str, given: Mapping[str, Any], of_mode: Mapping[str, Set[str]]) -> None:
    """Refuse a mode that is none, and arguments of other modes, which would do nothing.

    Args:
        mode: The mode.
        given: The arguments that were given, by name.
        of_mode: The names of each mode's arguments.
    """
    one_of(mode, of_mode, 'mode')
    for name, value in given.items():
        if name != 'mode' and name not in of_mode[mode] and value is not None:
            homes = ' and '.join(repr(other) for other, names in of_mode.items() if name in names)
            raise UserError(f'{name.rstrip("_")}: mode {mode!r} does not use it ({homes} does); leave it out')


class Described(Algorithm):
    """Keeps what its constructor was given, for ``repr``, which Composer records in checkpoints.

    A subclass shows the arguments of its own constructor, and can tell a default from an argument that was given.
    """

    arguments: dict[str, Any]
    """The arguments that were given, by name."""

    def __new__(cls, *args: Any, **kwargs: Any):
        instance = super().__new__(cls)
        given = inspect.signature(cls.__init__).bind_partial(instance, *args, **kwargs).arguments
        instance.arguments = {name: value for name, value in given.items() if value is not instance}
        return instance

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}({", ".join(f"{name}={_shown(value)}" for name, value in self.arguments.items())})'
        )


def _shown(value: Any) -> str:
    if isinstance(value, nn.Module):
        return type(value).__name__  # Its repr has a line for each of its layers.
    return value.__name__ if inspect.isfunction(value) else repr(value)
