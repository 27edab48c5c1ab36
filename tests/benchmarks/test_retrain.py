"""The study of retraining: which cells there are, what they cost, and a scale that is killed and goes on."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import torch

from benchmarks.retrain.cells import Scale
from benchmarks.retrain.ledger import ledger
from benchmarks.retrain.measures import Rates, Reached, Study
from benchmarks.retrain.overlap import overlap, write_overlaps
from benchmarks.retrain.results import Results
from benchmarks.retrain.scenarios import search
from benchmarks.retrain.tables import markdown
from benchmarks.retrain.work import Worker
from composer_kd.archive.predictions import Predictions
from composer_kd.core.errors import UserError
from composer_kd.runs.plan import make_plan, merge

ROOT = Path(__file__).parents[2]
T = 10**12


def with_accuracies(name: str, found: dict[str, float], **changes: Any) -> Scale:
    """A scale some of whose cells are finished: those whose names contain a key, with its accuracy."""
    return Scale(name, changes, lambda cell: next((value for part, value in found.items() if part in cell), None))


@pytest.mark.parametrize('name', ['smoke', 'cpu', 'h200'])
def test_every_arm_of_every_scale_is_a_run_that_the_yaml_allows(name: str):
    scale = with_accuracies(name, {'': 0.5})
    cells = list(scale.cells())
    assert scale.waiting() == 0
    assert len({cell.name for cell in cells}) == len(cells) > 20
    for arm in {(cell.scenario, cell.arm): cell for cell in cells}.values():
        entries = {one.name: merge(dict(one.entry), {'data': {'source': 'synthetic100'}}) for one in arm.family}
        plan = make_plan({'name': 'study', 'lineage': entries})
        assert plan.runs[-1].name == arm.name or arm.name in [run.name for run in plan.runs]


def test_an_arm_takes_the_values_that_won_its_own_grid_on_the_validation_part():
    scale = with_accuracies(
        'cpu', {'scratch.8ep.lr=0.3.weight_decay=0.002': 0.4, 'kd.8ep.lr=0.03.weight_decay=0.0005': 0.6, '': 0.2}
    )
    for arm, rate, decay in (('scratch', 0.3, 0.002), ('kd', 0.03, 0.0005), ('kd_overtaken', 0.03, 0.0005)):
        cell = scale.cell('same', arm, 8, 1)
        assert cell is not None
        assert (cell.entry['optimizer']['lr'], cell.entry['optimizer']['weight_decay']) == (rate, decay)
    # A budget that is not tuned: the nearest one that is.
    assert scale.point('same', 'kd', 40) == scale.point('same', 'kd', 8)


def test_an_arm_like_another_has_its_own_grid_where_the_scale_gives_it_one():
    won = {'scratch.': 0.2, '.warm.8ep.lr=0.03.weight_decay=0.002': 0.6, 'warm_kd.8ep.lr=0.3.weight_decay=0.002': 0.6}
    scale = with_accuracies('cpu', won | {'': 0.3}, tune={'warm_kd': [8]})
    for arm, rate in (('warm', 0.03), ('warm_batch_64', 0.03), ('warm_kd', 0.3), ('warm_kd_first_50pct', 0.3)):
        cell = scale.cell('same', arm, 8, 1)
        assert cell is not None
        assert cell.entry['optimizer']['lr'] == rate, arm
    assert Scale('cpu').family_of('warm_kd_first_50pct') == 'warm'


def test_a_rate_beyond_the_grid_is_tried_and_never_chosen():
    scale = with_accuracies('cpu', {'lr=1.': 0.6, '': 0.3})
    cell = scale.cell('same', 'kd', 8, 1)
    assert cell is not None
    assert cell.entry['optimizer']['lr'] in {point['optimizer.lr'] for point in scale.grid}
    tried = [one.entry['optimizer']['lr'] for one in scale.cells(['tune']) if one.arm == 'kd']
    assert (len(tried), tried.count(1.0)) == (8, 2)
    assert scale.beyond('scratch', 8) == []


def test_the_recipe_of_the_first_study_with_its_earlier_iterations_has_seeds_of_students():
    scale = with_accuracies('cpu', {'': 0.3})
    for scenario in ('same', 'unaugmented'):
        alone, taught = (scale.cell(scenario, arm, 40, 0) for arm in ('baseline', 'baseline_kd'))
        assert alone is not None
        assert taught is not None
        for key in ('optimizer', 'scheduler', 'data', 'max_duration'):
            assert taught.entry[key] == alone.entry[key], key
        assert taught.needs == (alone,)
        assert taught.entry['seed'] != alone.entry['seed']
        assert 'archive' not in taught.entry


def test_what_has_no_value_from_a_grid_does_not_wait_for_one():
    published = Scale('h200').cell('pair_56_20', 'kd_published', 240, 0)
    assert published is not None
    assert published.entry['optimizer']['lr'] == 0.05


def test_nothing_that_takes_its_values_from_a_grid_begins_before_the_grid_is_finished():
    scale = with_accuracies('cpu', {'kd.8ep.lr=0.3.weight_decay=0.002': 0.4})
    assert scale.cell('same', 'kd', 8, 0) is None
    assert scale.cell('generations', 'gen2', 8, 0) is None
    assert scale.waiting(['main']) == 18
    # A cell of the grid is the arm's own first seed: it is not trained twice.
    tuned = with_accuracies('cpu', {'kd.8ep.lr=0.3.weight_decay=0.002': 0.4, '': 0.2})
    winner = tuned.cell('same', 'kd', 8, 0)
    assert winner is not None
    assert winner.name in {cell.name for cell in tuned.cells(['tune'])}


def test_earlier_iterations_are_the_baseline_or_saw_less_data_and_students_share_none_of_their_seeds():
    scale = with_accuracies('cpu', {'': 0.5})
    same, grown = scale.cell('same', 'kd3', 8, 2), scale.cell('grown', 'kd', 8, 1)
    assert same is not None
    assert grown is not None
    assert [need.name for need in same.needs] == [f'same.baseline.40ep.s{number}' for number in (2, 3, 4)]
    assert same.entry['algorithms']['TeacherMixupKD']['teachers'][0] == {'live': 'same.baseline.40ep.s2'}
    (earlier,) = grown.needs
    assert earlier.entry['data']['subset'] == 5000
    assert grown.entry['data']['subset'] == 10000
    assert {need.entry['seed'] for need in (*same.needs, earlier)}.isdisjoint({same.entry['seed'], grown.entry['seed']})
    # Tuned earlier iterations: runs of the honest rival, with another seed than the student's.
    taught = scale.cell('tuned', 'kd', 8, 2)
    assert taught is not None
    (teacher,) = taught.needs
    assert (teacher.arm, teacher.budget, teacher.number) == ('scratch', 40, 0)
    assert teacher.entry['seed'] != taught.entry['seed']
    # What asks for nothing earlier is one run, wherever it is compared.
    assert scale.cell('grown', 'scratch', 8, 0) == scale.cell('same', 'scratch', 8, 0)


def test_unknown_scales_phases_and_arms_are_one_line():
    with pytest.raises(UserError, match='cpuu: there is no such scale; did you mean'):
        Scale('cpuu')
    with pytest.raises(UserError, match="there is no phase 'grwon-main'; did you mean"):
        Scale('cpu').phases(['grwon-main'])


def a_line(cell, accuracies: list[float], student: float, teacher: float = 0.0, **more) -> dict:
    epochs = [
        {'epoch': epoch, 'test_accuracy': accuracy, 'val_accuracy': accuracy,
         'multiply_adds_student_total': student * epoch / len(accuracies), 'seconds_train_total': 60.0 * epoch,
         'multiply_adds_teacher_total': teacher * epoch / len(accuracies), **more}
        for epoch, accuracy in enumerate(accuracies, 1)
    ]  # fmt: skip
    return {
        'cell': cell.name, 'scenario': cell.scenario, 'arm': cell.arm, 'budget': cell.budget, 'number': cell.number,
        'needs': [need.name for need in cell.needs], 'epochs': epochs, 'harvest': {'multiply_adds': 3 * T},
        'evaluation': None, 'hardware': {'cpu': 'a processor', 'cores': 2}, 'versions': {'torch': '2'},
        'finished_at': '2026-01-01T00:00:00',
    }  # fmt: skip


def test_costs_count_teachers_harvest_and_what_training_the_teachers_took():
    scale = with_accuracies('cpu', {'': 0.5})
    lines = {}
    for number, accuracy in enumerate((0.40, 0.42, 0.44)):
        for arm, budget, reached, student, teacher, more in (
            ('baseline', 40, [0.2, accuracy], 40 * T, 0.0, {}),
            ('scratch', 8, [0.1, 0.3], 8 * T, 0.0, {}),
            ('kd', 8, [0.1, accuracy + 0.02], 8 * T, 2 * T, {}),
            ('kd_recorded', 8, [0.1, accuracy + 0.01], 8 * T, 0.0, {'images_recorded_total': 100}),
        ):
            cell = scale.cell('same', arm, budget, number)
            assert cell is not None
            lines[cell.name] = a_line(cell, reached, student, teacher, **more)
    study = Study(scale, lines)
    kd, recorded = study.entry('same', 'kd', 8), study.entry('same', 'kd_recorded', 8)
    assert kd is not None
    assert recorded is not None
    live, looked_up = study.mean_costs(kd), study.mean_costs(recorded)
    assert live is not None
    assert looked_up is not None
    assert (live.student, live.teachers, live.harvest, live.sunk) == (8 * T, 2 * T, 0, 40 * T)
    assert (looked_up.teachers, looked_up.harvest, looked_up.sunk) == (0, 3 * T, 40 * T)
    assert [looked_up.total(students) for students in (1, 3, 10)] == pytest.approx([11 * T, 9 * T, 8.3 * T])
    gain = study.gain(kd)
    assert gain is not None
    assert gain.mean == pytest.approx(14.0)
    assert gain.n == 3
    assert study.match('same', 'kd', 42.0) is kd
    assert study.match('same', 'scratch', 42.0) is None
    # 40 epochs of 40 T against 8 epochs: 5 times fewer, and 40/10, 40/11, 40/9, 40/8.3 times less work.
    page = markdown(study)
    assert '| `kd` | 8 (44.0 ± 2.0) | 5.0× | 4.0× | 4.0× | 4.0× | 0.80× |' in page
    assert '| `kd_recorded` | 8 (43.0 ± 2.0) | 5.0× | 3.6× | 4.4× | 4.8× | 0.78× |' in page
    assert '| `scratch` | not within its budgets |' in page
    assert '| `kd_recorded` | 8 | 43.0 ± 2.0 | 3.6 | 4.4 | 4.8 | 0.78 |' in page
    # 14.0 and 13.0 points over scratch in every seed: the one is 1.0 behind the other.
    assert '| `kd_recorded` over `kd` | -1.0 (-1.0 to -1.0), p ' in page
    # Epochs and work to an accuracy: the first epoch at or above it, in all seeds.
    assert study.cheapest('same', 'kd', 0.40) == Reached(2.0, 10 * T, ANY, 8)
    assert study.cheapest('same', 'kd_recorded', 0.40) == Reached(2.0, 11 * T, ANY, 8)
    assert study.cheapest('same', 'baseline', 0.42) is None


def test_what_earlier_iterations_that_knew_less_end_with_is_said():
    scale, lines = with_accuracies('cpu', {'': 0.5}), {}
    for number, accuracy in enumerate((0.20, 0.24)):
        cell = scale.cell('grown', 'kd', 8, number)
        assert cell is not None
        for one, reached in ((cell, 0.30), (cell.needs[0], accuracy)):
            lines[one.name] = a_line(one, [0.1, reached], 8 * T)
    assert 'The earlier iterations end with 22.0 ± 2.8 % (n = 2).' in markdown(Study(scale, lines))


def test_seconds_are_counted_work_at_the_rates_of_runs_that_were_alone():
    scale = with_accuracies('cpu', {'': 0.5})
    alone = {}
    for arm, seconds, teacher, images in (
        ('baseline', 0.0, 0.0, 0),
        ('kd', 6.0, 3 * T, 0),
        ('kd_recorded', 1.0, 0, 50),
    ):
        cell = scale.cell('same', arm, 4, 0)
        assert cell is not None
        line = a_line(cell, [0.1], 30 * T, teacher, seconds_teacher_total=seconds, images_recorded_total=images)
        alone[cell.name] = line
    cell = scale.cell('same', 'kd', 8, 0)
    assert cell is not None
    study = Study(scale, {cell.name: a_line(cell, [0.3], 15 * T, 4 * T)}, alone)
    entry = study.entry('same', 'kd', 8)
    assert entry is not None
    costs = study.mean_costs(entry, seconds=True)
    assert costs is not None
    # 60 s for 30 T of training: 2 s each; 6 s for 3 T of teachers: 2 s each.
    assert (costs.student, costs.teachers) == (pytest.approx(30.0), pytest.approx(8.0))


def test_rates_are_medians_of_what_was_timed():
    scale = with_accuracies('cpu', {'': 0.5})
    alone = {}
    for arm, teacher, images in (('baseline', 0.0, 0), ('kd', 2 * T, 0), ('kd_recorded', 0.0, 30)):
        for number, seconds in enumerate((60.0, 90.0, 75.0)):
            cell = scale.cell('same', arm, 4, number)
            assert cell is not None
            of_teacher = {'seconds_teacher_total': seconds / 10, 'images_recorded_total': images}
            alone[cell.name] = a_line(cell, [0.1], 30 * T, teacher, **of_teacher, seconds_train_total=seconds)
    rates = Rates.of(alone)
    assert rates is not None
    assert (rates.student, rates.teacher, rates.lookup) == pytest.approx((75 / (30 * T), 7.5 / (2 * T), 7.5 / 30))
    assert 'medians of 9 short runs' in rates.measured
    assert 'the fastest and the slowest 50 % apart' in rates.measured


def test_arms_are_compared_at_the_epochs_that_all_of_them_are_tested_after():
    # Tested after every epoch, after every second one and after every fourth: the fourth is what all have.
    scale, lines = with_accuracies('cpu', {'': 0.5}), {}
    curve = [0.1, 0.2, 0.3, 0.31, 0.35, 0.36, 0.4, 0.41]
    for arm, every in (('kd_overtaken', 1), ('kd', 4)):
        cell = scale.cell('same', arm, 8, 0)
        assert cell is not None
        line = a_line(cell, curve, 8 * T)
        for epoch in line['epochs']:
            if epoch['epoch'] % every:
                del epoch['test_accuracy']
        lines[cell.name] = line
    study = Study(scale, lines)
    found = [study.cheapest('same', arm, 0.30) for arm in ('kd', 'kd_overtaken')]
    assert [one and one.epochs for one in found] == [4, 4]


def test_results_of_other_settings_under_the_same_name_are_refused():
    scale = with_accuracies('cpu', {'': 0.5})
    cell = scale.cell('same', 'kd', 8, 0)
    assert cell is not None
    teacher = {'live': f'runs/retrain/cpu/{cell.needs[0].name}'}
    config = {
        **cell.entry,
        'algorithms': {'TeacherMixupKD': {'teachers': [teacher], 'kd_weight': 1.0}},
        'device': 'gpu',
    }
    line = a_line(cell, [0.3], 8 * T)
    Study(scale, {cell.name: {**line, 'config': config}})
    with pytest.raises(UserError, match='batch_size=64, and the scale says 128; give the changes'):
        Study(scale, {cell.name: {**line, 'config': {**config, 'batch_size': 64}}})
    other = {'TeacherMixupKD': {'teachers': [{'live': 'runs/retrain/cpu/same.baseline.40ep.s1'}]}}
    with pytest.raises(UserError, match=r'algorithms\.TeacherMixupKD\.teachers\[0\]\.live='):
        Study(scale, {cell.name: {**line, 'config': {**config, 'algorithms': other}}})


def test_a_search_is_judged_on_the_validation_part_and_has_all_of_its_runs():
    scale, lines = with_accuracies('cpu', {'': 0.5}), {}
    for arm, validated, tested, work in (
        ('search@0.1', 0.50, 0.30, 8 * T), ('search@0.2', 0.40, 0.60, 8 * T),
        ('search_kd@0.2', 0.55, 0.50, 10 * T), ('search_kd@0.3', 0.45, 0.70, 10 * T),
    ):  # fmt: skip
        cell = scale.cell('search', arm, 4, 0)
        assert cell is not None
        lines[cell.name] = a_line(cell, [tested], work)
        lines[cell.name]['epochs'][-1]['val_accuracy'] = validated
    page = search(Study(scale, lines), 'search')
    assert '| the one chosen on the validation part | 30.0 (0.1) | 50.0 (0.2) |' in page
    assert '| mean of all | 45.0 | 50.0 |' in page
    assert '| work, 10^12 multiply-adds | 16.0 | 28.0 |' in page
    assert '| 0.1, which teaches | 30.0 | 30.0 |' in page


def test_the_ledger_counts_an_arm_s_runs_whatever_its_grid_is_thought_to_choose():
    won = with_accuracies('smoke', {'lr=0.05': 0.9, '': 0.1})
    lines = {cell.name: a_line(cell, [0.1], T) for cell in won.cells(['earlier', 'grid', 'main'])}
    rows = {
        line.split('`')[1]: line.split('|') for line in ledger(Scale('smoke'), lines).splitlines() if line[:3] == '| `'
    }
    for phase in ('grid', 'main'):
        assert rows[phase][3] == rows[phase][4], rows[phase]
    first = next(cell for cell in won.cells(['grid']))
    some = ledger(Scale('smoke'), {first.name: lines[first.name]})
    assert next(line for line in some.splitlines() if line.startswith('| `grid`')).split('|')[4].strip() == '1'


# -- the command ----------------------------------------------------------------------------------------------------

# Two earlier iterations, a grid of two points for two arms, one arm that looks up.
FEW = {'budgets': [1], 'seeds': 1, 'tune': {'scratch': [1], 'kd': [1]}}
PHASES = ('earlier', 'grid', 'main')


def command(*arguments: object) -> list[str]:
    return [sys.executable, '-m', 'benchmarks.retrain', 'smoke', *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}


def test_a_killed_study_goes_on_and_the_tables_come_from_the_lines_alone(tmp_path: Path):
    arguments = [f'save_folder={tmp_path / "runs"}', f'--results={tmp_path}', *(f'--phase={name}' for name in PHASES)]
    arguments += ['budgets=[1]', 'seeds=1', 'tune.scratch=[1]', 'tune.kd=[1]']
    process = subprocess.Popen(command(*arguments), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
    results = Results('smoke', tmp_path)
    while len(list(results)) < 3 and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = results.file.read_text().splitlines()
    assert len(before) >= 3

    scale = Scale('smoke', {**FEW, 'save_folder': str(tmp_path / 'runs')}, results.accuracy)
    assert Worker(scale, results, io.StringIO()).run(PHASES)
    after = results.file.read_text().splitlines()
    assert after[: len(before)] == before
    names = [json.loads(line)['cell'] for line in after]
    assert len(set(names)) == len(names) == 2 + 4 + 1
    line = json.loads(after[-1])
    assert len(line['epochs']) == 1
    assert line['hardware']['cores'] > 0
    assert 0 <= line['evaluation']['test']['calibration_error'] <= 1
    assert set(line['evaluation']['test']['agreement']) == {'same.baseline.3ep.s0'}

    # Nothing is left to do, and the page needs no run directory.
    stream = io.StringIO()
    assert Worker(scale, results, stream).run(PHASES)
    assert stream.getvalue() == ''
    write_overlaps(scale, results)
    (taught,) = [one for one in results.by_name().values() if one['arm'] == 'kd_recorded']
    (agreement,) = taught['evaluation']['test']['agreement'].values()
    assert taught['overlap']['same']['agrees'] == pytest.approx(agreement, abs=1e-4)
    page = markdown(Study(scale, results.by_name()))
    assert '| `kd_recorded` | 1 |' in page
    assert '**What is passed on of the earlier iteration**' in page
    shutil.rmtree(tmp_path / 'runs')
    again = Scale('smoke', FEW, Results('smoke', tmp_path).accuracy)
    assert markdown(Study(again, Results('smoke', tmp_path).by_name())) == page


def test_what_is_passed_on_is_counted_by_hand():
    def answers(*classes: int) -> Predictions:
        return Predictions(torch.eye(4)[list(classes)], torch.tensor([0, 1, 2, 3, 0]), torch.arange(5), {})

    # The earlier model has samples 0 to 2 right; this one agrees on 0, 1 and 4, has lost 2 and learned 3.
    found = overlap(answers(0, 1, 3, 3, 2), answers(0, 1, 2, 0, 2))
    assert found == {
        'agrees': 0.6,
        'right_where_it_was_wrong': 0.5,
        'same_wrong_answer': 0.5,
        'wrong_where_it_was_right': pytest.approx(1 / 3, abs=1e-5),
    }


@pytest.mark.slow
def test_the_whole_smoke_scale_by_two_workers(tmp_path: Path):
    arguments = [f'save_folder={tmp_path / "runs"}', f'--results={tmp_path}', '--workers=2']
    subprocess.run(command(*arguments), cwd=tmp_path, env=environment(), check=True, capture_output=True, timeout=280)
    scale = Scale('smoke', {'save_folder': str(tmp_path / 'runs')})
    results = Results('smoke', tmp_path)
    scale.accuracy = results.accuracy
    names = [line['cell'] for line in results]
    assert len(set(names)) == len(names)
    assert {cell.name for cell in scale.cells()} <= set(names)
    assert scale.waiting() == 0
    assert (tmp_path / 'smoke-same.png').stat().st_size > 10_000
