"""From a microbatch as its views show it to what the student is shown instead, and to the deltas that are kept."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from composer.core import State
from composer.utils import dist
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.algorithms.adversarial_recycling.attack import PIXELS, Attack, attackable
from composer_kd.algorithms.adversarial_recycling.step import AdversarialBatch, StepPlan
from composer_kd.algorithms.adversarial_recycling.table import DeltaTable
from composer_kd.archive.archive import Archive
from composer_kd.archive.samples import Samples
from composer_kd.archive.table import aligned
from composer_kd.core.errors import UserError
from composer_kd.data.transform import Augmentation
from composer_kd.functional.attacks import normalised, pixels_of, project
from composer_kd.functional.augment import crop_of, cropped
from composer_kd.functional.uncrop import uncropped, visible
from composer_kd.storage.distributed import on_rank_zero

__all__ = ['Examples', 'Recorded', 'Views', 'check_same', 'read_examples']

# How far a pixel that comes back out of float32 may be from a whole number.
_ROUNDING = 0.05


class Examples:
    """Makes adversarial examples of a training's microbatches.

    Args:
        attack: What makes them.
        begin: ``'random'`` or ``'image'``: where an attack begins that has nothing to go on from.
        goes_on: Whether attacks begin at what is kept.
        table: What is kept; ``None`` for nothing.
        views: Of the training's augmentation.
        normalization: (mean, std) of the training data.
        classes: How many.
        owner: How error lines call the algorithm.
    """

    def __init__(
        self,
        attack: Attack,
        begin: str,
        goes_on: bool,
        table: DeltaTable | None,
        views: Views,
        normalization: tuple[Sequence[float], Sequence[float]],
        classes: int,
        owner: str,
    ):
        self.attack = attack
        self.ball = (attack.epsilon, attack.norm)
        """The radius and the norm that replayed deltas are held to."""
        self._begin = begin
        self._goes_on = goes_on
        self._table = table
        self._views = views
        self._normalization = normalization
        self._classes = classes
        self._owner = owner
        self._checked = False

    def make(self, images: Tensor, labels: Tensor, keys: Tensor, plan: StepPlan, state: State) -> AdversarialBatch:
        """Do what a plan says to a microbatch; images that are shown as they are keep their bits."""
        if not self._checked:
            self._checked = True
            self._refuse_other_pixels(images)
        attacked, replayed = (torch.nonzero(mask).squeeze(1) for mask in (plan.attacked, plan.replayed))
        slots = plan.slots[attacked]
        shown, on_device = images, [rows.to(images.device, non_blocking=True) for rows in (attacked, replayed)]
        deltas = torch.zeros(0, *images.shape[1:], dtype=torch.int8, device=images.device)
        with torch.no_grad():
            if len(attacked):
                rows = on_device[0]
                made, deltas = self._attacked(images[rows], labels[rows], keys[rows], slots, state)
                shown = shown.index_copy(0, rows, made.to(shown.dtype))
            if len(replayed):
                rows = on_device[1]
                made = self._replayed(images[rows], keys[rows], plan.slots[replayed])
                shown = shown.index_copy(0, rows, made.to(shown.dtype))
        return AdversarialBatch(shown, torch.cat(on_device), slots, deltas, len(attacked), len(replayed))

    def _attacked(
        self, images: Tensor, labels: Tensor, keys: Tensor, slots: Tensor, state: State
    ) -> tuple[Tensor, Tensor]:
        """The adversarial images, normalised, and their deltas for the stored images."""
        pixels, bounds = self._pixels(images, keys)
        ids, seed, step = keys[:, 0], state.rank_zero_seed, int(state.timestamp.batch)
        kept = torch.zeros_like(pixels, dtype=torch.int8) if self._table is None else self._table.take(slots)
        known = torch.zeros(len(slots), dtype=torch.bool)
        if self._goes_on and self._table is not None:
            known = self._table.known(slots)
        start = self._views.seen(kept, keys).float() if known.any() else torch.zeros_like(pixels)
        if self._begin == 'random' and not known.all():
            drawn = self.attack.start(pixels, ids, seed, step)
            start = torch.where(known.to(images.device, non_blocking=True).view(-1, 1, 1, 1), start, drawn)
        with attackable(state, labels, keys) as student:
            adversarial = self.attack(
                student, pixels, labels, ids, seed=seed, classes=self._classes, start=start, bounds=bounds,
                normalization=self._normalization,
            )  # fmt: skip
        shown = normalised(adversarial, self._normalization)
        if self._table is None:
            return shown, kept
        seen = self.attack.whole(adversarial - pixels, ids, seed, step)
        return shown, self._views.put_back(seen, kept, keys)

    def _replayed(self, images: Tensor, keys: Tensor, slots: Tensor) -> Tensor:
        assert self._table is not None
        pixels, (low, high) = self._pixels(images, keys)
        seen = self._views.seen(self._table.take(slots), keys).float()
        return normalised((pixels + project(seen, *self.ball)).clamp(min=low).clamp(max=high), self._normalization)

    def _pixels(self, images: Tensor, keys: Tensor) -> tuple[Tensor, tuple[float, Tensor]]:
        """The pixels of normalised images and their bounds; the border's pixels are held at 0."""
        pixels = pixels_of(images, *self._normalization).round()
        image = self._views.image(images, keys)
        # A tensor in any case: beside numbers an attack looks at its images, and a GPU would wait in every step. That
        # they are pixels was seen in the first one.
        return pixels, (0.0, pixels.new_full((), 255.0) if image is None else 255.0 * image)

    def _refuse_other_pixels(self, images: Tensor) -> None:
        pixels = pixels_of(images, *self._normalization)
        least, most = pixels.min().item(), pixels.max().item()
        if least < -_ROUNDING or most > 255 + _ROUNDING or (pixels - pixels.round()).abs().max() > _ROUNDING:
            raise UserError(
                f'{self._owner}: the training images are not 8-bit pixels under the normalization of their data set: '
                f'undone, they go from {least:.3g} to {most:.3g} and not over whole numbers from 0 to 255; let the '
                f'loader normalise as its data set says, and leave out what changes the images before'
            )


