"""Real processes: killed, interrupted, out of space, two at once, two ranks."""

from __future__ import annotations

import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from composer_kd.archive import Archive, RunDir, verify
from tests.runs.common import command, environment, run, write_yaml


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    """Wait until ``condition`` holds; a process that ends before, or a wait without end, fails the test."""
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError('waited in vain')


def start(*arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    return subprocess.Popen(
        command(*arguments, launcher=launcher),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_killed_in_the_middle_it_continues_to_the_same_weights(tmp_path: Path) -> None:
    whole, broken = tmp_path / 'whole', tmp_path / 'broken'
    whole.mkdir()
    broken.mkdir()
    options = ('max_duration=12ep', '--no-report', 'save_interval=3ba', 'keep_checkpoints=2')
    assert run(write_yaml(whole), *options).returncode == 0
    file = write_yaml(broken)
    student = RunDir(broken / 'runs' / 'gen1')
    process = start(file, *options)
    wait_for(lambda: len(student.metrics()) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not student.finished
    again = run(file, *options)
    assert again.returncode == 0, again.stderr
    assert 'gen0: finished before' in again.stdout
    assert 'gen1: continues from its checkpoint after epoch' in again.stdout
    uninterrupted = RunDir(whole / 'runs' / 'gen1')
    assert student.manifest().weights.hash == uninterrupted.manifest().weights.hash
    timeless = [
        [{k: v for k, v in line.items() if 'second' not in k and k != 'runs_beside'} for line in lines.metrics()]
        for lines in (student, uninterrupted)
    ]
    assert timeless[0] == timeless[1]
    said = [(one.path / 'predictions' / 'test.safetensors').read_bytes() for one in (student, uninterrupted)]
    assert said[0] == said[1]


def test_ctrl_c_is_one_line_that_says_how_to_continue(tmp_path: Path) -> None:
    file = write_yaml(tmp_path, max_duration='500ep')
    process = start(file)
    # The second line: by then the first epoch's checkpoint, which follows its line, is there.
    wait_for(lambda: len(RunDir(tmp_path / 'runs' / 'gen0').metrics()) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line for line in error.splitlines() if line.strip()] == [
        'composer-kd: interrupted; repeat the same command to continue from the last checkpoint'
    ]
    assert RunDir(tmp_path / 'runs' / 'gen0').checkpoint() is not None


def test_two_commands_do_not_share_a_run(tmp_path: Path) -> None:
    file = write_yaml(tmp_path, max_duration='500ep')
    process = start(file)
    try:
        wait_for(lambda: len(RunDir(tmp_path / 'runs' / 'gen0').metrics()) >= 1, process)
        second = run(file)
        assert second.returncode == 1
        assert 'gen0 is in use by process' in second.stderr
        assert second.stderr.count('composer-kd:') == 1
    finally:
        process.kill()
        process.communicate()


def test_a_full_disk_is_one_line_and_what_was_there_stays(tmp_path: Path) -> None:
    file = write_yaml(tmp_path, max_duration='2ep')
    assert run(file, '--only', 'gen0', '--no-report').returncode == 0
    before = RunDir(tmp_path / 'runs' / 'gen0').manifest()
    limit = 100_000  # Less than a checkpoint, which meets this as it would meet the end of a disk.
    failed = run(
        file,
        '--only',
        'gen1',
        '--no-report',
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        ),
    )
    assert failed.returncode == 1, failed.stderr
    lines = [line for line in failed.stderr.splitlines() if line.strip()]
    assert len([line for line in lines if line.startswith('composer-kd:')]) == 1, failed.stderr
    assert 'cannot' in lines[-1]
    assert 'Traceback' not in failed.stderr
    assert not (tmp_path / 'runs' / 'gen1' / 'weights.safetensors').exists()
    assert RunDir(tmp_path / 'runs' / 'gen0').manifest() == before
    assert run(file, '--only', 'gen1', '--no-report').returncode == 0, 'with space again, the same command goes on'


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    failed = run(write_yaml(tmp_path), f'save_folder={tmp_path / "file" / "runs"}')
    assert failed.returncode == 1
    assert failed.stderr.count('\n') == 1
    assert 'cannot write' in failed.stderr


def test_two_ranks_write_once_and_agree_with_one(tmp_path: Path) -> None:
    lines = {}
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        archive = {'losses': True, 'logits': {'views': 2}}
        done = run(write_yaml(folder, archive=archive), '--no-report', launcher=('-n', str(ranks)))
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count('[2/2] gen1: done') == 1
        assert done.stdout.count('gen1: view 2 of 2: 500 images in') == 1
        student = RunDir(folder / 'runs' / 'gen1')
        assert student.finished
        lines[ranks] = student.metrics()
        assert [line['epoch'] for line in lines[ranks]] == [1, 2, 3]
        assert {line['world_size'] for line in lines[ranks]} == {ranks}
        assert len(list(student.checkpoints.glob('*rank1*'))) == 0
    for one, two in zip(lines[1], lines[2], strict=True):
        assert one['samples'] == two['samples']
        assert one['multiply_adds_student_total'] == two['multiply_adds_student_total']
        assert one['multiply_adds_teacher_total'] == two['multiply_adds_teacher_total']
        for key in ('loss_total', 'loss_label', 'loss_distill', 'val_cross_entropy', 'test_cross_entropy'):
            assert two[key] == pytest.approx(one[key], rel=1e-4), key
        assert two['train_accuracy_running'] == pytest.approx(one['train_accuracy_running'], abs=0.01)
    one, two = (Archive(tmp_path / ranks / 'runs' / 'gen1') for ranks in '12')
    verify(two.run.path)
    assert one.samples().ids.tolist() == two.samples().ids.tolist()
    for kind, numbers, column in (('loss', [0, 1, 2], 'loss'), ('logits', [0, 1], 'logits')):
        assert one.numbers(kind) == two.numbers(kind) == numbers
        for number in numbers:
            mine, theirs = one.table(kind, number), two.table(kind, number)
            assert torch.equal(mine['seen'], theirs['seen'])
            torch.testing.assert_close(mine[column].float(), theirs[column].float(), rtol=1e-2, atol=1e-2)


def test_a_mistake_is_told_once_by_two_ranks(tmp_path: Path) -> None:
    failed = run(write_yaml(tmp_path), 'optimizer.momentun=0.9', launcher=('-n', '2'))
    assert failed.returncode != 0
    assert failed.stderr.count("optimizer.momentun: unknown key; did you mean 'momentum'") == 1
    assert 'Traceback' not in failed.stderr


def test_independent_runs_go_side_by_side(tmp_path: Path) -> None:
    lineage = {'a': None, 'b': None, 'c': {'algorithms': {'TeacherMixupKD': {'teachers': ['a', 'b']}}}}
    done = run(write_yaml(tmp_path, lineage=lineage, side_by_side=2), '--no-report')
    assert done.returncode == 0, done.stdout + done.stderr
    assert '3 runs in' in done.stdout
    assert done.stdout.index('c: mlp') > max(done.stdout.index('a: done'), done.stdout.index('b: done'))
    assert all(RunDir(tmp_path / 'runs' / name).finished for name in 'abc')
    failed = run(write_yaml(tmp_path, lineage=lineage, side_by_side=2), 'optimizer.lr=0.9', '--no-report')
    assert failed.returncode == 1
    assert 'was begun with other settings' in failed.stdout + failed.stderr
