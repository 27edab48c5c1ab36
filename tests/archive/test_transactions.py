"""Kills, full disks and several writers: an archive is always in a state that somebody wrote."""

import fcntl
import os
import resource
import shutil
import signal
import traceback

import numpy as np
import pytest
import torch

from composer_kd.archive import Archive, verify
from composer_kd.archive.samples import Samples
from composer_kd.core.errors import UserError
from composer_kd.storage.locks import locked
from tests.archive.common import losses, samples, values

torch.set_num_threads(1)

BEFORE = {(5, 50): 0.5, (6, 60): 0.6}
AFTER = {(5, 50): 0.5, (6, 60): 6.0, (7, 70): 0.7}


@pytest.fixture
def archive(tmp_path, manifest):
    archive = Archive(tmp_path / 'gen0')
    archive.begin(manifest({}))
    archive.put('loss', 0, samples((5, 50, 0), (6, 60, 1)), losses(0.5, 0.6))
    return archive


def enter(archive):
    """Changes the samples, the table and the manifest."""
    archive.put('loss', 0, samples((6, 60, 1), (7, 70, 2)), losses(6.0, 0.7))


def forked(work):
    """The wait status of a child that does ``work``: a process of its own without importing torch again."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def outcome(child):
    return os.waitpid(child, 0)[1]


def files(archive):
    folder = archive.run.path / 'archive'
    return {path.relative_to(archive.run.path).as_posix() for path in folder.rglob('*') if path.is_file()}


def test_a_writer_killed_at_any_step_leaves_a_whole_state(archive):
    """Before each of the calls that reach the disk in turn, until one transaction gets through."""
    source = archive.run.path
    states = []
    for step in range(100):
        run = source.with_name(f'killed{step}')
        shutil.copytree(source, run)

        def killed(run=run, step=step):
            left = [step]

            def die_first(function):
                def called(*arguments, **options):
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left[0] -= 1
                    return function(*arguments, **options)

                return called

            for name in ('replace', 'fsync', 'unlink', 'open'):
                setattr(os, name, die_first(getattr(os, name)))
            enter(Archive(run))

        status = outcome(forked(killed))
        left = Archive(run)
        states.append(values(left, 'loss', 0, 'loss'))
        verify(run)
        left.check()
        enter(left)
        assert values(left, 'loss', 0, 'loss') == AFTER, step
        assert files(left) == {*left.manifest().files, 'archive/manifest.json', 'archive/.lock'}, 'nothing is left over'
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert len(states) > 12, 'all steps were met'
    assert BEFORE in states
    assert AFTER in states[:-1], 'also killed after the manifest'
    assert all(state in (BEFORE, AFTER) for state in states)
    assert states == sorted(states, key=lambda state: state == AFTER), 'one moment divides them'


@pytest.mark.parametrize('room', ['nothing', 'samples', 'samples and table'])
def test_a_file_that_cannot_be_written_changes_nothing(archive, room):
    """The system refuses for real, as it does when a disk is full: first the samples, then the table, the manifest."""
    many = Samples(np.arange(300), np.arange(300).astype(np.uint64), np.zeros(300, np.int64))
    wide = {'logits': torch.zeros(300, {'samples': 100}.get(room, 2), dtype=torch.float16)}
    limit = {'nothing': 2000, 'samples': 10_000, 'samples and table': 10_000}[room]
    if room == 'samples and table':
        archive.update(lambda manifest: manifest.model_copy(update={'hardware': {'cpu': 'x' * 20_000}}))
    before = files(archive), archive.run.manifest_file.read_bytes()

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(UserError, match='cannot write: the file would be larger') as refusal:
            archive.put('logits', 0, many, wide)
        place = {'nothing': '', 'samples': '/logits', 'samples and table': ''}[room]
        assert str(refusal.value).startswith(f'{archive.run.path}/archive{place}: ')

    assert outcome(forked(limited)) == 0
    assert (files(archive), archive.run.manifest_file.read_bytes()) == before
    archive.put('logits', 0, many, wide)
    archive.check()


def test_a_full_disk_is_named(archive, monkeypatch):
    import safetensors.torch

    def full(*arguments, **options):
        raise safetensors.SafetensorError('Error while serializing: I/O error: No space left on device (os error 28)')

    monkeypatch.setattr(safetensors.torch, 'save_file', full)
    with pytest.raises(UserError, match='archive: cannot write: the disk is full; free some space there'):
        enter(archive)
    assert values(archive, 'loss', 0, 'loss') == BEFORE


def test_several_writers_and_a_reader_lose_nothing(archive):
    """Each writer enters rows of its own into one table; whatever a reader finds is whole."""
    writers, rows = 3, 6

    def write(writer):
        mine = Archive(archive.run.path)
        for row in range(rows):
            number = 100 * writer + row
            mine.put('loss', 1, samples((number, number, 0)), losses(float(number)))

    children = [forked(lambda writer=writer: write(writer)) for writer in range(1, writers + 1)]
    reader, found = Archive(archive.run.path), {}
    running = set(children)
    while running:
        if 1 in reader.epochs:
            now = values(reader, 'loss', 1, 'loss')
            assert found.keys() <= now.keys(), 'what was there is there'
            assert all(value == number for (number, _), value in now.items())
            found = now
        for child in list(running):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                assert status == 0
                running.remove(child)
    expected = {100 * writer + row for writer in range(1, writers + 1) for row in range(rows)}
    assert {number for number, _ in values(reader, 'loss', 1, 'loss')} == expected
    assert values(reader, 'loss', 0, 'loss') == BEFORE
    archive.check()


def test_a_worker_forked_inside_does_not_hold_the_lock(archive):
    lock, (pipe, end) = archive.run.path / 'archive' / '.lock', os.pipe()
    with locked(lock):
        child = forked(lambda: os.read(pipe, 1))
    with open(lock) as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(end, b'x')
    assert outcome(child) == 0
