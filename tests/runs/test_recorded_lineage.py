"""Recorded teachers by name in a lineage."""

from __future__ import annotations

import pytest

from composer_kd.errors import UserError
from composer_kd.runs.plan import make_plan
from tests.runs.common import TINY


def plan_with(teachers, **changes):
    lineage = {'gen0': None, 'gen1': {'algorithms': {'TeacherMixupKD': {'teachers': teachers}}}}
    return make_plan({**TINY, 'lineage': lineage, **changes})


def test_a_recorded_teacher_is_named_like_any_other() -> None:
    plan = plan_with([{'recorded': 'gen0', 'fill': True}], repeat=2)
    taught = {run.name: run for run in plan.runs}['gen1-s1']
    assert taught.teachers == ('gen0-s1',)
    resolved = taught.config.algorithms['TeacherMixupKD']['teachers']
    assert resolved == [{'recorded': 'runs/gen0-s1', 'fill': True}]


BAD = {
    'kind': ([{'record': 'gen0'}], r"algorithms\.TeacherMixupKD\.teachers: .*one of 'recorded' and 'live'"),
    'option': ([{'recorded': 'gen0', 'fil': True}], "no option 'fil'.*fill"),
    'type': ([{'recorded': 'gen0', 'fill': 1}], 'fill is 1; expected a bool'),
    'unseen': ([{'recorded': 'gen0', 'unseen': 'skip'}], "unseen is 'live' or 'label'"),
    'name': ([{'recorded': 'gen9'}], "'gen9' is neither a run of this file"),
    'twice': (['gen0', {'live': 'gen0'}], 'there twice'),
    'live': ([{'live': 'gen0', 'fill': True}], "no option 'fill'"),
}


@pytest.mark.parametrize(('teachers', 'line'), BAD.values(), ids=BAD.keys())
def test_mistakes_are_found_before_anything_trains(teachers, line) -> None:
    with pytest.raises(UserError, match=line):
        plan_with(teachers)


LOGITS = {'logits': {'views': 2}}
UNFIT = {
    'nothing recorded': ({}, {'views': 2}, "'gen0' records no logits.*archive: .*fill: true"),
    'fresh views': (LOGITS, {}, "'gen0' records 2 views .* a fresh view every epoch; set its data.views to 2"),
    'more views': (LOGITS, {'views': 3}, "'gen0' records 2 views .* asks for 3 views"),
    'other padding': (LOGITS, {'views': 2, 'padding': 2}, 'data.padding: 4 and this run has 2'),
    'another seed': (LOGITS, {'views': 1, 'augment_seed': 9}, 'data.augment_seed: 0 and this run has 9'),
}


@pytest.mark.parametrize(('archive', 'data', 'line'), UNFIT.values(), ids=UNFIT.keys())
def test_recordings_that_will_not_fit_are_found_before_anything_trains(archive, data, line) -> None:
    student = {'data': data, 'algorithms': {'TeacherMixupKD': {'teachers': [{'recorded': 'gen0'}]}}}
    lineage = {'gen0': {'archive': archive} if archive else None, 'gen1': student}
    with pytest.raises(UserError, match=line):
        make_plan({**TINY, 'lineage': lineage})
    # What the student completes for itself need not be there.
    student['algorithms']['TeacherMixupKD']['teachers'][0]['fill'] = True
    make_plan({**TINY, 'lineage': lineage})


def test_a_window_of_fresh_views_can_be_looked_up() -> None:
    options = {'teachers': [{'recorded': 'gen0'}], 'schedule': 'first 2ep'}
    lineage = {'gen0': {'archive': LOGITS}, 'gen1': {'algorithms': {'TeacherMixupKD': options}}}
    assert [run.name for run in make_plan({**TINY, 'lineage': lineage}).runs] == ['gen0', 'gen1']
