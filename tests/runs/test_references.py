"""Runs that a curriculum names: of the lineage, directories, and every mistake before the first run trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from composer_kd import LossCurriculum, UserError
from composer_kd.runs.objects import make_algorithms
from composer_kd.runs.plan import make_plan
from tests.algorithms.common import begun_archive, recorded_run
from tests.teachers.run_directories import finished_run

BASE: dict[str, Any] = {'model': {'name': 'mlp', 'hidden': [16]}, 'max_duration': '4ep', 'archive': {'losses': True}}


def ordered(**options: Any) -> dict[str, Any]:
    """A run with a curriculum."""
    return {'algorithms': {'LossCurriculum': options}}


def test_names_are_spelt_in_two_ways() -> None:
    options = {'statistic': 'last', 'start': 0.4}
    lineage = {
        'one': ordered(**{'from': 'gen0'}, **options),
        'other': {'algorithms': {'losscurriculum': {'from': 'gen0', **options}}},
        'gen0': None,
    }
    gen0, *others = make_plan({**BASE, 'save_folder': 'out', 'lineage': lineage}).runs
    assert [run.name for run in (gen0, *others)] == ['gen0', 'one', 'other']
    assert others[0].config.algorithms['LossCurriculum'] == {'from': 'out/gen0', **options}
    for run in others:
        (algorithm,) = make_algorithms(run.config)
        assert isinstance(algorithm, LossCurriculum)
        assert algorithm.archive is not None
        assert "from_='out/gen0'" in repr(algorithm)
        assert (str(algorithm.archive.run.path), algorithm.statistic) == ('out/gen0', 'last')
        assert (run.teachers, run.after) == ((), ('gen0',))


def test_seeds_are_paired_and_curricula_merge_like_any_section() -> None:
    lineage = {
        'a': {'algorithms': {'LossCurriculum': None}},
        'b': ordered(start=0.2),
        'c': ordered(**{'from': 'b-s1'}),
    }
    plan = make_plan({**BASE, 'repeat': 2, **ordered(**{'from': 'a', 'until': '2ep'}), 'lineage': lineage})
    found = {run.name: run.config.algorithms.get('LossCurriculum') for run in plan.runs}
    assert found['a-s0'] is found['a-s1'] is None
    assert found['b-s0'] == {'from': 'runs/a-s0', 'until': '2ep', 'start': 0.2}
    assert found['b-s1'] == {'from': 'runs/a-s1', 'until': '2ep', 'start': 0.2}
    assert found['c-s0'] == found['c-s1'] == {'from': 'runs/b-s1', 'until': '2ep'}


def test_a_run_may_learn_from_two_ways_at_once() -> None:
    both = {'algorithms': {'TeacherMixupKD': {'teachers': ['a']}, 'LossCurriculum': {'from': 'b'}}}
    plan = make_plan({**BASE, 'lineage': {'c': both, 'b': None, 'a': None}})
    assert [run.name for run in plan.runs] == ['b', 'a', 'c']
    assert plan.runs[-1].teachers == ('a',)
    assert plan.runs[-1].after == ('a', 'b')


def test_infobatch_needs_no_other_run() -> None:
    (run,) = make_plan({**BASE, 'archive': None, **ordered(mode='infobatch')}).runs
    assert run.after == ()
    (algorithm,) = make_algorithms(run.config)
    assert repr(algorithm) == "LossCurriculum(mode='infobatch')"


def test_a_run_records_by_itself_what_a_later_one_needs() -> None:
    looks_up = {'algorithms': {'Distillation': {'teachers': [{'recorded': 'b'}]}}, 'data': {'views': 2}}
    replays = {'algorithms': {'AdversarialRecycling': {'mode': 'replay', 'from': 'd'}}}
    lineage = {
        'a': None,
        'b': ordered(**{'from': 'a'}),
        'c': looks_up,
        'd': {'algorithms': ['AdversarialRecycling']},
        'e': replays,
    }
    plan = make_plan({**BASE, 'archive': None, 'lineage': lineage})
    archive = {run.name: run.config.archive for run in plan.runs}
    assert archive['a'] is not None
    assert archive['b'] is not None
    assert archive['d'] is not None
    assert archive['a'].losses
    assert archive['b'].logits is not None
    assert archive['b'].logits.views == 2
    assert archive['d'].adversarial
    assert archive['c'] is archive['e'] is None
    assert plan.notes == (
        'a records losses: b uses them',
        'b records logits: c uses them',
        'd records adversarial examples: e uses them',
    )
    said = make_plan({**BASE, 'lineage': {'a': None, 'b': ordered(**{'from': 'a'})}})
    assert said.notes == ()


def elsewhere(folder: Path) -> None:
    (folder / 'run.yaml').write_text('name: elsewhere\n')


def test_a_run_directory_from_elsewhere_must_have_recorded_losses(tmp_path: Path) -> None:
    recorded = recorded_run()
    elsewhere(recorded)
    (run,) = make_plan({**BASE, 'algorithms': {'LossCurriculum': {'from': str(recorded)}}}).runs
    assert run.after == ()
    empty = begun_archive(tmp_path / 'empty').run.path
    elsewhere(empty)
    with pytest.raises(UserError, match=r'LossCurriculum.from: .*empty recorded no losses; train it with'):
        make_plan({**BASE, 'algorithms': {'LossCurriculum': {'from': str(empty)}}})


def test_a_run_that_was_trained_without_recording_is_refused(tmp_path: Path) -> None:
    finished_run(tmp_path / 'a')
    later = {'a': None, 'b': ordered(**{'from': 'a'})}
    line = r"LossCurriculum\.from: 'a' was trained without recording losses.*remove .*a and run again"
    with pytest.raises(UserError, match=line):
        make_plan({**BASE, 'archive': None, 'save_folder': str(tmp_path), 'lineage': later})


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    'mixes images, so that no losses can be recorded': (
        {'archive': None, 'lineage': {'a': {'algorithms': ['MixUp']}, 'b': ordered(**{'from': 'a'})}},
        r"lineage\.b\.algorithms\.LossCurriculum\.from: 'a' has to record losses, but archive\.losses: MixUp mixes",
    ),
    'no source': (ordered(start=0.2), r"algorithms\.LossCurriculum: from: mode 'curriculum' needs the run directory"),
    'unknown run': (
        {'lineage': {'gen0': None, 'b': ordered(**{'from': 'gen1'})}},
        r"lineage\.b\.algorithms\.LossCurriculum\.from: 'gen1' is neither a run of this .*did you mean 'gen0'",
    ),
    'unknown option': (
        {'lineage': {'a': None, 'b': ordered(**{'from': 'a', 'pasing': 'root'})}},
        r"lineage\.b\.algorithms\.LossCurriculum\.pasing: unknown key; did you mean 'pacing'",
    ),
    'no point of a training': (
        {'lineage': {'a': None, 'b': ordered(**{'from': 'a', 'until': 'half'})}},
        r"lineage\.b\.algorithms\.LossCurriculum: until: 'half' is not a point of the training",
    ),
    'the other name': (ordered(archive='a'), r'algorithms\.LossCurriculum\.archive: unknown key'),
    'no name': (ordered(**{'from': ['a']}), r'LossCurriculum\.from: expected a run of the lineage'),
    'beside MixUp': (
        {'algorithms': {'LossCurriculum': {'mode': 'infobatch'}, 'MixUp': {}}, 'archive': None},
        r'algorithms\.LossCurriculum: MixUp is in the same Trainer',
    ),
    'a circle': (
        {'lineage': {'a': ordered(**{'from': 'b'}), 'b': {'algorithms': {'TeacherMixupKD': {'teachers': ['a']}}}}},
        r'is a circle: a run cannot wait for one that waits for it',
    ),
}  # fmt: skip


@pytest.mark.parametrize(('change', 'line'), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_line_before_anything_trains(change: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as raised:
        make_plan({**BASE, **change})
    assert '\n' not in str(raised.value)
