"""What a study says of models that take over: what the drift cost, what recovery took, what was forgotten."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.paired import Paired, spread
from composer_kd.archive import RunDir
from composer_kd.report.collect import collect, group_arms
from composer_kd.report.takeover import takeovers
from composer_kd.runs.plan import PlannedRun

__all__ = ['aged_table', 'spent', 'steps_table', 'takeovers_of']


def takeovers_of(runs: Sequence[PlannedRun]) -> dict[str, Any]:
    """Of the finished runs that say what they replace, by arm; nothing where there are none."""
    everyone = [run.folder for run in runs if RunDir(run.folder).finished]
    if not everyone:
        return {}
    return {arm: asdict(found) for arm, found in takeovers(group_arms(collect(everyone))).items()}


def aged_table(found: dict[str, Any]) -> list[str]:
    """Lines of Markdown; none where nobody replaces anybody."""
    if not found:
        return []
    lines = [
        '',
        '**Taking over from the step before** (test accuracy, %; recovered: as good on its own test data as the',
        'replaced model had been on those of its step; forgotten: of what earlier models knew of their own data)',
        '',
    ]
    heads = 'arm', 'seeds', 'replaced model, its data', 'the same, new data', 'new model, new data'
    heads += 'epochs to recover', 'multiply-adds to recover, 10^12', 'forgotten, points'
    lines += [f'| {" | ".join(heads)} |', '|---|' + '---:|' * (len(heads) - 1)]
    for arm, one in found.items():
        missed = '' if one['recovered'] == one['of'] else f' ({one["recovered"]} of {one["of"]})'
        cells = [
            arm,
            str(one['of']),
            *(_text(one[key], 100) for key in ('before', 'aged', 'after')),
            _text(one['epochs'], 1) + missed,
            _text(one['multiply_adds'], 1e-12, 2) + missed,
            _text(one['forgotten'], 100),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return lines


def spent(lines: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Epochs that were tested, with the multiply-adds until then, live teachers inside."""
    parts = 'multiply_adds_student_total', 'multiply_adds_teacher_total'
    return [[line['epoch'], sum(line[part] for part in parts)] for line in lines if line.get('test_accuracy')]


def steps_table(result: dict[str, Any]) -> list[str]:
    """Ways of retraining by steps, where arms are called WAYn and one way is ``scratch``; else none.

    At each step all ways are measured by what training from scratch ends with there: the mean of its seeds.
    """
    arms = result['arms']
    ways = list(dict.fromkeys(arm.rstrip('0123456789') for arm in arms if arm[-1:].isdigit()))
    steps = sorted({int(arm.removeprefix('scratch')) for arm in arms if arm.removeprefix('scratch').isdigit()})
    if not steps:
        return []
    lines = [
        '',
        '**What each way takes to be as good as from scratch** (test accuracy of the last epoch, %; gain over scratch,',
        'paired by seed; epochs and work until the accuracy that scratch ends with: multiply-adds as a part of what',
        'scratch took, live teachers and the harvest of what was looked up inside)',
        '',
    ]
    heads = [f'step {step}: {what}' for step in steps for what in ('accuracy', 'gain', 'epochs', 'work')]
    lines += [f'| way | {" | ".join(heads)} |', '|---|' + '---:|' * len(heads)]
    for way in ways:
        cells = []
        for step in steps:
            cells += _at_step(arms.get(f'{way}{step}', []), arms[f'scratch{step}'])
        if any(cell != '–' for cell in cells):
            lines.append(f'| {way} | {" | ".join(cells)} |')
    return lines


def _at_step(own: Sequence[dict[str, Any]], scratch: Sequence[dict[str, Any]]) -> list[str]:
    if not own:
        return ['–'] * 4
    level = statistics.mean(one['test'] for one in scratch)
    whole = statistics.mean(one['spent'][-1][1] for one in scratch)
    of_seed = {one['seed']: one['test'] for one in scratch}
    gain = Paired.of([one['test'] - of_seed[one['seed']] for one in own if one['seed'] in of_seed])
    reached = [(first, one) for one in own if (first := _first_at(one, level)) is not None]
    missed = '' if len(reached) == len(own) else f' ({len(reached)} of {len(own)})'
    if not reached:
        return [spread([one['test'] for one in own]), str(gain), f'–{missed}', f'–{missed}']
    work = [100 * (dict(one['spent'])[epoch] + one['harvest']) / whole for epoch, one in reached]
    epochs = spread([float(epoch) for epoch, _ in reached])
    return [spread([one['test'] for one in own]), str(gain), epochs + missed, f'{spread(work, 0)} %{missed}']


def _first_at(run: dict[str, Any], level: float) -> int | None:
    return next((epoch for epoch, test in run['curve'] if test >= level), None)


def _text(found: dict[str, Any] | None, factor: float, digits: int = 1) -> str:
    if found is None:
        return '–'
    mean = f'{factor * found["mean"]:.{digits}f}'
    return mean if found['sd'] is None else f'{mean} ± {factor * found["sd"]:.{digits}f}'
