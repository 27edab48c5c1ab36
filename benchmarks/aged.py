"""What a study says of models that take over: what the drift cost, what recovery took, what was forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from composer_kd.report.collect import collect, group_arms
from composer_kd.report.takeover import takeovers
from composer_kd.runs.plan import PlannedRun

__all__ = ['aged_table', 'takeovers_of']


def takeovers_of(runs: Sequence[PlannedRun]) -> dict[str, Any]:
    """Of the finished runs that say what they replace, by arm; nothing where there are none."""
    there = [run.folder for run in runs if run.config.replaces is not None and (run.folder / 'run.yaml').is_file()]
    if not there:
        return {}
    everyone = [run.folder for run in runs if (run.folder / 'run.yaml').is_file()]
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


def _text(found: dict[str, Any] | None, factor: float, digits: int = 1) -> str:
    if found is None:
        return '–'
    mean = f'{factor * found["mean"]:.{digits}f}'
    return mean if found['sd'] is None else f'{mean} ± {factor * found["sd"]:.{digits}f}'
