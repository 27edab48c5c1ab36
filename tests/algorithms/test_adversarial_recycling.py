"""AdversarialRecycling: what is shown, what is kept, what it costs, and what it refuses."""

from __future__ import annotations

import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from composer.algorithms import SAM, CutMix, MixUp
from composer.core import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from composer_kd import AdversarialRecycling, Archive, Distillation, RecordAdversarial, Teacher, UserError
from composer_kd.algorithms.adversarial_recycling.table import DeltaTable
from composer_kd.archive import Samples
from composer_kd.callbacks import measures as measuring
from composer_kd.callbacks.measures import Measures
from composer_kd.data.transform import Augmentation, ColourJitter
from composer_kd.functional import augment, pgd, random_start
from composer_kd.functional.attacks import normalised, pixels_of
from composer_kd.functional.augment import crop_of, cropped
from composer_kd.functional.uncrop import uncropped, visible
from composer_kd.models import classifier, multiply_adds, weights_hash
from composer_kd.teachers.recorded import refused_beside
from tests.algorithms.common import (
    BATCH,
    SAMPLES,
    KeyedTask,
    PixelTask,
    Spy,
    begun_archive,
    keyed_loader,
    loader,
    logged,
    make_trainer,
    net,
    pixel_loader,
    run_with_examples,
    trained_net,
)
from tests.teachers.recorded_runs import record, tiny_data, train, trained_run

CROPS = Augmentation('crop_flip', seed=5, padding=2)
TASK = PixelTask(CROPS)
SEED = 7


class Shown(Callback):
    """Notes every microbatch as the student gets it, in each pass."""

    def __init__(self) -> None:
        self.pixels: list[Tensor] = []
        self.keys: list[Tensor] = []

    def after_forward(self, state, logger) -> None:
        self.pixels.append(pixels_of(state.batch[0], *TASK.normalization))
        self.keys.append(state.batch[2])


