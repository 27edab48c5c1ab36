"""Who a curriculum learns from: runs of the lineage, run directories, and every mistake before the first run trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from composer_kd import LossCurriculum, UserError
from composer_kd.runs.objects import make_algorithms
from composer_kd.runs.plan import make_plan
from tests.algorithms.common import begun_archive, recorded_run

BASE: dict[str, Any] = {'model': {'name': 'mlp', 'hidden': [16]}, 'max_duration': '4ep', 'archive': {'losses': True}}


def test_the_key_and_the_algorithm_are_the_same_thing() -> None:
    options = {'statistic': 'last', 'start': 0.4}
    lineage = {
        'by_key': {'curriculum': {'from': 'gen0', **options}},
        'by_name': {'algorithms': {'losscurriculum': {'archive': 'gen0', **options}}},
        'gen0': None,
    }
    gen0, *others = make_plan({**BASE, 'save_folder': 'out', 'lineage': lineage}).runs
    assert [run.name for run in (gen0, *others)] == ['gen0', 'by_key', 'by_name']
    assert others[0].config.curriculum == {'from': 'out/gen0', **options}
    made = [repr(*make_algorithms(run.config)) for run in others]
    assert made[0].count("archive='out/gen0'") == made[1].count("archive='out/gen0'") == 1
    for run in others:
        (algorithm,) = make_algorithms(run.config)
        assert isinstance(algorithm, LossCurriculum)
        assert algorithm.archive is not None
        assert (str(algorithm.archive.run.path), algorithm.statistic) == ('out/gen0', 'last')
        assert (run.teachers, run.after) == ((), ('gen0',))


def test_seeds_are_paired_and_curricula_merge_like_any_section() -> None:
    lineage = {'a': {'curriculum': None}, 'b': {'curriculum': {'start': 0.2}}, 'c': {'curriculum': {'from': 'b-s1'}}}
    plan = make_plan({**BASE, 'repeat': 2, 'curriculum': {'from': 'a', 'until': '2ep'}, 'lineage': lineage})
    found = {run.name: run.config.curriculum for run in plan.runs}
    assert found['a-s0'] is found['a-s1'] is None
    assert found['b-s0'] == {'from': 'runs/a-s0', 'until': '2ep', 'start': 0.2}
    assert found['b-s1'] == {'from': 'runs/a-s1', 'until': '2ep', 'start': 0.2}
    assert found['c-s0'] == found['c-s1'] == {'from': 'runs/b-s1', 'until': '2ep'}


def test_a_run_may_learn_from_two_ways_at_once() -> None:
    both = {'algorithms': {'TeacherMixupKD': {'teachers': ['a']}}, 'curriculum': {'from': 'b'}}
    plan = make_plan({**BASE, 'lineage': {'c': both, 'b': None, 'a': None}})
    assert [run.name for run in plan.runs] == ['b', 'a', 'c']
    assert plan.runs[-1].teachers == ('a',)
    assert plan.runs[-1].after == ('a', 'b')


def test_infobatch_needs_no_other_run() -> None:
    (run,) = make_plan({**BASE, 'archive': None, 'curriculum': {'mode': 'infobatch'}}).runs
    assert run.after == ()
    (algorithm,) = make_algorithms(run.config)
    assert repr(algorithm) == "LossCurriculum(mode='infobatch')"


def elsewhere(folder: Path) -> None:
    (folder / 'run.yaml').write_text('name: elsewhere\n')


def test_a_run_directory_from_elsewhere_must_have_recorded_losses(tmp_path: Path) -> None:
    recorded = recorded_run()
    elsewhere(recorded)
    (run,) = make_plan({**BASE, 'curriculum': {'from': str(recorded)}}).runs
    assert run.after == ()
    empty = begun_archive(tmp_path / 'empty').run.path
    elsewhere(empty)
    with pytest.raises(UserError, match=r'curriculum.from: .*empty has recorded no losses; train that run with'):
        make_plan({**BASE, 'curriculum': {'from': str(empty)}})


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    'records nothing': (
        {'archive': None, 'lineage': {'a': None, 'b': {'curriculum': {'from': 'a'}}}},
        r"lineage\.b\.curriculum\.from: 'a' records no losses; give that run `archive: \{losses: true\}`",
    ),
    'no source': ({'curriculum': {'start': 0.2}}, r'curriculum\.from: name the run of this file'),
    'unknown run': (
        {'lineage': {'gen0': None, 'b': {'curriculum': {'from': 'gen1'}}}},
        r"lineage\.b\.curriculum\.from: 'gen1' is neither a run of this file .*did you mean 'gen0'",
    ),
    'unknown option': (
        {'lineage': {'a': None, 'b': {'curriculum': {'from': 'a', 'pasing': 'root'}}}},
        r"lineage\.b\.curriculum\.pasing: unknown key; did you mean 'pacing'",
    ),
    'wrong value': (
        {'lineage': {'a': None, 'b': {'curriculum': {'from': 'a', 'until': 'half'}}}},
        r"lineage\.b\.curriculum: until: 'half' is not a point of the training",
    ),
    'the other name': ({'curriculum': {'archive': 'a'}}, r'curriculum\.archive: unknown key; write from'),
    'no name': ({'curriculum': {'from': ['a']}}, r'curriculum\.from: expected a run of the lineage'),
    'both ways': (
        {'lineage': {'a': None, 'b': {
            'curriculum': {'from': 'a'}, 'algorithms': {'LossCurriculum': {'archive': 'a'}},
        }}},
        r'lineage\.b\.curriculum: LossCurriculum is there twice; give it once',
    ),
    'beside MixUp': (
        {'curriculum': {'mode': 'infobatch'}, 'algorithms': ['MixUp'], 'archive': None},
        r'LossCurriculum: MixUp is in the same Trainer',
    ),
    'a circle': (
        {'lineage': {'a': {'curriculum': {'from': 'b'}}, 'b': {'algorithms': {'TeacherMixupKD': {'teachers': ['a']}}}}},
        r'is a circle: a run cannot wait for one that waits for it',
    ),
    'no mapping': ({'curriculum': 'gen0'}, r'curriculum: .*dictionary, got .gen0.'),
}  # fmt: skip


@pytest.mark.parametrize(('change', 'line'), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_line_before_anything_trains(change: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as raised:
        make_plan({**BASE, **change})
    assert '\n' not in str(raised.value)
