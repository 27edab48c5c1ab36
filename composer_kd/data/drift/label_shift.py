"""How frequent the classes are: long tails and random priors."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from composer_kd.data.drift.drift import Drift
from composer_kd.data.drift.population import Population
from composer_kd.functional.counter import counter_hash
from composer_kd.functional.mixing import dirichlet_weights

__all__ = ['DirichletPriors', 'LongTail', 'Order', 'ranks']

Order = Literal['index', 'reversed', 'drawn']

_ORDER = 21


def ranks(order: Order, classes: int, seed: int) -> NDArray[np.int64]:
    """The place of each class: by its number, from the last to the first, or drawn."""
    if order == 'drawn':
        places = counter_hash(_ORDER, seed, torch.arange(classes)).argsort().argsort().numpy()
    else:
        places = np.arange(classes)
    return classes - 1 - places if order == 'reversed' else places


def _thinned(population: Population, shares: NDArray[np.float64], seed: int) -> Population:
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

    def settled(self) -> Drift | None:
        return self if self.factor > 1 else None

    def change(self, population: Population) -> Population:
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

    def change(self, population: Population) -> Population:
        weights = dirichlet_weights(
            len(population.classes), self.alpha, self.seed, 0, torch.zeros(1, dtype=torch.int64)
        )
        priors = weights[:, 0].to(torch.float64).numpy()
        return _thinned(population, priors / priors.max(), self.seed)
