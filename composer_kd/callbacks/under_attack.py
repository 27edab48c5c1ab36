"""How many samples of a data set a model gets right, as they are and under an attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.data.dataset import KeyedImages
from composer_kd.errors import UserError
from composer_kd.functional.attacks import normalised
from composer_kd.functional.counter import counter_hash

__all__ = ['Attacker', 'UnderAttack', 'chosen_rows', 'under_attack']

# Goes into the hash that chooses a subset.
_VERSION = 1


class Attacker(Protocol):
    """From images to adversarial ones: our attacks, or another library's."""

    def __call__(self, images: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        """Float pixels from 0 to 255 in and out."""
        ...


@dataclass(frozen=True)
class UnderAttack:
    """Counts over all ranks.

    Attributes:
        samples: How many were shown.
        right: How many of them the model gets right as they are.
        robust: How many of those it still does under the attack; an attacker may also leave an image alone.
    """

    samples: int
    right: int
    robust: int

    @property
    def accuracy(self) -> float:
        return self.right / self.samples

    @property
    def robust_accuracy(self) -> float:
        return self.robust / self.samples


def chosen_rows(dataset: KeyedImages, subset: int | None) -> NDArray[np.int64]:
    """The rows that are shown: all, or as many as ``subset`` with the lowest hashes of their ids, always the same."""
    hashes = counter_hash(_VERSION, torch.from_numpy(dataset.ids)).numpy()
    return np.sort(np.argsort(hashes, kind='stable')[:subset])


def under_attack(
    model: Callable[[Tensor], Tensor],
    dataset: KeyedImages,
    rows: NDArray[np.int64],
    attacker: Attacker,
    device: torch.device,
    batch_size: int,
) -> UnderAttack:
    """Show samples as they are stored and as the attacker makes them; ranks share the work and come here together.

    Args:
        model: From normalised images to logits, in evaluation mode.
        dataset: Whose samples.
        rows: Which.
        attacker: Makes the adversarial images.
        device: Where.
        batch_size: Images at a time.
    """
    counts = torch.zeros(3, dtype=torch.float64, device=device)
    mine = rows[dist.get_global_rank() :: dist.get_world_size()]
    for first in range(0, len(mine), batch_size):
        chosen = mine[first : first + batch_size]
        images = dataset.images(torch.from_numpy(chosen)).to(device).float()
        labels, ids = (torch.from_numpy(column[chosen]).to(device) for column in (dataset.labels, dataset.ids))
        try:
            adversarial = attacker(images, labels, ids)
            right, robust = (_right(model, one, labels, dataset) for one in (images, adversarial))
        except torch.OutOfMemoryError as error:
            raise UserError(
                f'the device has no memory to attack {batch_size} images at a time; lower batch_size'
            ) from error
        counts += torch.stack([torch.ones_like(right), right, right & robust]).sum(dim=1)
    dist.all_reduce(counts, reduce_operation='SUM')
    return UnderAttack(*(int(count) for count in counts.tolist()))


def _right(model: Callable[[Tensor], Tensor], pixels: Tensor, labels: Tensor, dataset: KeyedImages) -> Tensor:
    with torch.no_grad():
        return model(normalised(pixels, dataset.normalization)).argmax(dim=1) == labels
