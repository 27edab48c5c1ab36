import os
import stat
import subprocess
import sys
import textwrap
import time

import pytest
import torch
import xxhash

from composer_kd.archive import atomic_write, replacing, xxh3_of
from composer_kd.archive.table import write_table
from composer_kd.core.errors import UserError
from composer_kd.storage.atomic import _host


def run(code, *arguments):
    """A fresh interpreter, for limits and identities that a test must not take on itself."""
    command = [sys.executable, '-c', textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_writes_bytes_and_text(tmp_path):
    atomic_write(tmp_path / 'new' / 'a', b'\0\xff')
    atomic_write(tmp_path / 'new' / 'b', 'grün\n')
    assert (tmp_path / 'new' / 'a').read_bytes() == b'\0\xff'
    assert (tmp_path / 'new' / 'b').read_bytes() == 'grün\n'.encode()
    assert sorted(os.listdir(tmp_path / 'new')) == ['a', 'b']


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / 'a', b'')
        write_table(tmp_path / 'b', {'loss': torch.zeros(2)})
    finally:
        os.umask(before)
    for name in 'ab':
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt, FileNotFoundError])
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / 'a'
    atomic_write(path, b'old')

    def write_half():
        with replacing(path) as temporary:
            assert temporary.parent == tmp_path
            temporary.write_bytes(b'ne')
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['a']


def test_the_old_file_is_whole_until_the_new_one_is(tmp_path):
    path = tmp_path / 'a'
    atomic_write(path, b'old')
    with replacing(path) as temporary:
        temporary.write_bytes(b'new')
        assert path.read_bytes() == b'old'
        reader = open(path, 'rb')  # noqa: SIM115
    with reader:
        assert reader.read() == b'old', 'written in place, not renamed'
    assert path.read_bytes() == b'new'


def test_what_a_killed_writer_left_is_removed_by_the_next_one_of_that_file(tmp_path):
    killed = """
        import os, signal, sys
        from composer_kd.archive import replacing
        with replacing(sys.argv[1]) as temporary:
            temporary.write_bytes(b'half')
            os.kill(os.getpid(), signal.SIGKILL)
        """
    for name in 'ab':
        run(killed, tmp_path / name)
    assert len(os.listdir(tmp_path)) == 2
    atomic_write(tmp_path / 'a', b'whole')
    assert sorted(name[:3] for name in os.listdir(tmp_path)) == ['.b.', 'a'], "another file's is left alone"


def test_what_may_still_be_written_is_left_alone(tmp_path):
    """Ours and that of others who live; of another host and of before hosts were named, until a day is over."""
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    kept = [
        f'.a.{os.getpid()}-{_host()}-00000000.tmp',
        f'.a.1-{_host()}-00000000.tmp',
        f'.a.{dead.pid}-ffffffff-00000000.tmp',
        f'.a.{dead.pid}-00000000.tmp',
        f'.a.{2**33 - 1}-{_host()}-00000000.tmp',
    ]
    others = [f'.a.b.{dead.pid}-{_host()}-00000000.tmp', f'a.{dead.pid}-{_host()}-00000000.tmp', '.a.tmp', '.a.0-0.tmp']
    for name in (*kept, *others, f'.a.{dead.pid}-{_host()}-00000000.tmp'):
        (tmp_path / name).touch()
    atomic_write(tmp_path / 'a', b'')
    assert sorted(os.listdir(tmp_path)) == sorted(['a', *kept, *others])
    yesterday = time.time() - 25 * 3600
    for name in (*kept, *others):
        os.utime(tmp_path / name, (yesterday, yesterday))
    atomic_write(tmp_path / 'a', b'')
    assert sorted(os.listdir(tmp_path)) == sorted(['a', *others])


def test_a_limit_in_the_middle_of_a_file(tmp_path):
    done = run(
        """
        import resource, sys
        from composer_kd.archive import atomic_write
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            atomic_write(sys.argv[1] + '/a', bytes(20000))
        except Exception as error:
            print(type(error).__name__, error)
        """,
        tmp_path,
    )
    assert done.stdout.startswith(f'UserError {tmp_path}: cannot write: the file would be larger'), done.stderr
    assert os.listdir(tmp_path) == []


def test_a_full_disk(tmp_path):
    """A file system of 64 KiB of our own, where the kernel lets us mount one."""
    code = """
        import os, subprocess, sys
        from composer_kd.archive import atomic_write
        folder = sys.argv[1]
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'none', folder], check=True)
        atomic_write(folder + '/a', b'old')
        try:
            atomic_write(folder + '/a', bytes(1 << 20))
        except Exception as error:
            print(type(error).__name__, error)
        print(os.listdir(folder), open(folder + '/a').read())
        """
    command = ['unshare', '-rm', sys.executable, '-c', textwrap.dedent(code), str(tmp_path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip('no unshare here to mount a small disk with')
    if 'unshare' in done.stderr or 'mount' in done.stderr:
        pytest.skip(f'no small disk can be mounted here: {done.stderr.strip().splitlines()[-1]}')
    assert done.stdout.splitlines() == [
        f'UserError {tmp_path}: cannot write: the disk is full; free some space there or choose another folder',
        "['a'] old",
    ]


def test_a_folder_that_is_not_ours(tmp_path):
    locked = tmp_path / 'locked'
    locked.mkdir()
    locked.chmod(0o555)
    tmp_path.chmod(0o755)
    done = run(
        """
        import os, sys
        from composer_kd.archive import atomic_write
        if os.getuid() == 0:  # for root there is no such thing
            folder = os.open(sys.argv[1], os.O_RDONLY)
            os.fchdir(folder)
            os.setuid(65534)
        else:
            os.chdir(sys.argv[1])
        for path in ('a', 'deeper/a'):
            try:
                atomic_write(path, b'')
            except Exception as error:
                print(type(error).__name__, error)
        """,
        locked,
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith('UserError .: cannot write: there is no permission'), done.stderr
    assert lines[1].startswith('UserError deeper: cannot write: there is no permission')
    assert os.listdir(locked) == []


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / 'file').touch()
    for path in (tmp_path / 'file' / 'a', tmp_path / 'file' / 'deeper' / 'a'):
        with pytest.raises(UserError, match='is a file, not a folder'):
            atomic_write(path, b'')


def test_hash_is_xxh3_128_of_the_bytes(tmp_path):
    data = bytes(range(256)) * 9000
    atomic_write(tmp_path / 'a', data)
    assert xxh3_of(tmp_path / 'a') == xxhash.xxh3_128_hexdigest(data)
    (tmp_path / 'a').write_bytes(data[:-1] + b'\0')
    assert xxh3_of(tmp_path / 'a') != xxhash.xxh3_128_hexdigest(data)