def fit(*algorithms, callbacks: tuple[Callback, ...] = (), epochs: str = '2ep', augmentation=CROPS, **options):
    loads = options.pop('train_dataloader', None) or pixel_loader(augmentation)
    trainer, log = make_trainer(
        list(algorithms), epochs=epochs, train_dataloader=loads, callbacks=list(callbacks), **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        trainer.fit()
    trainer.close()
    return trainer, log


def rows_of(ids: Tensor) -> Tensor:
    by_id = {int(sample): row for row, sample in enumerate(TASK.ids)}
    return torch.tensor([by_id[int(sample)] for sample in ids])


def clean_views(keys: Tensor) -> Tensor:
    return augment(TASK._images[rows_of(keys[:, 0])], keys[:, 0], keys[:, 1], 5, 2).float()


def kept(algorithm: AdversarialRecycling) -> tuple[Tensor, Tensor]:
    """The live table by the rows of the data, and which rows have a delta."""
    samples, deltas = algorithm.table.entries()
    rows = rows_of(torch.from_numpy(samples.ids))
    table, known = torch.zeros(SAMPLES, 3, 8, 8, dtype=torch.int8), torch.zeros(SAMPLES, dtype=torch.bool)
    table[rows], known[rows] = deltas, True
    return table, known


# -- what is shown and kept -------------------------------------------------------------------------------------------


def test_the_first_attack_is_pgd_from_a_random_start_in_the_view() -> None:
    shown, algorithm = Shown(), AdversarialRecycling(epsilon=8, steps=2, step_size=3)
    student = net(1)
    fit(algorithm, callbacks=(shown,), epochs='1ba', student=student)
    keys, clean = shown.keys[0], clean_views(shown.keys[0])
    begun = net(1).eval()
    crop = crop_of(keys[:, 0], keys[:, 1], 5, 2, True)
    image = visible(crop, 2, 8, 8)
    start = random_start(clean.shape, keys[:, 0], SEED, 0, 8.0)
    labels = torch.from_numpy(TASK.labels)[rows_of(keys[:, 0])]
    expected = pgd(
        begun, clean, labels, 8.0, 3.0, 2, start=start, bounds=(0.0, 255.0 * image), normalization=TASK.normalization
    )
    torch.testing.assert_close(shown.pixels[0], expected, atol=2e-3, rtol=0)
    # And what is kept is what was shown, to a pixel, where the view shows the image; nothing elsewhere.
    table, known = kept(algorithm)
    assert int(known.sum()) == BATCH
    seen = cropped(table[rows_of(keys[:, 0])], crop, 2).float()
    assert ((seen - (shown.pixels[0] - clean)).abs() <= 1 + 2e-3).all()
    everywhere = torch.zeros(BATCH, 3, 8, 8, dtype=torch.bool)
    assert ((seen == 0) | (image | everywhere)).all(), 'the border carries no delta'
    assert int((table != 0).sum()) == int((seen != 0).sum()), 'nothing is kept that no view has shown'


def test_the_next_attack_begins_at_what_is_kept_and_leaves_what_it_does_not_see() -> None:
    shown, algorithm = Shown(), AdversarialRecycling(epsilon=8, step_size=2)
    tables = []

    class Note(Callback):
        def epoch_end(self, state, logger) -> None:
            tables.append(kept(algorithm)[0].clone())

    fit(algorithm, callbacks=(shown, Note()), optimizers=torch.optim.SGD(net(1).parameters(), lr=0.1))
    first, second = tables
    for keys, pixels in zip(shown.keys[6:], shown.pixels[6:], strict=True):
        rows, crop = rows_of(keys[:, 0]), crop_of(keys[:, 0], keys[:, 1], 5, 2, True)
        clean = clean_views(keys)
        began, ended = (cropped(table[rows], crop, 2).float() for table in (first, second))
        moved = (pixels - clean) - began
        assert moved.abs().max() <= 2 + 1e-2, 'one step of 2 away from what was kept'
        assert moved.abs().mean() > 0.5
        torch.testing.assert_close(ended, pixels - clean, atol=1 + 1e-2, rtol=0)
    # Pixels outside of the second view's window stay what the first epoch made them.
    views = torch.cat(shown.keys[6:])
    rows, crop = rows_of(views[:, 0]), crop_of(views[:, 0], views[:, 1], 5, 2, True)
    ones, none = torch.ones(len(rows), 3, 8, 8, dtype=torch.int8), torch.zeros(len(rows), 3, 8, 8, dtype=torch.int8)
    unseen = uncropped(ones, none, crop, 2) == 0
    assert unseen.any()
    assert torch.equal(second[rows][unseen], first[rows][unseen])
    assert first[rows][unseen].any()
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ('options', 'moved'),
    [
        ({'epsilon': 1.5, 'step_size': 0.25}, 0.25),
        # Of 192 pixels one of 2 moves 0.14 in length, and a tenth of a pixel on average.
        ({'norm': 'l2', 'epsilon': 40, 'step_size': 2}, 0.1),
    ],
)
def test_steps_of_less_than_half_a_pixel_add_up(options: dict, moved: float) -> None:
    # A model that stays as it is, and images that are shown as they are stored: each step goes the same way.
    student = net(1, batch_norm=False)
    algorithm, means = AdversarialRecycling(start='image', **options), []

    class Note(Callback):
        def epoch_end(self, state, logger) -> None:
            means.append(kept(algorithm)[0].float().abs().mean().item())

    still = torch.optim.SGD(student.parameters(), lr=0.0)
    fit(algorithm, callbacks=(Note(),), student=student, augmentation=None, epochs='4ep', optimizers=still)
    assert means[0] == pytest.approx(moved, abs=0.3 * moved)
    assert all(later > earlier + 0.3 * moved for earlier, later in pairwise(means))
    ball = 1 if 'norm' not in options else 127
    assert kept(algorithm)[0].abs().max() <= ball, 'within epsilon'


