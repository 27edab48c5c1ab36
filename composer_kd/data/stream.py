"""Straight from the shards: images decoded as they are asked for, through Streaming's StreamingDataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray
from streaming import Stream, StreamingDataset
from torch import Tensor

from composer_kd.data.dataset import DatasetInfo, KeyedImages, SampleTable, as_image, resize
from composer_kd.data.shards import Split
from composer_kd.data.transform import Augmentation

__all__ = ['StreamedImages', 'open_stream']


class StreamedImages(KeyedImages):
    """Images out of a StreamingDataset, used through its global sample positions and not through its own order.

    The same rows, keys and pixels as :class:`~composer_kd.data.dataset.CachedImages` gives.

    Args:
        stream: The StreamingDataset of the whole split.
        positions: Where in the split each of the part's samples is.
        image_size: Resize to this square.
        paint: Makes of images and their ids what drifts show in their place.
    """

    def __init__(
        self,
        part: str,
        table: SampleTable,
        info: DatasetInfo,
        augmentation: Augmentation,
        views: int | None,
        stream: StreamingDataset,
        positions: NDArray[np.int64],
        image_size: int | None,
        paint: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(part, table, info, augmentation, views)
        self._stream = stream
        self._positions = positions
        self._image_size = image_size
        self._paint = paint

    def images(self, rows: Tensor) -> Tensor:
        images = [as_image(self._stream[int(position)]['x']) for position in self._positions[rows.numpy()]]
        if self._image_size:
            images = [resize(image, self._image_size) for image in images]
        decoded = torch.from_numpy(np.stack(images))
        return decoded if self._paint is None else self._paint(decoded, torch.from_numpy(self.ids[rows.numpy()]))


def open_stream(split: Split, cache: Path) -> StreamingDataset:
    """The StreamingDataset of a split, whose shards are verified: those that lie here now, others as they arrive."""
    local = split.unpacked_folder(cache)
    ranks, rank = dist.get_local_world_size(), dist.get_local_rank()
    for number in range(rank, split.shard_count, ranks):  # each rank its share: a damaged shard stops one, and so all
        split.verify_unpacked(number, local)
    name = (local, json.dumps(split.identity()))
    if name not in _OPENED:
        _OPENED[name] = StreamingDataset(streams=[VerifiedStream(split, local)], batch_size=1)
    return _OPENED[name]


class VerifiedStream(Stream):
    """A stream that gets missing shards from a :class:`Split`: Streaming's own way would keep a damaged download."""

    def __init__(self, shards: Split, folder: Path):
        # Without a remote, Streaming neither downloads nor refuses a folder that another process streams from.
        super().__init__(local=str(folder.parent), split=folder.name)
        self._shards = shards
        self._folder = folder

    def prepare_shard(self, shard: Any) -> int:
        return self._shards.unpack_shard(shard.raw_data.basename, self._folder)


# One a folder: each StreamingDataset keeps shared memory until the process ends, and a lineage opens its data often.
_OPENED: dict[tuple[Path, str], StreamingDataset] = {}
