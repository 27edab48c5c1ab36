"""What the files of one command take: the table, and the mistakes of who asks for one."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from benchmarks.results import HERE


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch):
    spec = importlib.util.spec_from_file_location('one_command', HERE / 'one_command' / 'one_command.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'one_command', module)
    spec.loader.exec_module(module)
    return module


def test_the_table_adds_up_the_trainings_of_a_file(program) -> None:
    runs = {'teacher': {'seconds': 20.4, 'test': 50.6}, 'student': {'seconds': 10.2, 'test': 40.4}}
    result = {
        'command': 'a command',
        'date': '2026-01-01',
        'hardware': {'cpu': 'a processor', 'cores': 2},
        'versions': {'torch': '2'},
        'files': {'some.yaml': {'seconds': 41.7, 'runs': runs, 'date': '2026-01-01'}},
    }
    page = program.table(result)
    assert page.splitlines()[-1] == '| `yamls/some.yaml` | 2 | 42 | 31 | teacher 51, student 40 |'
    assert '`a command`, 2026-01-01, a processor, 2 cores, torch 2.' in page


def test_a_file_that_is_not_there_is_named(
    program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['one_command', 'tadk.yaml'])
    with pytest.raises(SystemExit) as stopped:
        program.main()
    assert stopped.value.code == 2
    assert 'tadk.yaml: there is no such file in yamls/' in capsys.readouterr().err


@pytest.mark.slow
def test_a_file_is_run_and_measured(program, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    small = ['data.synthetic.train_size=300', 'data.synthetic.test_size=100', 'max_duration=1ep', 'batch_size=64']
    monkeypatch.setattr(sys, 'argv', ['one_command', 'takd.yaml', *small, '--out', str(tmp_path)])
    assert program.main() == 0
    page = (tmp_path / 'one_command.md').read_text()
    assert '| `yamls/takd.yaml` | 4 |' in page
