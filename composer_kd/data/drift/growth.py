"""What is there by now: some of the classes, a share of the samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from composer_kd.data.drift.drift import Drift, linear
from composer_kd.data.drift.label_shift import Order, ranks
from composer_kd.data.drift.population import Part, Population
from composer_kd.errors import UserError
from composer_kd.section import Count

__all__ = ['Growing', 'NewClasses']


def _whole(start: float, end: float, fraction: float) -> int:
    return round(linear(start, end, fraction))


class NewClasses(Drift):
    """The first ``classes`` of them have samples; the others are yet to come. Models have outputs for all.

    Attributes:
        classes: How many.
        order: Which come first: ``'index'``, ``'reversed'`` or ``'drawn'``.
    """

    between: ClassVar = {'classes': _whole}

    name: str = 'new_classes'
    classes: Count
    order: Order = 'index'

    def change(self, population: Population) -> Population:
        every = len(population.classes)
        if self.classes > every:
            raise UserError(f'{self.classes} classes, and the data has {every}; lower classes')
        known = population.known & (ranks(self.order, every, self.seed) < self.classes)
        return replace(population.only(known[population.labels]), known=known)


class Growing(Drift):
    """A share of each class is there, by a hash of the content: a larger share contains a smaller one.

    The parts that judge stay whole, so that steps can be compared, unless ``parts`` says otherwise.

    Attributes:
        share: Of the samples of each class, one at least.
    """

    between: ClassVar = {'share': linear}
    nothing: ClassVar = {'share': 1.0}

    name: str = 'growing'
    share: Annotated[float, Field(gt=0, le=1)]
    parts: Annotated[list[Part], Field(min_length=1)] = Field(default_factory=lambda: ['train'])

    def settled(self) -> Drift | None:
        return self if self.share < 1 else None

    def change(self, population: Population) -> Population:
        sizes = population.sizes()
        quotas = np.floor(sizes * self.share + 0.5).astype(np.int64)
        return population.lowest(np.maximum(quotas, np.minimum(sizes, 1)), self.seed)
