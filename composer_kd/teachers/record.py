"""Recording what a run's model says of a view of a data set: what is missing, by all ranks, kept through kills."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from composer.core import Precision
from composer.devices import Device
from composer.utils import dist, get_device
from numpy.typing import NDArray
from torch import Tensor, nn

from composer_kd.archive import Archive, Samples
from composer_kd.archive.manifest import Manifest
from composer_kd.archive.parts import merge_logits, read_parts, recorded_rows, write_logits
from composer_kd.core.errors import UserError
from composer_kd.data.dataset import KeyedImages
from composer_kd.data.transform import Prepare
from composer_kd.models import Classifier
from composer_kd.models.classifier import unwrapped
from composer_kd.storage.distributed import lock_on_all_ranks, on_rank_zero, raise_on_all_ranks
from composer_kd.teachers.live import LiveTeacher
from composer_kd.teachers.recorded import RecordedTeacher

__all__ = ['BATCH_SIZE', 'Inference', 'LogitRecorder', 'fill_view', 'precision_of', 'recording_metadata']

# Samples that become a part at once: what a kill costs at most. Small data is cut finer, so that ranks can share it.
_CHUNK = 16_384
_CHUNKS = 8

BATCH_SIZE = 1000

Rows = NDArray[np.int64]


@dataclass
class Inference:
    """What a live teacher asks of a Trainer's state, where there is no Trainer, or another one than the teacher's.

    Args:
        device: Where it runs.
        precision: Of the run: ``fp32``, ``bf16`` or ``fp16``.
        model: Says how the CPU casts and lays out images.
    """

    device: Device
    precision: Precision
    model: nn.Module
    precision_config: dict[str, Any] | None = None

    @classmethod
    def like(cls, config: Mapping[str, Any], device: str | Device, classes: int) -> Inference:
        """The precision and layout that a run was trained in, on a device of this machine."""
        if device == 'gpu' and not torch.cuda.is_available():
            raise UserError('device: there is no GPU here; use cpu or auto')
        found = device if isinstance(device, Device) else get_device(None if device == 'auto' else device)
        on_gpu = found.name == 'gpu'
        precision = config.get('precision', 'fp32')
        if precision == 'fp16' and not on_gpu:
            raise UserError('the run was trained in fp16, which needs a GPU: its outputs here would not be its own')
        # As in building a run: on the CPU it is our classifier that casts.
        student = Classifier(
            nn.Identity(),
            classes,
            cpu_autocast=precision == 'bf16' and not on_gpu,
            channels_last=bool(config.get('channels_last', True)),
        )
        amp = on_gpu and precision != 'fp32'
        return cls(found, Precision(f'amp_{precision}' if amp else 'fp32'), student)


def precision_of(state: Any) -> str:
    """What a run's configuration calls the precision of its forward passes: ``fp32``, ``bf16`` or ``fp16``."""
    if getattr(unwrapped(state.model), 'cpu_autocast', False):
        return 'bf16'
    return {'amp_bf16': 'bf16', 'amp_fp16': 'fp16'}.get(state.precision.value, 'fp32')


def recording_metadata(manifest: Manifest, dataset: KeyedImages, top_k: int | None) -> dict[str, Any]:
    """What the manifest says of every table that is recorded from a finished run's model."""
    ours, theirs = (dataset.num_classes, list(dataset.info.shape)), (manifest.data.num_classes, manifest.data.shape)
    if ours != theirs:
        raise UserError(
            f'the data has {ours[0]} classes and images of {ours[1]}, the run was trained on {theirs[0]} and '
            f'{theirs[1]}; record over data of its kind'
        )
    assert manifest.weights is not None
    return {
        'augmentation': dataset.augmentation.as_mapping(),
        'classes': manifest.data.num_classes,
        'top_k': top_k,
        'precision': manifest.precision,
        'weights': manifest.weights.hash,
        'source': 'model',
    }


