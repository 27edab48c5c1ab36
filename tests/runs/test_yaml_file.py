"""YAML as a person means it, and changes on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer_kd.core.errors import UserError
from composer_kd.runs.yaml_file import apply_overrides, find_yaml, read_yaml, shipped_yamls


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / 'file.yaml'
    path.write_text(text)
    return path


def test_numbers_are_numbers(tmp_path: Path) -> None:
    values = read_yaml(write(tmp_path, 'a: 5e-4\nb: 1e3\nc: 0.1\nd: 5ep\ne: 1.5E-2\nf: "5e-4"\n'))
    assert values == {'a': 5e-4, 'b': 1000.0, 'c': 0.1, 'd': '5ep', 'e': 0.015, 'f': '5e-4'}


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    values = read_yaml(write(tmp_path, 'x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\n'))
    assert values['y'] == {'a': 1, 'b': 3}


@pytest.mark.parametrize(
    ('text', 'line'),
    [
        ('a: 1\na: 2\n', r"file.yaml: line 2: 'a' is there twice"),
        ('a:\n  b: 1\n  c: 2\n  b: 3\n', r"line 4: 'b' is there twice"),
        ('a: [1, 2\nb: 3\n', r'file.yaml, line 2: this is no YAML'),
        ('- a\n- b\n', r'expected a mapping at the top of the file, got list'),
        ('', r'the file is empty; `composer-kd init` writes some'),
        ('a: !!python/object/apply:os.system [ls]\n', r'this is no YAML: could not determine a constructor'),
    ],
)
def test_mistakes_name_the_line(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(UserError, match=line) as raised:
        read_yaml(write(tmp_path, text))
    assert '\n' not in str(raised.value)


def test_changes_on_the_command_line_win() -> None:
    values = {'a': 1, 'optimizer': 'sgd', 'lineage': {'x': {'a': 2, 'data': {'b': 3}}, 'y': None}}
    changed = apply_overrides(values, ['a=5', 'data.b=7', 'optimizer.lr=1e-2', 'lineage.y.a=6', 'new='])
    assert changed['a'] == 5
    assert changed['lineage'] == {'x': {'a': 5, 'data': {'b': 7}}, 'y': {'a': 6}}
    assert changed['optimizer'] == {'name': 'sgd', 'lr': 0.01}
    assert changed['new'] is None
    assert values['a'] == 1, 'the file itself is left alone'


@pytest.mark.parametrize('change', ['a', '=3', 'a.b=3', 'b=[1', 'lineage.gen9.a=3'])
def test_changes_that_make_no_sense_are_refused(change: str) -> None:
    with pytest.raises(UserError):
        apply_overrides({'a': 1, 'lineage': {'gen0': None}}, [change])


def test_files_that_come_with_the_package_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {'kd.yaml', 'cifar100/baseline.yaml', 'cifar100/kd_every10.yaml'} <= shipped_yamls().keys()
    assert find_yaml('kd.yaml') == find_yaml('yamls/kd.yaml') == shipped_yamls()['kd.yaml']
    with pytest.raises(UserError, match=r"no such file.*did you mean 'kd.yaml'"):
        find_yaml('dk.yaml')
    (tmp_path / 'kd.yaml').write_text('a: 1\n')
    assert find_yaml('kd.yaml') == Path('kd.yaml')
