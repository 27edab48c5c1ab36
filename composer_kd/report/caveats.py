"""What a reader must know before believing a number: one sentence for each thing that spoils a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from composer_kd.report.load import canonical
from composer_kd.report.render.text import SHARED, UNFINISHED, and_join
from composer_kd.report.sections import ReportSection
from composer_kd.report.summary import Summary

__all__ = ['caveats']

_ACROSS = ('model', 'data', 'optimizer', 'scheduler', 'max_duration')
_SETTINGS = (*_ACROSS, 'algorithms')
# Where losses, weights and examples come from: `curriculum: {from: RUN}`, `LossCurriculum: {archive: RUN}`, and so on.
_NAME_A_RUN = ('from', 'teacher')
_SOME_RUN = 'a run'


def caveats(summary: Summary, sections: Iterable[ReportSection]) -> list[str]:
    """Sentences in the order of weight, of the runs as a whole and of the sections; empty where all is well."""
    return [
        *_altered(summary),
        *_baseline(summary),
        *_seeds(summary),
        *_unfinished(summary),
        *(line for section in sections for line in section.caveats()),
        *_machine(summary),
        *_settings(summary),
    ]


def _altered(summary: Summary) -> Iterable[str]:
    for run in summary.runs:
        for name in run.altered:
            yield (
                f'{run.path / name} is not what the run wrote (its size or hash differs from the manifest): '
                f'figures from it may be wrong.'
            )


def _baseline(summary: Summary) -> Iterable[str]:
    base = summary.baseline
    for what in base.recycles if summary.others else ():
        yield f'The baseline {base.name} was itself trained with {what}.'
    others = [arm.name for arm in summary.others if not summary.comparable(arm)]
    if others:
        yield (
            f'{and_join(others)} {"is" if len(others) == 1 else "are"} tested on other data than {base.name} '
            '(data.drift): the report does not compare what it took them to reach an accuracy.'
        )


def _seeds(summary: Summary) -> Iterable[str]:
    single = [arm.name for arm in summary.arms if arm.n == 1]
    if single:
        yield f'One seed only in {and_join(single)}: differences may be chance.'
    names = summary.labels
    for arm in summary.arms:
        for seed, runs in arm.repeats.items():
            yield (
                f'{and_join([names[run.path] for run in runs])} are repeats of one seed ({seed}): '
                f'n and the deviations of {arm.name} are not over seeds.'
            )


def _unfinished(summary: Summary) -> Iterable[str]:
    begun = [arm.name for arm in summary.arms if not arm.finished]
    if begun:
        yield f'{UNFINISHED} No run of {and_join(begun)} has finished: its numbers are of the epochs so far.'
    counted = {id(run) for arm in summary.arms for run in arm.counted}
    left_out = [f'{summary.labels[run.path]} ({run.progress})' for run in summary.runs if id(run) not in counted]
    if left_out:
        yield f'Not in the means, because unfinished: {and_join(left_out)}.'


def _machine(summary: Summary) -> Iterable[str]:
    shared = [arm.name for arm in summary.arms if arm.shared]
    if shared:
        yield f'{SHARED} Other runs used the machine beside {and_join(shared)}: their seconds are not their own.'
    counted = [run for arm in summary.arms for run in arm.counted]
    ends = [run.epochs[-1] if run.epochs else {} for run in counted]
    for what, values in (
        ('devices', [end.get('device') for end in ends]),
        ('numbers of ranks', [end.get('world_size') for end in ends]),
        ('machines', [run.manifest.get('hardware') for run in counted]),
    ):
        if len({_comparable(value) for value in values if value is not None}) > 1:
            yield f'The runs used different {what}: their seconds cannot be compared.'


def _settings(summary: Summary) -> Iterable[str]:
    for arm in summary.arms:
        differing = [key for key in _SETTINGS if len({_comparable(run.config.get(key)) for run in arm.runs}) > 1]
        if differing:
            yield f'The runs of {arm.name} differ in more than their seed: {", ".join(differing)}.'
    base = summary.baseline.runs[0].config
    alike: dict[str, list[str]] = {}
    for arm in summary.others:
        config = arm.runs[0].config
        differing = [key for key in _ACROSS if _comparable(config.get(key)) != _comparable(base.get(key))]
        if differing:
            alike.setdefault(', '.join(differing), []).append(arm.name)
    for differing, names in alike.items():
        verb = 'differs' if len(names) == 1 else 'differ'
        yield f'{and_join(names)} {verb} from the baseline {summary.baseline.name} in: {differing}.'


def _comparable(value: Any) -> str:
    return canonical(_without_seed(value))


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
