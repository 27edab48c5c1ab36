"""A loss that is no number any more stops the training, names the place, and never reaches a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from composer.algorithms import SAM
from composer.core import Callback

from composer_kd import Distillation, UserError
from composer_kd.callbacks.nan_guard import NanGuard
from composer_kd.models import classifier
from tests.algorithms.common import CLASSES, make_trainer, net, trained_net


class BadLoss(torch.nn.Module):
    """Spoils the student's outputs in one step of its training."""

    def __init__(self, step: int, value: float, rows: slice = slice(None)):
        super().__init__()
        self.module, self.step, self.value, self.rows, self.steps = net(1), step, value, rows, 0

    def forward(self, x):
        logits = self.module(x)
        if self.training:
            self.steps += 1
            if self.steps - 1 == self.step:
                logits = logits.clone()
                logits[self.rows] = logits[self.rows] * self.value
        return logits


def finite(checkpoint: Path) -> bool:
    model = torch.load(checkpoint, weights_only=False)['state']['model']
    return all(bool(torch.isfinite(tensor).all()) for tensor in model.values())


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize(
    ('step', 'place'),
    [(0, r'epoch 0, batch 0 \(step 0\)'), (8, r'epoch 1, batch 2 \(step 8\)'), (11, r'epoch 1, batch 5 \(step 11\)')],
)
def test_stops_before_the_checkpoint_and_names_epoch_and_batch(
    value: float, step: int, place: str, tmp_path: Path
) -> None:
    student = BadLoss(step, value)
    trainer, _ = make_trainer(
        [], student=student, epochs='3ep', folder=tmp_path, save_interval='1ba',
        model=classifier(student, CLASSES), callbacks=[NanGuard(tmp_path)],
    )  # fmt: skip
    with pytest.raises(
        UserError, match=f'the loss became NaN or infinite in {place}; the last checkpoint in'
    ) as stopped:
        trainer.fit()
    trainer.close()
    assert '\n' not in str(stopped.value)
    saved = sorted(tmp_path.glob('ep*-rank0.pt'))
    assert len(saved) == step, 'one a step, and none of the bad one'
    assert all(finite(checkpoint) for checkpoint in saved)


def test_the_last_checkpoint_goes_on(tmp_path: Path) -> None:
    student = BadLoss(8, math.nan)
    trainer, _ = make_trainer([], student=student, folder=tmp_path, save_interval='1ba', callbacks=[NanGuard(tmp_path)])
    with pytest.raises(UserError, match='step 8'):
        trainer.fit()
    trainer.close()
    resumed, _ = make_trainer([], student=BadLoss(-1, 1.0), load=tmp_path / 'latest-rank0.pt', callbacks=[NanGuard()])
    assert int(resumed.state.timestamp.batch) == 8
    resumed.fit()
    resumed.close()
    assert int(resumed.state.timestamp.batch) == 12


@pytest.mark.parametrize(
    'options', [{'device_train_microbatch_size': 8}, {'algorithms': [SAM()]}], ids=['microbatch', 'SAM']
)
def test_one_bad_part_of_a_step_is_enough(options: dict) -> None:
    algorithms = options.pop('algorithms', [])
    student = BadLoss(2, math.nan, rows=slice(3, 4))
    trainer, _ = make_trainer(algorithms, student=student, callbacks=[NanGuard()], **options)
    with pytest.raises(UserError, match='epoch 0, batch'):
        trainer.fit()
    trainer.close()


def test_a_distillation_term_that_is_no_number_is_found_too() -> None:
    algorithm = Distillation(
        [trained_net(11)], loss=lambda student, teacher: (student.sum() * 0).log() - (student.sum() * 0).log()
    )
    trainer, _ = make_trainer([algorithm], callbacks=[NanGuard()])
    with pytest.raises(UserError, match=r'lower optimizer\.lr or kd_weight'):
        trainer.fit()
    trainer.close()


class SpoilWeights(Callback):
    """A step whose loss is a number and whose gradient is not: only the loss of the next step would show it."""

    def __init__(self, step: int):
        self.step = step

    def after_train_batch(self, state, logger) -> None:
        if int(state.timestamp.batch) == self.step:
            next(state.model.parameters()).grad.fill_(math.nan)


@pytest.mark.parametrize('interval', ['1ba', '1ep'])
@pytest.mark.parametrize('step', [3, 5, 11])
def test_spoilt_weights_are_not_saved_either(interval: str, step: int, tmp_path: Path) -> None:
    trainer, _ = make_trainer(
        [], folder=tmp_path, save_interval=interval, callbacks=[SpoilWeights(step), NanGuard(tmp_path)], epochs='2ep'
    )
    with pytest.raises(UserError, match='became NaN or infinite in epoch') as stopped:
        trainer.fit()
    trainer.close()
    assert '\n' not in str(stopped.value)
    assert all(finite(checkpoint) for checkpoint in tmp_path.glob('ep*-rank0.pt'))


def test_a_good_training_is_left_alone() -> None:
    with_guard, _ = make_trainer([], callbacks=[NanGuard()])
    without, _ = make_trainer([])
    for trainer in (with_guard, without):
        trainer.fit()
        trainer.close()
    for own, other in zip(with_guard.state.model.parameters(), without.state.model.parameters(), strict=True):
        assert torch.equal(own, other)
