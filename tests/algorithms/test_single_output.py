"""A model with one output: a binary classifier is taught as the logits (0, z) of two classes, a regression by mse."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from composer.models import ComposerModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import BornAgain, Distillation, LabelRefinery, LossCurriculum, OracleKD, Teacher, UserError
from composer_kd.algorithms.distillation.loss import make_loss
from composer_kd.algorithms.distillation.target import DistillationTarget
from composer_kd.functional import LOSSES
from composer_kd.models import weights_hash
from composer_kd.models.batch import labels_of, logits_of
from tests.algorithms.common import CLASSES, images_and_labels, keyed_loader, logged, make_trainer, net, trained_net
from tests.teachers.test_checks import Lines

IMAGES, DIGITS = images_and_labels()
BINARY = (DIGITS < 4).float()


class One(ComposerModel):
    """A net with one output and the binary cross-entropy, or the squared distance of a regression."""

    def __init__(self, module: nn.Module, flat: bool, regression: bool = False):
        super().__init__()
        self.module, self.flat, self.regression = module, flat, regression

    def forward(self, batch: Any) -> Tensor:
        z = self.module(batch[0])
        return z[:, 0] if self.flat else z

    def loss(self, outputs: Tensor, batch: Any) -> Tensor:
        targets = batch[1].reshape(outputs.shape).float()
        return F.mse_loss(outputs, targets) if self.regression else F.binary_cross_entropy_with_logits(outputs, targets)


class Two(ComposerModel):
    """The same net, shown as two classes, with the cross-entropy."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, batch: Any) -> Tensor:
        return as_two(self.module(batch[0]))

    def loss(self, outputs: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(outputs, batch[1].reshape(-1).long())


class AsTwo(nn.Module):
    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return as_two(self.module(x))


def as_two(z: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(z), z], dim=1)


def binary_net(seed: int, steps: int = 0) -> nn.Module:
    module = net(seed, batch_norm=False, classes=1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(module(IMAGES)[:, 0], BINARY).backward()
        optimizer.step()
    return module.eval()


def data(labels: Tensor = BINARY) -> DataLoader:
    return DataLoader(TensorDataset(IMAGES, labels), 32)


def fitted(algorithm: Distillation, model: ComposerModel, labels: Tensor = BINARY, **options: Any):
    trainer, log = make_trainer(
        [algorithm], student=model, model=model, train_dataloader=data(labels), epochs='4ba', **options
    )
    try:
        trainer.fit()
    finally:
        trainer.close()
    return log


# -- the formulas ---------------------------------------------------------------------------------------------------


def some(seed: int, samples: int = 6) -> Tensor:
    return 3 * torch.randn(samples, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('flat', [False, True], ids=['[B, 1]', '[B]'])
@pytest.mark.parametrize('name', LOSSES.names())
def test_loss_and_gradient_are_those_of_the_two_logits(name: str, flat: bool) -> None:
    z, t = some(1).requires_grad_(), some(2)
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    outputs = z[:, 0] if flat else z
    lesson = DistillationTarget(labels_of((None, labels)), 0.7, 1.0, {}, logits_of(t, 'the teacher'), single=True)
    distilled = lesson.distill(logits_of(outputs, 'the student'), make_loss(name, None, False))
    function = LOSSES.get(name)
    options = {'labels': labels.long()} if name in ('dkd', 'cwtm') else {}
    # mse is the one that means the outputs themselves: of two logits it would see half the distance.
    expected = 0.7 * (((z - t) ** 2).mean() if name == 'mse' else function(as_two(z), as_two(t), **options))
    assert expected.item() > 1e-3
    assert distilled.term.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = [torch.autograd.grad(one, z)[0] for one in (distilled.term, expected)]
    assert name == 'dist' or gradients[1].abs().min() > 0
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def test_kl_is_that_of_two_bernoulli_distributions() -> None:
    z, t = some(1), some(2)
    p, q = torch.sigmoid(t / 4), torch.sigmoid(z / 4)
    expected = 16 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    value = make_loss('kl', None, False)(logits_of(z, ''), logits_of(t, ''), None, {}, single=True)
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)


def test_a_loss_of_ones_own_sees_the_output_itself() -> None:
    seen = []

    def own(student: Tensor, target: Tensor) -> Tensor:
        seen.append((student, target))
        return (student - target).abs().mean()

    z, t = some(1), some(2)
    make_loss(own, None, False)(logits_of(z, ''), logits_of(t, ''), None, {}, single=True)
    assert torch.equal(seen[0][0], z)
    assert torch.equal(seen[0][1], t)


@pytest.mark.parametrize(
    ('labels', 'read'),
    [
        (torch.tensor([0.0, 1.0, 1.0]), [0, 1, 1]),
        (torch.tensor([[0.0], [1.0]]), [0, 1]),
        (torch.tensor([[0], [1]]), [0, 1]),
        (torch.tensor([3, 1]), [3, 1]),
        (torch.tensor([0.0, 0.5]), None),
        (torch.tensor([0.0, float('nan')]), None),
        (torch.tensor([[0.0, 1.0], [1.0, 0.0]]), None),
        (torch.tensor(1.0), None),
        (None, None),
    ],
)
def test_labels_by_hand(labels, read) -> None:
    for batch in ((None, labels), {'input': None, 'labels': labels}):
        found = labels_of(batch)
        assert (None if found is None else found.tolist()) == read
        assert found is None or found.dtype == torch.int64


# -- whole trainings ------------------------------------------------------------------------------------------------

METHODS = {
    'kl': lambda t: Distillation(t),
    'hard': lambda t: Distillation(t, loss='hard', kd_weight=0.5),
    'dkd': lambda t: Distillation(t, loss='dkd'),
    'dist': lambda t: Distillation(t, loss='dist'),
    'OracleKD': OracleKD,
    'LabelRefinery': LabelRefinery,
    'ban': BornAgain,
    'cwtm': partial(BornAgain, method='cwtm'),
    'dkpp': partial(BornAgain, method='dkpp'),
}


@pytest.mark.parametrize('flat', [False, True], ids=['[B, 1]', '[B]'])
@pytest.mark.parametrize('make', METHODS.values(), ids=METHODS.keys())
def test_trains_as_the_two_logit_model_does(make, flat: bool) -> None:
    student, taught_by = binary_net(1), binary_net(11, steps=8)
    before, both = weights_hash(student), []
    two = copy.deepcopy(student)
    teacher = One(copy.deepcopy(taught_by), flat)
    log = fitted(make([teacher]), One(student, flat), BINARY if flat else BINARY[:, None])
    fitted(make([AsTwo(taught_by)]), Two(two))
    assert weights_hash(student) != before
    assert all(value > 1e-4 for value in logged(log, 'loss/train/distill'))
    accuracies = [value for name in log.data if 'teacher_accuracy' in name for value in logged(log, name)]
    assert accuracies[0] == ((taught_by(IMAGES[:32])[:, 0] > 0).float() == BINARY[:32]).float().mean().item()
    both = [torch.cat([p.detach().reshape(-1) for p in one.parameters()]) for one in (student, two)]
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-6)


