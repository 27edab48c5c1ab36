"""Robustness: what is counted, of whom, when, and what a resumed training finds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from composer.algorithms import EMA
from composer.core import Callback, DataSpec, Evaluator
from torch.utils.data import DataLoader

from composer_kd import EvaluateAttacks, UserError
from composer_kd.callbacks.evaluate_attacks import chosen_rows, under_attack
from composer_kd.functional import pgd, random_start
from composer_kd.functional.attacks import normalised
from composer_kd.models import multiply_adds, weights_hash
from composer_kd.storage.jsonl import read_lines
from tests.algorithms.common import PixelTask, images_and_labels, loader, logged, make_trainer, net, pixel_loader

torch.set_num_threads(1)
TASK = PixelTask()


def held_out(label: str = 'val') -> Evaluator:
    return Evaluator(label=label, dataloader=DataSpec(DataLoader(PixelTask(), 64, collate_fn=lambda batch: batch)))


def fit(callback: EvaluateAttacks, epochs: str = '2ep', **options):
    # The evaluator's data is what is attacked; Composer's own evaluation is not needed here.
    held = options.pop('held', None) or [held_out(), held_out('train_clean')]
    trainer, log = make_trainer(
        [], epochs=epochs, train_dataloader=pixel_loader(), eval_dataloader=held, eval_interval=100,
        callbacks=[callback], **options,
    )  # fmt: skip
    for evaluator in trainer.state.evaluators:
        evaluator.eval_interval = lambda state, event: False
    trainer.fit()
    trainer.close()
    return trainer, log


def test_a_training_that_is_stopped_early_is_measured_as_its_end_asks(tmp_path: Path) -> None:
    class Stop(Callback):
        def epoch_end(self, state, logger) -> None:
            if int(state.timestamp.epoch) == 2:
                state.stop_training()

    attacks = [{'steps': 1}, {'steps': 1, 'epsilon': 20}]
    measured = EvaluateAttacks(tmp_path, attacks, interval='1ep', interval_subset=32, interval_attacks=1, subset=None)
    trainer, _ = make_trainer(
        [], epochs='4ep', train_dataloader=pixel_loader(), eval_dataloader=[held_out()], eval_interval=100,
        callbacks=[measured, Stop()],
    )  # fmt: skip
    for evaluator in trainer.state.evaluators:
        evaluator.eval_interval = lambda state, event: False
    trainer.fit()
    trainer.close()
    lines = [(line['epoch'], line['subset'], line['epsilon']) for line in read_lines(tmp_path / 'attacks.jsonl')]
    # On the way, at the second epoch's end too; then what the end asks and was not measured yet.
    assert lines == [(1, 32, 8.0), (2, 32, 8.0), (2, None, 8.0), (2, None, 20.0)]


def test_counts_are_those_of_a_loop_by_hand(tmp_path: Path) -> None:
    attack = {'epsilon': 6, 'steps': 4, 'step_size': 2}
    trainer, log = fit(EvaluateAttacks(tmp_path, [attack, {'norm': 'l2', 'epsilon': 60, 'steps': 1}], subset=80))
    lines = read_lines(tmp_path / 'attacks.jsonl')
    assert [(line['split'], line['epoch'], line['norm']) for line in lines] == [('val', 2, 'linf'), ('val', 2, 'l2')]
    student = trainer.state.model.module.eval()
    rows = torch.from_numpy(chosen_rows(TASK, 80))
    images, labels = TASK._images[rows].float(), torch.from_numpy(TASK.labels)[rows]
    ids = torch.from_numpy(TASK.ids)[rows]
    start = random_start(images.shape, ids, 0, 0, 6.0)
    adversarial = pgd(student, images, labels, 6.0, 2.0, 4, start=start, normalization=TASK.normalization)
    with torch.no_grad():
        right, robust = (student(normalised(x, TASK.normalization)).argmax(1) == labels for x in (images, adversarial))
    assert lines[0]['samples'] == len(rows) == 80
    assert lines[0]['accuracy'] == lines[1]['accuracy'] == pytest.approx(right.float().mean().item())
    assert lines[0]['robust_accuracy'] == pytest.approx((right & robust).float().mean().item())
    assert lines[0]['robust_accuracy'] < lines[0]['accuracy']
    assert lines[1]['step_size'] == 75, '1.25 times epsilon for a single step'
    assert lines[0]['multiply_adds'] == 80 * (2 * 4 + 2) * multiply_adds(net(1), (3, 8, 8))
    assert logged(log, 'metrics/val/robust_accuracy') == [lines[0]['robust_accuracy']]
    assert logged(log, 'metrics/val/robust_accuracy1') == [lines[1]['robust_accuracy']]


def test_an_image_that_is_wrong_as_it_is_is_not_robust() -> None:
    def model(images: torch.Tensor) -> torch.Tensor:
        # Right about nothing but black images.
        black = (images.flatten(1).amax(dim=1) <= -3.9).float().unsqueeze(1)
        labels = torch.from_numpy(TASK.labels)[:8]
        return black * torch.nn.functional.one_hot(labels, 10).float() + (1 - black) * -torch.ones(10)

    rows = chosen_rows(TASK, None)[:8]
    found = under_attack(model, TASK, rows, lambda x, y, i: torch.zeros_like(x), torch.device('cpu'), 8)
    assert (found.samples, found.right, found.robust) == (8, int((TASK.labels[:8] == 0).sum()), found.right)
    assert found.robust < 8


def test_it_changes_nothing_and_measures_on_the_way(tmp_path: Path) -> None:
    measured, _ = fit(EvaluateAttacks(tmp_path, [{'steps': 2}], interval='1ep', subset=32), epochs='3ep')
    assert [line['epoch'] for line in read_lines(tmp_path / 'attacks.jsonl')] == [1, 2, 3]
    plain, _ = make_trainer([], epochs='3ep', train_dataloader=pixel_loader())
    plain.fit()
    plain.close()
    assert weights_hash(measured.state.model) == weights_hash(plain.state.model)


def test_the_way_may_be_measured_on_fewer_samples_and_by_fewer_attacks(tmp_path: Path) -> None:
    attacks = [{'steps': 2}, {'steps': 4}]
    robustness = EvaluateAttacks(tmp_path, attacks, interval='1ep', interval_subset=32, interval_attacks=1, subset=None)
    _, log = fit(robustness, epochs='3ep')
    lines = read_lines(tmp_path / 'attacks.jsonl')
    of_the_end = [(3, 2, 192), (3, 4, 192), (3, 2, 32)]
    assert [(line['epoch'], line['steps'], line['samples']) for line in lines] == [(1, 2, 32), (2, 2, 32), *of_the_end]
    assert [line['subset'] for line in lines] == [32, 32, None, None, 32]
    assert logged(log, 'metrics/val/robust_accuracy') == [line['robust_accuracy'] for line in lines[:3]]
    assert len(logged(log, 'metrics/val/robust_accuracy1')) == 1


def test_beside_ema_the_end_is_of_the_averaged_weights(tmp_path: Path) -> None:
    # They are in place when an epoch is saved; what is measured on the way is of the weights that are trained.
    ema = EMA(half_life='3ba', update_interval='1ba')
    attack = {'epsilon': 4, 'steps': 2}
    trainer, _ = make_trainer(
        [ema], epochs='2ep', train_dataloader=pixel_loader(), folder=tmp_path / 'checkpoints',
        eval_dataloader=[held_out()], eval_interval=100,
        callbacks=[EvaluateAttacks(tmp_path, [attack], interval='1ep')],
    )  # fmt: skip
    for evaluator in trainer.state.evaluators:
        evaluator.eval_interval = lambda state, event: False
    trainer.fit()
    lines = read_lines(tmp_path / 'attacks.jsonl')
    assert [line['epoch'] for line in lines] == [1, 2]
    student = trainer.state.model.module.eval()
    trainer.close()
    with torch.no_grad():
        right = student(normalised(TASK._images.float(), TASK.normalization)).argmax(1) == torch.from_numpy(TASK.labels)
    assert lines[1]['accuracy'] == pytest.approx(right.float().mean().item())


def test_a_resumed_training_has_the_lines_of_one_that_was_not_interrupted(tmp_path: Path) -> None:
    def anew() -> EvaluateAttacks:
        return EvaluateAttacks(tmp_path, [{'steps': 2}], interval='1ep', subset=32)

    def lines() -> list[dict]:
        return [{k: v for k, v in line.items() if k != 'seconds'} for line in read_lines(anew().file)]

    fit(anew(), epochs='3ep', folder=tmp_path / 'checkpoints')
    before = lines()
    fit(anew(), epochs='3ep', load=tmp_path / 'checkpoints' / 'ep1-ba6-rank0.pt', student=net(5))
    assert lines() == before
    fit(anew(), epochs='1ep')
    assert len(lines()) == 1, 'another training begins anew'


def test_a_subset_is_the_same_whatever_the_order() -> None:
    chosen = set(TASK.ids[chosen_rows(TASK, 20)].tolist())
    turned = PixelTask()
    turned.ids = turned.ids[::-1].copy()
    assert set(turned.ids[chosen_rows(turned, 20)].tolist()) == chosen
    assert len(chosen) == 20
    assert len(chosen_rows(TASK, None)) == len(images_and_labels()[0])


@pytest.mark.parametrize(
    ('options', 'line'),
    [
        ({'attacks': []}, 'attacks is empty'),
        ({'attacks': [{'steps': 0}]}, 'steps: expected a whole number from 1 on, got 0'),
        ({'attacks': [{'epsilon': 0.03}]}, 'epsilon: pixels go from 0 to 255'),
        ({'attacks': [{'eps': 8}]}, "eps: unknown key; did you mean 'steps'|eps: unknown key; did you mean 'epsilon'"),
        ({'interval': 5}, "interval is in epochs, as '5ep'; got 5"),
        ({'interval_subset': 50}, 'interval_subset is of what is measured on the way; give interval too'),
        ({'interval': '1ep', 'interval_attacks': 0}, 'interval_attacks: expected a whole number from 1 on, got 0'),
        ({'subset': 0}, 'subset: expected a whole number from 1 on, got 0'),
    ],
)
def test_wrong_arguments_are_one_line(options: dict, line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        EvaluateAttacks(tmp_path, **options)


def test_evaluators_that_cannot_be_attacked_are_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'vale' is no evaluator of this Trainer; did you mean 'val'"):
        fit(EvaluateAttacks(tmp_path, splits=['vale']))
    with pytest.raises(UserError, match="of the evaluator 'eval' is a TensorDataset, whose pixels are not known"):
        fit(EvaluateAttacks(tmp_path), held=loader(seed=1, shuffle=False))
    with pytest.raises(UserError, match='the Trainer has no evaluator to attack the data of'):
        fit(EvaluateAttacks(tmp_path), held=[held_out('train_clean')])
