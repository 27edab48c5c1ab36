"""From one drift to another, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_serializer, model_validator
from torch import Tensor

from composer_kd.core.options import Count, option_error
from composer_kd.data.drift.base import PARTS, AnyDrift, Drift, Part, SampleSet, split_seed, within

__all__ = ['Path']


class Path(Drift):
    """Step ``step`` of ``steps`` from one drift to another: at step 0 the first, at the last step the second.

    Between two drifts that differ in one number alone lie other values of that number (severity, rate, share, factor,
    classes), and so do they between no drift and one. Between any others a share of the samples, ``step / steps``, has
    the second, and all others have the first; a sample that has come over stays.

    It acts on those of its ``parts`` that one of its ends acts on.

    Attributes:
        start: In the file ``from``; null begins without any.
        to: Where it leads.
        steps: How many it takes.
        step: Which one this is.
    """

    model_config = ConfigDict(populate_by_name=True)

    name: str = 'path'
    start: AnyDrift | None = Field(default=None, alias='from')
    to: AnyDrift
    steps: Count
    step: Annotated[int, Field(ge=0)]

    @model_validator(mode='after')
    def _on_the_way(self) -> Path:
        if self.step > self.steps:
            raise option_error('step', f'{self.step} of {self.steps} steps; the last one is {self.steps}', self.step)
        if not any(map(self.acts_on, self.parts)):
            of_ends = [part for part in PARTS if any(end.acts_on(part) for end in self._given)]
            raise option_error('parts', f'its ends act on {" and ".join(of_ends)} alone; name one of those', self.parts)
        return self

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        ends = {'from': None if self.start is None else self.start.model_dump(), 'to': self.to.model_dump()}
        own = {key: getattr(self, key) for key in ('name', 'seed', 'parts', 'steps', 'step')}
        return {**own, **ends}

    @property
    def paints(self) -> bool:
        return any(end.paints for end in self._given)

    def acts_on(self, part: Part) -> bool:
        return super().acts_on(part) and any(end.acts_on(part) for end in self._given)

    def simplify(self) -> Drift | None:
        fraction = self.step / self.steps
        start = self.to.is_identity() if self.start is None else self.start
        if fraction == 0:
            plain = self.start
        elif fraction == 1:
            plain = self.to
        else:
            plain = start and start.towards(self.to, fraction)
            if plain is None:
                return self
        if plain is None:
            return None
        parts = [part for part in plain.parts if part in self.parts]
        return plain.model_copy(update={'parts': parts}).simplify()

    def description(self, part: Part) -> dict[str, Any]:
        ends = [None if end is None or not end.acts_on(part) else end.description(part) for end in self._ends]
        return {'name': self.name, 'seed': self.seed, 'share': self.step / self.steps, 'from': ends[0], 'to': ends[1]}

    def plain(self) -> Sequence[Drift]:
        return [one for end in self._given for one in end.plain()]

    def check_files(self) -> None:
        for end in self._given:
            end.check_files()

    def check(self, undrifted: SampleSet, shape: tuple[int, ...]) -> None:
        for end in self._ends:
            if end is not None and end.acts_on(undrifted.part):
                end.check(undrifted, shape)

    def change(self, population: SampleSet) -> SampleSet:
        over = within(torch.from_numpy(population.ids), self.step / self.steps, split_seed(self.seed, population.part))
        groups = []
        for end, members in zip(self._ends, (~over, over), strict=True):
            group = population.only(members)
            groups.append(end.change(group) if end is not None and end.acts_on(population.part) else group)
        return groups[0].merged(groups[1])

    def paint(self, images: Tensor, ids: Tensor, part: Part) -> Tensor:
        images = images.clone()
        for end, members in self._members(ids, part):
            chosen = torch.from_numpy(members)
            images[chosen] = end.paint(images[chosen], ids[chosen], part)
        return images

    def mark(self, hashes: NDArray[np.uint64], ids: Tensor, part: Part) -> NDArray[np.uint64]:
        marks = hashes.copy()
        for end, members in self._members(ids, part):
            marks[members] = end.mark(hashes[members], ids[torch.from_numpy(members)], part)
        return marks

    def _members(self, ids: Tensor, part: Part) -> Iterator[tuple[Drift, NDArray[np.bool_]]]:
        """The ends that act on a part, and whom each of them has."""
        over = within(ids, self.step / self.steps, split_seed(self.seed, part))
        for end, members in zip(self._ends, (~over, over), strict=True):
            if end is not None and end.acts_on(part) and members.any():
                yield end, members

    @property
    def _given(self) -> list[Drift]:
        return [end for end in (self.start, self.to) if end is not None]

    @property
    def _ends(self) -> tuple[Drift | None, Drift | None]:
        """Settled: an end may be a path itself."""
        return None if self.start is None else self.start.simplify(), self.to.simplify()
