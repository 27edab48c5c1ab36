"""What ``archive:`` asks of a run: checked before anything trains, recorded while it trains and after."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from composer.core import Callback

from composer_kd.archive import Archive, Manifest, RunDir, remove_parts
from composer_kd.archive.manifest import DRIFTS_FILE
from composer_kd.archive.predictions import remove_predictions
from composer_kd.archive.table import KINDS, is_table
from composer_kd.callbacks.evaluate_attacks import EvaluateAttacks
from composer_kd.callbacks.record_adversarial import RecordAdversarial
from composer_kd.callbacks.record_logits import RecordLogits
from composer_kd.callbacks.record_losses import RecordLosses
from composer_kd.callbacks.record_predictions import RecordPredictions
from composer_kd.core.errors import UserError
from composer_kd.data.dataset import KeyedImages
from composer_kd.models.composer_compat import CHANGE_IMAGES, MIX_IMAGES
from composer_kd.models.finished_run import FinishedRun
from composer_kd.runs.config import RunConfig
from composer_kd.runs.predictions import recorded_splits
from composer_kd.runs.record import missing_views, open_run_data, record_views
from composer_kd.storage.distributed import on_rank_zero
from composer_kd.teachers.record import Inference

__all__ = ['check_recording', 'check_top_k', 'make_recorders', 'record_configured', 'reopen', 'supply_missing']


def make_recorders(config: RunConfig, run: RunDir) -> list[Callback]:
    """The callbacks that ``archive:``, ``predictions:`` and ``evaluate:`` ask for.

    Logits from a recording come after the training.
    """
    wanted = config.archive
    recorders: list[Callback] = []
    if splits := recorded_splits(config):
        recorders.append(RecordPredictions(run.path, splits))
    if wanted is not None and wanted.losses:
        recorders.append(RecordLosses(run))
    if wanted is not None and wanted.adversarial:
        recorders.append(RecordAdversarial(run))
    if (attacks := config.evaluate.attacks) is not None:
        options = attacks.model_dump()
        recorders.append(EvaluateAttacks(run.path, options.pop('pgd'), **options))
    if wanted is not None and wanted.logits is not None and wanted.logits.source == 'training':
        recorders.append(RecordLogits(run, wanted.logits.views, wanted.logits.top_k))
    return recorders


def check_recording(config: RunConfig, place: str, algorithms: Collection[str], makes_examples: bool) -> None:
    """Refuse what the recorders would refuse at their first look at the trainer, before another run trains for it.

    Args:
        config: Of the run.
        place: Of the run in the file, for error lines.
        algorithms: The names of the classes of its algorithms.
        makes_examples: Whether one of them makes adversarial examples.
    """
    wanted = config.archive
    if wanted is None:
        return
    where = '.'.join(filter(None, [place, 'archive']))
    if wanted.losses and (mixing := [name for name in algorithms if name in MIX_IMAGES]):
        raise UserError(f'{where}.losses: {mixing[0]} mixes images, whose losses are those of no sample; leave one out')
    if wanted.adversarial and not makes_examples:
        raise UserError(
            f'{where}.adversarial: this run makes no adversarial examples; give it '
            f'`algorithms: {{AdversarialRecycling: {{mode: recycle}}}}`, or leave this out'
        )
    logits = wanted.logits
    if logits is None or logits.source != 'training':
        return
    where += '.logits'
    if config.epochs is None:
        raise UserError(f"{where}.from: 'training' records the last epochs, so max_duration is in epochs, as in '12ep'")
    if logits.views > config.epochs:
        raise UserError(f'{where}.views: {logits.views} are more than the epochs of {config.max_duration}; lower it')
    if config.data.views is not None:
        raise UserError(
            f"{where}.from: 'training' needs fresh views every epoch, and data.views is {config.data.views}; set it to "
            f"null, or use 'model'"
        )
    if changing := [name for name in algorithms if name in CHANGE_IMAGES]:
        raise UserError(
            f'{where}.from: {changing[0]} changes the images beyond their views, so what the model answers to them is '
            f"of no use; use 'model'"
        )


def check_top_k(config: RunConfig, classes: int) -> None:
    """Refuse to keep more logits than there are, once the data says how many."""
    logits = config.archive.logits if config.archive is not None else None
    if logits is not None and logits.top_k is not None and logits.top_k > classes:
        raise UserError(
            f'archive.logits.top_k: {logits.top_k} of {classes} classes; lower it, or leave it out to keep all'
        )


def reopen(config: RunConfig, run: RunDir, checkpoint: Path | None) -> None:
    """Make the archive of a directory that is trained in that of a run which has not finished.

    From a checkpoint on, what was recorded before it stays; recorders know which that is. Files that are missing or cut
    off are forgotten. Without a checkpoint the training is another one, and everything is. So are predictions that are
    not wanted any more.
    """
    if checkpoint is None or not config.predictions:
        remove_predictions(run.path)
    if checkpoint is None:
        (run.path / DRIFTS_FILE).unlink(missing_ok=True)
    if not run.manifest_file.is_file():
        return
    archive = Archive(run)
    if checkpoint is None:
        run.manifest_file.unlink()
        remove_parts(archive)
    else:
        archive.update(lambda manifest: _unfinished(run, manifest))


def _unfinished(run: RunDir, manifest: Manifest) -> Manifest:
    manifest = _without_lost_tables(run, manifest)
    kept = [] if manifest.archive is None else manifest.archive.files
    files = {name: manifest.files[name] for name in kept}
    return manifest.model_copy(update={'files': files, 'weights': None, 'finished_epoch': None, 'evaluation': {}})


def _forget_lost_tables(archive: Archive) -> Manifest:
    run = archive.run
    if _without_lost_tables(run, archive.manifest()) != archive.manifest():
        archive.update(lambda manifest: _without_lost_tables(run, manifest))
    return archive.manifest()


def _without_lost_tables(run: RunDir, manifest: Manifest) -> Manifest:
    """The manifest without tables whose files are missing or cut off: what they held can only be recorded again."""

    def is_whole(name: str) -> bool:
        path = run.path / name
        return path.is_file() and path.stat().st_size == manifest.files[name].bytes

    record = manifest.archive
    if record is None:
        return manifest
    lost = [name for name in record.files if not is_whole(name)]
    files = {name: entry for name, entry in manifest.files.items() if name not in lost}
    if record.samples in lost:
        tables = [name for name in files if is_table(name)]
        files = {name: entry for name, entry in files.items() if name not in tables}
        return manifest.model_copy(update={'archive': None, 'files': files})
    kept = {
        kind: {number: table for number, table in record.tables(kind).items() if table.file not in lost}
        for kind in KINDS
    }
    return manifest.model_copy(update={'archive': record.model_copy(update=kept), 'files': files})


def record_configured(
    config: RunConfig, run: FinishedRun, dataset: KeyedImages, say: Callable[[str], None], bar: bool
) -> None:
    """The recording that ``archive.logits`` asks for, when its run has finished; nothing where it asks for none."""
    logits = config.archive.logits if config.archive is not None else None
    if logits is not None and logits.source == 'model':
        state = Inference.like(config.model_dump(mode='json'), config.device, dataset.num_classes)
        record_views(run, dataset, logits.views, state, top_k=logits.top_k, say=say, bar=bar)


def supply_missing(config: RunConfig, run: RunDir, say: Callable[[str], None], bar: bool) -> None:
    """Record the logits that are asked for and that a finished run lacks, and say what can no longer be had."""
    wanted = config.archive
    if wanted is None:
        return
    archive = Archive(run)
    manifest = on_rank_zero(lambda: _forget_lost_tables(archive))
    record = manifest.archive
    if wanted.losses and (record is None or len(record.loss) < (manifest.finished_epoch or 0)):
        say(f'{run}: losses of samples are recorded while a run trains; of this one, some or all are not there')
    if wanted.adversarial and (record is None or not record.adversarial):
        say(f'{run}: adversarial examples are recorded while a run trains; of this one, they are not there')
    if wanted.logits is None:
        return
    views = 1 if (manifest.augmentation or {}).get('name') == 'none' else wanted.logits.views
    if wanted.logits.source == 'training':
        if record is None or not set(range(views)) <= set(record.logits):
            say(f"{run}: 'from: training' records while a run trains; use 'from: model' for one that has finished")
    elif record is not None and any(
        table.model_dump().get('top_k') != wanted.logits.top_k for table in record.logits.values()
    ):
        kept = '' if wanted.logits.top_k is None else f' --top-k {wanted.logits.top_k}'
        say(
            f'{run}: its logits were kept in another form (top_k) than archive.logits asks for; '
            f'`composer-kd record {run} --replace{kept}` records them anew'
        )
    elif on_rank_zero(lambda: missing_views(archive, views, manifest.data.num_samples)):
        finished = FinishedRun.open(run)
        record_configured(config, finished, open_run_data(finished).train_set, say, bar)
