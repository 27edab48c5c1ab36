"""What a sample is called: wrong labels, and superclasses whose fine classes change."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator

from composer_kd.core.errors import UserError
from composer_kd.core.options import Count
from composer_kd.data.drift.base import PARTS, Drift, Part, SampleSet, linear, split_seed
from composer_kd.functional.counter import counter_hash, uniform
from composer_kd.functional.mixing import dirichlet_weights

__all__ = ['DirichletPriors', 'Growing', 'LabelNoise', 'LongTail', 'NewClasses', 'Order', 'Subpopulation', 'ranks']

# Tell these draws from each other.
_WRONG, _WHICH, _SIDE = 11, 12, 13


class LabelNoise(Drift):
    """Some labels are wrong, by the sample's id. The higher rate has the wrong labels of the lower one, and more.

    Attributes:
        rate: The probability of a wrong label.
        form: ``'symmetric'``: any other class is as likely; ``'pair_flip'``: the next class, the first after the last.
    """

    between: ClassVar = {'rate': linear}
    nothing: ClassVar = {'rate': 0.0}

    name: str = 'label_noise'
    rate: Annotated[float, Field(gt=0, le=1)]
    form: Literal['symmetric', 'pair_flip'] = 'symmetric'
    parts: Annotated[list[Part], Field(min_length=1)] = Field(default_factory=lambda: ['train'])

    def simplify(self) -> Drift | None:
        return self if self.rate > 0 else None

    def change(self, population: SampleSet) -> SampleSet:
        # A wrong label is one of those that anybody knows by now.
        known = np.flatnonzero(population.known)
        if len(known) < 2:
            raise UserError('a label is wrong where there is another class; there is one alone')
        seed, ids = split_seed(self.seed, population.part), torch.from_numpy(population.ids)
        wrong = (uniform(_WRONG, seed, ids) < self.rate).numpy()
        steps = np.ones(len(ids), np.int64)
        if self.form == 'symmetric':
            steps += (uniform(_WHICH, seed, ids) * (len(known) - 1)).to(torch.int64).numpy()
        place = np.searchsorted(known, population.labels)
        return replace(population, labels=np.where(wrong, known[(place + steps) % len(known)], population.labels))


class Subpopulation(Drift):
    """Superclasses are to be told apart; their fine classes are some at the source and all others at the target.

    Attributes:
        side: ``'source'`` or ``'target'``: no fine class is on both.
        sources: How many fine classes of each superclass are at the source; null: half of them, rounded up.
    """

    name: str = 'subpopulation'
    side: Literal['source', 'target']
    sources: Count | None = None

    @field_validator('parts')
    @classmethod
    def _whole_task(cls, parts: list[Part]) -> list[Part]:
        if set(parts) != set(PARTS):
            raise ValueError('superclasses are another task, for all parts; leave it out')
        return parts

    def change(self, population: SampleSet) -> SampleSet:
        if population.superclasses is None or population.coarse is None:
            raise UserError('this data has no superclasses; synthetic100 and cifar100 have some')
        coarse = np.array(population.coarse)
        at_source = self._at_source(coarse, population.superclasses)
        chosen = at_source[population.labels] == (self.side == 'source')
        return replace(
            population.only(chosen),
            labels=coarse[population.labels[chosen]],
            classes=population.superclasses,
            superclasses=None,
            coarse=None,
            known=np.ones(len(population.superclasses), np.bool_),
            fine=population.labels[chosen],
            fine_classes=population.classes,
        )

    def _at_source(self, coarse: NDArray[Any], superclasses: tuple[str, ...]) -> NDArray[np.bool_]:
        """Which fine classes are at the source: of each superclass those with the lowest hashes."""
        drawn = counter_hash(_SIDE, self.seed, torch.arange(len(coarse))).numpy()
        chosen = np.zeros(len(coarse), np.bool_)
        for number, name in enumerate(superclasses):
            members = np.flatnonzero(coarse == number)
            count = -(-len(members) // 2) if self.sources is None else self.sources
            if not 0 < count < len(members):
                raise UserError(
                    f'{count} of the {len(members)} classes of {name!r} at the source: both sides need one at least; '
                    f'set sources to another number'
                )
            chosen[members[np.argsort(drawn[members])[:count]]] = True
        return chosen


Order = Literal['index', 'reversed', 'drawn']

_ORDER = 21


def ranks(order: Order, classes: int, seed: int) -> NDArray[np.int64]:
    """The place of each class: by its number, from the last to the first, or drawn."""
    if order == 'drawn':
        places = counter_hash(_ORDER, seed, torch.arange(classes)).argsort().argsort().numpy()
    else:
        places = np.arange(classes)
    return classes - 1 - places if order == 'reversed' else places


def _thinned(population: SampleSet, shares: NDArray[np.float64], seed: int) -> SampleSet:
    """That share of each class, rounded down, and one sample at least of every class that has any."""
    sizes = population.sizes()
    quotas = np.floor(sizes * shares + 1e-9).astype(np.int64)
    return population.lowest(np.maximum(quotas, np.minimum(sizes, 1)), seed)


def _geometric(start: float, end: float, fraction: float) -> float:
    return start ** (1 - fraction) * end**fraction


class LongTail(Drift):
    """Class c of C keeps ``factor ** (-rank(c) / (C - 1))`` of its samples: all of the first, 1 / factor of the last.

    Attributes:
        factor: The imbalance: the most frequent class over the rarest, where all were as frequent.
        order: Which classes are frequent: the first ones (``'index'``), the last ones (``'reversed'``), or ``'drawn'``.
    """

    between: ClassVar = {'factor': _geometric}
    nothing: ClassVar = {'factor': 1.0}

    name: str = 'long_tail'
    factor: Annotated[float, Field(gt=1, le=1e9)]
    order: Order = 'index'

    def simplify(self) -> Drift | None:
        return self if self.factor > 1 else None

    def change(self, population: SampleSet) -> SampleSet:
        classes = len(population.classes)
        rank = ranks(self.order, classes, self.seed)
        return _thinned(population, self.factor ** (-rank / max(1, classes - 1)), self.seed)


class DirichletPriors(Drift):
    """Frequencies of the classes drawn from a symmetric Dirichlet distribution, as many samples as that leaves.

    The most frequent class keeps all its samples, others in proportion; nobody is there twice.

    Attributes:
        alpha: The concentration: large values leave the classes alike, small ones a few of them frequent.
    """

    name: str = 'dirichlet'
    alpha: Annotated[float, Field(gt=0, le=1e9)]

    def change(self, population: SampleSet) -> SampleSet:
        weights = dirichlet_weights(
            len(population.classes), self.alpha, self.seed, 0, torch.zeros(1, dtype=torch.int64)
        )
        priors = weights[:, 0].to(torch.float64).numpy()
        return _thinned(population, priors / priors.max(), self.seed)


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

    def change(self, population: SampleSet) -> SampleSet:
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

    def simplify(self) -> Drift | None:
        return self if self.share < 1 else None

    def change(self, population: SampleSet) -> SampleSet:
        sizes = population.sizes()
        quotas = np.floor(sizes * self.share + 0.5).astype(np.int64)
        return population.lowest(np.maximum(quotas, np.minimum(sizes, 1)), self.seed)
