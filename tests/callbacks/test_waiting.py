"""Measures and NanGuard look at what the device counted once in many steps: what they say does not depend on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from composer.core import Event
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import TeacherMixupKD, UserError
from composer_kd.callbacks import measures, nan_guard
from composer_kd.callbacks.epoch_totals import StepCounts
from composer_kd.callbacks.measures import Measures
from composer_kd.callbacks.nan_guard import NanGuard
from tests.algorithms.common import images_and_labels, make_trainer, trained_net
from tests.callbacks.test_nan_guard import BadLoss


def many_steps() -> DataLoader:
    images, labels = images_and_labels()
    return DataLoader(TensorDataset(images, labels), batch_size=4)  # 48 steps


def lines_of(every: int, monkeypatch: pytest.MonkeyPatch, **options) -> tuple[list[dict], list[int]]:
    monkeypatch.setattr(measures, '_LOOK_EVERY', every)
    lines: list[dict] = []
    looks: list[int] = []
    take = StepCounts.take
    monkeypatch.setattr(StepCounts, 'take', lambda self: looks.append(len(self)) or take(self))
    trainer, _ = make_trainer(
        [TeacherMixupKD([trained_net(11)], schedule='first 60ba')], callbacks=[Measures(lines.append)],
        train_dataloader=many_steps(), **options,
    )  # fmt: skip
    trainer.fit()
    trainer.close()
    monkeypatch.undo()
    return [{k: v for k, v in line.items() if 'second' not in k} for line in lines], looks


@pytest.mark.parametrize('options', [{}, {'evaluate': True}, {'device_train_microbatch_size': 3}])
def test_the_lines_are_those_of_looking_after_each_step(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    often, each = lines_of(1, monkeypatch, **options)
    seldom, looks = lines_of(20, monkeypatch, **options)
    assert seldom == often
    assert each == [1] * 96
    assert looks == [20, 20, 8] * 2


def test_a_checkpoint_inside_an_epoch_holds_all_its_steps(tmp_path: Path) -> None:
    lines: list[dict] = []
    options = {'train_dataloader': many_steps(), 'epochs': '1ep', 'save_interval': '7ba'}
    trainer, _ = make_trainer([], folder=tmp_path, callbacks=[Measures(lambda line: None)], **options)
    trainer.fit()
    trainer.close()
    resumed, _ = make_trainer([], load=tmp_path / 'ep0-ba28-rank0.pt', callbacks=[Measures(lines.append)], **options)
    resumed.fit()
    resumed.close()
    assert [(line['epoch'], line['samples']) for line in lines] == [(1, 192)]


@pytest.mark.parametrize(('step', 'stopped_at'), [(0, 20), (19, 20), (20, 40), (41, 48), (47, 48)])
def test_the_first_bad_step_is_named_soon(step: int, stopped_at: int) -> None:
    student = BadLoss(step, float('nan'))
    trainer, _ = make_trainer([], student=student, callbacks=[NanGuard()], train_dataloader=many_steps(), epochs='1ep')
    with pytest.raises(UserError, match=rf'the loss became NaN or infinite in epoch 0, batch {step} \(step {step}\)'):
        trainer.fit()
    trainer.close()
    assert student.steps == stopped_at
    assert nan_guard._LOOK_EVERY == 20


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
@pytest.mark.parametrize('callback', [NanGuard, lambda: Measures(lambda line: None)], ids=['NanGuard', 'Measures'])
def test_a_step_does_not_wait_for_the_gpu(callback) -> None:
    watched = callback()
    run_event = watched.run_event
    step = {Event.BATCH_START, Event.BEFORE_TRAIN_BATCH, Event.BEFORE_FORWARD, Event.BEFORE_BACKWARD,
            Event.AFTER_TRAIN_BATCH, Event.BATCH_END}  # fmt: skip

    def refusing_to_wait(event, state, logger):
        before = torch.cuda.get_sync_debug_mode()
        # The first step may: what a forward pass costs is counted there. Each 20th looks.
        waits = int(state.timestamp.batch) in (0, 1) or int(state.timestamp.batch) % 20 == 0
        torch.cuda.set_sync_debug_mode('error' if event in step and not waits else before)
        try:
            run_event(event, state, logger)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    watched.run_event = refusing_to_wait
    trainer, _ = make_trainer([], callbacks=[watched], train_dataloader=many_steps(), epochs='1ep', device='gpu')
    trainer.fit()
    trainer.close()
