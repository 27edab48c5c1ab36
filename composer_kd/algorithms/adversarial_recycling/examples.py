"""From a microbatch as its views show it to what the student is shown instead, and to the deltas that are kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from composer.core import State
from torch import Tensor

from composer_kd.algorithms.adversarial_recycling.attack import Attack
from composer_kd.algorithms.adversarial_recycling.step import Made, Plan
from composer_kd.algorithms.adversarial_recycling.student import attackable
from composer_kd.algorithms.adversarial_recycling.table import DeltaTable
from composer_kd.algorithms.adversarial_recycling.views import Views
from composer_kd.errors import UserError
from composer_kd.functional.attacks import normalised, pixels_of, project

__all__ = ['Examples']

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

    def make(self, images: Tensor, labels: Tensor, keys: Tensor, plan: Plan, state: State) -> Made:
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
        return Made(shown, torch.cat(on_device), slots, deltas, len(attacked), len(replayed))

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
