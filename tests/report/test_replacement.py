"""Replacing the model before, by hand: what drift did to it, recovery and forgetting along a chain of runs."""

from __future__ import annotations

import json

import pytest

from composer_kd.report import report
from composer_kd.report.sections.replacement import forgetting
from tests.report.runs_on_disk import accuracies, rows, values, write_run


def write(folder, arm, seed, values, data, others=None, replaces=None):
    """A run that was measured on its own test data, and on those of other fingerprints."""
    name = f'{arm}-s{seed}'
    records = accuracies(values)
    costs = {'multiply_adds_student_total': 3e12, 'multiply_adds_teacher_total': 1e12}
    records = [
        {**record, **costs, 'seconds_train_total': 10.0 * number} for number, record in enumerate(records, start=1)
    ]
    config = {} if replaces is None else {'replaces': f'elsewhere/{replaces}-s{seed}'}
    run = write_run(folder / name, records, arm=arm, seed=seed, **config)

    def entry(accuracy):
        return {'accuracy': accuracy, 'calibration_error': 0.1, 'worst_group': {'name': 'fish', 'accuracy': 0.0}}

    drifts = {f'of {one}': {'drift': [{'name': one}], 'fingerprint': one, **entry(accuracy)}
              for one, accuracy in (others or {}).items()}  # fmt: skip
    content = {'format': 'composer_kd.drift', 'version': 1, 'weights': 'f00d', 'epoch': len(values), 'groups': 'class',
               'fingerprint': data, 'clean': entry(values[-1]), 'drifts': drifts}  # fmt: skip
    (run / 'drifts.json').write_text(json.dumps(content))
    return run


@pytest.fixture
def study(tmp_path):
    write(tmp_path, 'gen0', 0, [0.3, 0.5], 'old', {'mid': 0.4, 'new': 0.2})
    write(tmp_path, 'gen1', 0, [0.45, 0.52], 'mid', {'old': 0.48, 'new': 0.42}, replaces='gen0')
    write(tmp_path, 'gen2', 0, [0.5, 0.54, 0.6], 'new', {'old': 0.4, 'mid': 0.55}, replaces='gen1')
    return tmp_path


def by_arm(made):
    return {row['arm']: row for row in rows(made, 'replacement')}


def test_each_is_compared_with_what_it_replaces_and_with_all_before(study):
    made = report(study)
    found = by_arm(made)
    assert list(found) == ['gen1', 'gen2']
    assert found['gen1']['replaced model, its data'] == '50.00'
    assert found['gen1']['replaced model, new data'] == '40.00'
    assert found['gen1']['new model, new data'] == '52.00'
    assert (found['gen1']['epochs to recover'], found['gen1']['s to recover']) == ('2', '20.0')
    assert found['gen1']['multiply-adds to recover, T'] == '4.00'
    assert found['gen1']['forgotten, points'] == '2.00'
    # gen1 ended with 52.0 on its own data: gen2 passes that in its second epoch, having forgotten 10 and -3 points.
    assert found['gen2']['replaced model, new data'] == '42.00'
    assert found['gen2']['epochs to recover'] == '2'
    assert found['gen2']['forgotten, points'] == '3.50'
    gen2 = values(made, 'replacement')['gen2']
    assert gen2['forgotten']['mean'] == pytest.approx(0.035)
    assert (gen2['recovered'], gen2['of']) == (1, 1)
    assert 'An arm replaces the run' in made.html()


def test_seeds_that_do_not_recover_are_said(study):
    write(study, 'gen0', 1, [0.3, 0.6], 'old', {'mid': 0.4})
    write(study, 'gen1', 1, [0.4, 0.5], 'mid', {'old': 0.6}, replaces='gen0')
    found = by_arm(report(study))['gen1']
    assert found['epochs to recover'] == '2 (1/2)'
    assert found['n'] == '2'


def test_without_measurements_what_is_left_is_the_recovery(study):
    for run in study.iterdir():
        (run / 'drifts.json').unlink()
    found = by_arm(report(study))['gen2']
    assert found['epochs to recover'] == '2'
    assert not {'forgotten, points', 'replaced model, new data'} & set(found)


def test_nobody_replaces_anybody(tmp_path):
    write(tmp_path, 'gen0', 0, [0.3, 0.5], 'old')
    write(tmp_path, 'gen1', 0, [0.3, 0.5], 'old', replaces='gen7')
    assert by_arm(report(tmp_path)) == {}


def test_forgetting_is_what_is_gone_of_each_earlier_step():
    assert forgetting([0.5, 0.6], [0.4, 0.3]) == pytest.approx(0.2)
    assert forgetting([0.5], [0.6]) == pytest.approx(-0.1)
    assert forgetting([], []) is None
