"""What is random in a corruption: numbers drawn from a hash of (seed, kind, sample id), whatever the severity.

The severity is not in the hash: the severities of a sample are one scene that gets worse (the same cloud, thicker), so
that what a model loses from one to the next is not the luck of another draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

import torch
from torch import Tensor

from composer_kd.functional.counter import uniform

__all__ = ['CORRUPTIONS_VERSION', 'Draws']

# As AUGMENT_VERSION: in the hash and in the name of every cache, raised by whoever changes what is drawn.
CORRUPTIONS_VERSION = 1

# Tells these draws from those of the families of views.
_FAMILY = 4


@dataclass(frozen=True)
class Draws:
    """The random numbers of one kind of corruption for a batch of samples, on the device of their ids.

    Attributes:
        seed: Of the whole set.
        kind: The kind's number.
        ids: The sample ids, int64 of shape [B].
    """

    seed: int
    kind: int
    ids: Tensor

    def uniform(self, stream: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """float64 [B, *shape] between ``low`` and ``high``; each ``stream`` of a kind is drawn by itself."""
        places = torch.arange(prod(shape), device=self.ids.device)
        drawn = uniform(_FAMILY, CORRUPTIONS_VERSION, self.seed, self.kind, stream, self.ids.view(-1, 1), places)
        return (drawn * (high - low) + low).view(-1, *shape)

    def normal(self, stream: int, *shape: int) -> Tensor:
        """float32 [B, *shape] of mean 0 and standard deviation 1."""
        return torch.erfinv(self.uniform(stream, *shape, low=-1.0)).mul_(sqrt(2)).to(torch.float32)