def test_replay_shows_what_was_recorded_in_every_view_and_makes_no_pass(tmp_path: Path) -> None:
    shown = Shown()
    algorithm = AdversarialRecycling('replay', from_=run_with_examples())
    student = Spy(net(1))
    fit(algorithm, callbacks=(shown,), student=student)
    assert student.calls == 12, 'one forward pass a step'
    assert algorithm.images_attacked == 0
    assert algorithm.images_replayed == 2 * SAMPLES * 3 // 4
    archive = Archive(run_with_examples())
    deltas = torch.zeros(SAMPLES, 3, 8, 8)
    deltas[: SAMPLES * 3 // 4] = archive.table('adversarial', 0)['delta'].float()
    for keys, pixels in zip(shown.keys, shown.pixels, strict=True):
        rows, crop = rows_of(keys[:, 0]), crop_of(keys[:, 0], keys[:, 1], 5, 2, True)
        image = visible(crop, 2, 8, 8)
        expected = (clean_views(keys) + cropped(deltas[rows], crop, 2)).clamp(0, 255) * image
        torch.testing.assert_close(pixels, expected, atol=2e-3, rtol=0)


def test_a_share_of_zero_deltas_keeps_the_bits_of_what_is_shown_as_it_is() -> None:
    shown, plain = Shown(), Shown()
    fit(AdversarialRecycling(share=0.5), callbacks=(shown,), epochs='1ba')
    fit(callbacks=(plain,), epochs='1ba')
    same = (shown.pixels[0] == plain.pixels[0]).flatten(1).all(dim=1)
    assert 8 <= int(same.sum()) <= 24
    changed = (shown.pixels[0] - plain.pixels[0])[~same].abs().flatten(1).max(dim=1).values
    assert (changed > 4).all()


def test_every_second_step_shows_what_is_kept() -> None:
    student, algorithm = Spy(net(1)), AdversarialRecycling(every=2)
    _, log = fit(algorithm, student=student, augmentation=None)
    assert logged(log, 'adversarial/attacked') == [1, 0] * 6
    replayed = logged(log, 'adversarial/replayed')
    assert replayed[:6] == [0] * 6, 'nobody is met twice in an epoch'
    assert sum(replayed[7::2]) > 0
    assert algorithm.images_attacked == SAMPLES
    assert student.modes.count(False) == 6, 'an attack is in evaluation mode'


def test_an_attack_leaves_gradients_statistics_modes_and_the_random_generator_alone() -> None:
    student = nn.Sequential(nn.Dropout2d(0.1), net(1))
    noted = []

    class Note(Callback):
        def look(self, state):
            buffers = torch.cat([buffer.double().flatten() for buffer in student.buffers()])
            return buffers, [p.grad is None or not p.grad.any() for p in student.parameters()], torch.get_rng_state()

        def before_forward(self, state, logger) -> None:
            noted.append((before, self.look(state)))
            assert student.training

        def before_train_batch(self, state, logger) -> None:
            nonlocal before
            before = self.look(state)

    before = None
    fit(AdversarialRecycling(steps=3), callbacks=(Note(),), student=student, epochs='3ba')
    assert len(noted) == 3
    for (buffers, grads, rng), (buffers_after, grads_after, rng_after) in noted:
        assert torch.equal(buffers, buffers_after)
        assert all(grads_after) or grads == grads_after
        assert torch.equal(rng, rng_after)


# -- beside others ----------------------------------------------------------------------------------------------------


def test_sams_second_pass_shows_the_same_and_keeps_it_once() -> None:
    shown, student = Shown(), Spy(net(1))
    algorithm = AdversarialRecycling()
    fit(algorithm, SAM(rho=0.5), callbacks=(shown,), student=student, epochs='3ba')
    assert len(shown.pixels) == 6
    for first, second in zip(shown.pixels[::2], shown.pixels[1::2], strict=True):
        assert torch.equal(first, second)
    assert student.modes == [False, True, True] * 3
    assert algorithm.images_attacked == 3 * BATCH


def test_microbatches_show_and_keep_what_whole_batches_do() -> None:
    tables, weights = [], []
    for size in (None, 12):
        algorithm, student = AdversarialRecycling(), net(1, batch_norm=False)
        fit(algorithm, student=student, device_train_microbatch_size=size)
        tables.append(kept(algorithm)[0])
        weights.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    # The sign of a gradient near 0 may differ by rounding.
    assert (tables[0] == tables[1]).float().mean() > 0.99
    torch.testing.assert_close(*weights, atol=1e-3, rtol=1e-3)


def test_teachers_see_the_images_that_the_student_sees() -> None:
    teacher, shown = Spy(trained_net(11)), Shown()
    fit(AdversarialRecycling(), Distillation([Teacher.live(teacher)]), callbacks=(shown,), epochs='3ba')
    clean = [clean_views(keys) for keys in shown.keys]
    for seen, pixels, image in zip(teacher.inputs[-3:], shown.pixels, clean, strict=True):
        torch.testing.assert_close(pixels_of(seen, *TASK.normalization), pixels)
        assert (pixels - image).abs().max() > 4


@pytest.mark.parametrize('microbatch', [None, 12])
def test_teachers_may_see_the_views_as_they_were(microbatch: int | None) -> None:
    teacher, shown = Spy(trained_net(11)), Shown()
    distillation = Distillation([Teacher.live(teacher)], loss='mse')
    fit(
        AdversarialRecycling(teachers_see='clean'), distillation, callbacks=(shown,), epochs='3ba',
        device_train_microbatch_size=microbatch,
    )  # fmt: skip
    asked = len(shown.keys)
    clean = [clean_views(keys) for keys in shown.keys]
    for seen, pixels, image in zip(teacher.inputs[-asked:], shown.pixels, clean, strict=True):
        torch.testing.assert_close(pixels_of(seen, *TASK.normalization), image, atol=1e-3, rtol=0)
        assert (pixels - image).abs().max() > 4


def test_what_was_recorded_of_the_views_teaches_adversarial_images_as_the_live_teacher_does(tmp_path: Path) -> None:
    run, weights = trained_run(tmp_path, max_duration='4ep'), {}
    record(run, tiny_data(), views=2)
    for name, teacher, see in (
        ('live', Teacher.from_run(run), 'clean'),
        ('recorded', Teacher.recorded(run), 'clean'),
        ('shown', Teacher.from_run(run), 'shown'),
    ):
        distillation = Distillation([teacher], loss='mse', kd_weight=10.0)
        beside = AdversarialRecycling(teachers_see=see)
        weights[name] = train(distillation, tiny_data(), '2ep', beside=(beside,)).weights
        assert distillation.pool.images_computed[0] == (0 if name == 'recorded' else beside.images_attacked)
    # The one differs by what float16 rounds off the logits, the other by what it is asked about.
    rounding, question = ((weights[name] - weights['live']).abs().max() for name in ('recorded', 'shown'))
    assert rounding < 0.05 * question


def test_the_classifiers_autocast_on_the_cpu_is_that_of_the_attack() -> None:
    student, dtypes = net(1, batch_norm=False), []
    student[0].register_forward_hook(lambda module, given, out: dtypes.append((module.training, out.dtype)))
    model = classifier(student, 10, cpu_autocast=True)
    fit(AdversarialRecycling(), model=model, student=student, epochs='2ba')
    assert dtypes == [(False, torch.bfloat16), (True, torch.bfloat16)] * 2


# -- budget, table, checkpoints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('budget', 'capacity'), [(50, 50), ('6KB', 31), ('6 KiB', 32), (None, SAMPLES), (10**6, SAMPLES)]
)
def test_a_budget_keeps_so_many_and_always_the_same(budget, capacity: int) -> None:
    algorithm = AdversarialRecycling(budget=budget)
    fit(algorithm, epochs='1ep')
    _, known = kept(algorithm)
    assert int(known.sum()) == capacity
    other = AdversarialRecycling(budget=budget)
    trainer, _ = make_trainer([other], train_dataloader=pixel_loader(CROPS), epochs='1ep')
    trainer.state.rank_zero_seed = 99
    trainer.fit()
    trainer.close()
    assert torch.equal(kept(other)[1], known)


