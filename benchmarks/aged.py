"""What a study says of models that take over: what the drift cost, what recovery took, what was forgotten."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from benchmarks.damaged import names_in_grids
from benchmarks.paired import Paired, Run, at_least, held_from, pairs, spread
from composer_kd.archive import RunDir
from composer_kd.archive.evaluations import DriftFile
from composer_kd.report.load import collect, group_arms
from composer_kd.report.sections.replacement import replacements
from composer_kd.runs.plan import PlannedRun

__all__ = ['Ageing', 'aged_table', 'ageing', 'steps_tables', 'takeovers_of', 'with_more_seeds']

# What ways are held against: training anew at each step, at full length.
ANEW = 'full'
# And against each other: a way, and those that are held against it.
AGAINST = {
    'scratch': ('curriculum', 'kd', 'half', 'recorded'),
    'kd': ('half', 'recorded'),
    'warm': ('warm_half', 'shrink'),
}


def takeovers_of(runs: Sequence[PlannedRun]) -> dict[str, Any]:
    """Of the finished runs that say what they replace, by arm; nothing where there are none."""
    everyone = [run.folder for run in runs if RunDir(run.folder).finished]
    if not everyone:
        return {}
    return {arm: asdict(found) for arm, found in replacements(group_arms(collect(everyone))).items()}


def with_more_seeds(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """By arm, the one of both that more runs are in: this disk may hold some of the seeds alone."""
    both = {**before, **now}
    return {arm: before[arm] if arm in before and before[arm]['of'] > one['of'] else one for arm, one in both.items()}


def aged_table(found: dict[str, Any]) -> list[str]:
    """Lines of Markdown; none where nobody replaces anybody."""
    if not found:
        return []
    lines = [
        '',
        '**Taking over from the step before** (test accuracy, %; recovered: as good on its own test data as the',
        'replaced model had been on those of its step, or in how many runs, where not in all; forgotten: of what',
        'earlier models knew of their own data)',
        '',
    ]
    heads = 'arm', 'seeds', 'replaced model, its data', 'the same, new data', 'new model, new data'
    heads += 'epochs to recover', 'multiply-adds to recover, 10^12', 'forgotten, points'
    lines += [f'| {" | ".join(heads)} |', '|---|' + '---:|' * (len(heads) - 1)]
    for arm, one in found.items():
        # A mean over those that recovered would be the lower the fewer they are.
        all_did = one['recovered'] == one['of']
        missed = f'{one["recovered"]} of {one["of"]}'
        cells = [
            arm,
            str(one['of']),
            *(_text(one[key], 100) for key in ('before', 'aged', 'after')),
            _text(one['epochs'], 1) if all_did else missed,
            _text(one['multiply_adds'], 1e-12, 2) if all_did else missed,
            _text(one['forgotten'], 100),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return lines


def ageing(run: PlannedRun, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a finished run of a lineage that ages; nothing where it replaces none and knows of no drifts to come.

    ``spent``, where it replaces another: epochs that were tested, with the multiply-adds until then, live teachers
    inside. ``drifts``: its accuracy in percent under each of ``drifts:`` that was measured, but not of grids.
    """
    found: dict[str, Any] = {}
    if run.config.replaces is not None:
        parts = 'multiply_adds_student_total', 'multiply_adds_teacher_total'
        found['spent'] = [
            [line['epoch'], sum(line[part] for part in parts)] for line in lines if line.get('test_accuracy')
        ]
    weights = RunDir(run.folder).manifest().weights if run.config.evaluate.drifts else None
    if weights is not None and (measured := DriftFile.read(run.folder, weights.hash)) is not None:
        damage = names_in_grids(run)
        drifts = {name: one for name, one in measured.drifts.items() if name not in damage}
        found['drifts'] = {name: round(100 * one['accuracy'], 2) for name, one in drifts.items()}
    return found


@dataclass(frozen=True)
class _There:
    """A way at a step, in one repetition: what it took until the level, or altogether where it never got there."""

    reached: bool
    epochs: float
    work: float


