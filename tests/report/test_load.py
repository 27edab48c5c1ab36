"""Finding and reading run directories."""

from __future__ import annotations

import json

import pytest

from composer_kd.core.errors import UserError
from composer_kd.report.load import collect, group_arms
from tests.report.runs_on_disk import KD, accuracies, write_run


def test_runs_are_found_up_to_two_levels_below_and_once(tmp_path):
    write_run(tmp_path / 'runs' / 'a' / 'gen10', accuracies([0.1]))
    write_run(tmp_path / 'runs' / 'a' / 'gen9', accuracies([0.1]))
    write_run(tmp_path / 'runs' / 'b', accuracies([0.1]))
    write_run(tmp_path / 'runs' / 'x' / 'y' / 'too-deep', accuracies([0.1]))
    (tmp_path / 'link').symlink_to(tmp_path / 'runs' / 'b')
    runs = collect([tmp_path / 'runs', tmp_path / 'runs' / 'b', tmp_path / 'link'])
    assert [run.name for run in runs] == ['gen9', 'gen10', 'b']
    assert [run.name for run in collect(str(tmp_path / 'runs' / 'b'))] == ['b']


def test_the_order_given_is_kept(tmp_path):
    for name in 'ab':
        write_run(tmp_path / name, accuracies([0.1]), arm=name)
    assert [arm.name for arm in group_arms(collect([tmp_path / 'b', tmp_path / 'a']))] == ['b', 'a']


@pytest.mark.parametrize('what', ['missing', 'empty', 'file'])
def test_a_path_without_a_run_is_one_line(tmp_path, what):
    path = tmp_path / what
    if what == 'empty':
        path.mkdir()
    elif what == 'file':
        path.write_text('')
    with pytest.raises(UserError) as caught:
        collect([path])
    assert str(path) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_half_written_last_line_is_left_out(tmp_path):
    run = write_run(tmp_path / 'r', accuracies([0.1, 0.2]), planned=5, manifest=False)
    with (run / 'metrics.jsonl').open('a') as file:
        file.write('{"epoch": 3, "test_acc')
    (found,) = collect(run)
    assert found.last_epoch == 2
    assert not found.finished


def test_a_manifest_that_recorders_began_is_not_that_of_a_finished_run(tmp_path):
    run = write_run(tmp_path / 'r', accuracies([0.1, 0.2]), max_duration='100ba')
    assert collect(run)[0].finished
    file = run / 'archive' / 'manifest.json'
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({**manifest, 'weights': None, 'finished_epoch': None}))
    assert not collect(run)[0].finished


def test_a_broken_line_elsewhere_is_refused_with_its_number(tmp_path):
    run = write_run(tmp_path / 'r', accuracies([0.1, 0.2, 0.3]))
    lines = (run / 'metrics.jsonl').read_text().splitlines()
    (run / 'metrics.jsonl').write_text('\n'.join([lines[0], 'oops', lines[2]]) + '\n')
    with pytest.raises(UserError, match=r'metrics\.jsonl: line 2'):
        collect(run)


def test_a_repeated_epoch_counts_as_written_last_and_nan_is_missing(tmp_path):
    run = write_run(tmp_path / 'r', accuracies([0.1, 0.2]))
    with (run / 'metrics.jsonl').open('a') as file:
        file.write(json.dumps({'epoch': 2, 'test_accuracy': 0.25, 'loss_total': float('nan')}) + '\n')
    (found,) = collect(run)
    assert [record['test_accuracy'] for record in found.epochs] == [0.1, 0.25]
    assert found.epochs[1]['loss_total'] is None


def test_a_run_that_has_not_begun_is_listed_but_forms_no_arm(tmp_path):
    write_run(tmp_path / 'a', accuracies([0.1]), arm='a')
    write_run(tmp_path / 'b', [], arm='b', planned=3, manifest=False)
    runs = collect(tmp_path)
    assert len(runs) == 2
    assert [arm.name for arm in group_arms(runs)] == ['a']
    with pytest.raises(UserError, match='has finished an epoch'):
        collect(tmp_path / 'b')


def test_yaml_is_read_safely(tmp_path):
    run = write_run(tmp_path / 'r', accuracies([0.1]))
    marker = tmp_path / 'executed'
    (run / 'run.yaml').write_text(
        f'name: !!python/object/apply:pathlib.Path.touch [!!python/object/new:str ["{marker}"]]'
    )
    with pytest.raises(UserError, match=r'run\.yaml'):
        collect(run)
    assert not marker.exists()


def test_only_finished_runs_enter_means_once_there_is_one(tmp_path):
    write_run(tmp_path / 'a0', accuracies([0.1, 0.2]), arm='a', planned=4, manifest=False)
    write_run(tmp_path / 'a1', accuracies([0.1, 0.2, 0.3, 0.4]), arm='a')
    write_run(tmp_path / 'b0', accuracies([0.1]), arm='b', planned=4, manifest=False)
    a, b = group_arms(collect(tmp_path))
    assert [run.name for run in a.counted] == ['a1']
    assert [run.name for run in b.counted] == ['b0']
    assert (a.finished, b.finished) == (True, False)


def test_what_makes_a_run_one_with_teachers(tmp_path):
    plain = write_run(tmp_path / 'plain', accuracies([0.1]), algorithms={'mixup': {'alpha': 0.2}})
    named = write_run(tmp_path / 'named', accuracies([0.1]), algorithms=KD)
    logged = write_run(tmp_path / 'logged', accuracies([0.1], loss_distill=0.5))
    assert [run.recycles for run in collect([plain, named, logged])] == [[], ['teachers'], ['teachers']]


def test_control_characters_leave_names(tmp_path):
    run = write_run(tmp_path / 'r', accuracies([0.1]), arm='red\x1b[31m\nrow')
    assert collect(run)[0].arm == 'red�[31m�row'
