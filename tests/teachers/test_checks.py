"""Checks of what teachers give: broken outputs are refused, useless ones warned of, good ones left in peace."""

from __future__ import annotations

import copy
import logging
import warnings

import pytest
import torch
from torch import nn

from composer_kd import Distillation, Teacher, UserError
from composer_kd.models import weights_hash
from composer_kd.runs.command import quieten
from composer_kd.teachers.checks import OutputChecks, at_chance_level
from tests.algorithms.common import CLASSES, images_and_labels, loader, logged, make_trainer, net, trained_net


class Changed(nn.Module):
    """A good teacher whose outputs something happens to."""

    def __init__(self, change, module: nn.Module | None = None):
        super().__init__()
        self.module = module or trained_net(11)
        self.change = change

    def forward(self, x):
        return self.change(self.module(x))


def with_one(value: float):
    def change(logits):
        logits = logits.clone()
        logits[3, 4] = value
        return logits

    return change


BROKEN = {
    'wrong classes': (lambda z: z[:, :7], 'gives 7 classes, the student 10'),
    'one class': (lambda z: z[:, :1], 'gives a single output, the student 10 classes'),
    'wrong rows': (lambda z: z[:-1], 'gives 31 rows for a batch of 32'),
    'no matrix': (lambda z: z[None], r'gives \(1, 32, 10\); distillation needs logits of shape \[batch, classes\]'),
    'flat': (lambda z: z.flatten(), 'gives a single output, the student 10 classes'),
    'no tensor': (lambda z: [z, z], 'gives list; distillation needs logits'),
    'NaN': (with_one(float('nan')), 'gives NaN or infinite outputs'),
    'infinite': (with_one(float('-inf')), 'gives NaN or infinite outputs'),
    'all NaN': (lambda z: z * float('nan'), 'gives NaN or infinite outputs'),
    'constant': (lambda z: z[:1].expand_as(z), 'gives the same output for every sample'),
    'zero': (lambda z: z * 0, 'gives the same output for every sample'),
}
SCHEDULES = ['always', 'from 1ep to 2ep', 'every 2ba', 'from 5ba to 7ba, linear decay']


