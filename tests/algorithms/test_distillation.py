"""Distillation in a real Trainer against the same training written by hand, in every part of its formula."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from composer.core import Callback
from composer.models import ComposerClassifier, ComposerModel
from torch import Tensor, nn
from torch.nn import functional as F

from composer_kd import Distillation, Schedule, Teacher, TeacherMixupKD, UserError
from composer_kd.functional import dirichlet_weights
from composer_kd.models import classifier, weights_hash
from composer_kd.teachers.mix import Dirichlet
from tests.algorithms.common import CLASSES, Spy, images_and_labels, loader, logged, make_trainer, net, trained_net

STEPS = 6  # batches in an epoch


def mse_by_hand(student: Tensor, target: Tensor) -> Tensor:
    return ((student - target) ** 2).sum() / (student.shape[0] * student.shape[1])


def kl_by_hand(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    p, q = torch.softmax(target / temperature, 1), torch.softmax(student / temperature, 1)
    return temperature**2 * (p * (p / q).log()).sum() / len(student)


def z_scored(logits: Tensor) -> Tensor:
    return (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True, correction=1)


# Arguments -> the distillation term (student, teachers' outputs, step), the label weight, the term's weight at a step.
FORMULAS = {
    'as published': (TeacherMixupKD, {}, lambda s, t, n: mse_by_hand(s, (t[0] + t[1]) / 2), 1, lambda n: 1),
    'weights': (
        TeacherMixupKD, {'mix': [0.2, 0.8]}, lambda s, t, n: mse_by_hand(s, 0.2 * t[0] + 0.8 * t[1]), 1, lambda n: 1
    ),
    'both weights': (
        TeacherMixupKD, {'label_weight': 0.3, 'kd_weight': 2.5}, lambda s, t, n: mse_by_hand(s, (t[0] + t[1]) / 2), 0.3,
        lambda n: 2.5,
    ),
    'no labels': (
        Distillation, {'label_weight': 0, 'loss': 'mse'},
        lambda s, t, n: mse_by_hand(s, (t[0] + t[1]) / 2), 0, lambda n: 1,
    ),
    'no teacher': (Distillation, {'kd_weight': 0, 'label_weight': 0.5}, lambda s, t, n: 0 * s.sum(), 0.5, lambda n: 0),
    'kl': (Distillation, {}, lambda s, t, n: kl_by_hand(s, (t[0] + t[1]) / 2, 4.0), 1, lambda n: 1),
    'kl at 2': (
        Distillation, {'temperature': 2.0, 'kd_weight': 0.9, 'label_weight': 0.1},
        lambda s, t, n: kl_by_hand(s, (t[0] + t[1]) / 2, 2.0), 0.1, lambda n: 0.9,
    ),
    'kl with options, standardized': (
        Distillation, {'loss': {'name': 'kl', 'temperature': 2}, 'standardize': True},
        lambda s, t, n: kl_by_hand(z_scored(s), z_scored((t[0] + t[1]) / 2), 2.0), 1, lambda n: 1,
    ),
    'hard': (
        Distillation, {'loss': 'hard'},
        lambda s, t, n: F.nll_loss(s.log_softmax(1), (t[0] + t[1]).argmax(1)), 1, lambda n: 1,
    ),
    'decaying': (
        TeacherMixupKD, {'schedule': 'always, linear decay', 'kd_weight': 2.0},
        lambda s, t, n: mse_by_hand(s, (t[0] + t[1]) / 2), 1, lambda n: 2 * (1 - n / 12),
    ),
    'every second epoch': (
        TeacherMixupKD, {'schedule': 'every 2ep', 'label_weight': 0.5},
        lambda s, t, n: mse_by_hand(s, (t[0] + t[1]) / 2), 0.5,
        lambda n: float(n < STEPS) or None,
    ),
    'a window in batches, cosine decay': (
        TeacherMixupKD, {'schedule': 'from 3ba to 9ba, cosine decay', 'label_weight': 0.5},
        lambda s, t, n: mse_by_hand(s, (t[0] + t[1]) / 2), 0.5,
        lambda n: 0.5 * (1 + math.cos(math.pi * (n - 3) / 6)) if 3 <= n < 9 else None,
    ),
    'dirichlet': (
        TeacherMixupKD, {'mix': {'name': 'dirichlet', 'alpha': 0.5}},
        lambda s, t, n: mse_by_hand(s, torch.einsum('k,kbc->bc', drawn(n), t)), 1, lambda n: 1,
    ),
    'dirichlet per sample': (
        TeacherMixupKD, {'mix': {'name': 'dirichlet', 'alpha': 0.5, 'per': 'sample'}},
        lambda s, t, n: mse_by_hand(s, torch.einsum('kb,kbc->bc', drawn(n, 32), t)), 1, lambda n: 1,
    ),
    'a loss of ones own': (
        Distillation, {'loss': lambda student, teacher: (student - teacher).abs().mean()},
        lambda s, t, n: (s - (t[0] + t[1]) / 2).abs().mean(), 1, lambda n: 1,
    ),
}  # fmt: skip


def drawn(step: int, samples: int | None = None) -> Tensor:
    weights = dirichlet_weights(2, 0.5, seed=7, step=step, ids=torch.arange(samples or 1)).float()
    return weights if samples else weights[:, 0]


def ours(student: nn.Module) -> ComposerModel:
    return classifier(student, CLASSES)


def composers_own(student: nn.Module) -> ComposerModel:
    return ComposerClassifier(student, num_classes=CLASSES)


@pytest.mark.parametrize(('kind', 'options', 'term', 'label_weight', 'weight'), FORMULAS.values(), ids=FORMULAS.keys())
@pytest.mark.parametrize('wrap', [ours, composers_own])
def test_is_the_hand_written_loop(kind, options, term, label_weight, weight, wrap) -> None:
    teachers = [trained_net(11), trained_net(12)]
    student = net(1)
    by_hand = copy.deepcopy(student)
    trainer, log = make_trainer([kind(teachers, **options)], student=student, model=wrap(student), epochs='2ep')
    trainer.fit()
    trainer.close()

    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9)
    data, rows = loader(), []
    for step in range(2 * STEPS):
        if step % STEPS == 0:
            data.sampler.set_epoch(step // STEPS)
            batches = iter(data)
        images, labels = next(batches)
        logits = by_hand(images)
        label, distill, strength = F.cross_entropy(logits, labels), torch.zeros(()), weight(step)
        if strength is not None:
            with torch.no_grad():
                outputs = torch.stack([teacher(images) for teacher in teachers])
            label, distill = label_weight * label, strength * term(logits, outputs, step)
        optimizer.zero_grad()
        (label + distill).backward()
        optimizer.step()
        rows.append((label.item(), distill.item(), (label + distill).item(), strength or 0))

    expected = {name: [row[n] for row in rows] for n, name in enumerate(('label', 'distill', 'total', 'weight'))}
    assert logged(log, 'loss/train/total') == pytest.approx(expected['total'], rel=1e-4, abs=1e-6)
    assert logged(log, 'loss/train/label') == pytest.approx(expected['label'], rel=1e-4, abs=1e-6)
    assert logged(log, 'distill/weight') == pytest.approx(expected['weight'], abs=1e-9)
    taught = [distill for distill, strength in zip(expected['distill'], expected['weight'], strict=True) if strength]
    assert logged(log, 'loss/train/distill') == pytest.approx(taught, rel=1e-4, abs=1e-6)
    for own, other in zip(student.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_agreement_is_the_share_of_equal_preferences() -> None:
    teacher, student = trained_net(11), net(1)
    images, _ = next(iter(loader()))
    with torch.no_grad():
        expected = (copy.deepcopy(student)(images).argmax(1) == teacher(images).argmax(1)).float().mean().item()
    trainer, log = make_trainer([TeacherMixupKD([teacher])], student=student, epochs='1ba')
    trainer.fit()
    trainer.close()
    assert logged(log, 'distill/agreement') == [pytest.approx(expected, abs=1e-6)]


def test_metrics_are_these_once_a_batch() -> None:
    teachers = [Teacher.live(trained_net(11), name='gen0'), Teacher.live(trained_net(12), name='gen1')]
    trainer, log = make_trainer([TeacherMixupKD(teachers)], epochs='2ep', device_train_microbatch_size=8)
    trainer.fit()
    trainer.close()
    ours = {name: len(entries) for name, entries in log.data.items() if name.startswith(('distill/', 'loss/'))}
    assert ours == dict.fromkeys(
        ['loss/train/total', 'loss/train/label', 'loss/train/distill', 'distill/weight', 'distill/agreement',
         'distill/teacher_accuracy/gen0', 'distill/teacher_accuracy/gen1'],
        12,
    )  # fmt: skip


# -- only what is asked for -------------------------------------------------------------------------------------------


class HashAfter(Callback):
    def __init__(self) -> None:
        self.hashes: list[str] = []

    def batch_end(self, state, logger) -> None:
        self.hashes.append(weights_hash(state.model))


def test_off_it_changes_no_bit_and_asks_no_teacher() -> None:
    plain, taught = HashAfter(), HashAfter()
    trainer, log_plain = make_trainer([], callbacks=[plain])
    trainer.fit()
    trainer.close()
    spy = Spy(trained_net(11))
    algorithm = TeacherMixupKD([spy], schedule='from 7ba to 9ba', label_weight=0.5)
    trainer, log = make_trainer([algorithm], callbacks=[taught])
    trainer.fit()
    trainer.close()
    assert taught.hashes[:7] == plain.hashes[:7]
    assert taught.hashes[7] != plain.hashes[7]
    assert logged(log, 'loss/train/total')[:7] == logged(log_plain, 'loss/train/total')[:7]
    assert logged(log, 'loss/train/label')[:7] == pytest.approx(logged(log_plain, 'loss/train/total')[:7], rel=1e-6)
    # Once to be checked in the first batch, and in batches 7 and 8.
    assert spy.calls == 3
    assert algorithm.pool.images_computed == [96]


def test_random_one_runs_the_drawn_teacher_alone() -> None:
    spies = [Spy(trained_net(11)), Spy(trained_net(12)), Spy(trained_net(13))]
    trainer, _ = make_trainer([TeacherMixupKD(spies, mix='random_one')], epochs='10ep')
    trainer.fit()
    trainer.close()
    # 60 steps, and in the first one the two that were not drawn are checked.
    assert sum(spy.calls for spy in spies) == 60 + 2
    assert all(spy.calls > 8 for spy in spies)


def test_the_batch_keeps_its_labels() -> None:
    seen = []

    class Look(Callback):
        def after_forward(self, state, logger) -> None:
            seen.append(len(state.batch))

        def batch_end(self, state, logger) -> None:
            seen.append(state.batch[1].shape)

    trainer, _ = make_trainer([TeacherMixupKD([trained_net(11)])], epochs='1ba', callbacks=[Look()])
    trainer.fit()
    trainer.close()
    assert seen == [2, (32,)]


# -- microbatches, precision, dict losses -----------------------------------------------------------------------------


@pytest.mark.parametrize('microbatch', [16, 8, 5])
@pytest.mark.parametrize('options', [{}, {'mix': 'random_one'}, {'mix': {'name': 'dirichlet', 'per': 'sample'}}])
def test_microbatches_give_the_loss_and_gradients_of_the_whole_batch(microbatch: int, options: dict) -> None:
    results = []
    for size in (32, microbatch):
        student = net(1, batch_norm=False)
        algorithm = TeacherMixupKD([trained_net(11), trained_net(12)], label_weight=0.7, **options)
        trainer, log = make_trainer([algorithm], student=student, epochs='1ep', device_train_microbatch_size=size)
        trainer.fit()
        trainer.close()
        results.append((student, log))
    (whole, log_whole), (parts, log_parts) = results
    for own, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)
    for name in ('loss/train/total', 'loss/train/label', 'loss/train/distill', 'distill/agreement'):
        assert logged(log_parts, name) == pytest.approx(logged(log_whole, name), rel=1e-5)
        assert len(logged(log_parts, name)) == STEPS


def test_trains_in_bf16_on_the_cpu() -> None:
    student = net(1)
    model = classifier(student, cpu_autocast=True)
    trainer, log = make_trainer([TeacherMixupKD([trained_net(11)])], student=student, model=model, epochs='4ep')
    trainer.fit()
    trainer.close()
    losses = logged(log, 'loss/train/distill')
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-6:]) < 0.7 * sum(losses[:6])


class DictLoss(ComposerClassifier):
    """A user's own model whose loss has parts."""

    def __init__(self, module: nn.Module, total: bool):
        super().__init__(module, num_classes=CLASSES)
        self.total = total

    def loss(self, outputs, batch):
        parts = {'ce': F.cross_entropy(outputs, batch[1]), 'spread': 0.1 * outputs.pow(2).mean()}
        # With a total, Composer backpropagates that alone: here, without the spread.
        return {**parts, 'total': parts['ce']} if self.total else parts


