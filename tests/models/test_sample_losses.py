"""Losses of a step's samples against cross-entropy by hand: microbatches, passes that run twice, other targets."""

from __future__ import annotations

import pytest
import torch
from composer.algorithms import SAM, CutMix, LabelSmoothing, MixUp
from composer.core import Callback
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from composer_kd.core.errors import UserError
from composer_kd.models import classifier
from composer_kd.models.sample_losses import SampleLosses, StepLosses
from tests.algorithms.common import CLASSES, images_and_labels, make_trainer, net

torch.set_num_threads(1)


class Collect(Callback):
    """What the class gives in every step, and what it should, from the outputs of the step's first pass."""

    def __init__(self) -> None:
        self.losses = SampleLosses('Collect')
        self.steps: list[StepLosses] = []
        self.by_hand: list[list[torch.Tensor]] = []

    def batch_start(self, state, logger) -> None:
        self.by_hand.append([])

    def before_train_batch(self, state, logger) -> None:
        self.losses.start_pass()

    def before_forward(self, state, logger) -> None:
        self.losses.read_labels(state.batch)
        self.labels = state.batch[1].clone()

    def after_forward(self, state, logger) -> None:
        added = self.losses.add(state.model, state.outputs, state.batch)
        assert not added.loss.requires_grad
        outputs = torch.as_tensor(state.outputs).detach().double()
        rows = torch.arange(len(self.labels))
        self.by_hand[-1].append(-outputs.softmax(1)[rows, self.labels].log())
        best = outputs.max(1).values == outputs[rows, self.labels]
        assert torch.equal(added.correct, best.to(torch.uint8))

    def after_train_batch(self, state, logger) -> None:
        self.losses.end_pass()

    def batch_end(self, state, logger) -> None:
        self.steps.append(self.losses.take())


def keyed_loader(count: int = 96, batch: int = 32) -> DataLoader:
    images, labels = images_and_labels()
    keys = torch.stack([torch.arange(count) + 1000, torch.zeros(count, dtype=torch.int64)], 1)
    return DataLoader(TensorDataset(images[:count], labels[:count], keys), batch)


def collected(algorithms=(), **options) -> Collect:
    collect = Collect()
    options.setdefault('train_dataloader', keyed_loader())
    trainer, _ = make_trainer(list(algorithms), epochs='1ep', callbacks=[collect], **options)
    trainer.fit()
    trainer.close()
    return collect


@pytest.mark.parametrize('microbatch', [32, 8, 5])
def test_losses_are_those_of_the_samples_in_their_order(microbatch: int) -> None:
    collect = collected(device_train_microbatch_size=microbatch)
    for number, (step, parts) in enumerate(zip(collect.steps, collect.by_hand, strict=True)):
        ids = torch.arange(32 * number, 32 * number + 32)
        assert torch.equal(step.keys[:, 0], ids + 1000)
        torch.testing.assert_close(step.loss.double(), torch.cat(parts), rtol=1e-5, atol=1e-6)
        assert step.loss.dtype == torch.float32
        assert len(step.correct) == 32
    assert any(step.correct.any() for step in collect.steps)


@pytest.mark.parametrize('other', [MixUp, CutMix, LabelSmoothing, lambda: MixUp(interpolate_loss=True)])
def test_labels_are_the_loaders(other) -> None:
    collect = collected([other()])
    for step, parts in zip(collect.steps, collect.by_hand, strict=True):
        torch.testing.assert_close(step.loss.double(), torch.cat(parts), rtol=1e-5, atol=1e-6)


def test_sams_second_pass_does_not_count() -> None:
    collect = collected([SAM()])
    for step, parts in zip(collect.steps, collect.by_hand, strict=True):
        first, second = parts
        torch.testing.assert_close(step.loss.double(), first, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(step.loss.double(), second, rtol=1e-3)


def test_a_pass_that_fails_is_forgotten() -> None:
    losses = SampleLosses('test')
    batch = (torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([[5, 0], [6, 0]]))
    model = nn.Linear(1, 2)
    for outputs in (torch.tensor([[0.0, 9.0], [9.0, 0.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]])):
        losses.start_pass()  # the first pass never comes to its end
        losses.read_labels(batch)
        losses.add(model, outputs, batch)
    losses.end_pass()
    step = losses.take()
    assert step.keys[:, 0].tolist() == [5, 6]
    assert step.correct.tolist() == [1, 0]
    by_hand = torch.tensor([1 + torch.exp(torch.tensor(-1.0)), 1 + torch.exp(torch.tensor(2.0))]).log()
    torch.testing.assert_close(step.loss, by_hand)


def test_the_models_own_loss_is_used_with_hard_labels() -> None:
    class Absolute(nn.Module):
        def per_sample_loss(self, outputs, batch):
            assert batch[1].dtype == torch.int64
            return outputs.abs().sum(1) + batch[1]

    losses = SampleLosses('test')
    batch = [torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([[5, 0], [6, 0]])]
    losses.start_pass()
    losses.read_labels(batch)
    batch[1] = F.one_hot(batch[1], 2).float()  # as LabelSmoothing does
    losses.add(Absolute(), torch.tensor([[1.0, -2.0], [3.0, 4.0]]), batch)
    losses.end_pass()
    assert losses.take().loss.tolist() == [3.0, 8.0]


def test_logits_of_half_precision_are_taken_to_float32() -> None:
    losses = SampleLosses('test')
    batch = (torch.zeros(1, 1), torch.tensor([0]), torch.tensor([[5, 0]]))
    logits = torch.tensor([[0.0, 7.0, -3.0]])
    losses.start_pass()
    losses.read_labels(batch)
    losses.add(nn.Linear(1, 3), {'logits': logits.half()}, batch)
    losses.end_pass()
    torch.testing.assert_close(losses.take().loss, F.cross_entropy(logits, batch[1], reduction='none'))


def test_batches_that_cannot_be_recorded_are_one_line() -> None:
    losses = SampleLosses('Recorder')
    with pytest.raises(UserError, match=r'Recorder: the training batches are not \(image, label, key\)'):
        losses.read_labels((torch.zeros(2, 1), torch.tensor([0, 1])))
    with pytest.raises(UserError, match='Recorder: the training batches have no hard labels'):
        losses.read_labels((torch.zeros(2, 1), torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.int64)))


def test_a_wrong_per_sample_loss_is_one_line() -> None:
    model = classifier(net(1), CLASSES)
    model.per_sample_loss = lambda outputs, batch: outputs.sum()  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r'per_sample_loss gives \(\); needed is one loss a sample, \(32,\)'):
        collected(model=model, optimizers=torch.optim.SGD(model.parameters(), lr=0.1))
