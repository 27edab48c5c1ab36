"""What a drift is: a checked section of a YAML file that knows how to change samples, labels or pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny
from torch import Tensor

from composer_kd.core.errors import UserError, nearest
from composer_kd.core.options import Section, Seed, keys_of, option_error
from composer_kd.core.registry import Registry
from composer_kd.functional.counter import counter_hash, uniform

__all__ = [
    'DRIFTS',
    'PARTS',
    'AnyDrift',
    'Drift',
    'Drifts',
    'Part',
    'SampleSet',
    'effective_drifts',
    'linear',
    'marked',
    'split_seed',
    'within',
]


Part = Literal['train', 'val', 'test']
PARTS: tuple[Part, ...] = ('train', 'val', 'test')

# Tell the draws of one purpose from those of another with the same seed.
_CHOICE, _SHARE = 1, 2


@dataclass(frozen=True)
class SampleSet:
    """The samples of a part, one entry each, in the order of their ids.

    Attributes:
        part: ``'train'``, ``'val'`` or ``'test'``.
        rows: Their places in the part as it was before any drift.
        ids: Their ids, unique in the train and validation parts together, and in the test part.
        hashes: Of their pixels as they were before any drift.
        labels: Their classes.
        classes: The name of each class.
        superclasses: The names of the coarser classes, if there are any.
        coarse: The superclass of each class.
        known: Which classes there are at all by now, bool [classes].
        fine: The finer class that a sample was of before its class became a coarser one, if there is such.
        fine_classes: The names of these.
    """

    part: Part
    rows: NDArray[np.int64]
    ids: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    superclasses: tuple[str, ...] | None
    coarse: tuple[int, ...] | None
    known: NDArray[np.bool_]
    fine: NDArray[np.int64] | None = None
    fine_classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, chosen: NDArray[Any]) -> SampleSet:
        """Some of them, by ascending places or by a mask."""
        columns = {name: getattr(self, name)[chosen] for name in ('rows', 'ids', 'hashes', 'labels')}
        return replace(self, **columns, fine=None if self.fine is None else self.fine[chosen])

    def merged(self, other: SampleSet) -> SampleSet:
        """These and others of the same part, in the order of their rows."""
        if self.classes != other.classes:
            raise UserError(
                f'its two ends have other classes ({len(self.classes)} and {len(other.classes)}); let both have those '
                f'of one task'
            )
        both = {
            name: np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ('rows', 'ids', 'hashes', 'labels')
        }
        fine, fine_classes = None, None
        if self.fine is not None and other.fine is not None and self.fine_classes == other.fine_classes:
            fine, fine_classes = np.concatenate([self.fine, other.fine]), self.fine_classes
        everyone = replace(self, **both, known=self.known | other.known, fine=fine, fine_classes=fine_classes)
        return everyone.only(np.argsort(everyone.rows, kind='stable'))

    def sizes(self) -> NDArray[np.int64]:
        """How many samples each class has."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def lowest(self, quotas: NDArray[np.int64], seed: int) -> SampleSet:
        """Of each class as many as its quota: those with the lowest hashes of ``seed`` and content.

        A larger quota keeps everyone that a smaller one keeps, and copies of one image stay together as far as it goes.
        """
        drawn = counter_hash(_CHOICE, seed, torch.from_numpy(self.hashes.view(np.int64))).numpy().view(np.uint64)
        order = np.lexsort((self.ids, drawn, self.labels))
        starts = np.concatenate([[0], np.cumsum(self.sizes())[:-1]])
        place = np.arange(len(order)) - starts[self.labels[order]]
        return self.only(np.sort(order[place < quotas[self.labels[order]]]))


def split_seed(seed: int, part: Part) -> int:
    """A seed for each split: ids of the test split begin at 0 as those of the training split do."""
    return 2 * seed + (part == 'test')


def within(ids: Tensor, share: float, seed: int) -> NDArray[np.bool_]:
    """Which ids are of a share of all: those of a smaller share are among those of a larger one."""
    return (uniform(_SHARE, seed, ids) < share).numpy()


def linear(start: float, end: float, fraction: float) -> float:
    """From ``start`` to ``end`` in equal steps."""
    return start + (end - start) * fraction


class Drift(Section):
    """A scenario. A new one is a subclass with a ``name`` of its own and a row in :data:`DRIFTS`.

    Attributes:
        name: As it stands in the file.
        seed: Names the draws.
        parts: Which parts of the data it acts on; the clean training samples are some of the training part.
    """

    # What lies between two drifts that differ in these numbers alone: from one value, to another, a fraction.
    between: ClassVar[Mapping[str, Callable[[float, float, float], float]]] = {}
    # The values of those numbers with which nothing is changed, where there are such.
    nothing: ClassVar[Mapping[str, float]] = {}

    name: str
    seed: Seed = 0
    parts: Annotated[list[Part], Field(min_length=1)] = Field(default_factory=lambda: list(PARTS))

    @property
    def paints(self) -> bool:
        """Whether it changes pixels."""
        return False

    @property
    def replaces_images(self) -> bool:
        """Whether it puts whole images in the place of those that it is given."""
        return False

    def acts_on(self, part: Part) -> bool:
        """Whether it may change something of this part."""
        return part in self.parts

    def simplify(self) -> Drift | None:
        """The plain drift that this one comes to; ``None`` where it changes nothing."""
        return self

    def description(self, part: Part) -> dict[str, Any]:
        """Everything that decides what it does to a part, as JSON: it names what is made of it."""
        return self.model_dump(mode='json', exclude={'parts'})

    def plain(self) -> Sequence[Drift]:
        """The drifts that it is made of: itself, or what it leads from and to."""
        return [self]

    def check_files(self) -> None:
        """Refuse files that are not there, before another run trains for this one."""

    def check(self, undrifted: SampleSet, shape: tuple[int, ...]) -> None:
        """Refuse data that it cannot act on, in one line. It is asked of each of its parts before any drift acts."""

    def change(self, population: SampleSet) -> SampleSet:
        """The samples that are left, with their labels. It is asked of its parts alone."""
        return population

    def paint(self, images: Tensor, ids: Tensor, part: Part) -> Tensor:
        """Other pixels for uint8 images [B, C, H, W]: a function of each image and its id, in any company."""
        return images

    def mark(self, hashes: NDArray[np.uint64], ids: Tensor, part: Part) -> NDArray[np.uint64]:
        """Content hashes of what :meth:`paint` makes of images with these hashes, without looking at an image.

        Those whom it leaves alone keep theirs. All others have hashes of what decides over their pixels.
        """
        return marked(hashes, self.description(part), ids, part) if self.paints else hashes

    def towards(self, end: Drift, fraction: float) -> Drift | None:
        """The drift between this one and ``end``, where they differ in numbers that have something between them."""
        if type(self) is not type(end) or {**dict(self), **_numbers(end)} != dict(end):
            return None
        numbers = {key: rule(getattr(self, key), getattr(end, key), fraction) for key, rule in self.between.items()}
        return self.model_copy(update=numbers)

    def is_identity(self) -> Drift | None:
        """This drift with the numbers that change nothing, where it has such."""
        return self.model_copy(update=dict(self.nothing)) if self.nothing else None


