"""Calibration and fidelity in every format: numbers worked out by hand, and nothing where there is nothing to say."""

from __future__ import annotations

import json

import pytest

from composer_kd.report import report
from tests.report.runs_on_disk import KD, accuracies, rows, values, write_run

TITLE = 'Calibration and fidelity on the test data'


def write(folder, arm, seed=0, *, calibration=None, teachers=None, name=None, **config):
    """A run whose manifest says that; ``teachers`` are names to (agreement, KL)."""
    run = write_run(folder / (name or f'{arm}-s{seed}'), accuracies([0.2, 0.4]), arm=arm, seed=seed, **config)
    if calibration is not None:
        taught = teachers or {}
        evaluation = {
            'val': {'calibration_error': 0.9, 'agreement': {}, 'teacher_kl': {}},
            'test': {
                'calibration_error': calibration,
                'agreement': {name: of[0] for name, of in taught.items()},
                'teacher_kl': {name: of[1] for name, of in taught.items()},
            },
        }
        file = run / 'archive' / 'manifest.json'
        file.write_text(json.dumps({**json.loads(file.read_text()), 'evaluation': evaluation}))
    return run


def test_means_over_paired_seeds(tmp_path):
    for seed, error, agreement, kl in ((0, 0.10, 0.5, 1.0), (1, 0.14, 0.7, 2.0)):
        write(tmp_path, 'scratch', seed, calibration=2 * error)
        teachers = {f'scratch-s{seed}': (agreement, kl)}
        write(tmp_path, 'kd', seed, calibration=error, teachers=teachers, algorithms=KD)
    made = report(tmp_path)
    scratch, kd = rows(made, 'fidelity')
    assert scratch == {
        'arm': 'scratch',
        'teacher': '–',
        'n': '2',
        'calibration error, %': '24.00 ±5.66',
        'agreement, %': '–',
        'KL to the teacher': '–',
    }
    assert kd['teacher'] == 'scratch'
    assert kd['calibration error, %'] == '12.00 ±2.83'  # 10 and 14, deviation sqrt(8)
    assert kd['agreement, %'] == '60.00 ±14.14'
    assert kd['KL to the teacher'] == '1.500 ±0.707'
    found = values(made, 'fidelity')['kd']
    assert found['calibration_error'] == {'mean': pytest.approx(0.12), 'sd': pytest.approx(0.08**0.5 / 10), 'n': 2}
    assert found['teachers']['scratch']['agreement']['mean'] == pytest.approx(0.6)
    assert found['teachers']['scratch']['kl']['n'] == 2


def test_every_format_has_it(tmp_path):
    write(tmp_path, 'scratch', calibration=0.2)
    write(tmp_path, 'kd', calibration=0.1, teachers={'scratch-s0': (0.5, 1.25)}, algorithms=KD)
    made = report(tmp_path)
    for text in (made.text(), made.brief(), made.markdown(), made.html()):
        assert TITLE in text
        assert '1.250' in text
    for text in (made.markdown(), made.html()):
        assert 'Guo et al, 2017' in text


def test_nothing_is_said_where_nothing_was_kept(tmp_path):
    write(tmp_path, 'scratch')
    write(tmp_path, 'kd', algorithms=KD)
    made = report(tmp_path)
    assert values(made, 'fidelity')['kd'] == {'calibration_error': None, 'teachers': {}}
    for text in (made.text(), made.markdown(), made.html()):
        assert 'Calibration' not in text


def test_without_teachers_there_is_no_column_of_them(tmp_path):
    write(tmp_path, 'scratch', 0, calibration=0.2)
    write(tmp_path, 'scratch', 1)
    write(tmp_path, 'other', calibration=None)
    (row,) = rows(report(tmp_path), 'fidelity')
    assert row == {'arm': 'scratch', 'n': '2', 'calibration error, %': '20.00 (1/2)'}


def test_a_row_for_each_teacher(tmp_path):
    teachers = {'gen0-s0': (0.5, 1.0), 'gen1-s0': (0.6, 0.5)}
    write(tmp_path, 'gen2', calibration=0.1, teachers=teachers, algorithms=KD)
    assert [(row['teacher'], row['agreement, %']) for row in rows(report(tmp_path), 'fidelity')] == [
        ('gen0', '50.00'),
        ('gen1', '60.00'),
    ]


def test_teachers_that_are_not_in_the_report_lose_the_seed_they_share_with_their_student(tmp_path):
    for seed in (0, 1):
        teachers = {f'gen0-s{seed}': (0.5 + seed / 10, 1.0), 'fixed': (0.4, 2.0)}
        write(tmp_path, 'kd', seed, calibration=0.1, teachers=teachers, algorithms=KD)
    assert [(row['teacher'], row['agreement, %']) for row in rows(report(tmp_path), 'fidelity')] == [
        ('gen0', '55.00 ±7.07'),
        ('fixed', '40.00 ±0.00'),
    ]


def test_seeds_of_one_arm_that_teach_together_stay_apart(tmp_path):
    for seed in (0, 1):
        write(tmp_path, 'gen0', seed, calibration=0.2)
    teachers = {'gen0-s0': (0.5, 1.0), 'gen0-s1': (0.7, 2.0)}
    write(tmp_path, 'kd', calibration=0.1, teachers=teachers, algorithms=KD)
    assert [row['teacher'] for row in rows(report(tmp_path), 'fidelity') if row['arm'] == 'kd'] == [
        'gen0-s0',
        'gen0-s1',
    ]


@pytest.mark.parametrize('strange', [float('nan'), 'much', True, None, [0.5]])
def test_what_is_no_number_is_not_known(tmp_path, strange):
    run = write(tmp_path, 'kd', calibration=0.1, teachers={'gen0': (strange, 1.0)}, algorithms=KD)
    (row,) = rows(report(tmp_path), 'fidelity')
    assert 'agreement, %' not in row
    file = run / 'archive' / 'manifest.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), 'evaluation': strange}))
    assert values(report(tmp_path), 'fidelity')['kd'] == {'calibration_error': None, 'teachers': {}}
