"""The table of a study: pairs by their number, what is not there yet, published figures, and what models cost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import study
from benchmarks.sizes import sizes_table
from benchmarks.study import gains, table
from composer_kd.runs.command import run_file
from tests.runs.common import TINY


def one(number: int, test: float, seed: int = 17, **more: Any) -> dict[str, Any]:
    costs = {'student': 1e12, 'teacher': 0.0, 'harvest': 0.0, 'saved': 0.0, 'samples': 100}
    return {
        'seed': seed + number,
        'repetition': number,
        'test': test,
        'best': test,
        'cpu': 'a processor',
        **costs,
        **more,
    }


def result(arms: dict[str, list[dict[str, Any]]], baseline: str = 'alone', name: str = 'some') -> dict[str, Any]:
    return {
        'what': 'Some study', 'yaml': f'{name}.yaml', 'command': 'a command', 'date': '2026-01-01',
        'versions': {'torch': '2'}, 'planned': dict.fromkeys([*arms, baseline], 3), 'baseline': baseline, 'arms': arms,
    }  # fmt: skip


def cells(page: str) -> dict[str, list[str]]:
    """Arms to the cells behind them, in the first table."""
    rows = [line.strip('| ').split(' | ') for line in page.splitlines() if line.startswith('| ')]
    first = [row for row in rows if len(row) == len(rows[0])]
    return {row[0]: [cell.strip() for cell in row[1:]] for row in first}


def test_repetitions_are_paired_by_their_number_whatever_seeds_they_have_and_which_have_finished() -> None:
    alone = [one(0, 10.0), one(1, 20.0), one(2, 30.0)]
    # The first of the other arm is missing: by their places, its second would be compared with the first.
    assert gains([one(1, 21.0, seed=117), one(2, 32.0, seed=117)], alone) == [1.0, 2.0]
    # Seeds that happen to be equal are no pair: 17 + 1 is another repetition than 18 + 0.
    assert gains([one(0, 15.0, seed=18)], alone) == [5.0]
    assert gains([one(2, 15.0)], [one(0, 10.0)]) == []


def test_where_there_is_no_pair_there_is_a_dash() -> None:
    apart = table(result({'alone': [one(0, 10.0)], 'taught': [one(1, 20.0)]}))
    assert cells(apart)['taught'][3] == '–'
    # The baseline has not finished at all: no gains, no shares of its training.
    waiting = cells(table(result({'taught': [one(0, 20.0), one(1, 22.0)]})))
    assert waiting['taught'][1] == '21.0 ± 1.4'
    assert waiting['taught'][3:] == ['–', '100', '–', '–', '–', '–']


def test_published_figures_stand_beside_ours_to_their_last_digit() -> None:
    arms = {'teacher': [one(0, 99.3)], 'alone': [one(0, 98.54), one(1, 98.5)], 'distilled': [one(0, 99.26)]}
    page = cells(table(result(arms, name='hinton')))
    assert page['arm'][3] == 'published, %'
    assert [page[arm][3] for arm in arms] == ['99.33', '98.54', '99.26']
    assert page['alone'][1] == '98.52 ± 0.03'
    assert page['distilled'][4] == '+0.72'
    assert 'published, %' not in table(result(arms))


def test_what_an_oracle_leaves_to_the_labels_is_said() -> None:
    lines = [{'label_only': 0.5}, {'label_only': None}, {}, {'label_only': 0.25}]
    assert study.left_to_labels(lines) == {'label_only': 37.5}
    assert study.left_to_labels([{'label_only': None}, {}]) == {}
    assert study.left_to_labels([{'label_only': 0.0}]) == {}
    arms = {'alone': [one(0, 1.0)], 'oracle': [one(0, 2.0, label_only=40.0), one(1, 2.0, label_only=42.0)]}
    assert 'which their labels taught: oracle 41.0 ± 1.4 %.' in table(result(arms))
    assert 'their labels taught' not in table(result({'alone': [one(0, 1.0)]}))


def test_arms_are_held_against_each_other_where_both_have_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, 'AGAINST', {'some': {'kd': ['mse', 'dist'], 'dist': ['mse']}})
    arms = {'alone': [one(0, 1.0)], 'kd': [one(0, 10.0), one(1, 20.0)], 'mse': [one(0, 12.0), one(1, 24.0)]}
    page = table(result(arms))
    # +2 and +4: 3 points, and 12.706 (t of one degree of freedom) times a standard error of 1.
    (row,) = [line for line in page.splitlines() if line.startswith('| mse | kd |')]
    assert row == '| mse | kd | +3.0 (-9.7 to +15.7), p 0.205 |'
    assert '| dist |' not in page
    assert 'against' not in table(result(arms, name='another'))


def test_arms_under_attack_are_held_against_each_other_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, 'AGAINST', {'some': {'pgd7': ['recycled', 'plain']}})

    def run(repetition: int, test: float, robust: float | None = None) -> dict:
        nothing = dict.fromkeys(('teacher', 'harvest', 'saved'), 0.0)
        one = {'repetition': repetition, 'seed': 7, 'test': test, 'best': test, 'samples': 1, 'student': 1.0, **nothing}
        one |= {'cpu': 'one', 'attack': 1.0, 'attack_seconds': None, 'train_seconds': None, 'on_the_way': []}
        left = {'PGD': {'as it is': test, 'robust': robust, 'samples': 9}}
        return one if robust is None else {**one, 'under_attack': left}

    arms = {'pgd7': [run(0, 30.0, 20.0), run(1, 32.0, 21.0)], 'recycled': [run(1, 36.0, 22.5), run(0, 33.0, 20.5)],
            'plain': [run(0, 47.0)]}  # fmt: skip
    page = table(result(arms, name='some')).splitlines()
    start = page.index('| arm | against | gain | under PGD |')
    rows = [line.split(' | ') for line in page[start + 2 : start + 4]]
    assert [row[2].split(' ')[0] for row in rows] == ['+3.5', '+17.0']
    assert rows[0][3].startswith('+1.0 ')
    assert rows[1][3] == '– |'


def model(parameters: int, adds: int, one: float, many: float, beside: bool = False) -> dict[str, Any]:
    seconds = {'1': one, '256': many}
    return {
        'model': {
            'parameters': parameters,
            'multiply_adds': adds,
            'seconds': seconds,
            'threads': 2,
            'beside': beside,
        }
    }


def test_models_that_differ_are_compared_by_size_operations_and_speed() -> None:
    arms = {
        'alone': [one(0, 1.0, **model(1000, 4000, 0.002, 0.064))],
        'teacher': [one(0, 1.0, **model(3000, 10_000, 0.01, 0.256, beside=True))],
        'taught': [one(0, 1.0, **model(1000, 4000, 0.002, 0.064)), one(1, 1.0, **model(1000, 4000, 0.002, 0.032))],
    }
    lines = sizes_table(result(arms))
    assert 'threads: 2, means over runs; 1 of 4 runs were measured beside others;' in lines[2]
    assert lines[-2:] == [
        '| teacher | 3,000 | 10,000 | 100 | 1,000 | 1.00× | 1.00× | 1.00× | 1.00× |',
        # 256 images in 0.064, 0.064 and 0.032 s: (4000 + 4000 + 8000) / 3 a second.
        '| alone, taught | 1,000 | 4,000 | 500 | 5,333 | 3.00× | 2.50× | 5.00× | 5.33× |',
    ]
    assert '\n'.join(lines) in table(result(arms))
    assert sizes_table(result({'alone': arms['alone'], 'taught': arms['taught']})) == []
    assert sizes_table(result({'alone': [one(0, 1.0)]})) == []


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of two arms and two repetitions, of which one of each has finished: not the same ones."""
    lineage = {'alone': {'seed': 117}, 'larger': {'model': {'hidden': [64]}}}
    changes = {'save_folder': str(tmp_path / 'runs'), 'lineage': lineage, 'repeat': 2, 'max_duration': '1ep'}
    file = tmp_path / 'tiny.yaml'
    file.write_text('# Some study.\n' + yaml.safe_dump({**TINY, **changes}, sort_keys=False))
    monkeypatch.setattr(study, 'PUBLISHED', {'tiny': {'larger': 12.34}})
    return file