def test_the_strongest_costs_a_pass_and_never_gets_weaker() -> None:
    student, algorithm = Spy(net(1)), AdversarialRecycling(keep='strongest')
    fit(algorithm, student=student, epochs='2ba')
    assert student.modes == [False, False, True] * 2
    assert algorithm.attack.passes == 3


def test_a_checkpoint_inside_an_epoch_holds_the_table(tmp_path: Path) -> None:
    def anew() -> AdversarialRecycling:
        return AdversarialRecycling(share=0.8, budget=120)

    whole = anew()
    trainer, _ = fit(whole, folder=tmp_path, save_interval='2ba', epochs='3ep')
    resumed = anew()
    again, _ = fit(resumed, load=tmp_path / 'ep1-ba8-rank0.pt', student=net(5), epochs='3ep')
    assert weights_hash(again.state.model) == weights_hash(trainer.state.model)
    for one, other in zip(kept(whole), kept(resumed), strict=True):
        assert torch.equal(one, other)
    other = PixelTask(CROPS)
    other.ids = other.ids + 1
    loads = pixel_loader(CROPS)
    loads.dataloader.dataset.ids = other.ids
    with pytest.raises(UserError, match='the checkpoint holds adversarial examples of other samples'):
        fit(anew(), load=tmp_path / 'ep1-ba8-rank0.pt', train_dataloader=loads, epochs='3ep')


# The longest delta and how many there are, after so many steps.
EVERY_2_EPOCHS = {12: (8, SAMPLES), 13: (1, BATCH), 18: (1, SAMPLES), 24: (2, SAMPLES)}
EVERY_9_STEPS = {9: (8, SAMPLES), 10: (1, BATCH), 18: (2, SAMPLES), 19: (1, BATCH)}


