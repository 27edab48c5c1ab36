import json
import subprocess
import sys
import textwrap

import pytest

from composer_kd.core.errors import UserError
from composer_kd.storage.jsonl import append_line, read_lines, rewrite_lines


def test_append_and_read(tmp_path):
    path = tmp_path / 'new' / 'm.jsonl'
    assert read_lines(path) == []
    records = [{'epoch': 1, 'loss': 0.1 + 0.2}, {'epoch': 2, 'name': 'größer\n'}]
    for record in records:
        append_line(path, record)
    assert read_lines(path) == records
    assert len(path.read_bytes().splitlines()) == 2


@pytest.mark.parametrize('cut', range(1, 20))
def test_a_kill_inside_the_last_line(tmp_path, cut):
    path = tmp_path / 'm.jsonl'
    append_line(path, {'epoch': 1})
    append_line(path, {'epoch': 2, 'x': 'y'})
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert read_lines(path) == [{'epoch': 1}]
    append_line(path, {'epoch': 2, 'x': 'again'})
    assert read_lines(path) == [{'epoch': 1}, {'epoch': 2, 'x': 'again'}]


def test_a_cut_line_longer_than_a_block(tmp_path):
    path = tmp_path / 'm.jsonl'
    append_line(path, {'epoch': 1})
    with open(path, 'ab') as file:
        file.write(b'{"x": "' + b'y' * 10_000)
    append_line(path, {'epoch': 2})
    assert [line['epoch'] for line in read_lines(path)] == [1, 2]
    path.write_bytes(b'y' * 9000)
    append_line(path, {'epoch': 1})
    assert read_lines(path) == [{'epoch': 1}]


@pytest.mark.parametrize('damaged', [b'{"epoch": 1', b'[1]', b'\xff\xfe', b'nonsense'])
def test_damage_before_the_end_is_named(tmp_path, damaged):
    path = tmp_path / 'm.jsonl'
    path.write_bytes(b'{"epoch": 1}\n' + damaged + b'\n{"epoch": 3}\n')
    with pytest.raises(UserError, match=r'm\.jsonl:2: not a JSON object'):
        read_lines(path)


def test_numbers_that_json_lacks(tmp_path):
    path = tmp_path / 'm.jsonl'
    append_line(path, {'a': float('nan'), 'b': [1.5, float('inf')], 'c': {'d': float('-inf')}})
    assert read_lines(path) == [{'a': None, 'b': [1.5, None], 'c': {'d': None}}]
    json.loads(path.read_text(), parse_constant=pytest.fail)


def test_a_full_disk_costs_one_line(tmp_path):
    code = """
        import resource, sys
        from pathlib import Path
        from composer_kd.storage.jsonl import append_line
        path = Path(sys.argv[1])
        append_line(path, {'epoch': 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
        try:
            append_line(path, {'epoch': 2, 'x': 'y' * 1000})
        except Exception as error:
            print(type(error).__name__, error)
        append_line(path, {'epoch': 3})
        """
    path = tmp_path / 'm.jsonl'
    command = [sys.executable, '-c', textwrap.dedent(code), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(f'UserError {tmp_path}: cannot write: '), done.stderr
    assert path.read_bytes() == b'{"epoch": 1}\n{"epoch": 3}\n'


def test_rewrite(tmp_path):
    path = tmp_path / 'm.jsonl'
    rewrite_lines(path, [{'epoch': 1}, {'epoch': 2}])
    rewrite_lines(path, [{'epoch': 1}])
    assert path.read_bytes() == b'{"epoch": 1}\n'
