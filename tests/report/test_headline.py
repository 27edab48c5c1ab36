"""What the headline may claim, and how it is worded."""

from __future__ import annotations

import json

import pytest

from composer_kd.report import report
from tests.report.runs_on_disk import KD, accuracies, rows, write_run


def arm(folder, name, values, *, seconds=10.0, adds=100e9, seed=0, classes=None, **config):
    """One run; every epoch takes ``seconds`` and ``adds``."""
    records = accuracies(values)
    for epoch, record in enumerate(records, start=1):
        record['seconds_train_total'] = seconds * epoch
        record['multiply_adds_student_total'] = adds * epoch
    algorithms = {} if name == 'scratch' else KD
    path = write_run(folder / f'{name}-s{seed}', records, arm=name, seed=seed, algorithms=algorithms, **config)
    if classes is not None:
        file = path / 'archive' / 'manifest.json'
        file.write_text(json.dumps({**json.loads(file.read_text()), 'data': {'num_classes': classes}}))
    return path


WAY = [0.1, 0.2, 0.3, 0.4]


def test_nothing_is_claimed_of_guessing(tmp_path):
    arm(tmp_path, 'scratch', [0.005, 0.015], classes=100)
    arm(tmp_path, 'kd', [0.015, 0.015], seconds=5.0, classes=100)
    made = report(tmp_path)
    assert made.summary.thresholds == {'test': []}
    assert made.headline.short == 'Nothing was learned beyond guessing yet'
    assert made.headline.comparisons == {}
    assert made.headline.detail == (
        'scratch had 1.50 % test accuracy after 2\u00a0epochs (1 seed); '
        'kd had 1.50 % test accuracy after 2\u00a0epochs (1 seed); guessing among 100 classes gives 1\u00a0%.'
    )
    assert '×' not in made.text()
    assert 'class="ratios"' not in made.html()


def test_the_limit_itself_is_beyond_guessing_as_float32_counters_give_it(tmp_path):
    arm(tmp_path, 'scratch', [0.005, 0.015], classes=100)
    arm(tmp_path, 'kd', [0.005, 0.019999999552965164], classes=100)
    assert report(tmp_path).headline.short == 'Nothing to compare: scratch has not gone beyond guessing yet'


def test_one_arm_that_guesses_says_so_too(tmp_path):
    arm(tmp_path, 'scratch', [0.1, 0.15], classes=10)
    assert report(tmp_path).headline.short == 'Nothing was learned beyond guessing yet'


def test_a_baseline_that_guesses_beside_an_arm_that_learned(tmp_path):
    arm(tmp_path, 'scratch', [0.005, 0.015], classes=100)
    arm(tmp_path, 'kd', [0.1, 0.3], classes=100)
    made = report(tmp_path)
    assert made.headline.short == 'Nothing to compare: scratch has not gone beyond guessing yet'
    assert made.headline.comparisons == {}


def test_thresholds_begin_beyond_guessing_where_the_classes_are_known(tmp_path):
    arm(tmp_path, 'scratch', [0.1, 0.3], classes=8)
    arm(tmp_path, 'kd', [0.2, 0.3], classes=8)
    assert report(tmp_path).summary.thresholds['test'] == [0.26, 0.28, 0.3]  # 0.22 and 0.24 are under 2/8
    assert report(tmp_path, thresholds=[0.05]).summary.thresholds['test'] == [0.05], 'what is asked for is shown'
    for manifest in tmp_path.rglob('manifest.json'):
        manifest.write_text('{}')
    assert report(tmp_path).summary.thresholds['test'] == [0.22, 0.24, 0.26, 0.28, 0.3]


@pytest.mark.parametrize(
    ('seconds', 'adds', 'facts'),
    [
        (8.0, 135e9, '20\u00a0% less training time, but 35\u00a0% more multiply-adds and as many epochs'),
        (12.0, 80e9, '20\u00a0% more training time, but 20\u00a0% fewer multiply-adds and as many epochs'),
    ],
)
def test_seconds_alone_against_multiply_adds_decide_nothing(tmp_path, seconds, adds, facts):
    for seed in range(3):
        arm(tmp_path, 'scratch', WAY, seed=seed)
        arm(tmp_path, 'kd', WAY, seconds=seconds, adds=adds, seed=seed)
    made = report(tmp_path, thresholds=[0.4])
    assert made.headline.short == f'Retraining was not clearly cheaper ({facts})'


def test_seconds_that_epochs_agree_with_do_decide(tmp_path):
    arm(tmp_path, 'scratch', WAY)
    arm(tmp_path, 'kd', WAY[1:], seconds=10.0, adds=150e9)  # 30 s against 40, 450 G against 400, 3 epochs against 4
    assert report(tmp_path, thresholds=[0.4]).headline.short == 'Retraining took 25\u00a0% less training time'


