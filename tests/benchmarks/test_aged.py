"""The tables and the picture of a study whose arms take over from others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import study
from benchmarks.aged import Ageing, aged_table, ageing, steps_tables
from benchmarks.aged_picture import aged_picture, way_of
from composer_kd.runs.plan import make_plan
from tests.report.runs_on_disk import write_run


def mean(value: float, sd: float | None = None) -> dict:
    return {'mean': value, 'sd': sd, 'n': 1 if sd is None else 3}


def test_a_row_for_each_arm_and_no_mean_over_those_alone_that_recovered() -> None:
    warm = {'before': mean(0.5, 0.01), 'aged': mean(0.4, 0.02), 'after': mean(0.52, 0.01), 'recovered': 3, 'of': 3}
    warm |= {'epochs': mean(3.0, 1.0), 'multiply_adds': mean(4e12, 1e12), 'forgotten': mean(-0.01)}
    some = {**warm, 'recovered': 2}
    scratch = {'before': mean(0.5), 'aged': None, 'after': mean(0.3), 'recovered': 0, 'of': 1}
    scratch |= {'epochs': None, 'multiply_adds': None, 'forgotten': None}
    rows = [row.split(' | ') for row in aged_table({'warm1': warm, 'some1': some, 'scratch1': scratch})[-3:]]
    assert rows[0][:5] == ['| warm1', '3', '50.0 ± 1.0', '40.0 ± 2.0', '52.0 ± 1.0']
    assert rows[0][5:] == ['3.0 ± 1.0', '4.00 ± 1.00', '-1.0 |']
    assert rows[1][5:] == ['2 of 3', '2 of 3', '-1.0 |']
    assert rows[2] == ['| scratch1', '1', '50.0', '–', '30.0', '0 of 1', '0 of 1', '– |']
    assert aged_table({}) == []


def run(repetition: int, curve: list[float], an_epoch: float = 1e12, harvest: float = 0.0) -> dict:
    epochs = list(enumerate(curve, start=1))
    return {'repetition': repetition, 'seed': 100 * len(curve) + repetition, 'test': curve[-1], 'best': max(curve),
            'curve': [list(one) for one in epochs], 'harvest': harvest, 'cpu': 'a processor',
            'spent': [[epoch, an_epoch * epoch] for epoch, _ in epochs],
            'samples': 100, 'student': an_epoch * len(curve), 'teacher': 0.0, 'saved': 0.0}  # fmt: skip


def first(repetition: int, test: float, *drifts: float) -> dict:
    kept = {f'step{number}': value for number, value in enumerate((test, *drifts))}
    one = {**run(repetition, [test]), 'drifts': kept}
    del one['spent']
    return one


# In full, step 1 ends with 40 and 30, step 2 with 50 and 44; 4 T of work each.
ARMS = {
    'gen0': [first(0, 60.0, 41.0, 20.0), first(1, 60.0, 29.0, 22.0)],
    'full1': [run(0, [10.0, 20.0, 41.0, 40.0]), run(1, [10.0, 20.0, 25.0, 30.0])],
    'full2': [run(0, [10.0, 20.0, 30.0, 50.0]), run(1, [10.0, 20.0, 25.0, 44.0])],
    # Listed in another order than full's: by their places, warm1 would reach 30 and miss 40.
    'warm1': [run(1, [31.0, 33.0]), run(0, [38.0, 42.0])],
    'warm2': [run(0, [45.0, 51.0]), run(1, [40.0, 43.0])],
    'recorded1': [run(0, [15.0, 45.0], harvest=2e12)],
}


def rows_of(page: list[str], title: str) -> dict[str, dict[str, str]]:
    start = next(number for number, line in enumerate(page) if line.startswith(title))
    table = []
    for line in page[start:]:
        if line.startswith('|'):
            table.append(line.removeprefix('| ').removesuffix(' |').split(' | '))
        elif table:
            break
    return {row[0]: dict(zip(table[0][1:], row[1:], strict=True)) for row in table[2:]}


def test_ways_against_each_other() -> None:
    arms = {**ARMS, 'shrink1': [run(1, [30.0]), run(0, [40.0])], 'shrink2': [run(0, [52.0]), run(1, [43.0])]}
    rows = rows_of(steps_tables({'arms': arms}), '**Way against way**')
    # Means of the steps: 46 and 36.5 against 46.5 and 38.
    assert list(rows) == ['shrink']
    assert rows['shrink']['against'] == 'warm'
    assert rows['shrink']['gain'].startswith('-1.0 ')
    assert not any('Way against way' in line for line in steps_tables({'arms': ARMS}))


def test_accuracies_and_gains_over_training_anew_in_full() -> None:
    rows = rows_of(steps_tables({'arms': ARMS}), '**What each way reaches**')
    assert list(rows) == ['kept', 'full', 'warm', 'recorded']
    assert list(rows['kept'].values())[:3] == ['35.0 ± 8.5', '21.0 ± 1.4', '28.0 ± 3.5']
    assert rows['kept']['work, all steps'] == '0 %'
    assert list(rows['full'].values())[2:] == ['41.0 ± 5.7', '', '100 ± 0 %']
    # Means of the steps 46.5 and 38 against 45 and 37: +1.5 and +1.
    assert rows['warm']['gain over full'].startswith('+1.2')
    assert rows['warm']['work, all steps'] == '50 ± 0 %'
    assert list(rows['recorded'].values()) == ['45.0', '–', '–', '–', '–']
    assert steps_tables({'arms': {'views4': [run(0, [1.0])]}}) == []


def test_what_it_took_to_be_as_good_seed_by_seed_and_in_sum() -> None:
    rows = rows_of(steps_tables({'arms': ARMS}), '**What each way takes')
    # Step 1: warm reaches 40 after its second epoch and 30 after its first, 2 T and 1 T of 4 T.
    assert (rows['warm']['step 1: epochs'], rows['warm']['step 1: work']) == ('1.5 ± 0.7', '38 ± 18 %')
    # Step 2: 50 after two epochs; 44 not at all, so that all of its two are a bound.
    assert (rows['warm']['step 2: epochs'], rows['warm']['step 2: work']) == (
        '≥ 2.0 (1 of 2)',
        '≥ 50 % (1 of 2)',
    )
    # In sum 4 and 3 epochs, 4 T and 3 T of 8 T; the second repetition is not there at the second step.
    assert (rows['warm']['all steps: epochs'], rows['warm']['all steps: work']) == (
        '≥ 3.5 (1 of 2)',
        '≥ 44 % (1 of 2)',
    )
    assert (rows['full']['step 1: epochs'], rows['full']['step 2: epochs']) == ('3.5 ± 0.7', '4.0 ± 0.0')
    assert (rows['recorded']['step 1: epochs'], rows['recorded']['step 1: work']) == ('2.0', '100 %'), 'harvest inside'
    assert rows['recorded']['all steps: work'] == '–'
    # 41 against 40, 29 against 30; later it is worse.
    assert list(rows['kept'].values()) == ['– (1 of 2)'] * 2 + ['– (0 of 2)'] * 4


def test_a_model_that_is_as_good_untouched_costs_nothing() -> None:
    arms = {'gen0': [first(0, 60.0, 50.0)], 'full1': [run(0, [40.0, 50.0])]}
    assert list(rows_of(steps_tables({'arms': arms}), '**What each way takes')['kept'].values()) == ['0'] * 4


def result(arms: dict) -> dict:
    facts = {'what': 'A model ages', 'command': 'python', 'yaml': 'drift.yaml', 'date': '2026-01-01'}
    planned = dict.fromkeys(arms, 2)
    return {**facts, 'versions': {'torch': '2.7.0'}, 'planned': planned, 'arms': arms, 'baseline': next(iter(arms))}


def test_no_gain_over_a_model_that_was_tested_on_other_data() -> None:
    page = study.table(result(ARMS))
    head = next(line for line in page.splitlines() if line.startswith('| arm'))
    assert head == '| arm | seeds | test, last, % | best, % | samples | student | teachers | harvest | saved |'
    assert 'over gen0' not in page
    others = {'alone': [run(0, [1.0])], 'kd': [run(0, [2.0])]}
    others = {arm: [{key: one[key] for key in one if key != 'spent'} for one in runs] for arm, runs in others.items()}
    plain = study.table(result(others))
    assert 'gains are over alone, paired' in plain
    assert '| kd | 1 of 2 | 2.0 | 2.0 | +1.0 |' in plain


def test_the_picture_has_every_way_at_every_step(tmp_path: Path) -> None:
    of = Ageing(ARMS)
    assert way_of(of, 'warm', 1) == ([1, 2], [25.0, 50.0], [34.5, 37.5])
    assert way_of(of, 'recorded', 1) == ([1, 2], [75.0, 100.0], [15.0, 45.0])
    assert way_of(of, 'recorded', 2) == ([], [], [])
    picture = aged_picture({'arms': ARMS})
    assert picture is not None
    assert picture.startswith(b'\x89PNG')
    assert aged_picture({'arms': ARMS}) == picture, 'the same results give the same bytes'
    assert aged_picture({'arms': {'views4': [run(0, [1.0])]}}) is None


PLAN = {
    'name': 'drift',
    'model': {'name': 'resnet20'},
    'data': {'source': 'synthetic100'},
    'max_duration': '2ep',
    'repeat': 2,
    'evaluate': {'drifts': {'step1': {'name': 'corruption', 'kind': 'fog'}}},
    'lineage': {'gen0': {'seed': 17}, 'full1': {'seed': 117, 'replaces': 'gen0'}, 'warm1': {'replaces': 'gen0'}},
}


def write_study(folder: Path) -> list:
    """The runs of a small study as a training leaves them, but for what no table reads."""
    runs = make_plan({**PLAN, 'save_folder': str(folder / 'runs')}).runs
    for planned in runs:
        tests = {'gen0': (0.2, 0.5), 'full1': (0.3, 0.4), 'warm1': (0.4, 0.45)}[planned.arm]
        costs = {'multiply_adds_teacher_total': 0.0, 'samples': 100}
        records = [{'test_accuracy': test, 'multiply_adds_student_total': 1e12 * number, 'batch': 10 * number, **costs}
                   for number, test in enumerate(tests, start=1)]  # fmt: skip
        replaces = None if planned.arm == 'gen0' else str(folder / 'runs' / f'gen0-{planned.name[-2:]}')
        write_run(planned.folder, records, arm=planned.arm, seed=planned.config.seed, replaces=replaces)
        file = planned.folder / 'archive' / 'manifest.json'
        manifest = json.loads(file.read_text())
        data = {'fingerprint': 'some', 'num_samples': 100, 'num_classes': 100, 'shape': [3, 32, 32],
                'normalization': {'mean': [0.5] * 3, 'std': [0.5] * 3}}  # fmt: skip
        manifest |= {'schema': 1, 'run': planned.name, 'seed': planned.config.seed, 'files': {}, 'data': data}
        manifest |= {'finished_at': '2026-01-02T03:04:05+00:00', 'hardware': {'cpu': 'a processor'}}
        file.write_text(json.dumps(manifest))
        foggy = {'drift': [], 'fingerprint': 'foggy', 'accuracy': 0.3, 'calibration_error': 0.1}
        foggy['worst_group'] = {'name': 'fish', 'accuracy': 0.0}
        drift = {'format': 'composer_kd.drift', 'version': 1, 'weights': 'f00d', 'epoch': 2, 'groups': 'class'}
        drift |= {'fingerprint': planned.arm, 'clean': foggy, 'drifts': {'step1': foggy}}
        (planned.folder / 'drifts.json').write_text(json.dumps(drift))
    return list(runs)


def test_what_is_read_off_runs(tmp_path: Path) -> None:
    runs = {planned.name: planned for planned in write_study(tmp_path)}
    lines = [{'epoch': 1, 'test_accuracy': 0.1, 'multiply_adds_student_total': 3.0, 'multiply_adds_teacher_total': 1.0}]
    lines.append({**lines[0], 'epoch': 2, 'test_accuracy': None})
    assert ageing(runs['warm1-s1'], lines) == {'spent': [[1, 4.0]], 'drifts': {'step1': 30.0}}
    assert ageing(runs['gen0-s0'], lines) == {'drifts': {'step1': 30.0}}
    (alone,) = make_plan({'model': {'name': 'resnet20'}, 'max_duration': '1ep', 'save_folder': str(tmp_path)}).runs
    assert ageing(alone, lines) == {}


def test_the_command_makes_tables_and_picture_of_finished_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path)
    file = tmp_path / 'drift.yaml'
    file.write_text('# A model ages\n' + json.dumps({**PLAN, 'save_folder': str(tmp_path / 'runs')}))
    monkeypatch.setattr('sys.argv', ['study', str(file), '--table-only'])
    assert study.main() == 0
    page = capsys.readouterr().out
    assert page == (tmp_path / 'drift.md').read_text()
    assert '![Test accuracy of each way at each step, by epochs and by work](drift.png)' in page
    assert (tmp_path / 'drift.png').read_bytes().startswith(b'\x89PNG')
    kept = rows_of(page.splitlines(), '**What each way takes')['kept']
    assert kept['step 1: epochs'] == '– (0 of 2)'
    found = json.loads((tmp_path / 'drift.json').read_text())
    assert study.table(found, 'drift/').count('](drift/drift.png)') == 1