class LogitRecorder:
    """A recording under way. All ranks make one alike and ask it for the same views.

    Args:
        archive: Where to.
        dataset: What is shown.
        metadata: Of the tables.
        teacher: Who answers; placed for ``state``.
        state: Where and in which precision.
        batch_size: Images in a forward pass.
    """

    def __init__(
        self,
        archive: Archive,
        dataset: KeyedImages,
        metadata: dict[str, Any],
        teacher: LiveTeacher,
        state: Inference,
        batch_size: int = BATCH_SIZE,
    ):
        self.archive = archive
        self.dataset = dataset
        self.metadata = metadata
        self.teacher = teacher
        self.state = state
        self.batch_size = batch_size
        self.samples = Samples.of(dataset)
        self.prepare = Prepare(dataset.augmentation, *dataset.normalization)
        teacher.place(state)
        teacher.read_normalization(dataset, state.device)

    def view(
        self,
        view: int,
        wanted: NDArray[np.bool_] | None = None,
        shown: Callable[[list[Rows]], Iterable[Rows]] = iter,
    ) -> tuple[int, int]:
        """Record what is missing of a view; how many images that were, on this rank and on all.

        One process at a time records a view of an archive: another one that wants it waits, and then finds it.

        Args:
            view: The view.
            wanted: Which rows of the data set; ``None`` for all.
            shown: Passes the chunks of this rank on, for a progress bar.
        """
        with lock_on_all_ranks(self.archive.run.path / 'archive' / f'.view{view:04d}.lock'):
            metadata, chunks, unmerged = on_rank_zero(lambda: self._missing(view, wanted))
            mine = chunks[dist.get_global_rank() :: dist.get_world_size()]
            with raise_on_all_ranks():
                for rows in shown(mine):
                    begun = time.perf_counter()
                    logits = torch.cat([logits.cpu() for logits in self.logits(view, rows)])
                    seconds = time.perf_counter() - begun
                    write_logits(self.archive, view, self.samples.take(rows), logits, metadata, seconds)
            if chunks or unmerged:
                cost = self.teacher.multiply_adds(self.dataset.info.shape)
                # A student that completes somebody's record pays for that itself.
                counted_as = '' if metadata['source'] == self.metadata['source'] else 'filled_'
                on_rank_zero(lambda: merge_logits(self.archive, view, metadata, cost, counted_as))
        return sum(map(len, mine)), sum(map(len, chunks))

    def logits(self, view: int, rows: Rows) -> Iterator[Tensor]:
        """Float32 logits of some rows of the data set in one view, batch by batch, on the device."""
        for first in range(0, len(rows), self.batch_size):
            packed = rows[first : first + self.batch_size] + len(self.dataset) * view
            batch = self.prepare(self.state.device.batch_to_device(self.dataset.__getitems__(packed.tolist())))
            try:
                yield self.teacher.outputs(batch, self.state).logits
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f'the device has no memory for batches of {self.batch_size}; lower --batch-size'
                ) from error

    def _missing(self, view: int, wanted: NDArray[np.bool_] | None) -> tuple[dict[str, Any], list[Rows], bool]:
        """The metadata of a view's table, the chunks of rows that are not recorded, and whether there are parts.

        Chunks lie where they would without anything recorded, so that an interrupted one goes on with the very
        batches of one that was not.
        """
        metadata = {**self.metadata, **_how_it_began(self.archive, view)}
        there = recorded_rows(self.archive, view, self.samples)
        parts = read_parts(self.archive, 'logits', view, metadata)
        if parts is not None:
            there |= parts[0].rows_by_key(self.samples) >= 0
        if wanted is not None:
            there |= ~wanted
        size = min(_CHUNK, -(-len(there) // _CHUNKS))
        if size > self.batch_size:
            size = -(-size // self.batch_size) * self.batch_size
        starts = range(0, len(there), size)
        chunks = [start + np.flatnonzero(~there[start : start + size]) for start in starts]
        return metadata, [rows for rows in chunks if len(rows)], parts is not None


def _how_it_began(archive: Archive, view: int) -> dict[str, Any]:
    """A table that is only completed goes on saying where its first rows come from."""
    record = archive.manifest().archive
    table = None if record is None else record.logits.get(view)
    metadata = {} if table is None else table.model_dump()
    return {key: metadata[key] for key in ('source', 'weights') if key in metadata}


def fill_view(teacher: RecordedTeacher, state: Any, view: int, wanted: NDArray[np.bool_]) -> int:
    """Record what a teacher's archive lacks of a view; all ranks call it together.

    It is a recording of one view, in the precision that the run was trained in, and shares its parts and locks: a kill
    costs a chunk, and another process that wants the same view waits and finds it.

    Args:
        teacher: One with ``fill``; its live model computes.
        state: The trainer's.
        view: The view.
        wanted: Which rows of the training data the epoch asks for.

    Returns:
        Images that the model computed on this rank.
    """
    archive, dataset = teacher.archive, state.train_dataloader.dataset
    metadata = {**recording_metadata(teacher.manifest, dataset, _form(archive)), 'source': 'fill'}
    live = teacher.load_live()
    own = Inference.like(teacher.finished_run.config, state.device, int(dataset.num_classes))
    try:
        images, _ = LogitRecorder(archive, dataset, metadata, live, own).view(view, wanted)
    finally:
        # Between fillings it answers in the training's precision, as every live teacher.
        live.place(state)
        live.read_normalization(dataset, state.device)
    return images


def _form(archive: Archive) -> int | None:
    """Whether the archive's other views are whole (``None``) or the top k logits: a new one is like them."""
    views = archive.views if archive.exists else []
    return archive.metadata('logits', views[0]).get('top_k') if views else None