@pytest.mark.parametrize(
    ('reset', 'expected', 'checkpoint'),
    [
        ('2ep', EVERY_2_EPOCHS, 'ep1-ba12'),
        ('2ep', EVERY_2_EPOCHS, 'ep2-ba14'),
        ('9ba', EVERY_9_STEPS, 'ep1-ba8'),
    ],
)
def test_what_is_kept_is_begun_anew(reset: str, expected: dict, checkpoint: str, tmp_path: Path) -> None:
    # Six steps an epoch. The model stays as it is and images are shown as they are stored, so that each step of 1 from
    # the image itself takes a delta one pixel further: how far they are says how often they were attacked since.
    def anew() -> AdversarialRecycling:
        return AdversarialRecycling(from_=run_with_examples(), step_size=1, start='image', reset=reset)

    def fit_still(algorithm: AdversarialRecycling, **options) -> None:
        student = net(1, batch_norm=False)
        still = torch.optim.SGD(student.parameters(), lr=0.0)
        fit(algorithm, student=student, optimizers=still, augmentation=None, epochs='4ep', **options)

    lengths: dict[int, tuple[float, int]] = {}

    class Note(Callback):
        def batch_end(self, state, logger) -> None:
            table, known = kept(whole)
            lengths[int(state.timestamp.batch)] = float(table.abs().max()), int(known.sum())

    whole = anew()
    fit_still(whole, callbacks=(Note(),), folder=tmp_path, save_interval='2ba')
    assert {step: lengths[step] for step in expected} == expected, "first the earlier run's examples"
    resumed = anew()
    fit_still(resumed, load=tmp_path / f'{checkpoint}-rank0.pt')
    for one, other in zip(kept(whole), kept(resumed), strict=True):
        assert torch.equal(one, other)


def test_a_replay_goes_on_with_the_very_examples(tmp_path: Path) -> None:
    archive = begun_archive(tmp_path / 'earlier')
    metadata = {'attack': 'pgd', 'norm': 'linf', 'epsilon': 8.0, 'pixels': 255}

    def record(value: int) -> None:
        deltas = torch.full((SAMPLES, 3, 8, 8), value, dtype=torch.int8)
        archive.put('adversarial', 0, Samples.of(TASK), {'delta': deltas}, metadata, merge=False)

    def anew() -> AdversarialRecycling:
        return AdversarialRecycling('replay', from_=tmp_path / 'earlier')

    record(3)
    whole, _ = fit(anew(), folder=tmp_path / 'checkpoints')
    load = tmp_path / 'checkpoints' / 'ep1-ba6-rank0.pt'
    again, _ = fit(anew(), load=load, student=net(5))
    assert weights_hash(again.state.model) == weights_hash(whole.state.model)
    record(4)
    with pytest.raises(UserError, match='are not those that this training began with; put them back'):
        fit(anew(), load=load)