def test_a_guessing_teacher_is_said_so() -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -taught_by(x)

    taught_by = binary_net(11, steps=20)
    with Lines() as lines:
        fitted(Distillation([Teacher.live(Wrong(), name='gen0')]), One(binary_net(1), True))
    assert len(lines) == 1
    assert "teacher 'gen0' is at chance level" in lines[0]
    assert '2 classes' in lines[0]


def test_losses_of_samples_are_asked_for_with_the_labels_as_the_batch_has_them() -> None:
    seen = []

    class Weighted(One):
        def per_sample_loss(self, outputs: Tensor, batch: Any) -> Tensor:
            seen.append(F.binary_cross_entropy_with_logits(outputs, batch[1], reduction='none'))
            return seen[-1]

    loader = keyed_loader()
    loader.collate_fn = lambda batch: (batch[0], (batch[1] < 4).float(), *batch[2:])
    algorithm, model = LossCurriculum(mode='infobatch', full_from='1ba'), Weighted(binary_net(1), True)
    trainer, _ = make_trainer([algorithm], student=model, model=model, train_dataloader=loader, epochs='1ep')
    trainer.fit()
    trainer.close()
    own = algorithm.state_dict()['own']['last']
    assert own['known'].all()
    # Asked twice a step, once for the losses and once to weight them.
    torch.testing.assert_close(own['values'].sort().values, torch.cat(seen).detach().unique(), rtol=1e-6, atol=1e-7)


# -- what is refused, and regressions -------------------------------------------------------------------------------


def refused(line: str, algorithm: Distillation, model: ComposerModel, labels: Tensor = BINARY) -> None:
    before = weights_hash(model)
    with pytest.raises(UserError, match=line) as raised:
        fitted(algorithm, model, labels)
    assert '\n' not in str(raised.value)
    assert weights_hash(model) == before


def test_standardize_is_refused() -> None:
    for loss in ('kl', 'mse'):
        refused(
            'Distillation: standardize: a single output has no spread over classes',
            Distillation([binary_net(11)], loss=loss, standardize=True), One(binary_net(1), True),
        )  # fmt: skip


@pytest.mark.parametrize('schedule', ['always', 'from 2ba to 4ba'])
@pytest.mark.parametrize('loss', ['kl', 'soft_ce', 'hard', 'dkd', 'cwtm', 'dist'])
def test_a_regression_with_a_loss_of_classes_is_refused(loss: str, schedule: str) -> None:
    refused(
        "labels other than 0 and 1, so it is no classifier; loss='mse'",
        Distillation([binary_net(11)], loss=loss, schedule=schedule), One(binary_net(1), True, True),
        IMAGES.mean((1, 2, 3)),
    )  # fmt: skip


def test_a_regression_is_taught_by_mse() -> None:
    student, taught_by, numbers = binary_net(1), binary_net(11, steps=3), IMAGES.mean((1, 2, 3))
    by_hand = copy.deepcopy(student)
    log = fitted(Distillation([copy.deepcopy(taught_by)], loss='mse'), One(student, False, True), numbers)
    optimizer, totals = torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9), []
    for step in range(4):
        rows = slice(32 * step, 32 * step + 32)
        z = by_hand(IMAGES[rows])[:, 0]
        with torch.no_grad():
            t = taught_by(IMAGES[rows])[:, 0]
        loss = ((z - numbers[rows]) ** 2).mean() + ((z - t) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert logged(log, 'loss/train/total') == pytest.approx(totals, rel=1e-5)
    assert not [name for name in log.data if 'teacher_accuracy' in name]
    for own, other in zip(student.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


def test_classes_that_differ_say_which_side_has_a_single_output() -> None:
    refused(
        "teacher 'Sequential' gives 10 classes, the student a single output", Distillation([trained_net(11)]),
        One(binary_net(1), True),
    )  # fmt: skip
    assert trained_net(11)(IMAGES[:1]).shape[1] == CLASSES
