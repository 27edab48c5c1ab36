"""What the models of a study cost where they are used: parameters, multiply-adds of an image, images a second."""

from __future__ import annotations

import statistics
from typing import Any

from composer_kd.archive import RunDir
from composer_kd.runs.plan import PlannedRun

__all__ = ['size_of', 'sizes_table']

BATCHES = ('1', '256')


def size_of(run: PlannedRun, last: dict[str, Any]) -> dict[str, Any]:
    """Of a finished run's model, as its manifest has it; ``last`` is the last line of its metrics."""
    manifest = RunDir(run.folder).manifest()
    if manifest.parameters is None or manifest.multiply_adds is None:
        return {}
    inference = manifest.inference.model_dump(mode='json', by_alias=True) if manifest.inference else {}
    return {
        'model': {
            'parameters': manifest.parameters,
            'multiply_adds': manifest.multiply_adds,
            'seconds': {batch: inference.get(batch) for batch in BATCHES},
            'threads': inference.get('threads'),
            'beside': (last.get('runs_beside') or 1) > 1,
        }
    }


def sizes_table(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown, a row a model and the largest first; none where all arms have the same."""
    rows: dict[tuple[int, int], dict[str, list[dict[str, Any]]]] = {}
    for arm, runs in result['arms'].items():
        for one in (run['model'] for run in runs if 'model' in run):
            rows.setdefault((one['parameters'], one['multiply_adds']), {}).setdefault(arm, []).append(one)
    if len(rows) < 2:
        return []
    everyone = [one for arms in rows.values() for models in arms.values() for one in models]
    threads = sorted({str(one['threads']) for one in everyone if one['threads']})
    beside = sum(one['beside'] for one in everyone)
    shared = f'; {beside} of {len(everyone)} runs were measured beside others' if beside else ''
    lines = [
        '',
        '**What the models cost where they are used** (multiply-adds of one image; images a second in batches of 1 and',
        f'of 256, threads: {" or ".join(threads) or "–"}, means over runs{shared}; and all of it against the largest)',
        '',
    ]
    heads = 'arms', 'parameters', 'multiply-adds', 'images/s at 1', 'images/s at 256'
    heads += 'smaller', 'less computation', 'faster at 1', 'faster at 256'
    lines += [f'| {" | ".join(heads)} |', '|---|' + '---:|' * (len(heads) - 1)]
    largest = max(rows)
    fastest = {batch: _speed(rows[largest], batch) for batch in BATCHES}
    for (parameters, adds), arms in sorted(rows.items(), reverse=True):
        speeds = [_speed(arms, batch) for batch in BATCHES]
        cells = [
            _names(list(arms)),
            f'{parameters:,}',
            f'{adds:,}',
            *(f'{speed:,.0f}' if speed else '–' for speed in speeds),
            f'{largest[0] / parameters:.2f}×',
            f'{largest[1] / adds:.2f}×',
            *(_times(speed, fastest[batch]) for speed, batch in zip(speeds, BATCHES, strict=True)),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return lines


def _names(arms: list[str], most: int = 3) -> str:
    more = len(arms) - most
    return ', '.join(arms) if more <= 1 else f'{", ".join(arms[:most])} and {more} more'


def _speed(arms: dict[str, list[dict[str, Any]]], batch: str) -> float | None:
    seconds = [seconds for models in arms.values() for one in models if (seconds := one['seconds'][batch])]
    return statistics.fmean(int(batch) / one for one in seconds) if seconds else None


def _times(speed: float | None, other: float | None) -> str:
    return f'{speed / other:.2f}×' if speed and other else '–'