class Ageing:
    """Ways of retraining by steps, where arms are called WAYn and one way is ``full``: training anew at full length.

    What a way has to reach at a step is what ``full`` ends with there, in the same repetition.

    Args:
        arms: The arms of a study, as its JSON has them.

    Attributes:
        steps: Their numbers; none where the study has no such ways.
        ways: Their names, in the order of the study.
        first: The runs that were there before the first step.
    """

    def __init__(self, arms: Mapping[str, Sequence[Run]]):
        self._arms = arms
        numbered = {arm: arm.rstrip('0123456789') for arm in arms}
        self.steps = sorted(int(arm.removeprefix(ANEW)) for arm, way in numbered.items() if way == ANEW != arm)
        self.ways = list(dict.fromkeys(way for arm, way in numbered.items() if way != arm and 'spent' in arms[arm][0]))
        self.first = [one for runs in arms.values() for one in runs if 'drifts' in one and 'spent' not in one]

    def runs(self, way: str, step: int) -> Sequence[Run]:
        return self._arms.get(f'{way}{step}', ())

    def kept(self, step: int) -> list[Run]:
        """The first model, untouched, on the test data of a step."""
        name = f'step{step}'
        return [{**one, 'test': one['drifts'][name]} for one in self.first if name in one['drifts']]

    def there(self, way: str, step: int) -> dict[int, _There]:
        """By repetition; work as a part of what ``full`` took there, the harvest of what was looked up inside."""
        found = {}
        for own, anew in pairs(self.runs(way, step), self.runs(ANEW, step)):
            spent = dict(own['spent'])
            first = held_from([test for _, test in own['curve']], anew['test'])
            epochs = max(spent) if first is None else own['curve'][first][0]
            work = (spent[epochs] + own['harvest']) / _whole(anew)
            found[own['repetition']] = _There(first is not None, float(epochs), work)
        return found

    def kept_there(self, step: int) -> dict[int, bool]:
        """By repetition, whether the first model is as good as one that is trained anew, without any training."""
        both = pairs(self.kept(step), self.runs(ANEW, step))
        return {own['repetition']: own['test'] >= anew['test'] for own, anew in both}

    @cached_property
    def means_anew(self) -> dict[int, float]:
        return self.means([self.runs(ANEW, step) for step in self.steps])

    def means(self, by_step: Sequence[Sequence[Run]]) -> dict[int, float]:
        """The accuracy averaged over all steps, of the repetitions that have them all."""
        tests = [{one['repetition']: one['test'] for one in runs} for runs in by_step]
        return {number: statistics.fmean(of[number] for of in tests) for number in _common(tests)}


