"""An algorithm that can say how it was made."""

from __future__ import annotations

import inspect
from typing import Any

from composer.core import Algorithm
from torch import nn

__all__ = ['Described']


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
