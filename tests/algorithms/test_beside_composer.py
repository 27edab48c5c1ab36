"""Beside Composer's own algorithms, in every order: parts add up to the total, teachers see what the student saw."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from composer.algorithms import EMA, SAM, CutMix, GradientClipping, LabelSmoothing, MixUp
from composer.core import Callback, Event
from torch.nn import functional as F

from composer_kd import Distillation, Teacher, TeacherMixupKD
from tests.algorithms.common import Spy, logged, make_trainer, net, trained_net

COMPANY = {
    'nothing': [],
    'MixUp': [MixUp],
    'MixUp-loss': [lambda: MixUp(interpolate_loss=True)],
    'CutMix': [CutMix],
    'CutMix-loss': [lambda: CutMix(interpolate_loss=True)],
    'LabelSmoothing': [LabelSmoothing],
    'EMA': [lambda: EMA(half_life='4ba', update_interval='1ba')],
    'SAM': [SAM],
    'SAM-2': [lambda: SAM(interval=2)],
    'GradientClipping': [lambda: GradientClipping(clipping_type='norm', clipping_threshold=0.1)],
    'MixUp+LabelSmoothing': [MixUp, LabelSmoothing],
    'MixUp-loss+LabelSmoothing': [lambda: MixUp(interpolate_loss=True), LabelSmoothing],
    'CutMix+LabelSmoothing': [CutMix, LabelSmoothing],
    'EMA+SAM': [lambda: EMA(half_life='4ba', update_interval='1ba'), SAM],
    'SAM+MixUp': [SAM, MixUp],
}
ORDERS = [
    pytest.param(company, order, id=f'{name}-{"".join(map(str, order))}')
    for name, company in COMPANY.items()
    for order in itertools.permutations(range(len(company) + 1))
]


def listed(company, order, distillation):
    """Distillation (number 0) and its company in the order of a user's list."""
    everyone = [distillation, *[make() for make in company]]
    return [everyone[number] for number in order]


@pytest.mark.parametrize(('company', 'order'), ORDERS)
def test_label_and_distill_are_the_total(company, order) -> None:
    algorithm = TeacherMixupKD([trained_net(11), trained_net(12)], kd_weight=3.0, label_weight=0.8, mix=[0.3, 0.7])
    trainer, log = make_trainer(listed(company, order, algorithm), epochs='1ep', device_train_microbatch_size=16)
    trainer.fit()
    trainer.close()
    label, distill, total = (logged(log, f'loss/train/{part}') for part in ('label', 'distill', 'total'))
    assert len(label) == len(distill) == len(total) == 6
    assert min(distill) > 0.01
    for parts in zip(label, distill, total, strict=True):
        assert parts[0] + parts[1] == pytest.approx(parts[2], abs=1e-5)


def test_orders_of_the_list_train_the_same_student() -> None:
    # MixUp and LabelSmoothing do not commute; where we stand in the list must make no difference to either.
    totals = []
    for order in ((0, 1, 2), (1, 0, 2), (1, 2, 0)):
        trainer, log = make_trainer(
            listed([MixUp, LabelSmoothing], order, TeacherMixupKD([trained_net(11)])), epochs='1ep'
        )
        trainer.fit()
        trainer.close()
        totals.append(logged(log, 'loss/train/total'))
    assert totals[0] == totals[1] == totals[2]


MIXING = {name: COMPANY[name] for name in COMPANY if 'MixUp' in name or 'CutMix' in name}


@pytest.mark.parametrize('company', MIXING.values(), ids=MIXING.keys())
def test_the_teacher_sees_the_mixed_input_that_the_student_saw(company) -> None:
    student, teacher = Spy(net(1)), Spy(trained_net(11))
    trainer, _ = make_trainer(
        listed(company, range(len(company) + 1), TeacherMixupKD([teacher])), student=student, epochs='1ep'
    )
    trainer.fit()
    trainer.close()
    plain = next(iter(trainer.state.train_dataloader))[0]
    # SAM passes twice over the very same input.
    assert teacher.calls == student.calls >= 6
    for seen, taught in zip(student.inputs, teacher.inputs, strict=True):
        assert torch.equal(seen, taught)
    assert not any(torch.equal(seen, plain) for seen in student.inputs)


