"""A module in evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ['evaluating']


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put all parts of ``module`` in evaluation mode, and each back into its own at the end."""
    # Mode by mode, not `module.train(was)`: a user may have frozen a part by putting it in evaluation mode.
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