@pytest.mark.parametrize('total', [True, False])
def test_a_loss_of_parts_keeps_its_parts_and_gets_ours_once(total: bool) -> None:
    student, teacher = net(1, batch_norm=False), trained_net(11)
    before = copy.deepcopy(student)
    images, labels = next(iter(loader()))
    trainer, log = make_trainer(
        [Distillation([teacher], loss='mse', label_weight=0.5, kd_weight=2.0)],
        student=student, model=DictLoss(student, total), epochs='1ba',
    )  # fmt: skip
    trainer.fit()
    trainer.close()
    logits = before(images)
    ce, spread = F.cross_entropy(logits, labels), 0.1 * logits.pow(2).mean()
    label = 0.5 * (ce if total else ce + spread)
    distill = 2 * mse_by_hand(logits, teacher(images).detach())
    for name, value in (
        ('ce', ce),
        ('spread', spread),
        ('label', label),
        ('distill', distill),
        ('total', label + distill),
    ):
        assert logged(log, f'loss/train/{name}') == [pytest.approx(value.item(), rel=1e-5)], name
    (label + distill).backward()
    for own, other in zip(student.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(own, other - 0.05 * other.grad, rtol=1e-4, atol=1e-6)


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'line'),
    [
        ({'label_weight': -1}, 'label_weight is a finite number from 0 on, got -1'),
        ({'label_weight': float('nan')}, 'label_weight is a finite number from 0 on, got nan'),
        ({'kd_weight': float('inf')}, 'kd_weight is a finite number from 0 on, got inf'),
        ({'kd_weight': '1'}, "kd_weight is a finite number from 0 on, got '1'"),
        ({'kd_weight': True}, 'kd_weight is a finite number from 0 on, got True'),
        ({'loss': 'kll'}, "'kll' is not one of the losses; did you mean 'kl'"),
        ({'loss': None}, 'loss: None is not a loss'),
        ({'loss': {'temperature': 2}}, 'is not a loss'),
        ({'loss': {'name': 'kl', 'temprature': 2}}, "loss.kl.temprature: unknown key; did you mean 'temperature'"),
        ({'loss': {'name': 'kl', 'student': 2}}, "loss.kl.student: unknown key"),
        ({'loss': 'kl', 'temperature': 0}, 'temperature is a finite number above 0, got 0'),
        ({'loss': 'kl', 'temperature': -1.0}, r'above 0, got -1\.0'),
        ({'loss': 'kl', 'temperature': float('inf')}, 'above 0, got inf'),
        ({'loss': 'kl', 'temperature': '4'}, "above 0, got '4'"),
        ({'loss': 'mse', 'temperature': 4.0}, "loss.mse.temperature: unknown key"),
        ({'loss': {'name': 'kl', 'temperature': 2.0}, 'temperature': 4.0}, r'given twice: 2\.0 and 4\.0'),
        ({'schedule': 'from 9ep to 3ep'}, 'ends before it begins'),
        ({'schedule': 5}, '5 is not a schedule'),
        ({'mix': [0.5, 0.3, 0.2]}, '3 weights for 1 teachers'),
        ({'mix': 'mean'}, "'mean' is not one of the mixes"),
    ],
)  # fmt: skip
def test_refuses_wrong_arguments_in_one_line(options: dict, line: str) -> None:
    with pytest.raises(UserError, match=line) as refused:
        Distillation([net(11)], **options)
    assert '\n' not in str(refused.value)


