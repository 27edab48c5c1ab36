"""What a reader must know before believing a number: one sentence for each thing that spoils a comparison."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from composer_kd.report.collect import Arm, Run
from composer_kd.report.inference import differ_in_model
from composer_kd.report.measures import Series, common_epochs, series
from composer_kd.report.summary import Summary
from composer_kd.report.wording import unit_for

__all__ = ['PARTIAL', 'SHARED', 'UNFINISHED', 'caveats', 'mark_arm', 'progress']

SHARED, UNFINISHED, PARTIAL = '†', '‡', '*'

_ACROSS = ('model', 'data', 'optimizer', 'scheduler', 'max_duration')
_SETTINGS = (*_ACROSS, 'algorithms')
# Where losses, weights and examples come from: `curriculum: {from: RUN}`, `LossCurriculum: {archive: RUN}`, and so on.
_NAME_A_RUN = ('from', 'teacher')
_SOME_RUN = 'a run'


def mark_arm(arm: Arm) -> str:
    """The arm's name, marked while none of its runs has finished."""
    return arm.name if arm.finished else f'{arm.name} {UNFINISHED}'


def caveats(summary: Summary) -> list[str]:
    """Sentences in the order of weight; empty where all is well."""
    return [
        *_altered(summary),
        *_choice_of_baseline(summary),
        *_other_tests(summary),
        *_harvest(summary),
        *_recorded_elsewhere(summary),
        *_seeds(summary),
        *_repeats(summary),
        *_unfinished(summary),
        *_measured_otherwise(summary),
        *_reached_by_some(summary),
        *_machine(summary),
        *_speeds(summary),
        *_settings(summary),
        *_lengths_of_epochs(summary),
    ]


def _altered(summary: Summary) -> Iterable[str]:
    for run in summary.runs:
        for name in run.altered:
            yield (
                f'{run.path / name} is not what the run wrote (its size or hash differs from the manifest): '
                f'figures from it may be wrong.'
            )


def _choice_of_baseline(summary: Summary) -> Iterable[str]:
    if summary.others:
        for what, true in (
            ('teachers', summary.baseline.arm.distilled),
            ('a curriculum', summary.baseline.arm.curriculum),
            ('the weights of an earlier run to start from', summary.baseline.arm.warm),
            ('adversarial examples', summary.baseline.arm.adversarial),
        ):
            if true:
                yield f'The baseline {summary.baseline.name} was itself trained with {what}.'


def _other_tests(summary: Summary) -> Iterable[str]:
    others = [arm.name for arm in summary.others if not summary.comparable(arm)]
    if others:
        yield (
            f'{_names(others)} {"is" if len(others) == 1 else "are"} judged on other test data than '
            f'{summary.baseline.name} (data.drift): what it took to reach an accuracy is not compared between them.'
        )


def _harvest(summary: Summary) -> Iterable[str]:
    for arm in summary.arms:
        costs = [
            (unit_for(cost, [found.harvest.mean]).quantity(found.harvest.mean), noun)
            for cost, noun in (('multiply_adds', ' multiply-adds'), ('seconds', ''))
            if (found := arm.archive.harvested[cost]).harvest and found.harvest.mean > 0
        ]
        if costs:
            took = ' and '.join(quantity + noun for quantity, noun in costs)
            yield (
                f'{arm.name} looked up outputs that were harvested before, for {took}: '
                'its costs are without that, but for the table "Harvest counted".'
            )
    unknown = [arm.name for arm in summary.arms if arm.archive.unknown]
    if unknown:
        yield (
            f'{_names(unknown)} looked up outputs in archives of runs that are not in this report: '
            'what a harvest of them took is not known, and not counted.'
        )


def _recorded_elsewhere(summary: Summary) -> Iterable[str]:
    for arm in summary.arms:
        filled = arm.archive.served and arm.archive.served.filled_elsewhere
        if filled and filled.mean > 0:
            took = unit_for('multiply_adds', [filled.mean]).quantity(filled.mean)
            yield (
                f'{arm.name} looked up outputs that other runs computed to fill an archive, for {took} multiply-adds: '
                'they are inside the training of those runs.'
            )


def _lengths_of_epochs(summary: Summary) -> Iterable[str]:
    """A curriculum leaves samples out: then an epoch is not an epoch."""
    base = [series(run.epochs, 'samples') for run in summary.baseline.arm.counted]
    for arm in summary.others:
        own = [series(run.epochs, 'samples') for run in arm.arm.counted]
        epochs = common_epochs([*own, *base])
        if epochs and _samples(own, epochs) != _samples(base, epochs):
            yield (
                f'An epoch of {arm.name} has {_samples(own, epochs):,} samples on average, one of '
                f'{summary.baseline.name} {_samples(base, epochs):,}: '
                'compare time and multiply-adds, epochs are not of one length.'
            )


def _samples(runs: list[Series], epochs: list[int]) -> int:
    return round(sum(run[epoch] for run in runs for epoch in epochs) / (len(runs) * len(epochs)))


def _seeds(summary: Summary) -> Iterable[str]:
    single = [arm.name for arm in summary.arms if arm.n == 1]
    if single:
        yield f'One seed only in {_names(single)}: differences may be chance.'


def _repeats(summary: Summary) -> Iterable[str]:
    names = summary.labels
    for arm in summary.arms:
        for seed, runs in arm.arm.repeats.items():
            yield (
                f'{_names([names[run.path] for run in runs])} are repeats of one seed ({seed}): '
                f'n and the deviations of {arm.name} do not speak of seeds.'
            )


