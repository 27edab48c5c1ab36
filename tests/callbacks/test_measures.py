"""The measures of a run against counts by hand: accuracies, seconds, multiply-adds, and through a resume."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import pytest
import torch
from composer.algorithms import SAM, CutMix, LabelSmoothing, MixUp
from composer.core import Callback, Evaluator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import TeacherMixupKD
from composer_kd.archive import RunDir
from composer_kd.callbacks.measures import Measures
from composer_kd.models import multiply_adds
from tests.algorithms.common import Spy, images_and_labels, loader, make_trainer, net, trained_net

SHAPE = (3, 8, 8)
SECONDS = {'images_per_second'}


class Lines(Measures):
    """Keeps its lines in a list, as a run keeps them in a file."""

    def __init__(self, kept: list[dict] | None = None, **options):
        self.lines = [] if kept is None else kept

        def rewind(epoch: int) -> None:
            self.lines[:] = [line for line in self.lines if line['epoch'] <= epoch]

        super().__init__(self.lines.append, rewind, **options)


class ByHand(Callback):
    """Counts what a person would: right answers and losses of every forward pass, as it was answered."""

    def __init__(self) -> None:
        self.epochs: list[list[tuple[int, int, float]]] = []
        self.labels: torch.Tensor | None = None

    def epoch_start(self, state, logger) -> None:
        self.epochs.append([])

    def before_forward(self, state, logger) -> None:
        self.labels = state.batch[1].clone()

    def after_backward(self, state, logger) -> None:
        right = int((state.outputs.argmax(1) == self.labels).sum())
        self.epochs[-1].append((len(self.labels), right, float(F.cross_entropy(state.outputs, self.labels))))


def measured(algorithms=(), epochs: str = '2ep', **options) -> tuple[list[dict], ByHand]:
    measures, by_hand = Lines(), ByHand()
    trainer, _ = make_trainer(list(algorithms), epochs=epochs, callbacks=[measures, by_hand], **options)
    trainer.fit()
    trainer.close()
    return measures.lines, by_hand


@pytest.mark.parametrize('microbatch', [32, 8, 5])
def test_running_accuracy_and_loss_are_counted_over_the_whole_epoch(microbatch: int) -> None:
    lines, by_hand = measured(device_train_microbatch_size=microbatch)
    assert [line['epoch'] for line in lines] == [1, 2]
    assert [line['batch'] for line in lines] == [6, 12]
    for line, answers in zip(lines, by_hand.epochs, strict=True):
        samples = sum(n for n, _, _ in answers)
        assert line['samples'] == samples == 192
        assert line['train_accuracy_running'] == pytest.approx(
            sum(right for _, right, _ in answers) / samples, abs=1e-12
        )
        assert line['loss_total'] == pytest.approx(sum(n * loss for n, _, loss in answers) / samples, rel=1e-5)
        assert line['loss_label'] == pytest.approx(line['loss_total'], rel=1e-9)
        assert line['loss_distill'] is None
    assert lines[0]['train_accuracy_running'] < lines[1]['train_accuracy_running']


def test_a_short_last_batch_counts_by_its_samples() -> None:
    images, labels = images_and_labels()
    data = DataLoader(TensorDataset(images[:70], labels[:70]), batch_size=32)
    lines, by_hand = measured([TeacherMixupKD([trained_net(11)])], train_dataloader=data, epochs='1ep')
    (line,), (answers,) = lines, by_hand.epochs
    assert [n for n, _, _ in answers] == [32, 32, 6]
    assert line['samples'] == 70
    assert line['train_accuracy_running'] == pytest.approx(sum(right for _, right, _ in answers) / 70, abs=1e-12)
    assert line['loss_label'] == pytest.approx(sum(n * loss for n, _, loss in answers) / 70, rel=1e-5)
    assert line['loss_label'] + line['loss_distill'] == pytest.approx(line['loss_total'], rel=1e-5)


@pytest.mark.parametrize('other', [MixUp, lambda: MixUp(interpolate_loss=True), CutMix, LabelSmoothing])
def test_running_accuracy_is_against_the_loaders_labels_beside(other) -> None:
    lines, by_hand = measured([other()])
    for line, answers in zip(lines, by_hand.epochs, strict=True):
        assert line['samples'] == 192
        assert line['train_accuracy_running'] == pytest.approx(sum(right for _, right, _ in answers) / 192, abs=1e-12)


def test_sam_is_counted_once_and_costs_twice() -> None:
    lines, by_hand = measured([SAM(), TeacherMixupKD([trained_net(11)])], epochs='1ep')
    (line,), (answers,) = lines, by_hand.epochs
    assert len(answers) == 12
    assert line['samples'] == 192
    # The first pass of each pair: at the weights that the step began with.
    assert line['train_accuracy_running'] == pytest.approx(sum(right for _, right, _ in answers[::2]) / 192, abs=1e-12)
    assert line['loss_label'] == pytest.approx(sum(loss for _, _, loss in answers[::2]) / 6, rel=1e-5)
    forward = multiply_adds(net(1), SHAPE)
    assert line['multiply_adds_student_total'] == 2 * 3 * forward * 192
    assert line['multiply_adds_teacher_total'] == 2 * forward * 192


def test_multiply_adds_are_three_forward_passes_and_what_the_teachers_took() -> None:
    big = nn.Sequential(nn.Flatten(), nn.Linear(192, 50, bias=False), nn.ReLU(), nn.Linear(50, 10))
    with torch.no_grad():
        big[3].weight.normal_(std=1.0)
    lines, _ = measured([TeacherMixupKD([trained_net(11), big], schedule='every 2ep')], epochs='3ep')
    # By hand: a 3x3 convolution of 3 to 8 channels on 8x8, and 128 to 10; the big one 192 to 50 to 10.
    small, large = 8 * 3 * 9 * 64 + 128 * 10, 192 * 50 + 50 * 10
    assert [line['multiply_adds_student_total'] for line in lines] == [3 * small * 192 * epoch for epoch in (1, 2, 3)]
    assert [line['multiply_adds_teacher_total'] for line in lines] == [
        (small + large) * 192 * epochs_on for epochs_on in (1, 1, 2)
    ]


def test_what_until_overtaken_asks_in_an_evaluation_is_the_methods_cost() -> None:
    lines, _ = measured([TeacherMixupKD([trained_net(11)], schedule='until overtaken')], epochs='1ep', evaluate=True)
    assert lines[0]['multiply_adds_teacher_total'] == multiply_adds(net(1), SHAPE) * (192 + 192)


def test_the_parts_of_the_loss_and_the_teachers_accuracy_are_in_the_line() -> None:
    teacher = trained_net(11)
    images, labels = images_and_labels()
    lines, _ = measured([TeacherMixupKD([teacher], schedule='every 2ep', label_weight=0.5, kd_weight=2.0)])
    on, off = lines
    assert on['loss_label'] + on['loss_distill'] == pytest.approx(on['loss_total'], rel=1e-5)
    assert off['loss_label'] == pytest.approx(off['loss_total'], rel=1e-5)
    assert (on['kd_weight'], off['kd_weight']) == (2.0, 0.0)
    assert 0 < on['agreement'] <= 1
    assert (off['loss_distill'], off['agreement']) == (None, None)
    with torch.no_grad():
        expected = (teacher(images).argmax(1) == labels).float().mean().item()
    assert on['teacher_accuracy'] == pytest.approx(expected, abs=1e-6)


# -- seconds ----------------------------------------------------------------------------------------------------------


class Slow(nn.Module):
    def __init__(self, module: nn.Module, seconds: float):
        super().__init__()
        self.module, self.seconds = module, seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return self.module(x)


class SlowEvaluation(Callback):
    def eval_batch_start(self, state, logger) -> None:
        time.sleep(0.25)

    def epoch_checkpoint(self, state, logger) -> None:
        time.sleep(1.5)  # Stands for a checkpoint that takes its time.


def test_teacher_seconds_are_inside_training_seconds_and_evaluation_is_apart() -> None:
    measures = Lines()
    started = time.perf_counter()
    trainer, _ = make_trainer(
        [TeacherMixupKD([Slow(trained_net(11), 0.02)])],
        epochs='2ep',
        evaluate=True,
        callbacks=[measures, SlowEvaluation()],
    )
    trainer.fit()
    trainer.close()
    elapsed = time.perf_counter() - started
    one, two = measures.lines
    for line in (one, two):
        assert 6 * 0.02 <= line['seconds_teacher'] <= line['seconds_train']
        assert line['seconds_train'] < 6 * 0.02 + 1.2, 'evaluation or checkpoint was counted as training'
        assert line['seconds_eval'] >= 6 * 0.25
        assert line['images_per_second'] == pytest.approx(192 / line['seconds_train'])
    for part in ('train', 'teacher', 'eval'):
        assert two[f'seconds_{part}_total'] == pytest.approx(one[f'seconds_{part}'] + two[f'seconds_{part}'])
    assert two['seconds_train_total'] + two['seconds_eval_total'] < elapsed


def test_runs_beside_is_the_most_that_were_seen() -> None:
    counts = iter([3, 1, 1, 1])
    measures = Lines(count_runs=lambda: next(counts))
    trainer, _ = make_trainer([], epochs='2ep', callbacks=[measures])
    trainer.fit()
    trainer.close()
    assert [line['runs_beside'] for line in measures.lines] == [3, 1]


# -- evaluations ------------------------------------------------------------------------------------------------------


def three_evaluators(interval: str = '1ep') -> list[Evaluator]:
    labels = ('val', 'test', 'train_clean')
    return [
        Evaluator(label=label, dataloader=loader(seed=seed, shuffle=False), eval_interval=interval)
        for label, seed in zip(labels, (1, 2, 0), strict=True)
    ]


def test_clean_train_accuracy_is_evaluated_not_counted_while_training() -> None:
    snapshots = []

    class Keep(Callback):
        def epoch_end(self, state, logger) -> None:
            snapshots.append(copy.deepcopy(state.model.module).eval())

    measures = Lines()
    trainer, _ = make_trainer([], epochs='2ep', eval_dataloader=three_evaluators(), callbacks=[measures, Keep()])
    trainer.fit()
    trainer.close()
    for line, module in zip(measures.lines, snapshots, strict=True):
        for key, seed in (('val_accuracy', 1), ('test_accuracy', 2), ('train_accuracy_clean', 0)):
            images, labels = images_and_labels(seed)
            with torch.no_grad():
                logits = module(images)
            assert line[key] == pytest.approx((logits.argmax(1) == labels).float().mean().item(), abs=1e-6), key
        top5 = (logits.topk(5, dim=1).indices == labels[:, None]).any(1).float().mean().item()
        cross_entropy = F.cross_entropy(logits, labels).item()
        assert line['train_cross_entropy_clean'] == pytest.approx(cross_entropy, rel=1e-4)
        assert line['train_accuracy_clean'] != line['train_accuracy_running']
        assert 0 < top5 <= 1
    images, labels = images_and_labels(2)
    with torch.no_grad():
        logits = snapshots[-1](images)
    top5 = (logits.topk(5, dim=1).indices == labels[:, None]).any(1).float().mean().item()
    assert measures.lines[-1]['test_top5'] == pytest.approx(top5, abs=1e-6)


def test_an_evaluation_that_did_not_take_place_is_null() -> None:
    measures = Lines()
    trainer, _ = make_trainer([], epochs='3ep', eval_dataloader=three_evaluators('2ep'), callbacks=[measures])
    trainer.fit()
    trainer.close()
    # Composer evaluates after the second epoch, and once more at the end.
    assert [line['test_accuracy'] is None for line in measures.lines] == [True, False, False]
    assert [line['epoch'] for line in measures.lines] == [1, 2, 3]


@pytest.mark.parametrize('interval', [None, '1ep', '2ba', '4ba', '1ba'])
def test_a_training_that_ends_inside_an_epoch_leaves_its_last_line(interval: str | None) -> None:
    measures = Lines()
    trainer, _ = make_trainer(
        [], epochs='8ba', eval_dataloader=three_evaluators(interval) if interval else None, callbacks=[measures]
    )
    trainer.fit()
    trainer.close()
    assert [(line['epoch'], line['samples']) for line in measures.lines] == [(1, 192), (2, 64)]
    assert [line['test_accuracy'] is not None for line in measures.lines] == [bool(interval)] * 2


def test_a_second_fit_goes_on_counting() -> None:
    measures = Lines()
    trainer, _ = make_trainer([], epochs='1ep', eval_dataloader=three_evaluators(), callbacks=[measures])
    trainer.fit()
    trainer.fit(duration='2ep')
    trainer.close()
    assert [(line['epoch'], line['batch'], line['samples']) for line in measures.lines] == [
        (1, 6, 192),
        (2, 12, 192),
        (3, 18, 192),
    ]


def test_an_evaluation_on_its_own_writes_no_line() -> None:
    measures = Lines()
    trainer, _ = make_trainer([], epochs='1ep', eval_dataloader=three_evaluators(), callbacks=[measures])
    trainer.fit()
    trainer.eval()
    trainer.close()
    assert len(measures.lines) == 1


# -- through a resume -------------------------------------------------------------------------------------------------


def without_seconds(lines: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if 'second' not in key} for line in lines]


@pytest.mark.parametrize('eval_interval', ['1ep', '2ba', '4ba'])
@pytest.mark.parametrize('interrupted', ['ep0-ba4', 'ep1-ba6', 'ep1-ba8', 'ep1-ba10', 'ep2-ba12', 'ep2-ba14'])
def test_a_resumed_run_writes_the_lines_of_the_uninterrupted_one(
    interrupted: str, eval_interval: str, tmp_path: Path
) -> None:
    def options():
        return {
            'epochs': '3ep',
            'save_interval': '2ba',
            'eval_dataloader': three_evaluators(eval_interval),
            'device_train_microbatch_size': 16,
        }

    def teaching():
        return TeacherMixupKD([trained_net(11)], schedule='first 0.6dur, linear decay')

    whole = Lines()
    trainer, _ = make_trainer([teaching()], folder=tmp_path, callbacks=[whole], **options())
    trainer.fit()
    trainer.close()
    # The file holds what the run wrote before it was interrupted, also what came after the checkpoint.
    kept = copy.deepcopy(whole.lines[:-1])
    measures = Lines(kept)
    load = next(tmp_path.glob(f'{interrupted}-rank0.pt'), None) or next(tmp_path.glob(f'*-{interrupted[4:]}-rank0.pt'))
    resumed, _ = make_trainer([teaching()], student=net(5), load=load, callbacks=[measures], **options())
    resumed.fit()
    resumed.close()
    expected = without_seconds(whole.lines)
    if int(interrupted.partition('-ba')[2]) > 0.6 * 18:
        # The schedule is off by then, but a new process looks at its teachers anew: one batch, and it is paid for.
        for line in expected[int(interrupted[2]) :]:
            line['multiply_adds_teacher_total'] += 32 * multiply_adds(net(1), SHAPE)
    assert without_seconds(measures.lines) == expected
    totals = [line['seconds_train_total'] for line in measures.lines]
    assert totals == sorted(totals)


def test_lines_of_a_run_directory_are_rewound(tmp_path: Path) -> None:
    run = RunDir(tmp_path / 'gen0')
    for epoch in (1, 2, 3, 4):
        run.append_metrics({'epoch': epoch})
    trainer, _ = make_trainer([], epochs='2ep', folder=tmp_path / 'checkpoints')
    trainer.fit()
    trainer.close()
    measures = Measures(run.append_metrics, run.truncate_metrics)
    resumed, _ = make_trainer(
        [], epochs='3ep', load=tmp_path / 'checkpoints' / 'ep2-ba12-rank0.pt', callbacks=[measures]
    )
    resumed.fit()
    resumed.close()
    assert [line['epoch'] for line in run.metrics()] == [1, 2, 3]
    assert 'samples' in run.metrics()[-1]


def test_teachers_are_asked_no_more_for_being_measured() -> None:
    spy = Spy(trained_net(11))
    measured([TeacherMixupKD([spy])], epochs='1ep')
    # Six steps, and one sample of zeros to count what it costs.
    assert [len(x) for x in spy.inputs] == [32, 1, 32, 32, 32, 32, 32]
