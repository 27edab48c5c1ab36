"""The named methods and the losses with labels or changing numbers, each against a training loop with its formula."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from composer.algorithms import MixUp
from torch import Tensor
from torch.nn import functional as F

from composer_kd import BornAgain, Distillation, LabelRefinery, OracleKD, Teacher
from composer_kd.algorithms.distillation.loss import make_loss
from composer_kd.algorithms.distillation.target import DistillationTarget
from composer_kd.core.errors import UserError
from composer_kd.functional import dist, dkd, permute_dark_knowledge
from composer_kd.teachers.mix import MixContext, Oracle
from tests.algorithms.common import loader, logged, make_trainer, net, trained_net

STEPS = 6  # batches in an epoch


def teachers() -> list[torch.nn.Module]:
    """Two that know something: each is right about some samples, and about some neither is."""
    return [trained_net(11, steps=2), trained_net(12, steps=3)]


def soft_ce(s: Tensor, t: Tensor) -> Tensor:
    """At temperature 1, each sample's."""
    return -(t.softmax(1) * s.log_softmax(1)).sum(1)


def kl_4(s: Tensor, t: Tensor) -> Tensor:
    p, q = (t / 4).softmax(1), (s / 4).softmax(1)
    return 16 * (p * (p / q).log()).sum(1)


def oracle(s: Tensor, t: Tensor, y: Tensor, n: int) -> Tensor:
    total = torch.zeros(())
    for i in range(len(s)):
        right = [teacher[i] for teacher in t if teacher[i].argmax() == y[i]]
        label = F.cross_entropy(s[i], y[i])
        if right:
            total = total + 0.1 * label + 0.9 * kl_4(s[i : i + 1], torch.stack(right).mean(0)[None])[0]
        else:
            total = total + label
    return total / len(s)


def cwtm(s: Tensor, t: Tensor, y: Tensor, n: int) -> Tensor:
    top = t.mean(0).softmax(1).amax(1)
    return (top / top.sum() * F.cross_entropy(s, y, reduction='none')).sum()


def confidence(s: Tensor, t: Tensor, y: Tensor, n: int) -> Tensor:
    top = t.softmax(2).amax(2)
    target = (t * (top / top.sum(0))[:, :, None]).sum(0)
    return F.cross_entropy(s, y) + ((s - target) ** 2).mean()


