"""Each role by itself: an algorithm with that role alone gets what the role promises, one without it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from composer.core import Algorithm, Event, State
from torch import nn

import composer_kd.algorithms.roles as roles
from composer_kd.algorithms import ALGORITHMS
from composer_kd.algorithms.roles import Cost, Need, Training, attach_modules, needs_of, unused_modules
from composer_kd.callbacks.cost_meter import CostMeter
from composer_kd.core.errors import UserError
from composer_kd.models import parameters, weights_hash
from composer_kd.runs.plan import make_plan
from composer_kd.teachers import Teacher
from tests.algorithms.common import make_trainer, net

FILE = {'model': {'name': 'mlp'}, 'max_duration': '1ep'}


class Plain(Algorithm):
    """Has no role."""

    def __init__(self, run: str = ''):
        self.run = run

    def match(self, event: Event, state: State) -> bool:
        return False

    def apply(self, event: Event, state: State, logger: Any) -> None:
        raise AssertionError


class UsesAnEarlierRun(Plain):
    needs: ClassVar[Mapping[str, Need]] = {'run': Need('losses')}


class Taught(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.teachers = [Teacher.live(net(11), 'one')]


class Costly(Plain):
    images = 0
    last_step: Mapping[str, float] = {'effort': 3.0}

    def costs(self) -> list[Cost]:
        return [Cost('other', self.images, passes=2.0, multiply_adds=lambda shape: 7)]

    def seconds(self) -> Mapping[str, tuple[float, float]]:
        return {'other': (float(self.images), 0.5 * self.images)}


class Regresses(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def modules(self) -> Mapping[str, nn.Module]:
        return {'layer': self.layer}

    def match(self, event: Event, state: State) -> bool:
        return event == Event.INIT

    def apply(self, event: Event, state: State, logger: Any) -> None:
        attach_modules(self, state)


class Attacks(Plain):
    makes_examples = True

    def keep_examples(self) -> None: ...

    def between_steps(self) -> Any: ...

    def gather_examples(self) -> None: ...

    def kept_examples(self) -> Any: ...


class RefusesLongTrainings(Plain):
    def check(self, training: Training) -> None:
        assert training.progress is not None
        if training.progress.epochs and training.progress.epochs > 3:
            raise UserError(f'{training.owner(self)}: trains for at most 3 epochs')


OF_ROLE = {
    roles.UsesRuns: UsesAnEarlierRun,
    roles.HasTeachers: Taught,
    roles.ReportsCost: Costly,
    roles.BringsModules: Regresses,
    roles.MakesExamples: Attacks,
    roles.ChecksTraining: RefusesLongTrainings,
}


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch):
    """Make a plan of a file that may use the algorithms above by their class names."""
    for algorithm in (Plain, *OF_ROLE.values()):
        monkeypatch.setitem(ALGORITHMS._entries, algorithm.__name__, (algorithm, 'for a test'))
    return make_plan


def test_every_role_has_a_test() -> None:
    declared = {getattr(roles, name) for name in roles.__all__ if getattr(getattr(roles, name), '_is_protocol', False)}
    assert declared == set(OF_ROLE)


@pytest.mark.parametrize(('role', 'algorithm'), OF_ROLE.items(), ids=lambda value: value.__name__)
def test_an_algorithm_has_the_role_that_it_declares_and_no_other(role: Any, algorithm: Any) -> None:
    made = algorithm()
    assert [other for other in OF_ROLE if isinstance(made, other)] == [role]
    assert not isinstance(Plain(), role)


def test_a_run_trains_after_the_run_that_it_uses_and_that_one_records_what_it_needs(plan: Any) -> None:
    assert dict(needs_of(UsesAnEarlierRun)) == {'run': Need('losses')}
    assert not needs_of(Plain)
    later = {'algorithms': {'UsesAnEarlierRun': {'run': 'first'}}}
    found = plan({**FILE, 'lineage': {'later': later, 'first': {}}})
    assert [run.name for run in found.runs] == ['first', 'later']
    assert found.runs[0].config.archive.losses
    assert found.notes == ('first records losses: later uses them',)
    unrelated = plan({**FILE, 'lineage': {'later': {'algorithms': {'Plain': {'run': 'first'}}}, 'first': {}}})
    assert [run.name for run in unrelated.runs] == ['later', 'first']
    assert unrelated.runs[1].config.archive is None


def test_teachers_are_found() -> None:
    trainer, _ = make_trainer([Taught(), Plain()], epochs='1ba')
    meter = CostMeter()
    meter.start(trainer.state)
    assert meter.has_teachers
    trainer.close()
    trainer, _ = make_trainer([Plain()], epochs='1ba')
    meter.start(trainer.state)
    assert not meter.has_teachers
    trainer.close()


def test_costs_since_the_last_look_are_counted() -> None:
    algorithm = Costly()
    trainer, _ = make_trainer([algorithm], epochs='1ba')
    state = trainer.state
    state.batch = next(iter(state.train_dataloader))
    algorithm.images = 5
    meter = CostMeter()
    meter.start(state)
    algorithm.images = 8
    assert meter.work(state)['other'] == 3 * 2.0 * 7
    assert meter.seconds()['other'] == (3.0, 1.5)
    assert meter.last_metrics() == {'effort': 3.0}
    assert meter.work(state)['other'] == 0
    trainer.close()


def test_modules_are_trained_beside_the_student_and_are_no_part_of_its_weights() -> None:
    algorithm, student = Regresses(), net(1)
    before, size = weights_hash(student), parameters(student)
    trainer, _ = make_trainer([algorithm], student=student, epochs='1ba')
    state = trainer.state
    trained = {id(one) for group in state.optimizers[0].param_groups for one in group['params']}
    assert {id(one) for one in algorithm.layer.parameters()} <= trained
    assert any(name.endswith('layer.weight') for name in state.model.state_dict())
    assert (weights_hash(state.model), parameters(state.model)) == (before, size)
    unused_modules(algorithm).backward()
    assert torch.equal(algorithm.layer.weight.grad, torch.zeros(2, 4))
    trainer.close()


def test_only_what_makes_examples_can_leave_them(plan: Any) -> None:
    recording = {**FILE, 'archive': {'adversarial': True}, 'data': {'views': 1}}
    assert plan({**recording, 'algorithms': {'Attacks': {}}}).runs[0].makes_examples
    with pytest.raises(UserError, match='adversarial'):
        plan({**recording, 'algorithms': {'Plain': {}}})


def test_a_training_is_checked_before_it_begins(plan: Any) -> None:
    plan({**FILE, 'max_duration': '3ep', 'algorithms': {'RefusesLongTrainings': {}}})
    with pytest.raises(UserError, match=r'algorithms\.RefusesLongTrainings: trains for at most 3 epochs'):
        plan({**FILE, 'max_duration': '4ep', 'algorithms': {'RefusesLongTrainings': {}}})
    plan({**FILE, 'max_duration': '4ep', 'algorithms': {'Plain': {}}})