def _unfinished(summary: Summary) -> Iterable[str]:
    begun = [arm.name for arm in summary.arms if not arm.arm.finished]
    if begun:
        yield f'{UNFINISHED} No run of {_names(begun)} has gone its full length: its numbers are of the epochs so far.'
    counted = {id(run) for arm in summary.arms for run in arm.arm.counted}
    names = summary.labels
    left_out = [f'{names[run.path]} ({progress(run)})' for run in summary.runs if id(run) not in counted]
    if left_out:
        yield f'Not in the means, because unfinished: {_names(left_out)}.'


def _measured_otherwise(summary: Summary) -> Iterable[str]:
    if summary.robustness is not None and summary.robustness.left_out:
        names = [summary.labels[run.path] for run in summary.robustness.left_out]
        yield (
            f'Not in the tables of robustness, because measured under other drifts than most runs: {_names(names)}; '
            f'`composer-kd evaluate --drifts` measures what they lack.'
        )


def _reached_by_some(summary: Summary) -> Iterable[str]:
    levels = [level for arm in summary.arms for group in arm.reach.values() for level in group]
    if any(0 < level.reached < level.of for level in levels):
        yield (
            f'{PARTIAL} Not every seed reached the accuracy: the mean is over those that did (k/n), '
            'which flatters the arm, and its speed-up is uncertain.'
        )


def _machine(summary: Summary) -> Iterable[str]:
    shared = [arm.name for arm in summary.arms if arm.arm.shared]
    if shared:
        yield f'{SHARED} Other runs used the machine beside those of {_names(shared)}: their seconds are not their own.'
    counted = [run for arm in summary.arms for run in arm.arm.counted]
    for what, values in (
        ('devices', [_last(run, 'device') for run in counted]),
        ('numbers of ranks', [_last(run, 'world_size') for run in counted]),
        ('machines', [run.manifest.get('hardware') for run in counted]),
    ):
        if len({_canonical(value) for value in values if value is not None}) > 1:
            yield f'The runs used different {what}: their seconds cannot be compared.'


def _speeds(summary: Summary) -> Iterable[str]:
    """Of the table of size and speed, where it is shown."""
    arms = [arm for arm in summary.arms if any(arm.inference.images_per_second.values())]
    if not arms or not differ_in_model(arm.arm for arm in summary.arms):
        return
    shared = [arm.name for arm in arms if arm.arm.shared]
    if shared:
        yield f'{SHARED} The images a second of {_names(shared)} were measured on a machine that other runs used.'
    runs = [run for arm in arms for run in arm.arm.counted if isinstance(run.manifest.get('inference'), Mapping)]
    differing = [
        what
        for what, values in (
            ('devices', [run.manifest['inference'].get('device') for run in runs]),
            ('numbers of threads', [run.manifest['inference'].get('threads') for run in runs]),
            ('precisions', [run.manifest['inference'].get('precision') for run in runs]),
            ('machines', [run.manifest.get('hardware') for run in runs]),
        )
        if len(set(map(_canonical, values))) > 1
    ]
    if differing:
        yield f'Images a second were measured on different {_names(differing)}: they cannot be compared.'


def _settings(summary: Summary) -> Iterable[str]:
    for arm in summary.arms:
        differing = [key for key in _SETTINGS if len({_canonical(run.config.get(key)) for run in arm.arm.runs}) > 1]
        if differing:
            yield f'The runs of {arm.name} differ in more than their seed: {", ".join(differing)}.'
    base = summary.baseline.arm.runs[0].config
    alike: dict[str, list[str]] = {}
    for arm in summary.others:
        config = arm.arm.runs[0].config
        differing = [key for key in _ACROSS if _canonical(config.get(key)) != _canonical(base.get(key))]
        if differing:
            alike.setdefault(', '.join(differing), []).append(arm.name)
    for differing, names in alike.items():
        verb = 'differs' if len(names) == 1 else 'differ'
        yield f'{_names(names)} {verb} from the baseline {summary.baseline.name} in: {differing}.'


def progress(run: Run) -> str:
    """``'12 epochs'``, or ``'8 of 12 epochs'`` for a run that has not gone its full length."""
    if run.finished or run.planned_epochs is None:
        return f'{run.last_epoch} epochs'
    return f'{run.last_epoch} of {run.planned_epochs} epochs'


def _last(run: Run, key: str) -> Any:
    return run.epochs[-1].get(key) if run.epochs else None


def _canonical(value: Any) -> str:
    return json.dumps(_without_seed(value), sort_keys=True, default=str)


def _without_seed(value: Any) -> Any:
    """The settings less what the runs of an arm are meant to differ in: the seed, and which runs they build on."""
    if isinstance(value, Mapping):
        kept = {str(key): _without_seed(inner) for key, inner in value.items() if key != 'seed'}
        if isinstance(value.get('teachers'), list):
            kept['teachers'] = [_without_run(teacher) for teacher in value['teachers']]
        return {
            key: _SOME_RUN if key in _NAME_A_RUN and isinstance(inner, str) else inner for key, inner in kept.items()
        }
    if isinstance(value, list):
        return [_without_seed(inner) for inner in value]
    return value


def _without_run(teacher: Any) -> Any:
    """A teacher's kind and options."""
    if isinstance(teacher, Mapping):
        return {str(key): _SOME_RUN if key in ('recorded', 'live', 'name') else inner for key, inner in teacher.items()}
    return _SOME_RUN


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f'{", ".join(names[:-1])} and {names[-1]}'