def at(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    p, q = (t.mean(0) / temperature).softmax(1), (s / temperature).softmax(1)
    return temperature**2 * (p * (p / q).log()).sum(1).mean()


# The algorithm, and the loss of a step: student [B, C], teachers [K, B, C], labels, number of the step.
METHODS = {
    'OracleKD': (OracleKD, {}, oracle),
    'BAN': (BornAgain, {}, lambda s, t, y, n: soft_ce(s, t.mean(0)).mean()),
    'BAN+L': (BornAgain, {'method': 'ban+l'}, lambda s, t, y, n: F.cross_entropy(s, y) + soft_ce(s, t.mean(0)).mean()),
    'CWTM': (BornAgain, {'method': 'cwtm'}, cwtm),
    'DKPP': (
        BornAgain, {'method': 'dkpp'},
        lambda s, t, y, n: soft_ce(s, permute_dark_knowledge(t.mean(0), seed=7, step=n)).mean(),
    ),
    'LabelRefinery': (LabelRefinery, {}, lambda s, t, y, n: at(s, t, 1.0)),
    'dkd, warmed up': (
        Distillation, {'loss': {'name': 'dkd', 'beta': 2.0}, 'kd_weight': '0 to 1 until 4ba'},
        lambda s, t, y, n: F.cross_entropy(s, y) + min(n / 4, 1) * dkd(s, t.mean(0), y, beta=2.0),
    ),
    'dist': (Distillation, {'loss': 'dist'}, lambda s, t, y, n: F.cross_entropy(s, y) + dist(s, t.mean(0))),
    'confidence': (Distillation, {'loss': 'mse', 'mix': 'confidence'}, confidence),
    'a loss whose weight grows': (
        Distillation, {'loss': {'name': 'dkd', 'alpha': 0.5, 'beta': '2 to 8'}},
        lambda s, t, y, n: F.cross_entropy(s, y) + dkd(s, t.mean(0), y, 0.5, 2 + 6 * n / (2 * STEPS)),
    ),
    'temperature that falls': (
        Distillation, {'temperature': '8 to 2'},
        lambda s, t, y, n: F.cross_entropy(s, y) + at(s, t, 8 - 6 * n / (2 * STEPS)),
    ),
    'weights that change': (
        Distillation, {'temperature': 3, 'label_weight': '1 to 0.2 until 1ep', 'kd_weight': '0 to 1 until 1ep, cosine'},
        lambda s, t, y, n: (0.2 + 0.8 * max(1 - n / STEPS, 0)) * F.cross_entropy(s, y)
        + 0.5 * (1 - math.cos(math.pi * min(n / STEPS, 1))) * at(s, t, 3.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize(('kind', 'options', 'loss'), METHODS.values(), ids=METHODS.keys())
def test_is_the_hand_written_loop(kind, options, loss) -> None:
    student, taught_by = net(1), teachers()
    by_hand = copy.deepcopy(student)
    trainer, log = make_trainer([kind(taught_by, **options)], student=student, epochs='2ep')
    trainer.fit()
    trainer.close()

    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9)
    data, totals = loader(), []
    for step in range(2 * STEPS):
        if step % STEPS == 0:
            data.sampler.set_epoch(step // STEPS)  # type: ignore[attr-defined]
            batches = iter(data)
        images, labels = next(batches)
        with torch.no_grad():
            outputs = torch.stack([teacher(images) for teacher in taught_by])
        total = loss(by_hand(images), outputs, labels, step)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert logged(log, 'loss/train/total') == pytest.approx(totals, rel=1e-4, abs=1e-6)
    for own, other in zip(student.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


def test_the_share_that_no_teacher_is_right_about_is_logged() -> None:
    taught_by = teachers()
    data = loader()
    data.sampler.set_epoch(0)  # type: ignore[attr-defined]
    images, labels = next(iter(data))
    with torch.no_grad():
        right = torch.stack([teacher(images).argmax(1) == labels for teacher in taught_by])
    share = 1 - right.any(dim=0).float().mean().item()
    assert 0 < share < 1
    for microbatch in (32, 8):
        trainer, log = make_trainer([OracleKD(taught_by)], epochs='1ba', device_train_microbatch_size=microbatch)
        trainer.fit()
        trainer.close()
        assert logged(log, 'distill/label_only') == [pytest.approx(share)]


def test_where_no_teacher_is_ever_right_only_labels_teach() -> None:
    class Wrong(torch.nn.Module):
        """Always prefers the class after the one that a good model prefers."""

        def forward(self, x: Tensor) -> Tensor:
            return inner(x).roll(1, dims=1)

    inner = trained_net(11, steps=60)
    images, labels = next(iter(loader()))
    with torch.no_grad():
        assert not (Wrong()(images).argmax(1) == labels).any()
    taught, plain = net(1), net(1)
    for student, algorithms in ((taught, [OracleKD([Wrong()])]), (plain, [])):
        trainer, _ = make_trainer(algorithms, student=student, epochs='1ba')
        trainer.fit()
        trainer.close()
    for own, other in zip(taught.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_dist_leaves_a_single_taught_sample_to_its_label() -> None:
    # An oracle may find one sample of a microbatch that a teacher is right about: no batch to compare within.
    class OnceRight(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 10)
            logits[:, 0] = x.mean((1, 2, 3))
            logits[0] = F.one_hot(labels[0], 10) * 5.0
            logits[1:].scatter_(1, ((labels[1 : len(x)] + 1) % 10)[:, None], 5.0)
            return logits

    data = loader()
    data.sampler.set_epoch(0)  # type: ignore[attr-defined]
    _, labels = next(iter(data))
    trainer, log = make_trainer([OracleKD([OnceRight()], loss='dist')], epochs='1ba')
    trainer.fit()
    trainer.close()
    assert logged(log, 'distill/label_only') == [1.0]


@pytest.mark.parametrize(
    ('make', 'line'),
    [
        (lambda: BornAgain([net(3)], method='bann'), "method: 'bann' is not one of them; did you mean 'ban'"),
        (lambda: Distillation([net(3)], loss='dkdd'), "'dkdd' is not one of the losses; did you mean 'dkd'"),
        (
            lambda: Distillation([net(3)], loss={'name': 'dkd', 'beta': 'much'}),
            "dkd's beta is a finite .* 'much'",
        ),
        (lambda: Distillation([net(3)], loss={'name': 'dkd', 'beta': -5}), "dkd's beta is a finite number from 0 on"),
        (lambda: Distillation([net(3)], loss={'name': 'dkd', 'labels': [1]}), 'loss.dkd.labels: unknown key'),
        (lambda: Distillation([net(3)], loss={'name': 'dkd', 'gamma': 1}), 'loss.dkd.gamma: unknown key'),
        (lambda: Distillation([net(3)], loss={'name': 'dist', 'beta': math.nan}), "dist's beta is .*, got nan"),
        (lambda: Distillation([net(3)], loss={'name': 'kl', 'average': 3}), "'samples' or 'elements', got 3"),
        (lambda: Distillation([net(3)], temperature='learnt'), "'learnt' is not a temperature; did you mean 'learned'"),
        (lambda: Distillation([net(3)], loss='dist', temperature='learned'), 'losses kl and dkd, not with dist'),
        (lambda: Distillation([net(3)], standardize='no'), "standardize: expected true or false, got 'no'"),  # type: ignore
        (lambda: Distillation([net(3)], label_weight=0, kd_weight=0), 'are both 0: nothing would be learnt'),
        (lambda: Distillation([net(3)], loss={'name': 'kl', 'average': 'all'}), "'samples' or 'elements', got 'all'"),
        (lambda: Distillation([net(3)], temperature='8 to 0'), "temperature is a finite number above 0, got '8 to 0'"),
        (lambda: Distillation([net(3)], temperature={'learnt': {}}), 'is not a temperature; write {learned:'),
        (lambda: Distillation([net(3)], temperature={'learned': {'begin': 2}}), 'temperature.begin: unknown key'),
        (lambda: Distillation([net(3)], temperature={'learned': {'start': 30}}), 'start lies between low and high'),
        (lambda: Distillation([net(3)], kd_weight='1 to -1'), "kd_weight is a finite number from 0 on, got '1 to -1'"),
        (lambda: OracleKD([]), 'OracleKD: teachers is empty'),
    ],
)
def test_refuses_in_one_line(make, line: str) -> None:
    with pytest.raises(UserError, match=line) as refused:
        make()
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize('schedule', ['always', 'from 1ep to 2ep'])
@pytest.mark.parametrize(
    ('make', 'line'),
    [
        (OracleKD, 'mix: oracle asks which teachers are right, and the batch has no hard labels'),
        (partial(Distillation, loss='dkd'), 'loss: dkd needs hard labels, and the batch has none'),
    ],
)
def test_what_needs_labels_says_so_in_the_first_batch(make, line: str, schedule: str) -> None:
    images, labels = next(iter(loader()))
    soft = torch.utils.data.TensorDataset(images, F.one_hot(labels, 10).float())
    data = torch.utils.data.DataLoader(soft, 16)
    trainer, _ = make_trainer([make([trained_net(11)], schedule=schedule)], train_dataloader=data, epochs='2ep')
    with pytest.raises(UserError, match=line):
        trainer.fit()
    assert int(trainer.state.timestamp.batch) == 0
    trainer.close()


def test_labels_that_are_not_used_may_be_none() -> None:
    images, labels = next(iter(loader()))
    unlabelled = torch.utils.data.TensorDataset(images, torch.full_like(labels, -100))
    trainer, log = make_trainer(
        [LabelRefinery([trained_net(11)])], train_dataloader=torch.utils.data.DataLoader(unlabelled, 32), epochs='3ba'
    )
    trainer.fit()
    trainer.close()
    assert logged(log, 'loss/train/label') == [0.0] * 3
    assert all(0 < loss < 10 for loss in logged(log, 'loss/train/total'))


@pytest.mark.parametrize(
    ('weights', 'epoch'),
    [
        ({'label_weight': 0, 'kd_weight': '1 to 0 until 1ep'}, 1),
        ({'label_weight': '1 to 0 until 0.5dur', 'kd_weight': '0 to 0'}, 2),
    ],
)
def test_weights_that_leave_nothing_to_learn_are_refused_before_the_first_step(weights, epoch: int) -> None:
    trainer, _ = make_trainer([Distillation([trained_net(11)], **weights)], epochs='4ep')
    with pytest.raises(UserError, match=f'label_weight and kd_weight are both 0 in epoch {epoch}'):
        trainer.fit()
    assert int(trainer.state.timestamp.batch) == 0
    trainer.close()
    with pytest.raises(UserError, match='label_weight and kd_weight are both 0: nothing would be learnt'):
        Distillation([trained_net(11)], label_weight='0 to 0', kd_weight=0)


def test_weights_that_pass_through_0_are_none_of_those() -> None:
    for weights in (
        {'label_weight': 0, 'kd_weight': '0 to 1 until 1ep'},
        {'label_weight': '1 to 0', 'kd_weight': '0 to 1'},
        {'label_weight': 0, 'kd_weight': '1 to 0 until 1ep', 'schedule': 'first 1ep'},
    ):
        trainer, _ = make_trainer([Distillation([trained_net(11)], **weights)], epochs='2ep')
        trainer.fit()
        trainer.close()


def test_an_oracle_beside_mixup_says_what_teaches_those_that_nobody_gets_right() -> None:
    trainer, _ = make_trainer([OracleKD([trained_net(11)]), MixUp(alpha=0.5)], epochs='1ba')
    with pytest.warns(UserWarning, match='OracleKD: beside MixUp, what no teacher gets right is taught by the label'):
        trainer.fit()
    trainer.close()


def test_dist_refuses_a_batch_of_one_sample() -> None:
    trainer, _ = make_trainer(
        [Distillation([trained_net(11)], loss='dist')], epochs='1ba', device_train_microbatch_size=1
    )
    with pytest.raises(UserError, match='dist compares the samples of a batch, and this one has a single sample'):
        trainer.fit()
    trainer.close()


def test_dist_leaves_a_last_batch_of_one_sample_to_its_label() -> None:
    images, labels = next(iter(loader()))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images[:17], labels[:17]), 16)
    trainer, log = make_trainer([Distillation([trained_net(11)], loss='dist')], train_dataloader=data, epochs='1ep')
    trainer.fit()
    trainer.close()
    assert logged(log, 'distill/label_only') == [1.0]  # Of the second step; in the first all samples had a target.


def test_a_teacher_is_watched_while_the_weight_warms_up() -> None:
    teacher = Teacher.live(trained_net(11), name='gen0')
    trainer, log = make_trainer([Distillation([teacher], kd_weight='0 to 1 until 2ep')], epochs='2ep')
    trainer.fit()
    trainer.close()
    assert len(logged(log, 'distill/teacher_accuracy/gen0')) == 2 * STEPS


def test_a_ramp_that_the_training_does_not_finish_is_warned_about() -> None:
    trainer, _ = make_trainer([Distillation([trained_net(11)], kd_weight='0 to 1 until 500ep')], epochs='1ba')
    with pytest.warns(UserWarning, match="kd_weight: '0 to 1 until 500ep' ends after the training"):
        trainer.fit()
    trainer.close()


def test_a_method_says_how_it_was_made() -> None:
    teacher = Teacher.live(trained_net(11), name='gen0')
    assert repr(BornAgain([teacher], 'dkpp')).startswith('BornAgain(teachers=[')
    assert repr(BornAgain([teacher], 'dkpp')).endswith("method='dkpp')")


# -- labels that are none --------------------------------------------------------------------------------------------

NO_LABEL = torch.arange(32) % 3 == 1


def label_loss(s: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(s[y >= 0], y[y >= 0])


def of_the_labelled(loss):
    """The formula of a step over the labelled samples alone."""
    return lambda s, t, y: loss(s[y >= 0], t[:, y >= 0], y[y >= 0], 0)


# What needs labels is about labelled samples alone; what does not, about all.
WITHOUT_SOME_LABELS = {
    'OracleKD': (OracleKD, {}, of_the_labelled(oracle)),
    'OracleKD with cwtm': (
        OracleKD, {'loss': 'cwtm', 'label_weight': 1.0},
        of_the_labelled(lambda s, t, y, n: F.cross_entropy(s, y) + 0.9 * cwtm_where_right(s, t, y)),
    ),
    'ban': (BornAgain, {}, lambda s, t, y: soft_ce(s, t.mean(0)).mean()),
    'ban+l': (BornAgain, {'method': 'ban+l'}, lambda s, t, y: label_loss(s, y) + soft_ce(s, t.mean(0)).mean()),
    'cwtm': (BornAgain, {'method': 'cwtm'}, of_the_labelled(cwtm)),
    'dkpp': (
        BornAgain, {'method': 'dkpp'}, lambda s, t, y: soft_ce(s, permute_dark_knowledge(t.mean(0), seed=7)).mean()
    ),
    'dkd': (
        Distillation, {'loss': 'dkd'},
        of_the_labelled(lambda s, t, y, n: F.cross_entropy(s, y) + dkd(s, t.mean(0), y)),
    ),
}  # fmt: skip


def cwtm_where_right(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    rows = (t.argmax(2) == y).any(0)
    targets = torch.stack([t[:, i][t[:, i].argmax(1) == y[i]].mean(0) for i in range(len(y)) if rows[i]])
    return rows.float().mean() * cwtm(s[rows], targets[None], y[rows], 0)


@pytest.mark.parametrize(('kind', 'options', 'loss'), WITHOUT_SOME_LABELS.values(), ids=WITHOUT_SOME_LABELS.keys())
def test_samples_without_a_label_are_left_out_of_what_needs_one(kind, options, loss) -> None:
    student, taught_by = net(1), teachers()
    by_hand = copy.deepcopy(student)
    images, labels = next(iter(loader()))
    labels = labels.masked_fill(NO_LABEL, -100)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), 32)
    trainer, log = make_trainer([kind(taught_by, **options)], student=student, train_dataloader=data, epochs='1ba')
    trainer.fit()
    trainer.close()
    with torch.no_grad():
        outputs = torch.stack([teacher(images) for teacher in taught_by])
    total = loss(by_hand(images), outputs, labels)
    total.backward()
    assert logged(log, 'loss/train/total') == [pytest.approx(total.item(), rel=1e-5)]
    for own, other in zip(student.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(own, other - 0.05 * other.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('options', [{}, {'label_weight': 0.0}])
def test_no_label_at_all_leaves_an_oracle_nothing_to_say(options: dict) -> None:
    images, labels = next(iter(loader()))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.full_like(labels, -100)), 32)
    student = net(1, batch_norm=False)
    before = copy.deepcopy(student)
    trainer, log = make_trainer([OracleKD(teachers(), **options)], student=student, train_dataloader=data, epochs='2ba')
    trainer.fit()
    trainer.close()
    assert logged(log, 'loss/train/total') == [0.0, 0.0]
    assert all(torch.equal(one, other) for one, other in zip(student.parameters(), before.parameters(), strict=True))


def test_an_oracle_counts_the_labelled_to_the_last_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    student, outputs = torch.randn(8, 4, 5, dtype=torch.float64, generator=generator).split([1, 7])
    student = student[0].requires_grad_()
    labels = torch.tensor([0, -100, 2, -1])
    values = []
    for rows in (slice(None), labels >= 0):
        step = MixContext(0, 0, torch.arange(4)[rows], labels[rows])
        target, taught = Oracle().target_and_mask(outputs[:, rows], step)
        lesson = DistillationTarget(labels[rows], 0.9, 0.1, {}, target, taught, of_labelled=True)
        label = F.cross_entropy(student[labels >= 0], labels[labels >= 0])
        values.append(lesson.label_part(label, student[rows], 'OracleKD') + lesson.distill(student[rows], KL).term)
    torch.testing.assert_close(values[0], values[1], rtol=1e-14, atol=0)
    gradients = [torch.autograd.grad(value, student)[0] for value in values]
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=1e-16)
    assert gradients[0].abs().amax(1).bool().tolist() == [True, False, True, False]


KL = make_loss('kl', None, False)
