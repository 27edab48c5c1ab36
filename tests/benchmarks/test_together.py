"""Ensembles of a study: what a lineage wrote about them, and the table that is made of it."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.together import ensembles_of, ensembles_table


def seed(accuracies: list[float], right: list[int]) -> dict:
    first = [
        {'k': k, 'logits': {'accuracy': a}, 'probabilities': {'accuracy': a - 0.01}}
        for k, a in enumerate(accuracies, 1)
    ]
    return {'split': 'test', 'samples': sum(right), 'members': [], 'first': first, 'right': right, 'at_least_one': 0.0}


def test_every_number_of_members_and_every_number_of_right_ones(tmp_path: Path):
    assert ensembles_of(tmp_path) == {}
    entry = {
        'lineage': 'oracle',
        'members': ['a', 'b'],
        'seeds': [seed([0.30, 0.40], [50, 30, 20]), seed([0.32, 0.44], [30, 30, 40])],
    }
    (tmp_path / 'ensembles.json').write_text(json.dumps({'ensembles': {'both': entry}}))
    found = ensembles_of(tmp_path)
    assert found['both']['logits'] == [[30.0, 40.0], [32.0, 44.0]]
    assert found['both']['right'] == [[50.0, 30.0, 20.0], [30.0, 30.0, 40.0]]
    page = '\n'.join(ensembles_table(found))
    assert '**The first members of `both` as one** (2 seeds; test accuracy, %)' in page
    assert '| logits averaged | 31.0 ± 1.4 | 42.0 ± 2.8 |' in page
    assert '| probabilities averaged | 30.0 ± 1.4 | 41.0 ± 2.8 |' in page
    assert 'are right, % (at least one: 60.0 ± 14.1):' in page
    assert page.endswith('| 0 | 1 | 2 |\n|---:|---:|---:|\n| 40.0 | 30.0 | 30.0 |')
