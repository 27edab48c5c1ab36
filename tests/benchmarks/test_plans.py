"""Every study is a plan: what it would train, arm by arm, and that its arms differ in what they compare alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from benchmarks.results import HERE, STUDIES
from benchmarks.study import AGAINST
from composer_kd.runs.plan import Plan, PlannedRun, make_plan
from composer_kd.runs.yaml_file import read_yaml

# The arms that teach those that are compared.
MEMBERS = [f'member{k}' for k in range(5)]
TEACHERS = {'methods': ['teacher', 'assistant'], 'oracle': MEMBERS, 'oracle_fashion': MEMBERS}
RUNS = {'methods': 69, 'oracle': 36, 'oracle_fashion': 36, 'hinton': 9}
# What a student may leave for others decides nothing about itself.
OF_A_STUDENT = {'algorithms', 'archive'}
OF_A_TEACHER = {'seed', 'data', 'model', 'max_duration'}


def plan_of(name: str) -> Plan:
    return make_plan(read_yaml(HERE / name / f'{name}.yaml'), name)


def arms_of(name: str) -> dict[str, PlannedRun]:
    """The first repetition of each arm."""
    return {run.arm: run for run in reversed(plan_of(name).runs)}


def test_every_study_in_the_folders_is_one_of_the_results() -> None:
    of_lineages = {file.stem for file in HERE.glob('*/*.yaml') if file.stem == file.parent.name}
    assert of_lineages == set(STUDIES)


@pytest.mark.parametrize('name', STUDIES)
def test_a_study_is_a_plan_of_three_repetitions_an_arm(name: str) -> None:
    plan = plan_of(name)
    runs = Counter(run.arm for run in plan.runs)
    assert set(runs.values()) == {3}
    assert len(plan.runs) == RUNS.get(name, len(plan.runs))
    head = (HERE / name / f'{name}.yaml').read_text().partition('\nname: ')[0]
    command = f'python -m benchmarks.study benchmarks/{name}/{name}.yaml'
    (given,) = [line.removeprefix('#   ') for line in head.splitlines() if command in line]
    assert f'`{given}`' in (HERE / 'README.md').read_text()
    assert given.partition('--baseline ')[2] in ('', *runs)


def said(run: PlannedRun, *besides: str) -> dict[str, Any]:
    return {key: value for key, value in run.config.model_dump().items() if key not in {*OF_A_STUDENT, *besides}}


def teachers_of(run: PlannedRun) -> list[dict[str, str]]:
    return [teacher for options in run.config.algorithms.values() for teacher in options['teachers']]


@pytest.mark.parametrize('name', TEACHERS)
def test_students_differ_in_their_algorithms_alone_and_look_up_what_fresh_views_taught(name: str) -> None:
    arms = arms_of(name)
    # A second generation begins anew.
    alone, anew = arms['alone'], {'ban2'}
    for arm in set(arms) - set(TEACHERS[name]):
        besides = ['seed'] if arm in anew else []
        assert said(arms[arm], *besides) == said(alone, *besides), arm
        assert all(set(one) == {'recorded'} for one in teachers_of(arms[arm]))
    assert alone.config.data.views == 4
    for run in plan_of(name).runs:
        if run.arm in TEACHERS[name]:
            # An assistant is a student as well.
            fresh = run.arm != 'assistant'
            assert run.config.data.views == (None if fresh else 4)
            assert run.config.archive is not None
            assert run.config.archive.logits is not None
            assert run.config.archive.logits.views == 4
            assert said(run, *OF_A_TEACHER) == said(alone, *OF_A_TEACHER)
            assert all(set(one) == {'recorded'} for one in teachers_of(run))
            assert run.config.data.model_copy(update={'views': 4}) == alone.config.data


@pytest.mark.parametrize('name', AGAINST)
def test_arms_that_are_held_against_each_other_are_arms(name: str) -> None:
    held = AGAINST[name]
    baseline = 'plain' if name == 'adversarial' else 'alone'
    assert {*held, *(arm for several in held.values() for arm in several)} <= set(arms_of(name)) - {baseline}
    # No student of the study is left out.
    compared = {baseline, *TEACHERS.get(name, []), *held, *(arm for several in held.values() for arm in several)}
    assert compared == set(arms_of(name))


def test_methods_learn_from_whom_they_say() -> None:
    plan = plan_of('methods')
    runs = {run.name: run for run in plan.runs}
    three = {'teacher-s0', 'teacher-s1', 'teacher-s2'}
    by = {run.arm: set(run.teachers) for run in plan.runs if run.name.endswith('-s1')}
    assert by.pop('alone') == by.pop('teacher') == set()
    assert by.pop('takd') == {'assistant-s1'}
    assert by.pop('ban2') == {'ban-s1'}
    assert by['assistant'] == {'teacher-s1'}
    for arm, teachers in by.items():
        assert teachers == (three if arm.endswith('_of_3') else {'teacher-s1'}), arm
    sizes = [runs[name].config.model.name for name in ('teacher-s0', 'assistant-s0', 'takd-s0')]
    assert sizes == ['resnet56', 'resnet32', 'resnet20']
    # A generation shares no seed with the one before: it would begin at the same weights.
    seeds = [{run.config.seed for run in plan.runs if run.arm == arm} for arm in ('teacher', 'ban', 'ban2')]
    assert len(set.union(*seeds)) == 9
    (ensemble,) = plan.ensembles
    assert ensemble.seeds[1] == ('ban-s1', 'ban2-s1')


@pytest.mark.parametrize('name', ['oracle', 'oracle_fashion'])
def test_oracles_have_the_teachers_of_the_average_beside_them(name: str) -> None:
    plan = plan_of(name)
    by = {run.arm: run.teachers for run in plan.runs if run.name.endswith('-s2')}
    for count in (1, 3, 5):
        assert by[f'kd_of_{count}'] == by[f'oracle_of_{count}'] == tuple(f'member{k}-s2' for k in range(count))


def test_the_published_perceptrons_train_on_all_images() -> None:
    runs = plan_of('hinton').runs
    assert {run.config.data.val_fraction for run in runs} == {0}
    assert {run.config.data.subset for run in runs} == {None}
