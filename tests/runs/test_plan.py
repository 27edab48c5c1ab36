"""From a file's mapping to runs: names, seeds, teachers, order, and every mistake in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from composer_kd.core.errors import UserError
from composer_kd.runs.plan import make_plan

BASE: dict[str, Any] = {'model': {'name': 'mlp', 'hidden': [16]}, 'max_duration': '2ep'}


BY_A = {'teachers': ['a']}


def taught_by(*names: str, **options: Any) -> dict[str, Any]:
    return {'algorithms': {'TeacherMixupKD': {'teachers': list(names), **options}}}


def test_a_file_without_lineage_is_one_run() -> None:
    plan = make_plan({**BASE, 'name': 'solo', 'save_folder': 'out'})
    assert [(run.name, run.arm, run.folder) for run in plan.runs] == [('solo', 'solo', Path('out/solo'))]
    assert plan.runs[0].config.epochs == 2


def test_teachers_are_runs_of_the_lineage_and_come_first() -> None:
    plan = make_plan({**BASE, 'lineage': {'gen2': taught_by('gen0', 'gen1'), 'gen1': taught_by('gen0'), 'gen0': None}})
    assert [run.name for run in plan.runs] == ['gen0', 'gen1', 'gen2']
    assert plan.runs[2].config.algorithms['TeacherMixupKD']['teachers'] == ['runs/gen0', 'runs/gen1']
    assert plan.runs[2].teachers == ('gen0', 'gen1')


def test_repeated_runs_have_seeds_of_their_own_and_pair_with_their_teachers() -> None:
    plan = make_plan({**BASE, 'seed': 5, 'repeat': 2, 'lineage': {'a': None, 'b': taught_by('a')}})
    assert [(run.name, run.arm, run.config.seed, run.teachers) for run in plan.runs] == [
        ('a-s0', 'a', 5, ()),
        ('a-s1', 'a', 6, ()),
        ('b-s0', 'b', 5, ('a-s0',)),
        ('b-s1', 'b', 6, ('a-s1',)),
    ]
    shared = make_plan({**BASE, 'lineage': {'a': None, 'b': {**taught_by('a'), 'repeat': 3}}})
    assert {run.teachers for run in shared.runs if run.arm == 'b'} == {('a',)}
    one = make_plan({**BASE, 'lineage': {'a': {'repeat': 2}, 'b': taught_by('a-s1')}})
    assert one.runs[-1].teachers == ('a-s1',)


def test_what_a_run_says_for_itself_is_put_over_the_rest() -> None:
    values = {
        **BASE,
        'optimizer': {'name': 'SGD', 'lr': 0.1, 'momentum': 0.9},
        'algorithms': {'LabelSmoothing': {'smoothing': 0.1}, 'EMA': None},
        'lineage': {
            'same': {'optimizer': {'lr': 0.2}},
            'other': {'optimizer': {'name': 'AdamW', 'lr': 0.001}, 'model': {'name': 'resnet20'}},
            'without': {'algorithms': {'LabelSmoothing': None, 'MixUp': {'alpha': 0.3}}},
        },
    }
    same, other, without = (run.config for run in make_plan(values).runs)
    assert same.optimizer == {'name': 'SGD', 'lr': 0.2, 'momentum': 0.9}
    assert other.optimizer == {'name': 'AdamW', 'lr': 0.001}, "another optimizer does not inherit SGD's momentum"
    assert other.model.name == 'resnet20'
    assert without.algorithms == {'EMA': {}, 'MixUp': {'alpha': 0.3}}


def test_ensembles_pair_their_seeds_and_one_run_may_be_in_all() -> None:
    lineage = {'a': None, 'b': taught_by('a'), 'big': {'repeat': 1}}
    ensembles = {'two': ['a', 'b'], 'with_big': ['big', 'b'], 'of_seeds': ['a-s0', 'a-s1'], 'one': ['big']}
    plan = make_plan({**BASE, 'repeat': 2, 'lineage': lineage, 'ensembles': ensembles})
    assert {one.name: one.seeds for one in plan.ensembles} == {
        'two': (('a-s0', 'b-s0'), ('a-s1', 'b-s1')),
        'with_big': (('big', 'b-s0'), ('big', 'b-s1')),
        'of_seeds': (('a-s0', 'a-s1'),),
        'one': (('big',),),
    }
    assert plan.ensembles[1].members == ('big', 'b')
    assert plan.only('big').ensembles == ()
    alone = make_plan({**BASE, 'name': 'solo', 'repeat': 3, 'ensembles': {'ens': ['solo-s0', 'solo-s2']}})
    assert alone.ensembles[0].seeds == (('solo-s0', 'solo-s2'),)


def ensemble(*members: str, name: str = 'ens', **lineage: Any) -> dict[str, Any]:
    return {'lineage': {'ban1': None, 'ban2': None, **lineage}, 'ensembles': {name: list(members)}}


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    'misspelt key': ({'max_duratoin': '2ep'}, r"max_duratoin: unknown key; did you mean 'max_duration'\?"),
    'misspelt key in a section': ({'data': {'val_fractoin': 0.1}}, r'data\.val_fractoin: unknown key; did you mean'),
    'misspelt key in a run': ({'lineage': {'a': {'optimiser': 'SGD'}}}, r'lineage\.a\.optimiser: unknown key; did'),
    'wrong type': ({'batch_size': 'many'}, r"batch_size: .*integer, got 'many'"),
    'number as text': ({'seed': '3'}, r"seed: .*integer, got '3'"),
    'unknown model': ({'model': {'name': 'resnet21'}}, r"model.*'resnet21'.*resnet2"),
    'option of another model': ({'model': {'name': 'resnet20', 'hidden': [3]}}, r'model\.hidden: unknown key'),
    'no duration': ({'max_duration': None}, r'max_duration: .*got None'),
    'strange duration': ({'max_duration': '2 epochs'}, r"max_duration: .*'12ep' or '500ba'"),
    'nothing to do': ({'lineage': {}}, r'lineage: there is no run'),
    'circle': ({'lineage': {'a': taught_by('b'), 'b': taught_by('a')}}, r'a -> b -> a|b -> a -> b'),
    'its own teacher': ({'lineage': {'a': taught_by('a')}}, r'a -> a is a circle'),
    'unknown teacher': (
        {'lineage': {'gen0': None, 'b': taught_by('gen1')}},
        r"lineage\.b\.algorithms\.TeacherMixupKD\.teachers: 'gen1' is neither .*did you mean 'gen0'",
    ),
    'a teacher twice': ({'lineage': {'a': None, 'b': taught_by('a', 'a')}}, r'a teacher is there twice'),
    'no teachers': ({'lineage': {'b': {'algorithms': {'TeacherMixupKD': {}}}}}, r'teachers: expected a list'),
    'seeds that do not pair': (
        {'lineage': {'a': {'repeat': 3}, 'b': {**taught_by('a'), 'repeat': 2}}},
        r"'a' is repeated 3 times and this run 2; name one, as in 'a-s0'",
    ),
    'two runs of a name': ({'lineage': {'a': {'repeat': 2}, 'a-s0': None}}, r"two runs would be called 'a-s0'"),
    'a name that leaves the folder': ({'lineage': {'../a': None}}, r"'../a' cannot be the name of a run"),
    'repeat 0': ({'lineage': {'a': {'repeat': 0}}}, r'lineage\.a\.repeat: expected a whole number'),
    'an algorithm twice': ({'algorithms': ['EMA', {'EMA': {}}]}, r"'EMA' is there twice"),
    'wrong option of a later run': (
        {'lineage': {'a': None, 'b': taught_by('a', loss='msee')}},
        r"lineage\.b\.algorithms\.TeacherMixupKD: loss: 'msee' is not one of the losses; did you mean 'mse'",
    ),
    'two distillations': (
        {'lineage': {'a': None, 'b': {'algorithms': {'Distillation': BY_A, 'OracleKD': BY_A}}}},
        r'lineage\.b\.algorithms\.Distillation: the run has OracleKD already; give one of them all teachers',
    ),
    'dist of single samples': (
        {'lineage': {'a': None, 'b': {**taught_by('a', loss='dist'), 'microbatch_size': 1}}},
        r'lineage\.b\.microbatch_size: 1, but the loss dist compares the samples of a batch; use 2 or more',
    ),
    'temperature 0': (
        {'lineage': {'a': None, 'b': {'algorithms': {'Distillation': {'teachers': ['a'], 'temperature': 0}}}}},
        r'lineage\.b\.algorithms\.Distillation: temperature is a finite number above 0, got 0',
    ),
    'nothing to learn': (
        {'lineage': {'a': None, 'b': taught_by('a', label_weight=0, kd_weight='1 to 0 until 1ep')}},
        r'lineage\.b\.algorithms\.TeacherMixupKD\.label_weight and kd_weight are both 0 in epoch 1',
    ),
    'an unknown method': (
        {'lineage': {'a': None, 'b': {'algorithms': {'BornAgain': {'teachers': ['a'], 'method': 'BANN'}}}}},
        r"lineage\.b\.algorithms\.BornAgain: method: 'bann' is not one of them; did you mean 'ban'",
    ),
    'selective backprop': ({'algorithms': ['SelectiveBackprop']}, r'SelectiveBackprop: drops .* not their keys'),
    'unknown member': (
        ensemble('ban1', 'bann2'),
        r"ensembles\.ens: 'bann2' is no run of this file; did you mean 'ban2'\?",
    ),
    'a member twice': (ensemble('ban1', 'ban1'), r"ensembles\.ens: 'ban1' is there twice"),
    'a seed twice': (
        ensemble('ban1', 'ban1-s1', ban1={'repeat': 2}),
        r"ensembles\.ens: 'ban1' is there twice \(ban1-s1\)",
    ),
    'no members': (ensemble(), r'ensembles\.ens: expected names of runs'),
    'an ensemble called as a run': (ensemble('ban1', name='ban2'), r"ensembles\.ban2: a run is called 'ban2' too"),
    'an ensemble called as a seed': (
        ensemble('ban2', name='ban1-s1', ban1={'repeat': 2}),
        r"ensembles\.ban1-s1: a run is called 'ban1-s1' too",
    ),
    'members repeated differently': (
        ensemble('ban1', 'ban2', ban1={'repeat': 2}, ban2={'repeat': 3}),
        r"repeated 2 and 3 times; name single ones, as in 'ban1-s0'",
    ),
    'members of other data': (
        ensemble('ban1', 'ban2', ban2={'data': {'synthetic': {'seed': 5}}}),
        r"ensembles\.ens: 'ban2' has another data\.synthetic than 'ban1'",
    ),
    'an ensemble that is no list': ({'ensembles': {'ens': 'ban1'}}, r"ensembles\.ens: .*list, got 'ban1'"),
    'no checkpoints': ({'keep_checkpoints': 0}, r'keep_checkpoints: .*keep at least 1'),
}  # fmt: skip


@pytest.mark.parametrize(('change', 'line'), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_line_with_place_and_remedy(change: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as raised:
        make_plan({**BASE, **change}, where='file.yaml')
    assert str(raised.value).startswith('file.yaml: ')
    assert '\n' not in str(raised.value)
