"""What runs of one file need of each other, compared before anything trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from composer_kd.errors import UserError
from composer_kd.models.beside import CHANGE_IMAGES, DROP_SAMPLES
from composer_kd.runs.references import check_same_model

if TYPE_CHECKING:
    from composer_kd.runs.plan import PlannedRun

__all__ = ['check_supplies']


def check_supplies(runs: Mapping[str, PlannedRun]) -> None:
    """Refuse a run that asks another one of its file for what that does not leave.

    Args:
        runs: Those of the file, by name.
    """
    for run in runs.values():
        for source, where in run.losses.items():
            _check_losses(runs[source], where)
        for source, where in run.logits.items():
            _check_logits(runs[source], run, where)
        for source, where in run.starts.items():
            check_same_model(runs[source].config.model, run.config.model, source, where)
        for source, where in run.examples.items():
            _check_examples(runs[source], run, where)


def _check_losses(source: PlannedRun, where: str) -> None:
    archive = source.config.archive
    if archive is None or not archive.losses:
        raise UserError(
            f'{where}: {source.name!r} records no losses; give that run `archive: {{losses: true}}` of its own, or '
            f'to all at the top of the file'
        )


def _check_logits(source: PlannedRun, run: PlannedRun, where: str) -> None:
    """It must record logits in the views that will be asked for."""
    name, archive, ours, theirs = source.name, source.config.archive, run.config.data, source.config.data
    if archive is None or archive.logits is None:
        raise UserError(
            f'{where}: {name!r} records no logits; give that run `archive: {{logits: {{views: 4}}}}`, or '
            f'write {{recorded: {name}, fill: true}}'
        )
    # That an algorithm changes the images is known by its name; those with a key of their own say so there.
    given = {**run.config.algorithms, 'adversarial': run.config.adversarial}
    changing = [
        one
        for one, options in given.items()
        if (one in CHANGE_IMAGES | DROP_SAMPLES or (one == 'adversarial' and options is not None))
        and (options or {}).get('teachers_see') != 'clean'
    ]
    if changing:
        raise UserError(
            f'{where}: {name!r} is looked up, which answers to the image that a key names, and {changing[0]} makes '
            f'others of them; use {{live: {name}}}, or leave that out'
        )
    recorded = archive.logits.views
    asks_for_all = ours.augment.name != 'none' and not run.some_epochs_alone
    if asks_for_all and (ours.views is None or ours.views > recorded):
        asked = 'a fresh view every epoch' if ours.views is None else f'{ours.views} views'
        raise UserError(
            f'{where}: {name!r} records {recorded} views and this run asks for {asked}; set its data.views '
            f'to {recorded}, raise archive.logits.views there, or add fill: true'
        )
    padding = () if ours.augment.name == 'resized_crop' else ('padding',)
    for key in ('augment', 'flip', *padding, 'augment_seed', 'image_size'):
        if getattr(ours, key) != getattr(theirs, key):
            raise UserError(
                f'{where}: {name!r} is recorded with data.{key}: {getattr(theirs, key)} and this run has '
                f'{getattr(ours, key)}; make them the same, or use {{live: {name}}}'
            )


def _check_examples(source: PlannedRun, run: PlannedRun, where: str) -> None:
    name, archive, ours, theirs = source.name, source.config.archive, run.config.data, source.config.data
    if archive is None or not archive.adversarial:
        raise UserError(
            f'{where}: {name!r} records no adversarial examples; give that run '
            f'`adversarial: {{mode: recycle}}` and `archive: {{adversarial: true}}`'
        )
    if ours.image_size != theirs.image_size:
        raise UserError(
            f'{where}: the examples of {name!r} are of images with data.image_size: {theirs.image_size}, and this run '
            f'has {ours.image_size}; make them the same'
        )
