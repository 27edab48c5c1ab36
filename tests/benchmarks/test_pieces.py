"""A study in pieces: which runs are still to be trained, and that time ends."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.aged import with_more_seeds
from benchmarks.pieces import missing, train_for
from composer_kd.runs.plan import make_plan
from tests.report.runs_on_disk import write_run

VALUES = {
    'model': {'name': 'resnet20'},
    'max_duration': '1ep',
    'repeat': 2,
    'evaluate': {'drifts': {'foggy': {'name': 'corruption', 'kind': 'fog'}}},
    'lineage': {
        'gen0': {'seed': 17},
        'scratch1': {'seed': 5, 'replaces': 'gen0'},
        'warm1': {'algorithms': {'WarmStart': {'from': 'gen0'}}},
        'warm2': {'algorithms': {'WarmStart': {'from': 'warm1'}}},
    },
}


def finish(folder: Path) -> None:
    write_run(folder, [{}])
    file = folder / 'archive' / 'manifest.json'
    data = {'fingerprint': 'some', 'num_samples': 1, 'num_classes': 2, 'shape': [3, 8, 8],
            'normalization': {'mean': [0.5] * 3, 'std': [0.5] * 3}}  # fmt: skip
    whole = {**json.loads(file.read_text()), 'schema': 1, 'run': folder.name, 'seed': 0, 'files': {}, 'data': data}
    file.write_text(json.dumps(whole))


def test_what_is_missing_comes_with_what_it_needs_and_nothing_else(tmp_path: Path) -> None:
    plan = make_plan({**VALUES, 'save_folder': str(tmp_path)})
    everyone = [run.name for run in plan.runs]
    assert missing(plan, {}) == everyone
    measured = {'drifts': {'foggy': 1.0}}
    arms = {
        run.arm: [{'seed': one.config.seed, **measured} for one in plan.runs if one.arm == run.arm] for run in plan.runs
    }
    assert missing(plan, arms) == []
    # Of another machine's results one run is missing: what it begins at is not on this disk.
    arms['warm2'] = arms['warm2'][:1]
    assert missing(plan, arms) == ['gen0-s1', 'warm1-s1', 'warm2-s1']
    finish(tmp_path / 'warm1-s1')
    assert missing(plan, arms) == ['warm2-s1']
    finish(tmp_path / 'warm2-s1')
    assert missing(plan, arms) == []
    # What was never measured under its drifts is not there, and scratch needs no weights of what it replaces.
    arms['scratch1'] = [{'seed': one['seed']} for one in arms['scratch1']]
    assert missing(plan, arms) == ['scratch1-s0', 'scratch1-s1']


def test_the_time_ends_and_nothing_is_begun_where_nothing_is_missing(tmp_path: Path) -> None:
    file = tmp_path / 'study.yaml'
    file.write_text(json.dumps({'model': {'name': 'resnet20'}, 'max_duration': '1ep', 'save_folder': str(tmp_path)}))
    plan = make_plan(json.loads(file.read_text()))
    assert train_for(0.0, file, [], plan, {}) == 0
    assert not (tmp_path / 'run').exists()
    assert train_for(-1.0, tmp_path / 'there is none', [], plan, {'run': [{'seed': 17}]}) == 0


def test_the_table_of_more_seeds_stays() -> None:
    before, now = {'warm1': {'of': 3}, 'warm2': {'of': 1}}, {'warm1': {'of': 1}, 'warm2': {'of': 1, 'new': 1}}
    assert with_more_seeds(before, now) == {'warm1': {'of': 3}, 'warm2': {'of': 1, 'new': 1}}
    assert with_more_seeds({}, now) == now
