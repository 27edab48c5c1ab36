"""Error lines: one line, short, and nothing in it that acts on a terminal."""

from __future__ import annotations

import time

import pytest

from composer_kd.core.errors import name_fault, nearest, one_line, path_fault


def test_a_line_is_shown_as_it_is_and_keeps_both_ends() -> None:
    assert one_line('file.yaml: a\n  b\tc') == 'file.yaml: a b c'
    assert one_line('grün 鳥') == 'grün 鳥'
    assert one_line('a\x1b[31mb\u202ec\x00\ud800') == r'a\x1b[31mb\u202ec\x00\ud800'
    long = one_line(f'file.yaml: {"x" * 5000}; use a shorter one')
    assert len(long) == 300
    assert long.startswith('file.yaml: xxx')
    assert long.endswith('xxx; use a shorter one')
    assert ' ... ' in long
    assert one_line('y' * 300) == 'y' * 300


def test_the_nearest_name_to_a_long_one_is_sought_quickly() -> None:
    known = [f'key{number}' for number in range(100)]
    start = time.process_time()
    nearest('k' * 1_000_000, known)
    assert time.process_time() - start < 10  # It was minutes.


@pytest.mark.parametrize('text', ['a\nb', 'a\tb', '\0', '\x1b[1m', '\u202ea', '\ud800', '\u2028'])
def test_names_and_paths_are_shown(text: str) -> None:
    assert 'no terminal shows' in str(name_fault(text))
    assert 'no terminal shows' in str(path_fault(text))


def test_names_and_paths_are_as_long_as_files_can_be() -> None:
    assert name_fault('n' * 100) is None
    assert name_fault('gen 0, naïve 鳥') is None
    assert 'too long' in str(name_fault('n' * 101))
    assert 'too long' in str(name_fault('鳥' * 81)), 'three bytes each'
    assert path_fault('/'.join(['d' * 255] * 13)) is None
    assert 'too long' in str(path_fault('d' * 256))
    assert 'too long' in str(path_fault('/'.join(['d' * 255] * 14)))
