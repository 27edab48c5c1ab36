"""What every recorder does before the first step: look at the data, refuse what it cannot record, begin the archive."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from composer.core import State
from numpy.typing import NDArray

from composer_kd.archive.archive import Archive
from composer_kd.archive.manifest import SCHEMA, DataRecord, Manifest
from composer_kd.archive.samples import Samples
from composer_kd.core.errors import UserError
from composer_kd.models.classifier import refuse_strict_model
from composer_kd.models.composer_compat import first_of
from composer_kd.storage.distributed import on_rank_zero

__all__ = ['begin_recording', 'refuse_beside', 'rows_of']


def refuse_beside(state: State, names: Collection[str], owner: str, why: str) -> None:
    """Refuse Composer algorithms that spoil what is recorded, in one line that says ``why``."""
    if name := first_of(state.algorithms, names):
        raise UserError(f'{owner}: {name} is in the same Trainer; {why}')


def begin_recording(archive: Archive, state: State, owner: str) -> Samples:
    """The samples of the training data, once the archive's manifest says that they are its own.

    A run that has finished keeps its recordings: a second training may not write over them.

    Args:
        archive: Where to.
        state: The Trainer's, at FIT_START.
        owner: How error lines call the recorder.
    """
    dataset: Any = getattr(state.train_dataloader, 'dataset', None)
    samples = Samples.of(dataset)
    refuse_strict_model(state.model, dataset)
    augmentation: Any = getattr(dataset, 'augmentation', None)
    manifest = Manifest.model_validate(
        {
            'schema': SCHEMA,
            'run': archive.run.path.name,
            'seed': int(state.rank_zero_seed),
            'data': _data_record(dataset, len(samples), owner),
            'augmentation': None if augmentation is None else augmentation.as_mapping(),
            'files': {},
        }
    )

    def begin() -> None:
        archive.begin(manifest)
        there = archive.manifest()
        if there.finished:
            raise UserError(f'{owner}: {archive.run.path} is a finished run; record into a folder of this training')
        if there.data != manifest.data:
            raise UserError(f'{owner}: {archive.run.path} holds recordings of other data; choose another folder')

    on_rank_zero(begin)
    return samples


def _data_record(dataset: Any, samples: int, owner: str) -> DataRecord:
    try:
        mean, std = dataset.normalization
        return DataRecord.model_validate(
            {
                'fingerprint': dataset.fingerprint,
                'num_samples': samples,
                'num_classes': dataset.num_classes,
                'classes': list(dataset.classes) if hasattr(dataset, 'classes') else None,
                'shape': list(dataset[0][0].shape),
                'normalization': {'mean': [float(m) for m in mean], 'std': [float(s) for s in std]},
            }
        )
    except AttributeError as error:
        raise UserError(
            f'{owner}: the training data ({type(dataset).__name__}) has no {error.name}; an archive says what data it '
            f'is of: use data out of shards (composer-kd convert, composer_kd.data.open_data)'
        ) from None


def rows_of(ids: NDArray[np.int64], samples: Samples, owner: str) -> NDArray[np.int64]:
    """The rows of the training data that hold these ids."""
    order = np.argsort(samples.ids, kind='stable')
    place = np.searchsorted(samples.ids, ids, sorter=order)
    rows = order[np.minimum(place, len(order) - 1)]
    strange = samples.ids[rows] != ids
    if strange.any():
        raise UserError(
            f'{owner}: the batches have a sample with id {ids[strange][0]}, which the training data set does not '
            f'list among its ids'
        )
    return rows
