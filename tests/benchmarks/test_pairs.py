"""The published pairs: the study's cells are the shipped recipe, and a scale with them runs to its table."""

from __future__ import annotations

import inspect
import io
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.h200.toy import H200, toy
from benchmarks.retrain.cells import Cell, Scale
from benchmarks.retrain.measures import Study
from benchmarks.retrain.pairs import PUBLISHED, pairs
from benchmarks.retrain.results import Results
from benchmarks.retrain.tables import markdown
from benchmarks.retrain.work import Worker
from composer_kd.functional import LOSSES
from composer_kd.runs.plan import PlannedRun, make_plan
from composer_kd.runs.yaml_file import read_yaml, shipped_yamls

# What a phase calls the arms of a file; the weight of DKD's second part is in the name.
ARMS = {'scratch': 'alone', 'kd_published': 'kd', 'dkd': 'dkd', 'kd_standardized': 'kd_standardized', 'dist': 'dist'}
# Where and how a cell is trained, what it leaves, and which seeds there are; and a GPU's form of the same images.
ITS_OWN = {'seed', 'device', 'archive', 'eval_interval', 'save_interval'}


def recipe(run: PlannedRun) -> dict[str, Any]:
    """What decides a run's result but for its seed and who teaches it, with the defaults of its loss."""
    said = {key: value for key, value in run.config.model_dump().items() if key not in ITS_OWN}
    del said['data']['mode']
    said['optimizer'] = {'nesterov': False, **said['optimizer']}
    said['algorithms'] = {name: dict(options) for name, options in said['algorithms'].items()}
    for options in said['algorithms'].values():
        options['teachers'] = len(options['teachers'])
        loss = options.get('loss')
        if isinstance(loss, dict):
            parameters = inspect.signature(LOSSES.get(loss['name'])).parameters.values()
            options['loss'] = {one.name: one.default for one in parameters if one.default is not one.empty} | loss
    return said


def planned(cell: Cell) -> dict[str, PlannedRun]:
    plan = make_plan({'name': 'study', 'lineage': {one.name: dict(one.entry) for one in cell.family}})
    return {run.name: run for run in plan.runs}


@pytest.mark.parametrize('pair', PUBLISHED)
def test_a_pairs_cells_are_the_runs_of_its_file(pair: str) -> None:
    scale = Scale('h200', accuracy=lambda name: 0.5)
    (phase,) = [one for one in scale.phases() if one['scenario'] == pair]
    shipped = {run.arm: recipe(run) for run in make_plan(read_yaml(shipped_yamls()[f'cifar100/{pair}.yaml'])).runs}
    arms = {arm: ARMS[arm.partition('_beta')[0]] for arm in scale.arms_of(phase)}
    assert sorted([*arms.values(), 'teacher']) == sorted(shipped)
    for arm, name in arms.items():
        cell = scale.cell(pair, arm, *phase['budgets'], 0)
        assert cell is not None
        runs = planned(cell)
        assert recipe(runs[cell.name]) == shipped[name]
        for teacher in cell.needs:
            assert recipe(runs[teacher.name]) == shipped['teacher']


def test_dkd_has_the_published_weight_and_is_left_out_where_there_is_none() -> None:
    # The configurations that their authors published name these two; the default of the third is 8.
    weights = {'pair_56_20': 2, 'pair_110_32': 2, 'pair_32x4_8x4': 8}
    for pair, published in PUBLISHED.items():
        runs = {run.arm: run for run in make_plan(read_yaml(shipped_yamls()[f'cifar100/{pair}.yaml'])).runs}
        assert ('dkd' in runs) == (pair in weights) == ('dkd' in published)
        if 'dkd' in runs:
            assert runs['dkd'].config.algorithms['Distillation']['loss']['beta'] == weights[pair]


def test_pairs_run_without_validation_data_to_their_table(tmp_path: Path) -> None:
    small = toy(yaml.safe_load(H200.read_text()), str(tmp_path / 'runs'))
    tune = {'name': 'tune', 'scenario': 'same', 'tune': ['scratch', 'kd'], 'budgets': [1]}
    pair = {'name': 'pair', 'scenario': 'pair_56_20', 'arms': ['scratch', 'kd_published'], 'budgets': [1]}
    file = tmp_path / 'few.yaml'
    file.write_text(yaml.safe_dump({**small, 'phases': [tune, pair]}))
    results = Results('few', tmp_path)
    scale = Scale(str(file), accuracy=results.accuracy)
    assert Worker(scale, results, io.StringIO()).run()
    lines = results.by_name()
    for name, line in lines.items():
        assert ('val_accuracy' in line['epochs'][-1]) == name.startswith('same.')
        assert line['epochs'][-1]['samples'] == (384 if name.startswith('pair') else 256)
    study = Study(scale, lines)
    assert '## The published pairs' in markdown(study)
    row = next(row for row in pairs(study).splitlines() if row.startswith('| KD, 0.1 CE + 0.9 KL at T = 4 |'))
    (taught,) = [line for line in lines.values() if line['arm'] == 'kd_published']
    assert row.split(' | ')[1] == f'{100 * taught["epochs"][-1]["test_accuracy"]:.1f} (70.66)'
