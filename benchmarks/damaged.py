"""What a study says of models whose test images are damaged: corruption errors, and a picture of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.paired import Paired, Run, pairs, spread
from composer_kd.archive import RunDir
from composer_kd.archive.evaluations import DriftFile
from composer_kd.core.errors import UserError
from composer_kd.data.drift import Drift
from composer_kd.data.drift.corruption import Corruption
from composer_kd.data.drift.scenarios import CorruptionGrid
from composer_kd.report.measured import same_samples
from composer_kd.report.stats import mean_corruption_error, relative_mean_corruption_error
from composer_kd.runs.plan import PlannedRun

__all__ = ['damaged', 'damaged_picture', 'damaged_table', 'names_in_grids']


def names_in_grids(run: PlannedRun) -> dict[str, list[Drift]]:
    """What the grids of corruptions among a run's ``drifts`` call each of theirs."""
    grids = [one for one in (run.config.evaluate.drifts or {}).values() if isinstance(one, CorruptionGrid)]
    return {name: drifts for grid in grids for name, drifts in grid.drifts()}


def damaged(run: PlannedRun) -> dict[str, Any]:
    """Of a finished run whose ``drifts`` have a grid: accuracies in percent, by kind and severity."""
    grid, weights = names_in_grids(run), RunDir(run.folder).manifest().weights
    measured = DriftFile.read(run.folder, weights.hash) if grid and weights is not None else None
    if measured is None or not measured.clean:
        return {}
    if not all(measured.knows(name, [one.description('test') for one in drifts]) for name, drifts in grid.items()):
        return {}
    kinds: dict[str, dict[str, float]] = {}
    for name, drifts in grid.items():
        damage = drifts[-1]
        assert isinstance(damage, Corruption)
        kinds.setdefault(damage.kind, {})[f'{damage.severity:g}'] = _percent(measured.drifts[name]['accuracy'])
    if not all(same_samples(measured.fingerprint, measured.drifts[name]) for name in grid):
        raise UserError(f'{run.name}: drifts: its grid is of other samples than data.drift; let `after` be the same')
    return {'damaged': {'as it is': _percent(measured.clean['accuracy']), 'kinds': kinds}}


def _percent(share: float) -> float:
    return round(100 * share, 2)


def damaged_table(result: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown; none where no run was asked about damaged images."""
    arms = _measured(result)
    if not arms:
        return []
    plain = result.get('baseline') or next(iter(result['arms']))
    some = next(iter(arms.values()))[0]['damaged']['kinds']
    severities = ', '.join(next(iter(some.values())))
    lines = [
        '',
        f'**Damaged images** ({len(some)} kinds of corruption at severity {severities}; test accuracy, %; gain: of the',
        f'mean over kinds and severities, over {plain}, paired by repetition; mCE: errors over those of {plain},',
        f'averaged over kinds; relative: of what the damage adds to the errors{_left_out(result, arms)})',
        '',
    ]
    heads = 'arm', 'seeds', 'as they are', 'damaged', 'gain', 'mCE, %', 'relative mCE, %', 'worst kind, there'
    lines += [f'| {" | ".join(heads)} |', '|---|' + '---:|' * (len(heads) - 1)]
    return lines + [f'| {" | ".join(_row(arm, plain, arms))} |' for arm in arms]


def _row(arm: str, plain: str, arms: Mapping[str, Sequence[Run]]) -> list[str]:
    runs, compared = arms[arm], arms.get(plain, [])
    kinds = _by_kind(runs)
    worst = min(kinds, key=kinds.__getitem__)
    gains = [_mean(own) - _mean(other) for own, other in pairs(runs, compared)]
    gain = '' if arm == plain else str(Paired.of(gains)) if gains else '–'
    return [
        arm,
        str(len(runs)),
        spread([one['damaged']['as it is'] for one in runs]),
        spread([_mean(one) for one in runs]),
        gain,
        *_corruption_errors(runs, compared),
        f'{worst}, {kinds[worst]:.1f}',
    ]


def _corruption_errors(runs: Sequence[Run], compared: Sequence[Run]) -> tuple[str, str]:
    """Each run's, relative to the mean of the runs that it is compared with."""
    if not compared:
        return '–', '–'
    theirs = {
        kind: [statistics.fmean(same) for same in zip(*(_errors(one)[kind] for one in compared), strict=True)]
        for kind in _errors(compared[0])
    }
    clean = statistics.fmean(_clean_error(one) for one in compared)
    absolute = [mean_corruption_error(_errors(one), theirs) for one in runs]
    added = [relative_mean_corruption_error(_errors(one), _clean_error(one), theirs, clean) for one in runs]
    return _in_percent(absolute), _in_percent(added)


def _in_percent(shares: Sequence[float | None]) -> str:
    known = [100 * one for one in shares if one is not None]
    return spread(known) if known else '–'


def _errors(run: Run) -> dict[str, list[float]]:
    return {kind: [1 - one / 100 for one in of.values()] for kind, of in run['damaged']['kinds'].items()}


def _clean_error(run: Run) -> float:
    return 1 - run['damaged']['as it is'] / 100


def _mean(run: Run) -> float:
    return statistics.fmean(one for of in run['damaged']['kinds'].values() for one in of.values())


def _by_kind(runs: Sequence[Run]) -> dict[str, float]:
    kinds = runs[0]['damaged']['kinds']
    return {kind: statistics.fmean(x for one in runs for x in one['damaged']['kinds'][kind].values()) for kind in kinds}


def _measured(result: Mapping[str, Any]) -> dict[str, list[Run]]:
    """Arms with their runs that answered what most runs were asked."""
    found = {arm: [one for one in runs if 'damaged' in one] for arm, runs in result['arms'].items()}
    found = {arm: runs for arm, runs in found.items() if runs}
    if not found:
        return {}
    everyone = [_questions(one) for runs in found.values() for one in runs]
    asked = max(everyone, key=everyone.count)
    same = {arm: [one for one in runs if _questions(one) == asked] for arm, runs in found.items()}
    return {arm: runs for arm, runs in same.items() if runs}


def _left_out(result: Mapping[str, Any], arms: Mapping[str, Sequence[Run]]) -> str:
    asked = sum('damaged' in one for runs in result['arms'].values() for one in runs)
    others = asked - sum(map(len, arms.values()))
    return f'; {others} runs were asked about other damage and are not here' if others else ''


def _questions(run: Run) -> dict[str, list[str]]:
    return {kind: list(of) for kind, of in run['damaged']['kinds'].items()}


def damaged_picture(result: Mapping[str, Any]) -> bytes | None:
    """A PNG: kinds of corruption by arms, means over severities and seeds; ``None`` where nobody was asked."""
    arms = _measured(result)
    if not arms:
        return None
    from composer_kd.report.render.charts import heat_map
    from composer_kd.report.render.figures import look

    columns = [_by_kind(runs) for runs in arms.values()]
    clean = [statistics.fmean(one['damaged']['as it is'] for one in runs) / 100 for runs in arms.values()]
    cells = [clean, *([column[kind] / 100 for column in columns] for kind in columns[0])]
    shades = min(map(min, cells)), max(map(max, cells))
    rows = ['as they are', *columns[0]]
    with look():
        return heat_map('damaged', 'Test accuracy on damaged images', '', rows, list(arms), cells, shades).png
