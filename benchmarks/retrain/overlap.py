"""What a student has of the earlier iteration's answers: its right ones, and its mistakes.

A teacher that is asked for its outputs passes on both. Counted on the test images, from the logits that runs kept of
their last evaluation, once the runs are there; the counts are results as the lines are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.paired import spread
from benchmarks.retrain.cells import Scale
from benchmarks.retrain.measures import Entry, Line, Study
from benchmarks.retrain.results import Results
from benchmarks.retrain.table import markdown_table
from composer_kd.archive import RunDir, atomic_write
from composer_kd.archive.predictions import Predictions, predictions_of
from composer_kd.core.errors import UserError

__all__ = ['overlap', 'overlap_table', 'write_overlaps']

_KEYS = ('agrees', 'right_where_it_was_wrong', 'same_wrong_answer', 'wrong_where_it_was_right')


def overlap(own: Predictions, earlier: Predictions) -> dict[str, float]:
    """Shares of the samples: of all, of those that the earlier model had wrong (twice), and of those it had right."""
    if not own.same_samples(earlier):
        raise UserError('the two models were asked about different samples')
    answer, before = own.logits.argmax(dim=1), earlier.logits.argmax(dim=1)
    was_right = before == own.labels
    right = answer == own.labels
    agrees = answer == before
    shares = _share(agrees), _share(right[~was_right]), _share(agrees[~was_right]), _share(~right[was_right])
    return dict(zip(_KEYS, shares, strict=True))


def _share(those: Tensor) -> float:
    """0 of none: a model that has nothing wrong leaves nothing to learn."""
    return round(float(those.float().mean()), 5) if len(those) else 0.0


def write_overlaps(scale: Scale, results: Results) -> Path:
    """``results/SCALE.overlap.json``: of the runs on this disk anew, of others what the file has."""
    found: dict[str, Any] = dict(results.overlaps())
    folder = Path(scale.yaml['save_folder'])
    for name, line in results.by_name().items():
        for scenario, earlier in _earlier(scale, line).items():
            if earlier != name and (of := _of_runs(folder / name, folder / earlier)) is not None:
                found.setdefault(name, {})[scenario] = {'earlier': earlier, **of}
    atomic_write(results.overlap_file, json.dumps(found, indent=1, sort_keys=True) + '\n')
    print(f'written: {results.overlap_file}: {len(found)} runs')
    return results.overlap_file


def _earlier(scale: Scale, line: Line) -> dict[str, str]:
    """The earlier iteration that a run is compared with, by scenario; nothing of a run that came to nothing.

    A run that recycles nothing is one of several scenarios, and stands beside the earlier iteration of each.
    """
    if not line['epochs']:
        return {}
    if line['needs']:
        return {line['scenario']: line['needs'][0]}
    places = [
        name
        for name in scale.yaml['scenarios']
        if scale.scenarios[name].get('like', name) == line['scenario'] and line['arm'] != 'earlier'
    ]
    cells = {place: scale.earlier(place, line['number']) for place in places}
    return {place: cell.name for place, cell in cells.items() if cell is not None}


def _of_runs(own: Path, earlier: Path) -> dict[str, float] | None:
    kept = [predictions_of(RunDir(run), 'test') if RunDir(run).finished else None for run in (own, earlier)]
    if kept[0] is None or kept[1] is None or not kept[0].same_samples(kept[1]):
        return None  # An arm of the search, say, whose first iteration is of another scenario.
    return overlap(kept[0], kept[1])


def overlap_table(study: Study, scenario: str, arms: Sequence[str]) -> str:
    rows = []
    for arm in arms:
        for budget in study.budgets(scenario, arm):
            entry = study.entry(scenario, arm, budget)
            if entry is not None and (cells := _cells(entry, scenario)):
                rows.append([f'`{arm}`', str(budget), *cells])
    head = ['arm', 'epochs', 'agrees with it, %', 'right where it was wrong, %', 'the same wrong answer there, %']
    head += ['wrong where it was right, %']
    note = (
        'Test images, answers of the last epoch, beside those of the earlier iteration that the arm recycles (the '
        'first one, if several). Arms that recycle nothing stand beside it for comparison: what any model shares with '
        'it.'
    )
    return markdown_table('What is passed on of the earlier iteration', head, rows, note)


def _cells(entry: Entry, scenario: str) -> list[str]:
    found = [one for number in entry.numbers if (one := (entry.lines[number].get('overlap') or {}).get(scenario))]
    return [spread([100 * one[key] for one in found]) for key in _KEYS] if found else []
