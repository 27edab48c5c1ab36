"""A study's table and picture of damaged test images, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.aged import ageing
from benchmarks.damaged import damaged, damaged_picture, damaged_table
from composer_kd.archive import RunDir
from composer_kd.core.errors import UserError
from composer_kd.run import main as train
from composer_kd.runs.plan import make_plan
from composer_kd.runs.yaml_file import read_yaml
from tests.runs.common import write_yaml


def run(repetition: int, clean: float, fog: list[float], snow: list[float]) -> dict:
    kinds = {'fog': dict(zip('13', fog, strict=True)), 'snow': dict(zip('13', snow, strict=True))}
    return {'repetition': repetition, 'damaged': {'as it is': clean, 'kinds': kinds}}


ARMS = {
    # Errors 50 and 60 in all of fog, 100 and 120 of snow: 110 and 220 summed, of means 55 and 110.
    'plain': [run(0, 80.0, [80.0, 70.0], [60.0, 40.0]), run(1, 78.0, [75.0, 65.0], [50.0, 30.0])],
    'robust': [run(1, 70.0, [70.0, 70.0], [65.0, 45.0]), {'repetition': 2}],
    'other': [{'repetition': 0}],
}


def rows_of(arms: dict, **more) -> dict[str, dict[str, str]]:
    lines = [line for line in damaged_table({'arms': arms, **more}) if line.startswith('|')]
    heads, _, *rows = [line.removeprefix('| ').removesuffix(' |').split(' | ') for line in lines]
    return {row[0]: dict(zip(heads, row, strict=True)) for row in rows}


def test_corruption_errors_by_hand() -> None:
    rows = rows_of(ARMS)
    assert list(rows) == ['plain', 'robust']
    assert (rows['robust']['seeds'], rows['robust']['as they are'], rows['robust']['damaged']) == ('1', '70.0', '62.5')
    assert rows['robust']['gain'] == '+7.5', 'over repetition 1 of plain, 55'
    # Of fog 60 over 55, of snow 90 over 110.
    assert rows['robust']['mCE, %'] == f'{100 * (60 / 55 + 90 / 110) / 2:.1f}'
    # Beyond the clean errors, of 30 and of 21 on average: 0 over 13, 30 over 68.
    assert rows['robust']['relative mCE, %'] == f'{100 * (0 / 13 + 30 / 68) / 2:.1f}'
    assert rows['robust']['worst kind, there'] == 'snow, 55.0'
    assert (rows['plain']['damaged'], rows['plain']['gain']) == ('58.8 ± 5.3', '')
    assert '2 kinds of corruption at severity 1, 3;' in damaged_table({'arms': ARMS})[1]


def test_other_questions_are_not_compared_and_no_baseline_has_no_ratio() -> None:
    odd = {'repetition': 0, 'damaged': {'as it is': 1.0, 'kinds': {'fog': {'5': 1.0}}}}
    assert list(rows_of({'odd': [odd], **ARMS}, baseline='plain')) == ['plain', 'robust']
    assert '; 1 runs were asked about other damage' in ' '.join(damaged_table({'arms': {'odd': [odd], **ARMS}}))
    assert rows_of(ARMS, baseline='other')['robust']['mCE, %'] == '–'
    assert damaged_table({'arms': {'plain': [{'repetition': 0}]}}) == []


def test_the_picture() -> None:
    picture = damaged_picture({'arms': ARMS})
    assert picture is not None
    assert picture.startswith(b'\x89PNG')
    assert damaged_picture({'arms': {'plain': [{'repetition': 0}]}}) is None


def test_what_is_read_off_a_run(tmp_path: Path) -> None:
    grid = {'kinds': ['brightness', 'contrast'], 'severities': [1, 2.5]}
    file = write_yaml(
        tmp_path,
        lineage={'gen0': None},
        max_duration='1ep',
        evaluate={'drifts': {'grid': grid, 'tail': {'name': 'long_tail', 'factor': 2}}},
    )
    assert train([str(file)]) == 0
    (planned,) = make_plan(read_yaml(file)).runs
    measured = json.loads((planned.folder / 'drifts.json').read_text())
    found = damaged(planned)['damaged']
    assert found['as it is'] == pytest.approx(100 * measured['clean']['accuracy'], abs=0.005)
    assert {kind: list(of) for kind, of in found['kinds'].items()} == {kind: ['1', '2.5'] for kind in grid['kinds']}
    dark = measured['drifts']['contrast-2.5']['accuracy']
    assert found['kinds']['contrast']['2.5'] == pytest.approx(100 * dark, abs=0.005)
    changed = {'grid': {**grid, 'seed': 9}}
    (other,) = make_plan({**read_yaml(file), 'evaluate': {'drifts': changed}}).runs
    assert damaged(other) == {}, 'measured under other damage'
    grid = {**grid, 'after': {'name': 'long_tail', 'factor': 2}}
    coarse = {**read_yaml(file), 'evaluate': {'drifts': {'grid': grid}}}
    assert train([str(write_yaml(tmp_path, **coarse))]) == 0
    (planned_so,) = make_plan(coarse).runs
    with pytest.raises(UserError, match='its grid is of other samples than'):
        damaged(planned_so)
    # Grids are not what a lineage ages over.
    assert list(ageing(planned, RunDir(planned.folder).metrics())['drifts']) == ['tail']
