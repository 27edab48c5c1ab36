"""The studies of drift and of attacks compare like with like: read and planned, on data that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.attacked import MARGIN
from composer_kd.data.drift.scenarios import scenarios_of
from composer_kd.runs.plan import Plan, PlannedRun, make_plan
from composer_kd.runs.yaml_file import read_yaml

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
RECIPE = ('model', 'scheduler', 'batch_size', 'precision', 'eval_interval', 'evaluate')


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / 'data' / 'cifar100').mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    def plan(name: str) -> Plan:
        return make_plan(read_yaml(BENCHMARKS / name / f'{name}.yaml'), where=name)

    return plan


def described(run: PlannedRun, *keys: str, without: tuple[str, ...] = ()) -> Any:
    values = run.resolved()
    return [{key: value for key, value in values[name].items() if key not in without}
            if isinstance(values[name], dict) else values[name] for name in keys]  # fmt: skip


def test_ways_of_ageing_differ_in_what_they_recycle_alone(planned) -> None:
    plan = planned('drift')
    by_step: dict[int, list[PlannedRun]] = {}
    for run in plan.runs:
        by_step.setdefault(int(run.arm[-1]), []).append(run)
    assert {step: len(runs) for step, runs in by_step.items()} == {0: 3, 1: 27, 2: 27, 3: 27}
    for step, runs in by_step.items():
        for run in runs:
            # The views that recorded teachers know are the one thing that a way may say of its data.
            assert described(run, 'data', without=('views',)) == described(runs[0], 'data', without=('views',))
            assert described(run, *RECIPE) == described(by_step[0][0], *RECIPE)
            scenarios = scenarios_of(run.config.evaluate.drifts)
            assert list(scenarios) == ['step0', 'step1', 'step2', 'step3']
            assert tuple(run.config.data.drift or ()) == tuple(scenarios[f'step{step}'])
    assert len({str(described(runs[0], 'data')) for runs in by_step.values()}) == 4


def test_ways_of_ageing_have_one_recipe_a_group_and_follow_themselves(planned) -> None:
    runs = [run for run in planned('drift').runs if run.arm != 'gen0']
    taught, ways = {'kd', 'half', 'recorded'}, {run.arm[:-1] for run in runs}
    assert ways == {'full', 'scratch', 'warm', 'shrink', 'kd', 'half', 'recorded', 'warm_half', 'curriculum'}
    for group in (taught, ways - taught):
        assert len({str(run.config.optimizer) for run in runs if run.arm[:-1] in group}) == 1
    for run in runs:
        way, step, repetition = run.arm[:-1], int(run.arm[-1]), run.name[-3:]
        assert run.config.max_duration == ('24ep' if way == 'full' else '8ep')
        before = f'{way}{step - 1}' if step > 1 else 'gen0'
        assert Path(str(run.config.replaces)).name == f'{before}{repetition}'
        assert set(run.after) <= {f'{way}{earlier}{repetition}' for earlier in range(1, step)} | {f'gen0{repetition}'}
        assert bool(run.after) == (way not in ('full', 'scratch'))


def test_arms_under_attack_differ_in_their_examples_alone(planned) -> None:
    plan = planned('adversarial')
    first = plan.runs[0]
    across = {'refreshed', 'warm', 'warm_refreshed', 'warm_replayed'}
    for run in plan.runs:
        assert described(run, 'data', 'optimizer', *RECIPE) == described(first, 'data', 'optimizer', *RECIPE)
        assert run.config.max_duration == ('5ep' if run.arm.startswith('warm') else '16ep')
        assert set(run.after) == ({f'recycled{run.name[-3:]}'} if run.arm in across else set())
    # A run that goes on from another one's examples or weights draws other numbers than that.
    seeds = {arm: {run.config.seed for run in plan.runs if run.arm == arm} for arm in {run.arm for run in plan.runs}}
    assert all(len(of) == 3 for of in seeds.values())
    assert all(seeds[arm].isdisjoint(seeds['recycled']) for arm in across)
    # What is damaged is of the task that they learn.
    for drifts in scenarios_of(first.config.evaluate.drifts).values():
        assert [*drifts[:-1]] == list(first.config.data.drift or ())
        assert drifts[-1].name == 'corruption'
    assert first.config.evaluate.attacks is not None
    assert first.config.evaluate.attacks.splits == ['test']
    assert first.config.evaluate.attacks.subset is None


def test_the_margin_stands_in_the_head_of_the_study() -> None:
    head = (BENCHMARKS / 'adversarial' / 'adversarial.yaml').read_text().partition('\nname:')[0]
    assert f'is above -{MARGIN:g} point' in head
