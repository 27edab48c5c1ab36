"""``composer-kd verify``: the hash of every file, what tables hold, and recorded logits against the model itself."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.archive import Archive, ArchiveTable, RunDir, Samples, aligned, verify
from composer_kd.archive.manifest import Manifest
from composer_kd.archive.remote import RemoteRun, run_at
from composer_kd.core.errors import UserError
from composer_kd.data.dataset import KeyedImages
from composer_kd.data.transform import Augmentation, Prepare
from composer_kd.functional.top_k import level_of_rest, to_half
from composer_kd.models.finished_run import FinishedRun
from composer_kd.runs.record import open_run_data
from composer_kd.teachers.from_run import RunTeacher
from composer_kd.teachers.record import Inference

__all__ = ['verify_run']

KEYS = 64

# How far a stored logit may be from the model's answer, as a part of the largest logit of the sample. float16 takes
# 0.05 %. In bfloat16 the logits of ResNet-20s were within 1.5 % of those in float32, so two devices' are within 3 %;
# a GPU's TF32 has 8 times the resolution. Of another view, 99 % of the samples are more than 5 % away; of another
# sample, all were more than 40 %.
_TOLERANCE = {'fp32': 0.01, 'bf16': 0.05, 'fp16': 0.05}


def verify_run(
    path: str | Path, spot_check: bool = True, seed: int | None = None, say: Callable[[str], None] = print
) -> None:
    """Compare all files of a run with its manifest, and some recorded logits with what its model says.

    Args:
        path: The run directory, or the URL of one on a remote.
        spot_check: Whether the model is run.
        seed: What chooses the samples and views of the spot check; ``None``: another choice every time.
        say: Takes a line for each thing that was looked at.
    """
    run = run_at(path)
    if not run.config_file.is_file() and not run.manifest_file.is_file():
        run.read_config()  # One line for what is no run directory.
    manifest = run.verify() if isinstance(run, RemoteRun) else verify(run.path)
    archive = Archive(run)
    if manifest.archive is not None:
        archive.check()
    say(f'{run}: {len(manifest.files)} files are as they were written')
    if spot_check and manifest.archive is not None and manifest.archive.logits:
        say(f'{run}: {_spot_check(run, archive, manifest, secrets.randbits(32) if seed is None else seed)}')


def _spot_check(run: RunDir, archive: Archive, manifest: Manifest, seed: int) -> str:
    """What came of it in words; wrong logits are a :class:`UserError`."""
    assert manifest.archive is not None
    tables = manifest.archive.logits
    views = [view for view in sorted(tables) if archive.metadata('logits', view).get('source') != 'training']
    if not views:
        return (
            'its logits were recorded while it trained, by weights that are gone: there is nothing to check them with'
        )
    if not manifest.finished:
        return 'it has not finished: its logits are not checked against its model'
    assert manifest.weights is not None
    for view in views:
        if archive.metadata('logits', view).get('weights') != manifest.weights.hash:
            raise _wrong(run, f'the logits of view {view} are those of other weights than it has')
    finished = FinishedRun(run, manifest, run.read_config())
    teacher = RunTeacher(finished)
    try:
        dataset = open_run_data(finished).train_set
        model = _Model(finished, teacher, dataset, {archive.metadata('logits', view)['precision'] for view in views})
        made = {view: Augmentation.from_mapping(archive.metadata('logits', view)['augmentation']) for view in views}
    except UserError as error:
        return f'its logits cannot be checked against its model here: {error}'
    drawn = np.random.default_rng(seed)
    checks = [_Check.draw(archive, view, made[view], dataset, -(-KEYS // len(views)), drawn) for view in views]
    checked = sum(len(check.rows) for check in checks)
    if not checked:
        return 'none of its logits are of samples in its training data: they are not checked against its model'
    for check in checks:
        strange = check.rows[(model.distance(check) > _TOLERANCE[check.precision]).numpy()]
        if len(strange):
            raise _wrong(
                run,
                f'the logits of view {check.view} are not what its model says to {len(strange)} of {len(check.rows)} '
                f'samples, as the one with id {dataset.ids[strange[0]]} (--seed {seed} looks at the same)',
            )
    return f'its model says to {checked} samples, in {len(views)} views, what is recorded'


def _wrong(run: RunDir, what: str) -> UserError:
    return UserError(f'{run}: {what}; record them anew with `composer-kd record {run} --replace`')


@dataclass(frozen=True)
class _Check:
    """Some samples of a view: their rows in the data set, and what is recorded of them."""

    view: int
    rows: NDArray[np.int64]
    table: ArchiveTable
    augmentation: Augmentation
    precision: str

    @classmethod
    def draw(
        cls,
        archive: Archive,
        view: int,
        augmentation: Augmentation,
        dataset: KeyedImages,
        count: int,
        drawn: np.random.Generator,
    ) -> _Check:
        table = aligned(archive.table('logits', view), archive.samples().rows_by_key(Samples.of(dataset)))
        known = np.flatnonzero(table['seen'].numpy())
        rows = np.sort(drawn.choice(known, min(count, len(known)), replace=False))
        place = torch.from_numpy(rows)
        return cls(
            view,
            rows,
            ArchiveTable({name: column[place] for name, column in table.columns.items()}, table.metadata),
            augmentation,
            archive.metadata('logits', view)['precision'],
        )


class _Model:
    """The run's model, asked about samples of its data."""

    def __init__(self, run: FinishedRun, teacher: RunTeacher, dataset: KeyedImages, precisions: set[str]):
        classes = run.manifest.data.num_classes
        self.dataset = dataset
        self.states = {one: Inference.like({**run.config, 'precision': one}, 'auto', classes) for one in precisions}
        self.teacher = teacher

    def distance(self, check: _Check) -> Tensor:
        """How far what is recorded of each sample is from the model's answer, as a part of its largest logit."""
        answers = self._logits(check)
        expected, recorded = _comparable(answers, check.table)
        # A sample whose logits nearly cancel has no scale of its own.
        largest = answers.abs().amax(dim=1)
        scale = torch.maximum(largest, largest.mean()).clamp(min=torch.finfo(torch.float32).tiny)
        return (expected - recorded).abs().amax(dim=1) / scale

    def _logits(self, check: _Check) -> Tensor:
        state = self.states[check.precision]
        self.teacher.place(state)
        self.teacher.read_normalization(self.dataset, state.device)
        prepare = Prepare(check.augmentation, *self.dataset.normalization)
        packed = (check.rows + len(self.dataset) * check.view).tolist()
        batch = prepare(state.device.batch_to_device(self.dataset.__getitems__(packed)))
        return self.teacher.outputs(batch, state).logits.cpu()


def _comparable(answers: Tensor, table: ArchiveTable) -> tuple[Tensor, Tensor]:
    """The model's answers and the recorded ones in one form: all logits, or the recorded classes and the level."""
    answers = to_half(answers)[0].float()
    if 'logits' in table.columns:
        return answers, table['logits'].float()
    indices = table['indices'].long()
    expected = [answers.gather(1, indices), level_of_rest(answers, indices).unsqueeze(1)]
    return torch.cat(expected, 1), torch.cat([table['values'], table['rest'].unsqueeze(1)], 1).float()