def test_a_loss_with_labels_gets_hard_ones() -> None:
    seen = []

    def loss(student, teacher, labels, power: float = 2.0):
        seen.append((labels.clone(), power))
        return (student - teacher).abs().pow(power).mean()

    trainer, _ = make_trainer([Distillation([trained_net(11)], loss={'name': loss, 'power': 3.0})], epochs='1ba')
    trainer.fit()
    trainer.close()
    assert torch.equal(seen[0][0], next(iter(loader()))[1])
    assert seen[0][1] == 3.0


def test_a_schedule_that_begins_after_the_end_is_refused_at_the_start() -> None:
    trainer, _ = make_trainer([TeacherMixupKD([trained_net(11)], schedule='from 5ep to 9ep')], epochs='2ep')
    with pytest.raises(UserError, match=r'TeacherMixupKD: schedule: .* begins after the training ends \(2ep\)'):
        trainer.fit()
    trainer.close()


def test_objects_do_where_strings_do() -> None:
    algorithm = Distillation(net(11), mix=Dirichlet(0.5, per='sample'), schedule=Schedule('first 3ep'))
    assert algorithm.mix == Dirichlet(0.5, 'sample')
    assert algorithm.schedule.text == 'first 3ep'


def test_repr_is_a_constructor_call(tmp_path) -> None:
    from tests.teachers.run_directories import finished_run

    finished_run(tmp_path / 'gen0')
    for algorithm in (
        TeacherMixupKD(tmp_path / 'gen0', mix='dirichlet', schedule='every 10ep', label_weight=0.5),
        Distillation([str(tmp_path / 'gen0')], mix=[1.0], loss={'name': 'kl', 'temperature': 2.0}, standardize=True),
        Distillation(tmp_path / 'gen0', mix=Dirichlet(0.5), schedule=Schedule('first 3ep')),
    ):
        again = eval(repr(algorithm))
        assert type(again) is type(algorithm)
        assert repr(again) == repr(algorithm)


def test_teachers_of_other_labels_need_no_hard_labels() -> None:
    # Soft labels, as another library's loader may give them: nothing here needs hard ones.
    images, labels = images_and_labels()
    data = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, F.one_hot(labels, CLASSES).float()), batch_size=32
    )
    trainer, log = make_trainer([TeacherMixupKD([trained_net(11)])], train_dataloader=data, epochs='1ep')
    trainer.fit()
    trainer.close()
    assert len(logged(log, 'loss/train/distill')) == STEPS
    assert not any(name.startswith('distill/teacher_accuracy') for name in log.data)