@dataclass(frozen=True)
class Recorded:
    """What a run recorded of some samples.

    Attributes:
        deltas: int8 ``[k, C, H, W]`` of those that it knows.
        known: Which of the samples those are.
        metadata: What its manifest says of the attack.
        xxh3: Of the file, to know it again.
    """

    deltas: Tensor
    known: NDArray[np.bool_]
    metadata: dict[str, Any]
    xxh3: str


def read_examples(archive: Archive, samples: Samples, shape: Sequence[int], owner: str, unseen: str) -> Recorded:
    """Read on rank 0, for all: the run may be recording at this moment, and all ranks must have the same.

    Args:
        archive: Of the earlier run.
        samples: Of this training.
        shape: Of an image.
        owner: How error lines call who asks.
        unseen: What becomes of samples that the archive does not know, for the warning.
    """
    found = on_rank_zero(lambda: _read(archive, samples, shape, owner))
    missing = len(samples) - int(found.known.sum())
    if missing and dist.get_global_rank() == 0:
        warnings.warn(
            f'{owner}: {archive.run} has no adversarial examples of {missing:,} of the {len(samples):,} training '
            f'samples; {unseen}',
            stacklevel=2,
        )
    return found


def _read(archive: Archive, samples: Samples, shape: Sequence[int], owner: str) -> Recorded:
    number = archive.require('adversarial')[-1]
    table, metadata = archive.table('adversarial', number), archive.metadata('adversarial', number)
    if metadata.get('pixels') != PIXELS:
        raise UserError(
            f'{owner}: the deltas of {archive.run} are on a pixel scale of 0 to '
            f'{metadata.get("pixels", "(not said)")}, not of 0 to {PIXELS}; record them anew'
        )
    if unsaid := [name for name in ('epsilon', 'norm') if name not in metadata]:
        raise UserError(
            f'{owner}: the archive of {archive.run} does not say the {unsaid[0]} of its adversarial examples; record '
            f'them anew'
        )
    theirs = list(table['delta'].shape[1:])
    if theirs != list(shape):
        raise UserError(
            f'{owner}: the adversarial examples of {archive.run} are of images of {theirs}, and these are of '
            f'{list(shape)}; name a run on such data'
        )
    # By content: in the coordinates of the stored image a delta does not depend on the id, which decides views.
    rows = archive.samples().rows_by_content(samples)
    found = aligned(table, rows)
    known = found['seen'] != 0
    if not known.any():
        raise UserError(
            f'{owner}: {archive.run} recorded adversarial examples of other data: none of this training; name a run '
            f'that was trained on it'
        )
    manifest = archive.manifest()
    file = archive.record().adversarial[number].file
    return Recorded(found['delta'][known], known.numpy(), metadata, manifest.files[file].xxh3)


def check_same(before: str | None, now: str, archive: Archive, owner: str) -> None:
    """A training that goes on must replay what it began with."""
    if before is not None and before != now:
        raise UserError(
            f'{owner}: the adversarial examples in {archive.run} are not those that this training began with; put them '
            f'back, or begin anew'
        )


class Views:
    """Where in a view each pixel of the stored image is: for deltas that are to serve every view.

    Args:
        augmentation: Whose views; those that interpolate or change colours have no such place, and are refused.
        owner: How the error line calls who asks.
    """

    def __init__(self, augmentation: Augmentation, owner: str):
        strange = [name for name in augmentation.versions if name not in ('none', 'crop_flip')]
        if strange:
            raise UserError(
                f'{owner}: the views of {strange[0]} do not show the pixels of the stored image one by one, so an '
                f'example made in one serves no other; use data.augment: crop_flip or none, without colours'
            )
        self._augmentation = augmentation

    def seen(self, deltas: Tensor, keys: Tensor) -> Tensor:
        """Deltas of stored images as these views show them; the border has none."""
        of = self._augmentation
        return deltas if of.name == 'none' else cropped(deltas, self._crop(keys), of.padding)

    def put_back(self, seen: Tensor, deltas: Tensor, keys: Tensor) -> Tensor:
        """``deltas`` of stored images with what these views see of them replaced."""
        of = self._augmentation
        return seen if of.name == 'none' else uncropped(seen, deltas, self._crop(keys), of.padding)

    def image(self, like: Tensor, keys: Tensor) -> Tensor | None:
        """Which pixels of the views are the image's and not the border's; ``None`` for all."""
        of = self._augmentation
        if of.name == 'none' or of.padding == 0:
            return None
        return visible(self._crop(keys), of.padding, *like.shape[2:])

    def _crop(self, keys: Tensor):
        ids, views = keys.unbind(1)
        return crop_of(ids, views, self._augmentation.seed, self._augmentation.padding, self._augmentation.flip)
