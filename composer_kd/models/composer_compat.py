"""Algorithms that make a batch something else than its keys say, by the names of their classes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

__all__ = ['CHANGE_IMAGES', 'DROP_SAMPLES', 'MIX_IMAGES', 'SURGERY', 'first_of']

MIX_IMAGES = frozenset({'MixUp', 'CutMix'})
CHANGE_IMAGES = MIX_IMAGES | {
    'ColOut',
    'CutOut',
    'ProgressiveResizing',
    'AugMix',
    'RandAugment',
    'AdversarialRecycling',
}
# They put other layers in the place of the model's when the Trainer begins.
SURGERY = frozenset({
    'BlurPool', 'Factorize', 'GatedLinearUnits', 'GhostBatchNorm', 'GyroDropout', 'LowPrecisionGroupNorm',
    'LowPrecisionLayerNorm', 'SqueezeExcite', 'StochasticDepth', 'WeightStandardization', 'Alibi',
})  # fmt: skip
DROP_SAMPLES = frozenset({'SelectiveBackprop'})


def first_of(algorithms: Iterable[Any], names: Collection[str]) -> str | None:
    """The name of the first algorithm that is one of ``names``, or a subclass of one; ``None`` if there is none."""
    for algorithm in algorithms:
        if any(one.__name__ in names for one in type(algorithm).__mro__):
            return type(algorithm).__name__
    return None
