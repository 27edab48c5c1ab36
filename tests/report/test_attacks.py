"""Accuracy under attack in every format: means by hand, of the end of the training alone."""

from __future__ import annotations

import json

import pytest

from composer_kd import UserError
from composer_kd.report import report
from tests.report.runs_on_disk import accuracies, rows, values, write_run

COSTS = {'multiply_adds_student_total': 6e12, 'multiply_adds_teacher_total': 0.0}
ADVERSARIAL = {'mode': 'recycle', 'epsilon': 8}


def line(batch, split='test', robust=0.2, accuracy=0.5, **options):
    attack = {'epsilon': 8.0, 'steps': 20, 'step_size': 2.0, 'norm': 'linf', 'targeted': False, **options}
    return {'epoch': 2, 'batch': batch, 'split': split, 'samples': 1000, 'accuracy': accuracy, **attack,
            'robust_accuracy': robust}  # fmt: skip


def write(folder, arm, seed, lines, attack=0.0, **config):
    records = accuracies([0.3, 0.5], **COSTS, multiply_adds_attack_total=attack, seconds_attack_total=attack / 1e12)
    records = [{**record, 'batch': 10 * number} for number, record in enumerate(records, start=1)]
    run = write_run(folder / f'{arm}-s{seed}', records, arm=arm, seed=seed, **config)
    if lines:
        (run / 'attacks.jsonl').write_text(''.join(json.dumps(one) + '\n' for one in lines))
    return run


@pytest.fixture
def study(tmp_path):
    l2 = {'norm': 'l2', 'epsilon': 128.0, 'step_size': 40.0}
    write(tmp_path, 'plain', 0, [line(10, robust=0.9), line(20, robust=0.02), line(20, 'val', robust=0.8)])
    write(tmp_path, 'plain', 1, [line(20, robust=0.04, accuracy=0.6)])
    lines = [line(20, robust=0.3), line(20, robust=0.35, **l2)]
    write(tmp_path, 'recycled', 0, lines, attack=4e12, algorithms={'AdversarialRecycling': ADVERSARIAL})
    write(tmp_path, 'unasked', 0, [])
    return tmp_path


def test_means_are_of_the_end_of_the_training_on_the_test_samples(study):
    made = report(study)
    plain, recycled = rows(made, 'attacks')
    assert plain['as they are'] == '55.00 ±7.07'
    assert plain['PGD-20, linf 8'] == '3.00 ±1.41'
    assert plain['PGD-20, l2 128 by 40'] == '–'
    assert recycled['PGD-20, linf 8'].startswith('30.0')
    assert recycled['PGD-20, l2 128 by 40'].startswith('35.0')
    assert 'Under attack: accuracy on 1,000 test samples, %' in made.text()
    assert 'projected gradient descent of N steps' in made.html()
    found = values(made, 'attacks')
    assert found['arms']['plain']['robust']['PGD-20, linf 8']['mean'] == pytest.approx(0.03)
    assert list(found['arms']) == ['plain', 'recycled']


def test_attacks_are_a_cost_of_their_own_where_there_are_some(study, tmp_path_factory):
    costs = {row['arm']: row for row in rows(report(study), 'costs')}
    (heading,) = [name for name in costs['plain'] if name.startswith('attacks in it') and 's' not in name[15:]]
    assert costs['plain'][heading].startswith('0')
    assert costs['recycled'][heading].startswith('4')
    assert costs['recycled']['multiply-adds, T'].startswith('10')
    folder = tmp_path_factory.mktemp('plain')
    write(folder, 'plain', 0, [])
    assert not any('attacks in it' in name for row in rows(report(folder), 'costs') for name in row)
    assert rows(report(folder), 'attacks') == []
    assert values(report(folder), 'attacks') is None


@pytest.mark.parametrize('content', ['{"split": "test"}\n', '{"batch": 20, "split": "test", "accuracy": 2}\n', '3\n'])
def test_a_line_that_is_none_is_one_line(study, content):
    file = study / 'plain-s0' / 'attacks.jsonl'
    file.write_text(content + file.read_text())
    with pytest.raises(UserError, match=r'plain-s0/attacks\.jsonl: line 1 is not what a measurement under attack'):
        report(study)


def test_a_last_line_that_is_cut_off_is_left_out(study):
    file = study / 'plain-s0' / 'attacks.jsonl'
    file.write_text(file.read_text() + '{"split": "te')
    assert rows(report(study), 'attacks')[0]['PGD-20, linf 8'] == '3.00 ±1.41'
