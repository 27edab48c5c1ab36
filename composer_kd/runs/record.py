"""Recording: a finished run's outputs on every training sample, view by view, recorded in its archive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray

from composer_kd.archive import Archive
from composer_kd.archive.manifest import TableRecord
from composer_kd.archive.parts import remove_parts
from composer_kd.core.errors import UserError
from composer_kd.core.options import parse_section
from composer_kd.data import Data, open_data
from composer_kd.data.dataset import KeyedImages
from composer_kd.data.section import DataSection
from composer_kd.models.finished_run import FinishedRun
from composer_kd.runs.config import DEFAULT_VIEWS
from composer_kd.runs.process import join_ranks, keep_freed_memory
from composer_kd.runs.yaml_file import apply_overrides
from composer_kd.storage.distributed import on_rank_zero
from composer_kd.storage.locks import lock_or_refuse
from composer_kd.teachers.from_run import RunTeacher
from composer_kd.teachers.record import BATCH_SIZE, Inference, LogitRecorder, recording_metadata

__all__ = ['missing_views', 'open_run_data', 'record_run', 'record_views']


def record_run(
    path: str | Path,
    views: int = DEFAULT_VIEWS,
    changes: Sequence[str] = (),
    *,
    top_k: int | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = 'auto',
    replace: bool = False,
    say: Callable[[str], None] = print,
    bar: bool = False,
) -> None:
    """Record what a finished run's model says to its training data, or to data that ``changes`` describe.

    Args:
        path: The run directory.
        views: How many views: 0 to ``views - 1``.
        changes: ``data.*`` keys and their values, put over those of the run.
        top_k: How many logits are kept; ``None`` keeps all.
        batch_size: Images in a forward pass.
        device: ``auto``, ``cpu`` or ``gpu``.
        replace: Forget the logits that are there.
        say: Takes lines for the person who waits.
        bar: Whether a progress bar is shown.
    """
    join_ranks(device)
    run = on_rank_zero(lambda: FinishedRun.open(path, to_write=True))
    data = open_run_data(run, changes)
    if run.config.get('threads'):
        torch.set_num_threads(run.config['threads'])
    state = Inference.like(run.config, device, run.manifest.data.num_classes)
    if state.device.name == 'cpu':
        keep_freed_memory()
    record_views(
        run, data.train_set, views, state, top_k=top_k, batch_size=batch_size, replace=replace,
        say=say, bar=bar,
    )  # fmt: skip


def open_run_data(run: FinishedRun, changes: Sequence[str] = ()) -> Data:
    """The data that a run was trained on, with ``data.*`` changes put over it; of it, the training part is meant."""
    values = {'data': dict(run.config.get('data', {}))}
    for change in changes:
        if not change.startswith('data.'):
            raise UserError(f'{change!r}: only data.* can be changed; the rest is what the run was trained with')
    section = parse_section(DataSection, apply_overrides(values, list(changes))['data'], 'data')
    section.check_source('data')
    # Not on the device: a look at some samples needs no copy of all.
    return open_data(section, batch_size=dist.get_world_size(), seed=0, device=torch.device('cpu'))


def record_views(
    run: FinishedRun,
    dataset: KeyedImages,
    views: int,
    state: Inference,
    *,
    top_k: int | None = None,
    batch_size: int = BATCH_SIZE,
    replace: bool = False,
    say: Callable[[str], None] = print,
    bar: bool = False,
) -> None:
    """Record the views of a data set that the archive lacks; all ranks call this together and share the work.

    What a killed recording had done is kept in parts and not computed again.

    Args:
        run: Whose model is asked.
        dataset: Whose samples are shown to its model, in the views of its augmentation.
        views: How many; without augmentation there is one.
        state: Where and in which precision.
        top_k: How many logits are kept; ``None`` keeps all.
        batch_size: Images in a forward pass.
        replace: Forget the logits that are there.
        say: Takes lines for the person who waits.
        bar: Whether a progress bar is shown instead.
    """
    _check_numbers(views, top_k, batch_size, dataset)
    archive, metadata = Archive(run.directory), recording_metadata(run.manifest, dataset, top_k)
    if dataset.augmentation.name == 'none':
        views = 1
    with ExitStack() as stack:
        on_rank_zero(lambda: stack.enter_context(lock_or_refuse(run.path / 'archive' / '.record.lock', str(run))))
        teacher = RunTeacher(run)  # Before anything is forgotten: its weights may be damaged.
        on_rank_zero(lambda: _make_way(archive, metadata, replace))
        record = LogitRecorder(archive, dataset, metadata, teacher, state, batch_size)
        for view in range(views):
            begun = time.perf_counter()
            _, images = record.view(view, shown=partial(_shown, what=f'view {view}', bar=bar))
            took = f' in {time.perf_counter() - begun:.1f} s' if images else ', recorded before'
            say(f'{run}: view {view + 1} of {views}: {len(dataset):,} images{took}')


def missing_views(archive: Archive, views: int, samples: int) -> list[int]:
    """Of the views 0 to ``views - 1`` those that do not know ``samples`` samples yet, by the manifest alone."""
    record = archive.manifest().archive
    tables = {} if record is None else record.logits
    return [view for view in range(views) if view not in tables or tables[view].seen < samples]


def _check_numbers(views: int, top_k: int | None, batch_size: int, dataset: KeyedImages) -> None:
    for name, value in (('views', views), ('top_k', top_k), ('batch_size', batch_size)):
        if value is not None and value < 1:
            raise UserError(f'{name}: a whole number from 1 on, got {value}')
    if top_k is not None and top_k > dataset.num_classes:
        raise UserError(f'top_k: {top_k} of {dataset.num_classes} classes; lower it, or leave it out to keep all')


def _make_way(archive: Archive, metadata: dict[str, Any], replace: bool) -> None:
    """Refuse to mix outputs that came about in different ways in one archive, or forget the old ones."""
    if replace:
        archive.drop('logits', lambda view: False)
        remove_parts(archive, 'logits')
        return
    record = archive.manifest().archive
    for view, table in sorted(record.logits.items()) if record is not None else ():
        if problem := _differs(table, metadata):
            raise UserError(f'{archive.run}: the logits of view {view} {problem}; --replace records all of them anew')


def _differs(table: TableRecord, metadata: dict[str, Any]) -> str | None:
    there = table.model_dump()
    if there.get('source') == 'training':
        return 'were recorded while it trained, by moving weights'
    names = {
        'weights': 'are those of other weights',
        'augmentation': 'are of another augmentation',
        'top_k': 'are kept in another form (top_k)',
        'precision': 'were computed in another precision',
        'classes': 'have other classes',
    }
    return next((text for name, text in names.items() if there.get(name) != metadata[name]), None)


def _shown(chunks: list[NDArray[np.int64]], what: str, bar: bool) -> Iterator[NDArray[np.int64]]:
    """The chunks, under a bar that counts images where one is wanted, on rank 0."""
    if not bar or dist.get_global_rank() != 0:
        yield from chunks
        return
    from tqdm import tqdm

    with tqdm(total=sum(map(len, chunks)), desc=what, unit=' images', leave=False) as shown:
        for rows in chunks:
            yield rows
            shown.update(len(rows))
