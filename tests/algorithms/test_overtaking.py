"""'until overtaken': counted on the first evaluator, teachers once, latched, kept in the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from composer.core import Callback, Evaluator
from torch import nn

from composer_kd import TeacherMixupKD, UserError
from composer_kd.algorithms.distillation.overtaking import StudentOvertakes
from tests.algorithms.common import Spy, images_and_labels, loader, logged, make_trainer, net, trained_net


class Gap(nn.Module):
    """A teacher that knows the task, but not its last class."""

    def __init__(self) -> None:
        super().__init__()
        self.module = trained_net(11)

    def forward(self, x):
        logits = self.module(x)
        return torch.cat([logits[:, :9], logits[:, 9:] - 20], dim=1)


def accuracy(module: nn.Module, seed: int) -> float:
    images, labels = images_and_labels(seed)
    with torch.no_grad():
        return (module(images).argmax(1) == labels).float().mean().item()


def until_overtaken(*teachers: nn.Module, **options) -> TeacherMixupKD:
    return TeacherMixupKD(list(teachers), schedule='until overtaken', kd_weight=0.001, **options)


def test_switches_off_when_the_student_is_better_and_not_before() -> None:
    spy = Spy(Gap())
    algorithm = until_overtaken(spy)
    trainer, log = make_trainer([algorithm], epochs='8ep', evaluate=True)
    trainer.fit()
    trainer.close()
    mix, student = logged(log, 'distill/mix_accuracy'), logged(log, 'distill/student_accuracy')
    assert mix[0] == pytest.approx(accuracy(spy.module, seed=1), abs=1e-6)
    # Every evaluation compares until the student has won; then nothing is compared any more.
    assert all(lost <= mix[0] for lost in student[:-1])
    assert student[-1] > mix[0]
    assert logged(log, 'distill/overtaken') == [0.0] * (len(student) - 1) + [1.0]
    assert algorithm.overtaken
    # The student's accuracies are those that Composer measures on the same batches.
    assert student == pytest.approx(logged(log, 'metrics/eval/MulticlassAccuracy')[: len(student)], abs=1e-6)
    epochs_on = len(student)
    assert 2 <= epochs_on < 8
    assert logged(log, 'distill/weight') == [0.001] * (6 * epochs_on) + [0.0] * (6 * (8 - epochs_on))
    # In each step while it was on, and once on the six batches of the evaluator.
    assert spy.calls == 6 * epochs_on + 6


def test_stays_on_while_the_teacher_is_better() -> None:
    spy = Spy(trained_net(11))
    student = net(1)
    trainer, log = make_trainer(
        [until_overtaken(spy)], student=student, epochs='3ep', evaluate=True,
        optimizers=torch.optim.SGD(student.parameters(), lr=1e-5),
    )  # fmt: skip
    trainer.fit()
    trainer.close()
    assert logged(log, 'distill/overtaken') == [0.0] * 3
    assert spy.calls == 18 + 6, 'the teacher is counted once'


def test_an_equal_student_has_not_overtaken() -> None:
    counts = StudentOvertakes('KD')
    labels = torch.tensor([0, 1, 2, 0])
    target = torch.eye(3)[[0, 1, 0, 2]]
    counts.count(labels, torch.eye(3)[[0, 1, 1, 1]], target)
    trainer, _ = make_trainer([])
    counts.end(trainer.state.device)
    assert (counts.student_accuracy, counts.teacher_accuracy, counts.overtaken) == (0.5, 0.5, False)
    counts.start()
    counts.count(labels, torch.eye(3)[[0, 1, 2, 1]], None)
    counts.end(trainer.state.device)
    assert (counts.student_accuracy, counts.teacher_accuracy, counts.overtaken) == (0.75, 0.5, True)
    trainer.close()


class Spoil(Callback):
    """Makes the student worse than any teacher at the end of the fifth epoch."""

    def epoch_end(self, state, logger) -> None:
        if int(state.timestamp.epoch) == 5:
            with torch.no_grad():
                for parameter in state.model.parameters():
                    parameter.zero_()


def test_the_decision_is_latched() -> None:
    algorithm = until_overtaken(Gap())
    trainer, log = make_trainer([algorithm], epochs='8ep', evaluate=True, callbacks=[Spoil()])
    trainer.fit()
    trainer.close()
    assert logged(log, 'distill/overtaken')[-1] == 1.0
    assert min(logged(log, 'metrics/eval/MulticlassAccuracy')) < 0.3, 'the student was not spoilt'
    assert set(logged(log, 'distill/weight')[-12:]) == {0.0}
    assert algorithm.overtaken


def test_the_decision_and_the_teachers_count_are_in_the_checkpoint(tmp_path: Path) -> None:
    trainer, log = make_trainer([until_overtaken(Gap())], epochs='8ep', evaluate=True, folder=tmp_path)
    trainer.fit()
    trainer.close()
    on = len(logged(log, 'distill/student_accuracy'))
    spy = Spy(Gap())
    algorithm = until_overtaken(spy)
    resumed, log = make_trainer(
        [algorithm], student=net(5), epochs='8ep', evaluate=True, load=tmp_path / f'ep{on}-ba{6 * on}-rank0.pt'
    )
    assert algorithm.overtaken
    resumed.fit()
    resumed.close()
    assert set(logged(log, 'distill/weight')) == {0.0}
    assert spy.calls == 1, 'only the check of the first batch'
    # And from before the decision: it falls again at the same place, the teacher not being counted again.
    spy = Spy(Gap())
    algorithm = until_overtaken(spy)
    before = on - 1
    assert before >= 1
    resumed, log = make_trainer(
        [algorithm],
        student=net(5),
        epochs='8ep',
        evaluate=True,
        load=tmp_path / f'ep{before}-ba{6 * before}-rank0.pt',
    )
    resumed.fit()
    resumed.close()
    assert logged(log, 'distill/weight') == [0.001] * 6 + [0.0] * (6 * (8 - on))
    assert spy.calls == 6


def test_looks_at_the_first_evaluator_alone() -> None:
    spy = Spy(trained_net(11))
    evaluators = [
        Evaluator(label='val', dataloader=loader(seed=1, shuffle=False)),
        Evaluator(label='test', dataloader=loader(seed=2, shuffle=False)),
    ]
    algorithm = until_overtaken(spy)
    trainer, log = make_trainer([algorithm], epochs='1ep', eval_dataloader=evaluators)
    trainer.fit()
    trainer.close()
    assert spy.calls == 6 + 6
    assert logged(log, 'distill/mix_accuracy') == [pytest.approx(accuracy(spy.module, seed=1), abs=1e-6)]
    assert logged(log, 'distill/student_accuracy') == pytest.approx(
        logged(log, 'metrics/val/MulticlassAccuracy'), abs=1e-6
    )


@pytest.mark.parametrize('mix', ['random_one', 'dirichlet', [0.9, 0.1]])
def test_the_mix_that_is_compared_is_the_one_without_chance(mix) -> None:
    teachers = [trained_net(11), Gap()]
    images, _ = images_and_labels(1)
    algorithm = until_overtaken(*teachers, mix=mix)
    with torch.no_grad():
        weights = mix if isinstance(mix, list) else [0.5, 0.5]
        target = sum(weight * teacher(images) for weight, teacher in zip(weights, teachers, strict=True))
    expected = (target.argmax(1) == images_and_labels(1)[1]).float().mean().item()
    trainer, log = make_trainer([algorithm], epochs='1ep', evaluate=True)
    trainer.fit()
    trainer.close()
    assert logged(log, 'distill/mix_accuracy') == [pytest.approx(expected, abs=1e-6)]


def test_is_refused_without_an_evaluator() -> None:
    trainer, _ = make_trainer([until_overtaken(trained_net(11))], epochs='1ep')
    with pytest.raises(
        UserError, match=r'compares on the first evaluator, and the Trainer has none; give eval_dataloader'
    ):
        trainer.fit()
    trainer.close()


def test_evaluation_counts_as_the_teachers_work() -> None:
    algorithm = until_overtaken(trained_net(11), trained_net(12))
    trainer, _ = make_trainer([algorithm], epochs='1ep', evaluate=True)
    trainer.fit()
    trainer.close()
    assert algorithm.pool.images_computed == [192 + 192] * 2