def test_a_later_run_begins_its_attacks_at_an_earlier_runs_examples() -> None:
    shown = Shown()
    algorithm = AdversarialRecycling(from_=run_with_examples(), step_size=1, start='image')
    fit(algorithm, callbacks=(shown,), epochs='1ba', augmentation=None)
    keys = shown.keys[0]
    rows = rows_of(keys[:, 0])
    clean = TASK._images[rows].float()
    archive = Archive(run_with_examples())
    deltas = torch.zeros(SAMPLES, 3, 8, 8)
    deltas[: SAMPLES * 3 // 4] = archive.table('adversarial', 0)['delta'].float()
    begun = (clean + deltas[rows]).clamp(0, 255)
    assert (shown.pixels[0] - begun).abs().max() <= 1 + 2e-3
    assert (shown.pixels[0] - clean).abs().max() >= 8
    assert (rows >= SAMPLES * 3 // 4).any()


# -- the archive ------------------------------------------------------------------------------------------------------


def recorded(folder: Path) -> tuple[dict, dict[int, Tensor]]:
    archive = Archive(folder)
    samples, table = archive.samples(), archive.table('adversarial', 0)
    deltas = {int(samples.ids[row]): table['delta'][row] for row in np.flatnonzero(table['seen'].numpy())}
    return archive.metadata('adversarial', 0), deltas


@pytest.mark.parametrize('mode', ['recycle', 'fresh'])
def test_the_archive_holds_what_was_kept(mode: str, tmp_path: Path) -> None:
    algorithm = AdversarialRecycling(mode, epsilon=6, steps=2)
    trainer, _ = fit(algorithm, callbacks=(RecordAdversarial(tmp_path),))
    metadata, deltas = recorded(tmp_path)
    assert metadata == {
        'seen': SAMPLES, 'attack': 'pgd', 'epsilon': 6.0, 'steps': 2, 'step_size': 1.5, 'norm': 'linf',
        'targeted': False, 'pixels': 255, 'weights': weights_hash(trainer.state.model), 'batch': 12,
    }  # fmt: skip
    table, known = kept(algorithm)
    assert known.all()
    assert max(int(delta.abs().max()) for delta in deltas.values()) == 6
    for row, sample in enumerate(TASK.ids):
        assert torch.equal(deltas[int(sample)], table[row])
    later = AdversarialRecycling('replay', from_=tmp_path)
    fit(later, epochs='1ep')
    assert later.images_replayed == SAMPLES


class KilledError(Exception):
    pass


def test_a_kill_keeps_what_was_written_and_a_resume_ends_with_the_same(tmp_path: Path) -> None:
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    fit(AdversarialRecycling(), callbacks=(RecordAdversarial(whole),), epochs='3ep')

    class Kill(Callback):
        def after_train_batch(self, state, logger) -> None:
            if int(state.timestamp.batch) == 14:
                raise KilledError

    checkpoints = {'folder': tmp_path / 'checkpoints', 'save_interval': '4ba', 'epochs': '3ep'}
    with pytest.raises(KilledError):
        fit(AdversarialRecycling(), callbacks=(RecordAdversarial(killed), Kill()), **checkpoints)
    metadata, _ = recorded(killed)
    assert metadata['batch'] == 12, 'the end of the epoch before'

    class Look(Callback):
        def batch_start(self, state, logger) -> None:
            looked.append(recorded(killed)[0]['batch'])

    looked: list[int] = []
    load = tmp_path / 'checkpoints' / 'ep1-ba8-rank0.pt'
    callbacks = (RecordAdversarial(killed), Look())
    fit(AdversarialRecycling(), callbacks=callbacks, load=load, student=net(5), epochs='3ep')
    assert looked[0] == 8, 'what was written after the checkpoint is of another course of events'
    one, other = recorded(whole), recorded(killed)
    assert one[0] == other[0]
    assert all(torch.equal(delta, other[1][sample]) for sample, delta in one[1].items())


def test_recording_without_examples_is_refused(tmp_path: Path) -> None:
    for algorithms in ([], [AdversarialRecycling('replay', from_=run_with_examples())]):
        with pytest.raises(UserError, match='nothing in this Trainer makes adversarial examples'):
            make_trainer(algorithms, callbacks=[RecordAdversarial(tmp_path)], train_dataloader=pixel_loader())


# -- what it costs and what it brings ---------------------------------------------------------------------------------


def test_costs_stand_in_the_runs_measures() -> None:
    lines: list[dict] = []
    measures = Measures(lines.append)
    _, log = fit(AdversarialRecycling(steps=3, every=2), callbacks=(measures,))
    forward = multiply_adds(net(1), (3, 8, 8))
    line = lines[-1]
    assert line['images_attacked_total'] == SAMPLES
    assert line['multiply_adds_attack_total'] == SAMPLES * 3 * 2 * forward
    assert line['multiply_adds_student_total'] == 2 * SAMPLES * 3 * forward
    assert 0 < line['seconds_attack_total'] < line['seconds_train_total']
    assert lines[0]['images_replayed_total'] == 0 < line['images_replayed_total']
    losses, attacked, replayed = (logged(log, f'adversarial/{name}') for name in ('loss', 'attacked', 'replayed'))
    # A step in which nobody is shown an example logs no loss.
    shown = [a + r for a, r in zip(attacked, replayed, strict=True)]
    first = sum(loss * share for loss, share in zip(losses, [s for s in shown if s][:3], strict=False)) / 3
    assert lines[0]['adversarial_loss'] == pytest.approx(first, rel=1e-6)
    assert 0 < line['adversarial_success'] < 1


@pytest.mark.parametrize('look_every', [20, 6], ids=['steps-wait-at-the-epochs-end', 'none-does'])
def test_planning_telling_and_writing_are_part_of_the_seconds(look_every: int, tmp_path: Path, monkeypatch) -> None:
    # Six steps an epoch; each of these takes as long as is said here, and the rest of it next to nothing.
    slow(monkeypatch, DeltaTable, 'slots', 0.03)
    slow(monkeypatch, DeltaTable, 'exchange', 0.1)
    slow(monkeypatch, Archive, 'put', 0.3)
    monkeypatch.setattr(measuring, '_LOOK_EVERY', look_every)
    lines: list[dict] = []
    fit(AdversarialRecycling(), callbacks=(Measures(lines.append), RecordAdversarial(tmp_path)))
    assert len(lines) == 2
    for line in lines:
        # Told at the end of the epoch, and once more before it is written.
        assert line['seconds_attack'] >= 6 * 0.03 + 2 * 0.1 + 0.3
        assert line['seconds_attack'] < line['seconds_train'] < line['seconds_attack'] + 1
    assert lines[1]['seconds_attack_total'] == pytest.approx(sum(line['seconds_attack'] for line in lines))


def slow(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, seconds: float) -> None:
    method = getattr(owner, name)

    def slowly(*arguments, **options):
        time.sleep(seconds)
        return method(*arguments, **options)

    monkeypatch.setattr(owner, name, slowly)


def robust_accuracy(student: nn.Module) -> float:
    images, labels = TASK._images.float(), torch.from_numpy(TASK.labels)
    student.eval()
    adversarial = pgd(student, images, labels, 12.0, 3.0, 20, normalization=TASK.normalization)
    with torch.no_grad():
        return (student(normalised(adversarial, TASK.normalization)).argmax(1) == labels).float().mean().item()


def test_recycling_is_as_robust_as_many_steps_for_a_part_of_the_passes() -> None:
    arms = {
        'plain': None,
        'recycled': AdversarialRecycling(epsilon=12),
        'pgd7': AdversarialRecycling('fresh', epsilon=12, steps=7),
    }
    robust, passes = {}, {}
    for name, algorithm in arms.items():
        student = net(1)
        options = {'optimizers': torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)}
        fit(*([algorithm] if algorithm else []), student=student, epochs='8ep', augmentation=None, **options)
        robust[name] = robust_accuracy(student)
        passes[name] = algorithm.images_attacked * algorithm.attack.passes if algorithm else 0
    assert passes['pgd7'] == 7 * passes['recycled']
    assert robust['recycled'] > robust['plain'] + 0.5
    assert robust['recycled'] > robust['pgd7'] - 0.1


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        ({'epsilon': 128}, 'epsilon: 128 is more than a delta can be, which is kept in 8 bits; give one up to 127'),
        ({'epsilon': 8 / 255}, 'epsilon: pixels go from 0 to 255, so 8 stands for 8/255'),
        ({'epsilon': 0}, 'epsilon: expected a number above 0'),
        ({'epsilon': float('nan')}, 'epsilon: expected a number above 0'),
        ({'steps': 0}, 'steps: expected a whole number from 1 on, got 0'),
        ({'step_size': 0}, 'step_size: expected a number above 0 and at most 1e+06, got 0'),
        ({'norm': 'l1'}, "norm: 'l1' is not one of them; did you mean 'l2'"),
        ({'mode': 'recycled'}, "mode: 'recycled' is not one of them; did you mean 'recycle'"),
        ({'start': 'zero'}, "start: 'zero' is not one of them"),
        ({'share': 0}, 'share: expected a number above 0 and at most 1, got 0'),
        ({'every': 0}, 'every: expected a whole number from 1 on, got 0'),
        ({'reset': 10}, "reset: expected a number of epochs or batches, as '10ep' or '500ba', got 10"),
        ({'reset': '0ep'}, "reset: expected a number of epochs or batches, as '10ep' or '500ba', got '0ep'"),
        ({'mode': 'fresh', 'reset': '2ep'}, "reset: mode 'fresh' does not use it"),
        ({'budget': '64 megabytes'}, 'budget: expected a number of samples, or a size'),
        ({'budget': 0}, 'budget: expected a number of samples, or a size'),
        ({'budget': '0MB'}, "budget: '0MB' has no room for anything; raise it"),
        ({'mode': 'replay'}, "from: mode 'replay' needs the run directory"),
        ({'mode': 'replay', 'from_': 'x', 'epsilon': 4}, "epsilon: mode 'replay' does not use it"),
        ({'mode': 'fresh', 'keep': 'strongest'}, "keep: mode 'fresh' does not use it"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: dict, line: str) -> None:
    with pytest.raises(UserError) as error:
        AdversarialRecycling(**arguments)
    assert line in str(error.value)
    assert '\n' not in str(error.value)


def test_the_ball_is_that_of_papers_if_nothing_is_said() -> None:
    assert AdversarialRecycling().attack.epsilon == 8
    assert AdversarialRecycling(norm='l2').attack.epsilon == 128
    # Of 192 pixels one of 6 moves 0.43 on average: whole pixels would keep next to nothing of it.
    line = 'epsilon: 6 in l2 is less than half of each of 192 pixels, and deltas are kept in whole ones; raise it to 7'
    with pytest.raises(UserError, match=line):
        fit(AdversarialRecycling(norm='l2', epsilon=6))
    fit(AdversarialRecycling('fresh', norm='l2', epsilon=6), epochs='1ba')


def test_fresh_examples_are_made_in_every_nth_step_and_need_no_budget() -> None:
    _, log = fit(AdversarialRecycling('fresh', every=2))
    assert logged(log, 'adversarial/attacked') == [1, 0] * 6
    assert logged(log, 'adversarial/replayed') == [0] * 12
    with pytest.raises(UserError, match="budget: mode 'fresh' keeps nothing that nobody records; leave it out"):
        fit(AdversarialRecycling('fresh', budget=50))


def test_an_l2_ball_may_be_larger_than_a_pixel_can_move() -> None:
    algorithm = AdversarialRecycling(norm='l2', epsilon=1000, steps=2, step_size=1000)
    fit(algorithm, epochs='1ba', augmentation=None)
    assert kept(algorithm)[0].abs().max() <= 127


@pytest.mark.parametrize(
    ('augmentation', 'name'),
    [
        (Augmentation('resized_crop', 1, 0, 0, True, (0.5, 1.0), (0.75, 1.25)), 'resized_crop'),
        (Augmentation('crop_flip', colour_jitter=ColourJitter()), 'colour_jitter'),
    ],
)
def test_views_that_cannot_be_undone_are_refused(augmentation: Augmentation, name: str) -> None:
    with pytest.raises(UserError, match=f'the views of {name} do not show the pixels of the stored image one by one'):
        fit(AdversarialRecycling(), augmentation=augmentation)


def test_other_pixels_than_8_bits_are_refused_in_the_first_batch() -> None:
    with pytest.raises(UserError, match='the training images are not 8-bit pixels under the normalization'):
        fit(AdversarialRecycling(), train_dataloader=keyed_loader())
    assert isinstance(keyed_loader().dataset, KeyedTask)


def test_batches_without_keys_and_mixing_neighbours_are_refused() -> None:
    with pytest.raises(UserError, match=r'the training data \(TensorDataset\) has no ids'):
        fit(AdversarialRecycling(), train_dataloader=loader())
    with pytest.raises(UserError, match='CutMix is in the same Trainer; an example is a delta on the image'):
        fit(AdversarialRecycling(), CutMix())
    with pytest.raises(UserError, match=r'budget: 0\.1KB has no room for one delta, which takes 192 bytes'):
        fit(AdversarialRecycling(budget='0.1KB'))


@pytest.mark.parametrize(
    ('change', 'line'),
    [
        ({'metadata': {'pixels': 1}}, 'are on a pixel scale of 0 to 1, not of 0 to 255'),
        ({'metadata': {}}, r'are on a pixel scale of 0 to \(not said\)'),
        ({'content': 5000}, 'recorded adversarial examples of other data: none of this training'),
        ({'shape': (3, 4, 4)}, r'are of images of \[3, 4, 4\], and these are of \[3, 8, 8\]'),
    ],
)
def test_deltas_of_other_data_or_scale_are_refused(change: dict, line: str, tmp_path: Path) -> None:
    archive = begun_archive(tmp_path)
    samples = Samples.of(TASK)
    samples = Samples(
        samples.ids, samples.content + np.uint64(change.get('content', 0)) * np.uint64(1000), samples.labels
    )
    metadata = {'norm': 'linf', 'epsilon': 8.0, **change.get('metadata', {'pixels': 255})}
    deltas = torch.ones(SAMPLES, *change.get('shape', (3, 8, 8)), dtype=torch.int8)
    archive.put('adversarial', 0, samples, {'delta': deltas}, metadata)
    with pytest.raises(UserError, match=line):
        fit(AdversarialRecycling('replay', from_=tmp_path))


def test_a_run_without_examples_is_refused(tmp_path: Path) -> None:
    archive = begun_archive(tmp_path)
    ones = torch.ones(SAMPLES)
    archive.put('loss', 0, Samples.of(TASK), {'loss': ones, 'correct': ones.to(torch.uint8)})
    with pytest.raises(UserError, match='recorded no adversarial examples; train it with AdversarialRecycling'):
        fit(AdversarialRecycling('replay', from_=tmp_path))


def test_recorded_teachers_are_refused_beside(tmp_path: Path) -> None:
    line = refused_beside([AdversarialRecycling()])
    assert line is not None
    assert 'AdversarialRecycling makes another one of it; set its teachers_see to clean' in line
    assert refused_beside([AdversarialRecycling(teachers_see='clean')]) is None
    assert 'MixUp makes another' in str(refused_beside([AdversarialRecycling(teachers_see='clean'), MixUp()]))


def test_losses_of_adversarial_examples_are_the_students() -> None:
    """The logged loss is that of the pass that trains, on what was shown."""
    student, noted = net(1), []

    class Note(Callback):
        def after_forward(self, state, logger) -> None:
            noted.append(float(F.cross_entropy(torch.as_tensor(state.outputs), state.batch[1])))

    _, log = fit(AdversarialRecycling(), callbacks=(Note(),), student=student, epochs='4ba')
    assert logged(log, 'adversarial/loss') == pytest.approx(noted, rel=1e-5)