def steps_tables(result: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown; none where the study has no ways by steps."""
    of = Ageing(result['arms'])
    return [*_accuracies(of), *_against_each_other(of), *_costs(of)] if of.steps else []


def _accuracies(of: Ageing) -> list[str]:
    heads = ['way', *(f'step {step}' for step in of.steps), 'mean of the steps', f'gain over {ANEW}', 'work, all steps']
    lines = [
        '',
        f'**What each way reaches** (test accuracy of the last epoch, %; {ANEW} trains anew at each step; kept',
        'is the first model, untouched; gain: of the mean of the steps, paired by repetition; work: multiply-adds',
        f'as a part of what {ANEW} takes, live teachers and the harvest of what was looked up inside)',
        '',
        f'| {" | ".join(heads)} |',
        '|---|' + '---:|' * (len(heads) - 1),
    ]
    kept = [of.kept(step) for step in of.steps]
    if any(kept):
        lines.append(_row('kept', [*_reached(of, kept), '0 %']))
    for way in of.ways:
        runs = [of.runs(way, step) for step in of.steps]
        lines.append(_row(way, [*_reached(of, runs), _whole_work(of, runs)]))
    return lines


def _against_each_other(of: Ageing) -> list[str]:
    means = {way: of.means([of.runs(way, step) for step in of.steps]) for way in of.ways}
    rows = []
    for other, ways in AGAINST.items():
        for way in ways:
            own, theirs = means.get(way, {}), means.get(other, {})
            gains = [own[number] - theirs[number] for number in own if number in theirs]
            rows += [_row(way, [other, str(Paired.of(gains))])] if gains else []
    title = '**Way against way** (mean of the steps, points of test accuracy, paired by repetition)'
    return ['', title, '', '| way | against | gain |', '|---|---|---:|', *rows] if rows else []


def _reached(of: Ageing, by_step: Sequence[Sequence[Run]]) -> list[str]:
    own, anew = of.means(by_step), of.means_anew
    gains = [mean - anew[number] for number, mean in own.items() if number in anew]
    same = by_step == [of.runs(ANEW, step) for step in of.steps]
    return [
        *(spread([one['test'] for one in runs]) if runs else '–' for runs in by_step),
        spread(list(own.values())) if own else '–',
        '' if same else str(Paired.of(gains)) if gains else '–',
    ]


def _whole_work(of: Ageing, by_step: Sequence[Sequence[Run]]) -> str:
    """What all steps took together, each to the end of its training."""
    anew = [{one['repetition']: _whole(one) for one in of.runs(ANEW, step)} for step in of.steps]
    own = [{one['repetition']: _whole(one) + one['harvest'] for one in runs} for runs in by_step]
    numbers = _common([*own, *anew])
    parts = [100 * sum(one[number] for one in own) / sum(one[number] for one in anew) for number in numbers]
    return f'{spread(parts, 0)} %' if parts else '–'


def _costs(of: Ageing) -> list[str]:
    heads = ['way', *(f'step {step}: {what}' for step in of.steps for what in ('epochs', 'work'))]
    heads += ['all steps: epochs', 'all steps: work']
    lines = [
        '',
        f'**What each way takes to be as good as training anew in full** (until the test accuracy that {ANEW} ends',
        'with at that step in the same repetition, held to the end; work as a part of what it takes there. Each way',
        'goes on from its own model of the step before, trained to its end. Where not all runs got there, the others',
        'enter with all that they took: a lower bound, and it is said how many did)',
        '',
        f'| {" | ".join(heads)} |',
        '|---|' + '---:|' * (len(heads) - 1),
    ]
    kept = [of.kept_there(step) for step in of.steps]
    if any(kept):
        cells = [_untouched(list(one.values())) for one in kept for _ in range(2)]
        everywhere = _untouched([all(one[number] for one in kept) for number in _common(kept)])
        lines.append(_row('kept', [*cells, everywhere, everywhere]))
    for way in of.ways:
        there = [of.there(way, step) for step in of.steps]
        cells = [cell for one in there for cell in _took(list(one.values()))]
        numbers = _common(there)
        anew = [{one['repetition']: _whole(one) for one in of.runs(ANEW, step)} for step in of.steps]
        total = [
            _There(
                all(one[number].reached for one in there),
                sum(one[number].epochs for one in there),
                sum(one[number].work * whole[number] for one, whole in zip(there, anew, strict=True))
                / sum(whole[number] for whole in anew),
            )
            for number in numbers
        ]
        lines.append(_row(way, [*cells, *_took(total)]))
    return lines


def _took(there: Sequence[_There]) -> list[str]:
    if not there:
        return ['–', '–']
    epochs = at_least([(one.epochs, one.reached) for one in there])
    return [epochs, at_least([(100 * one.work, one.reached) for one in there], ' %', 0)]


def _untouched(good: Sequence[bool]) -> str:
    """A model that is not trained has no cost, and no way to get there."""
    if not good:
        return '–'
    return '0' if all(good) else f'– ({sum(good)} of {len(good)})'


def _whole(run: Run) -> float:
    return run['spent'][-1][1]


def _common(by_repetition: Sequence[Mapping[int, Any]]) -> list[int]:
    return sorted(set.intersection(*map(set, by_repetition))) if by_repetition else []


def _row(name: str, cells: Sequence[str]) -> str:
    return f'| {" | ".join([name, *cells])} |'


def _text(found: dict[str, Any] | None, factor: float, digits: int = 1) -> str:
    if found is None:
        return '–'
    mean = f'{factor * found["mean"]:.{digits}f}'
    return mean if found['sd'] is None else f'{mean} ± {factor * found["sd"]:.{digits}f}'