def main(*words: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, 'argv', ['study', *map(str, words)])
    return study.main()


def test_a_study_under_way_has_its_page(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny, '--table-only', monkeypatch=monkeypatch) == 1
    assert 'nothing of it has finished yet' in capsys.readouterr().err
    for name in ('alone-s1', 'larger-s0'):
        run_file(str(tiny), [], name, report=False)
    assert main(tiny, '--table-only', '--baseline=alone', monkeypatch=monkeypatch) == 0
    found = json.loads(tiny.with_suffix('.json').read_text())
    assert {arm: [run['repetition'] for run in runs] for arm, runs in found['arms'].items()} == {
        'alone': [1],
        'larger': [0],
    }
    page = tiny.with_suffix('.md').read_text()
    larger = cells(page)['larger']
    assert larger[0] == '1 of 2'
    assert larger[3:5] == ['12.34', '–']
    # 32x32x3 pixels, 100 classes: layers of 64 against 32 units, weights and biases, twice the weights alone.
    parameters = {units: 3072 * units + units + units * 100 + 100 for units in (64, 32)}
    rows = [
        line for line in page.splitlines() if f'| {parameters[64]:,} |' in line or f'| {parameters[32]:,} |' in line
    ]
    assert [row.split(' | ')[0] for row in rows] == ['| larger', '| alone']
    assert rows[1].split(' | ')[6] == '2.00×'
    with pytest.raises(SystemExit):
        main(tiny, '--table-only', '--baseline=alnoe', monkeypatch=monkeypatch)
    assert "there is no such arm; did you mean 'alone'" in capsys.readouterr().err