def effective_drifts(drifts: Iterable[Drift], part: Part) -> list[Drift]:
    """What of these drifts changes something of a part, as the plain drifts that they come to."""
    settled = (drift.simplify() for drift in drifts)
    return [drift for drift in settled if drift is not None and drift.acts_on(part)]


def marked(
    hashes: NDArray[np.uint64], description: Mapping[str, Any], ids: Tensor | None = None, part: Part | None = None
) -> NDArray[np.uint64]:
    """Other content hashes: of the former ones and what is done; where draws decide, of ids and their split too."""
    split = None if part is None else 'test' if part == 'test' else 'train'
    done = xxhash.xxh3_64_intdigest(json.dumps([split, dict(description)], sort_keys=True))
    whose = torch.zeros(len(hashes), dtype=torch.int64) if ids is None else ids
    return counter_hash(done, whose, torch.from_numpy(hashes.view(np.int64))).numpy().view(np.uint64)


def _numbers(drift: Drift) -> dict[str, Any]:
    return {key: getattr(drift, key) for key in drift.between}


DRIFTS: Registry[type[Drift]] = Registry('drifts')
_ROOM = 'composer_kd.data.drift'
DRIFTS.add('corruption', f'{_ROOM}.corruption:Corruption', 'noise, blur, weather or digital damage of the pixels')
DRIFTS.add('label_noise', f'{_ROOM}.kinds:LabelNoise', 'wrong labels in the training part')
DRIFTS.add('subpopulation', f'{_ROOM}.kinds:Subpopulation', 'superclasses to tell apart, of other fine classes')
DRIFTS.add('long_tail', f'{_ROOM}.kinds:LongTail', 'classes from frequent to rare, exponentially')
DRIFTS.add('dirichlet', f'{_ROOM}.kinds:DirichletPriors', 'frequencies of classes from a Dirichlet distribution')
DRIFTS.add('new_classes', f'{_ROOM}.kinds:NewClasses', 'some of the classes are there, others are yet to come')
DRIFTS.add('growing', f'{_ROOM}.kinds:Growing', 'a share of the training samples is there; larger ones contain it')
DRIFTS.add('path', f'{_ROOM}.path:Path', 'step by step from one drift to another')


def _parse(value: Any) -> Any:
    if isinstance(value, Drift):
        return value
    options = {'name': value} if isinstance(value, str) else value
    if not isinstance(options, dict) or not isinstance(options.get('name'), str):
        raise option_error(
            None, f'expected the name of a drift, or a mapping with name and options, got {value!r}', value
        )
    try:
        drift = DRIFTS.get(options['name'])
    except UserError as error:
        raise option_error('name', str(error), value) from None
    known = set(keys_of(drift))
    for key in options:
        if key not in known:
            raise option_error(str(key), f'unknown key; {nearest(key, known)}', value)
    return drift.model_validate({key: option for key, option in options.items() if key != 'name'})


def _parse_several(value: Any) -> Any:
    """One drift is a list of one; no drift is ``None``."""
    if isinstance(value, list):
        return value or None
    return value if value is None else [_parse(value)]


def _fit_each_other(drifts: list[Drift] | None) -> list[Drift] | None:
    """Two of a kind with one seed would draw the same; whole images would hide what was painted before them."""
    given = drifts or []
    before: set[tuple[str, int]] = set()
    for place, drift in enumerate(given):
        # Ends of a path are two places of one way, not one after the other.
        drawn = {(getattr(one, 'kind', one.name), one.seed) for one in (drift, *drift.plain())}
        again, before = drawn & before, before | drawn
        if again:
            kind, seed = min(again)
            what = f'a second {kind} with seed {seed}'
            raise option_error(
                str(place),
                f'{what} draws what the first one draws; give it another seed',
                drift.model_dump(mode='json'),
            )
        painted = next((one.name for one in given[:place] if one.paints), None)
        if drift.replaces_images and painted:
            raise option_error(
                str(place),
                f'the images of its files would take the place of what {painted} has painted; put it first',
                drift.model_dump(mode='json'),
            )
    return drifts


AnyDrift = Annotated[SerializeAsAny[Drift], BeforeValidator(_parse)]
Drifts = Annotated[list[AnyDrift] | None, BeforeValidator(_parse_several), AfterValidator(_fit_each_other)]
