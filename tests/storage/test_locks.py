import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest

from composer_kd.archive import RunDir
from composer_kd.core.errors import UserError

HOLDER = """
    import os, sys, time
    from composer_kd.archive import RunDir
    with RunDir(sys.argv[1]).lock():
        child = os.fork() if sys.argv[2] == 'fork' else -1
        if child:
            print(child, flush=True)
        time.sleep(60)
    """


def hold(path, mode='alone'):
    """A process that holds the lock, and its forked child's id, or -1."""
    process = subprocess.Popen(
        [sys.executable, '-c', textwrap.dedent(HOLDER), str(path), mode], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, int(process.stdout.readline())


def test_the_second_process_is_told_who_is_first(tmp_path):
    run = RunDir(tmp_path / 'gen0')
    process, _ = hold(run.path)
    try:
        with pytest.raises(UserError) as refusal, run.lock():
            pass
        who = rf'{re.escape(str(run.path))} is in use by process {process.pid} on {os.uname().nodename} since 20\d\d-'
        assert re.match(who, str(refusal.value))
        assert '\n' not in str(refusal.value)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        with run.lock():
            pass
    finally:
        process.kill()
        process.wait()


def test_a_forked_worker_does_not_keep_it(tmp_path):
    run = RunDir(tmp_path / 'gen0')
    process, child = hold(run.path, 'fork')
    try:
        process.kill()
        process.wait(timeout=10)
        os.kill(child, 0)  # the orphan lives on
        with run.lock():
            pass
    finally:
        process.kill()
        process.wait()
        os.kill(child, signal.SIGKILL)


def test_the_same_process_twice(tmp_path):
    run = RunDir(tmp_path / 'gen0')
    with run.lock():
        with pytest.raises(UserError, match=f'by process {os.getpid()} on'), RunDir(run.path).lock():
            pass
        with pytest.raises(UserError, match='is in use'), run.lock():
            pass
    with run.lock(), RunDir(tmp_path / 'gen1').lock():
        pass


def test_an_error_inside_releases_it(tmp_path):
    run = RunDir(tmp_path / 'gen0')
    with pytest.raises(KeyboardInterrupt), run.lock():
        raise KeyboardInterrupt
    with run.lock():
        pass
    assert (run.path / '.lock').read_bytes() == b''


def test_a_holder_that_says_nothing(tmp_path):
    run = RunDir(tmp_path / 'gen0')
    for content in (b'', b'\xff', b'pid: [', b'- 3'):
        with run.lock():
            (run.path / '.lock').write_bytes(content)
            with pytest.raises(UserError, match='gen0 is in use; wait'), run.lock():
                pass


def test_a_forked_child_that_leaves_the_block_does_no_harm(tmp_path):
    run = RunDir(tmp_path / 'gen0')
    held = run.lock()
    held.__enter__()
    child = os.fork()
    if not child:
        code = 1
        try:
            other = os.open(tmp_path, os.O_RDONLY)  # takes the number that the lock's descriptor had
            held.__exit__(None, None, None)
            os.fstat(other)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(UserError, match=f'by process {os.getpid()}'), run.lock():
        pass
    held.__exit__(None, None, None)
    with run.lock():
        pass