@pytest.mark.parametrize(('change', 'line'), BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize('schedule', SCHEDULES)
def test_broken_outputs_are_refused_before_the_first_step_whatever_the_schedule(
    change, line: str, schedule: str
) -> None:
    student = net(1, batch_norm=False)
    before = weights_hash(student)
    teachers = [trained_net(12), Teacher.live(Changed(change), name='gen1')]
    trainer, _ = make_trainer([Distillation(teachers, schedule=schedule)], student=student, epochs='2ep')
    with pytest.raises(UserError, match=f"teacher 'gen1' {line}") as refused:
        trainer.fit()
    assert '\n' not in str(refused.value)
    assert int(trainer.state.timestamp.batch) <= 1
    assert weights_hash(student) == before, 'a step was taken'
    trainer.close()


@pytest.mark.parametrize('change', [BROKEN['NaN'], BROKEN['constant'], BROKEN['wrong classes']])
@pytest.mark.parametrize('mix', ['random_one', 'dirichlet'])
@pytest.mark.parametrize('broken', [0, 1, 2])
def test_a_teacher_that_is_not_drawn_is_checked_too(change, mix: str, broken: int) -> None:
    teachers = [Teacher.live(trained_net(12), name=f'gen{number}') for number in range(3)]
    teachers[broken] = Teacher.live(Changed(change[0]), name=f'gen{broken}')
    trainer, _ = make_trainer([Distillation(teachers, mix=mix)], epochs='2ep')
    with pytest.raises(UserError, match=f"teacher 'gen{broken}' {change[1]}"):
        trainer.fit()
    assert int(trainer.state.timestamp.batch) <= 1
    trainer.close()


@pytest.mark.parametrize('microbatch', [8, 5])
def test_broken_outputs_are_found_in_any_microbatch(microbatch: int) -> None:
    calls = []

    def change(z):
        calls.append(len(z))
        return z * float('nan') if len(calls) == 4 else z

    trainer, _ = make_trainer(
        [Distillation([Teacher.live(Changed(change), name='gen0')])],
        epochs='1ep',
        device_train_microbatch_size=microbatch,
    )
    with pytest.raises(UserError, match="teacher 'gen0' gives NaN"):
        trainer.fit()
    trainer.close()


@pytest.mark.parametrize('microbatch', [2, 32])
def test_images_that_are_the_same_are_no_broken_teacher(microbatch: int) -> None:
    images, labels = next(iter(loader()))
    # Two of one image in the short last batch; every pair of the second batch is one image twice.
    twins = images[:16].repeat_interleave(2, dim=0)
    data = torch.utils.data.TensorDataset(
        torch.cat([images, twins, images[:2] * 0]), torch.cat([labels, labels, labels[:2]])
    )
    trainer, log = make_trainer(
        [Distillation([trained_net(12)])],
        train_dataloader=torch.utils.data.DataLoader(data, 32),
        epochs='2ep',
        device_train_microbatch_size=microbatch,
    )
    trainer.fit()
    trainer.close()
    assert len(logged(log, 'distill/agreement')) == 6


def test_a_teacher_that_breaks_on_the_way_is_found_then() -> None:
    calls = []

    def change(z):
        calls.append(len(z))
        return z * float('inf') if len(calls) == 9 else z

    trainer, _ = make_trainer([Distillation([Teacher.live(Changed(change), name='gen0')])], epochs='2ep')
    with pytest.raises(UserError, match="teacher 'gen0' gives NaN or infinite"):
        trainer.fit()
    assert int(trainer.state.timestamp.batch) == 9
    trainer.close()


def test_a_single_sample_is_not_called_constant() -> None:
    trainer, log = make_trainer(
        [Distillation([trained_net(11)])], epochs='2ba', device_train_microbatch_size=1, student=net(1, False)
    )
    trainer.fit()
    trainer.close()
    assert len(logged(log, 'loss/train/distill')) == 2


# -- chance level -----------------------------------------------------------------------------------------------------


class Lines(logging.Handler):
    """The warnings that the checks log, from one moment to another."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert record.levelno == logging.WARNING
        self.lines.append(record.getMessage())

    def __enter__(self) -> list[str]:
        logging.getLogger('composer_kd.teachers.checks').addHandler(self)
        return self.lines

    def __exit__(self, *_) -> None:
        logging.getLogger('composer_kd.teachers.checks').removeHandler(self)


def chance_warnings(teachers, epochs: str = '4ep', **options) -> list[str]:
    # A suite with warnings as errors is not failed by a guess about a teacher.
    with Lines() as lines, warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*chance level.*')
        trainer, _ = make_trainer([Distillation(teachers, **options)], epochs=epochs)
        trainer.fit()
        trainer.close()
    assert all('at chance level' in line and '\n' not in line for line in lines)
    return lines


PERMUTED = torch.tensor([3, 7, 0, 1, 9, 2, 8, 4, 5, 6])  # No class stays in its place.


@pytest.mark.parametrize('schedule', ['always', 'from 3ep to 4ep', 'every 2ep', 'first 1ba'])
def test_permuted_classes_and_untrained_weights_are_warned_of_once_by_name(schedule: str) -> None:
    teachers = [
        Teacher.live(Changed(lambda z: z[:, PERMUTED]), name='permuted'),
        Teacher.live(trained_net(12), name='good'),
        Teacher.live(Changed(lambda z: z, net(77)), name='untrained'),
    ]
    lines = chance_warnings(teachers, schedule=schedule)
    assert [line.split("'")[1] for line in lines] == ['permuted', 'untrained']
    assert 'Its classes may be in another order' in lines[0]


def test_random_one_warns_too() -> None:
    bad = Changed(lambda z: z[:, PERMUTED])
    lines = chance_warnings([bad, copy.deepcopy(bad), trained_net(12)], epochs='12ep', mix='random_one')
    assert len(lines) == 2


def test_a_good_teacher_raises_no_warning() -> None:
    assert chance_warnings([trained_net(11)]) == []


def test_a_teacher_of_a_short_training_is_judged_by_what_there_was() -> None:
    # 192 samples in all: fewer than the judge would like to see.
    assert len(chance_warnings([Changed(lambda z: z[:, PERMUTED])], epochs='1ep')) == 1


def test_the_accuracy_on_the_first_batches_is_logged() -> None:
    teacher = trained_net(11)
    images, labels = images_and_labels()
    trainer, log = make_trainer([Distillation([Teacher.live(teacher, name='gen0')])], epochs='6ep')
    trainer.fit()
    trainer.close()
    accuracies = logged(log, 'distill/teacher_accuracy/gen0')
    # 16 batches of 32 are the 512 samples that are enough; after an epoch of 192 all have been seen once.
    assert len(accuracies) == 16
    with torch.no_grad():
        expected = (teacher(images).argmax(dim=1) == labels).float().mean().item()
    assert accuracies[5] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ('correct', 'counted', 'classes', 'expected'),
    [
        # chance 0.1, one standard deviation of 100 draws 0.03: few samples get the benefit of the doubt
        (10, 100, 10, True), (12, 100, 10, True), (14, 100, 10, False), (0, 100, 10, True),
        # chance 0.01, three standard deviations of 512 draws 0.0132
        (11, 512, 100, True), (12, 512, 100, False), (512, 512, 100, False),
    ],
)  # fmt: skip
def test_chance_level_by_hand(correct: int, counted: int, classes: int, expected: bool) -> None:
    assert at_chance_level(correct, counted, classes) is expected


def test_a_weak_but_honest_teacher_is_seldom_called_guessing() -> None:
    # 5 % right of 100 classes on 512 samples: the expected count lies six standard deviations of chance above it.
    generator = torch.Generator().manual_seed(0)
    wrong = 0
    for _ in range(200):
        correct = int((torch.rand(512, generator=generator) < 0.05).sum())
        wrong += at_chance_level(correct, 512, 100)
    assert wrong <= 2


def test_what_was_counted_survives_a_checkpoint() -> None:
    checks = OutputChecks(['a', 'b'])
    checks.classes = CLASSES
    checks.judge([[0, 0, 20, 32], [0, 0, 30, 32]], more_to_come=True)
    other = OutputChecks(['a', 'b'])
    other.load_state_dict(checks.state_dict())
    assert other.state_dict() == {
        'classes': CLASSES, 'correct': [20, 30], 'counted': [32, 32], 'judged': [False, False],
    }  # fmt: skip
    assert other.correct is not checks.correct


def test_a_checkpoint_of_before_that_knows_no_classes_ends_without_a_word() -> None:
    checks = OutputChecks(['a'])
    checks.load_state_dict({'correct': [0], 'counted': [32], 'judged': [False]})
    with Lines() as lines:
        checks.finish()
    assert lines == []


def test_the_command_line_shows_what_is_logged_as_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    ours, composers = logging.getLogger('composer_kd'), logging.getLogger('composer')
    handlers, level = list(ours.handlers), composers.level
    with warnings.catch_warnings():
        try:
            for _ in range(2):  # A second time adds nothing.
                quieten()
            logging.getLogger('composer_kd.teachers.checks').warning('teacher %r is\n  at chance level', 'gen0')
            logging.getLogger('composer_kd.teachers.checks').info('nobody asked')
        finally:
            ours.handlers[:] = handlers
            composers.setLevel(level)
            torch.set_warn_always(False)
    assert capsys.readouterr().err == "warning: teacher 'gen0' is at chance level\n"