@pytest.mark.parametrize('interpolate', [True, False])
def test_the_term_stays_whole_under_mixup(interpolate: bool) -> None:
    """A constant of 100 is 100 in the total, whatever share MixUp gives to its two losses."""
    algorithm = Distillation([trained_net(11)], loss=lambda student, teacher: 100 + 0 * student.sum(), label_weight=0.0)
    trainer, log = make_trainer([algorithm, MixUp(interpolate_loss=interpolate)], epochs='1ep')
    trainer.fit()
    trainer.close()
    assert logged(log, 'loss/train/total') == pytest.approx([100.0] * 6, abs=1e-4)


@pytest.mark.parametrize('other', [MixUp, lambda: MixUp(interpolate_loss=True), CutMix, LabelSmoothing])
def test_hard_labels_are_those_of_the_loader(other) -> None:
    seen, given = [], []

    def loss(student, teacher, labels):
        seen.append(labels.clone())
        return (student - teacher).pow(2).mean()

    class Given(Callback):
        def after_dataloader(self, state, logger) -> None:
            given.append(state.batch[1].clone())

    trainer, _ = make_trainer([Distillation([trained_net(11)], loss=loss), other()], epochs='1ep', callbacks=[Given()])
    trainer.fit()
    trainer.close()
    assert len(seen) == 6
    assert all(torch.equal(one, other) for one, other in zip(seen, given, strict=True))


def test_sam_steps_along_the_whole_loss() -> None:
    """Both passes of SAM distil; metrics are the first pass's, at the weights that the step began with."""
    teacher, student = Spy(trained_net(11)), net(1, batch_norm=False)
    images, labels = next(iter(make_trainer([])[0].state.train_dataloader))
    with torch.no_grad():
        logits, target = student(images), teacher.module(images)
        expected = (F.cross_entropy(logits, labels) + (logits - target).pow(2).mean()).item()
    trainer, log = make_trainer([SAM(rho=0.5), TeacherMixupKD([teacher])], student=student, epochs='1ba')
    trainer.fit()
    trainer.close()
    assert teacher.calls == 2
    parts = logged(log, 'loss/train/label')[0] + logged(log, 'loss/train/distill')[0]
    assert parts == pytest.approx(expected, rel=1e-5)
    assert logged(log, 'loss/train/total')[0] == pytest.approx(expected, rel=1e-5)


def test_ema_beside_until_overtaken_compares_the_averaged_student() -> None:
    algorithm = TeacherMixupKD([trained_net(11)], schedule='until overtaken')
    trainer, log = make_trainer([EMA(half_life='4ba', update_interval='1ba'), algorithm], epochs='2ep', evaluate=True)
    trainer.fit()
    trainer.close()
    evaluated = logged(log, 'metrics/eval/MulticlassAccuracy')
    assert logged(log, 'distill/student_accuracy') == pytest.approx(evaluated, abs=1e-6)


def test_runs_last_before_and_first_after() -> None:
    """What the engine does with our place at the end of the list, told by itself."""
    order = []

    class Watch(TeacherMixupKD):
        def apply(self, event, state, logger):
            order.append((event, 'kd'))
            return super().apply(event, state, logger)

    class WatchMixUp(MixUp):
        def apply(self, event, state, logger):
            order.append((event, 'mixup'))
            return super().apply(event, state, logger)

    trainer, _ = make_trainer([Watch([Teacher.live(trained_net(11))]), WatchMixUp(interpolate_loss=True)], epochs='1ba')
    trainer.fit()
    trainer.close()
    assert [who for event, who in order if event == Event.BEFORE_BACKWARD] == ['mixup', 'kd']
    assert [who for event, who in order if event == Event.BEFORE_FORWARD] == ['mixup', 'kd']


def test_nothing_warns_beside_company() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        trainer, _ = make_trainer([MixUp(), TeacherMixupKD([trained_net(11)]), LabelSmoothing()], epochs='1ba')
        trainer.fit()
        trainer.close()
    assert not [w for w in caught if 'composer_kd' in str(w.filename)]