def test_what_is_the_same_is_not_given_as_instead_of_itself(tmp_path):
    arm(tmp_path, 'scratch', [0.4], seconds=10.0)
    arm(tmp_path, 'kd', [0.4], seconds=11.5, adds=135e9)
    sentence = report(tmp_path, thresholds=[0.4]).headline.sentence
    assert sentence == (
        'Retraining was not cheaper and took 15\u00a0% more training time: to reach 40\u00a0% test accuracy, kd took '
        '11.5\u00a0s of training (teachers included) where scratch took 10\u00a0s, 135\u00a0G multiply-adds instead of '
        '100 (one seed each, so chance is not ruled out).'
    )


def test_nothing_to_compare_is_one_clean_sentence(tmp_path):
    arm(tmp_path, 'scratch', WAY)
    arm(tmp_path, 'kd', [0.1])
    assert report(tmp_path, thresholds=[0.4]).headline.sentence == (
        'Nothing to compare: no accuracy was reached by every seed of the baseline and of another arm: '
        'scratch had 40.00 % test accuracy after 4\u00a0epochs (1 seed); '
        'kd had 10.00 % test accuracy after 1\u00a0epoch (1 seed).'
    )


def test_repeats_of_one_seed_are_not_taken_for_seeds(tmp_path):
    for lineage in ('first', 'second'):
        arm(tmp_path / lineage, 'scratch', WAY)
        arm(tmp_path / lineage, 'kd', WAY[1:])
    arm(tmp_path / 'first', 'other', WAY, seed=5)
    made = report(tmp_path, thresholds=[0.4])
    assert (
        'kd-s0 in first and kd-s0 in second are repeats of one seed (0): n and the deviations of kd are not over seeds.'
    ) in made.caveats
    assert sum('repeats' in line for line in made.caveats) == 2
    assert '2 runs each, some of them repeats of one seed' in made.headline.detail
    assert 'seeds each' not in made.headline.detail
    assert '(2 runs)' in report(tmp_path, thresholds=[0.9]).headline.detail
    assert [row['run'] for row in rows(made, 'runs')] == [
        'kd-s0 in first',
        'other-s5',
        'scratch-s0 in first',
        'kd-s0 in second',
        'scratch-s0 in second',
    ]


def test_different_seeds_of_an_arm_are_no_repeats(tmp_path):
    for seed in range(2):
        arm(tmp_path, 'scratch', WAY, seed=seed)
        arm(tmp_path, 'kd', WAY, seed=seed)
    assert not any('repeats' in line for line in report(tmp_path).caveats)


def test_tiles_give_the_epoch_of_one_seed_as_a_whole_number(tmp_path):
    arm(tmp_path, 'scratch', WAY)
    arm(tmp_path, 'kd', WAY[1:])
    assert '<dd class="from">4 → 3\u00a0epochs</dd>' in report(tmp_path, thresholds=[0.4]).html()


NOISE = {'name': 'label_noise', 'rate': 0.2, 'seed': 0, 'parts': ['train']}
FOG = {'name': 'corruption', 'kind': 'fog', 'severity': 3.0, 'seed': 0, 'parts': ['train', 'val', 'test']}
DATA = {'source': 'synthetic100', 'val_fraction': 0.1}


def on(*drifts):
    return {'data': {**DATA, 'drift': [*drifts]}}


def test_accuracies_of_other_test_data_are_not_compared(tmp_path):
    arm(tmp_path, 'scratch', WAY)
    arm(tmp_path, 'noisy', WAY, seconds=8.0, **on(NOISE))
    arm(tmp_path, 'foggy', WAY, seconds=1.0, **on(FOG))
    to_noise = {'name': 'path', 'steps': 2, 'step': 1, 'seed': 0, 'parts': FOG['parts'], 'from': None, 'to': NOISE}
    arm(tmp_path, 'towards', WAY, seconds=9.0, **on(to_noise))
    made = report(tmp_path)
    assert made.headline.arm.name == 'noisy', 'its test data are those of scratch'
    assert '(the cheapest of 2 arms)' in made.headline.detail
    (line,) = [line for line in made.caveats if 'tested on other data' in line]
    assert line.startswith('foggy is tested on other data than scratch (data.drift)')
    (ratios,) = [table for table in made.tables if table.title.startswith('Speed-up over scratch to the same test')]
    assert {row[0] for row in ratios.rows} == {'noisy', 'towards'}


def test_nothing_is_compared_where_all_others_are_of_other_test_data(tmp_path):
    arm(tmp_path, 'scratch', WAY, **on(FOG))
    arm(tmp_path, 'kd', WAY, seconds=1.0, **on({**FOG, 'severity': 5.0}))
    made = report(tmp_path)
    assert made.headline.short == 'Nothing to compare: no other arm is tested on the data of scratch'
    assert made.headline.comparisons == {}
    assert made.html()
    # Under the same drift they are compared.
    (tmp_path / 'again').mkdir()
    arm(tmp_path / 'again', 'scratch', WAY, **on(FOG))
    arm(tmp_path / 'again', 'kd', WAY, seconds=1.0, **on(FOG))
    assert report(tmp_path / 'again').headline.arm.name == 'kd'
