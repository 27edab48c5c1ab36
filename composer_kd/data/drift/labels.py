"""What a sample is called: wrong labels, and superclasses whose fine classes change."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator

from composer_kd.data.drift.drift import Drift, linear
from composer_kd.data.drift.population import PARTS, Part, Population, split_seed
from composer_kd.errors import UserError
from composer_kd.functional.counter import counter_hash, uniform
from composer_kd.section import Count

__all__ = ['LabelNoise', 'Subpopulation']

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

    def settled(self) -> Drift | None:
        return self if self.rate > 0 else None

    def change(self, population: Population) -> Population:
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

    def change(self, population: Population) -> Population:
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
