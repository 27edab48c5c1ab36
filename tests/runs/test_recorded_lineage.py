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
