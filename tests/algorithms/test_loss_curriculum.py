"""LossCurriculum: difficulties by hand, what each rule chooses, and that a training does what was chosen."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composer.algorithms import CutMix, LabelSmoothing, MixUp, SelectiveBackprop
from composer.core import Callback, State
from composer.models import ComposerClassifier
from composer.optim import (
    CosineAnnealingScheduler,
    CosineAnnealingWithWarmupScheduler,
    ExponentialScheduler,
    LinearWithWarmupScheduler,
    MultiStepScheduler,
)
from torch.nn import functional as F

from composer_kd import Archive, LossCurriculum, RecordLosses, TeacherMixupKD, UserError
from composer_kd.algorithms.loss_curriculum.current_losses import with_nan
from composer_kd.algorithms.loss_curriculum.rules import InfoBatch, Paced, Rho, RuleContext, difficulties
from composer_kd.archive import Samples
from composer_kd.core.schedule import Progress, Schedule
from composer_kd.models import weights_hash
from composer_kd.runs.registries import OneCycleScheduler
from tests.algorithms.common import (
    BATCH,
    SAMPLES,
    KeyedTask,
    begun_archive,
    keyed_loader,
    loader,
    logged,
    make_trainer,
    net,
    recorded_run,
    trained_net,
)
from tests.algorithms.test_batches import OfTriples
from tests.archive.common import samples
from tests.callbacks.keyed import keyed_data, small_net, train

NAN = float('nan')
FULL = SAMPLES // BATCH


def curriculum_trainer(algorithm: LossCurriculum, *others: Any, **options: Any):
    options.setdefault('train_dataloader', keyed_loader())
    return make_trainer([algorithm, *others], **options)


class Trained(Callback):
    """The ids of each epoch's steps."""

    def __init__(self) -> None:
        self.epochs: dict[int, list[list[int]]] = {}

    def batch_start(self, state: State, logger: Any) -> None:
        self.epochs.setdefault(int(state.timestamp.epoch), []).append(state.batch[2][:, 0].tolist())

    def ids(self, epoch: int) -> set[int]:
        return {one for step in self.epochs[epoch] for one in step}

    @property
    def lengths(self) -> list[int]:
        return [len(steps) for steps in self.epochs.values()]


# -- difficulty -----------------------------------------------------------------------------------------------------


@pytest.fixture
def earlier(tmp_path: Path) -> Archive:
    """Four samples over four epochs; the last was never seen, the third in two epochs alone."""
    archive = begun_archive(tmp_path / 'earlier')
    everyone = samples((1, 10, 0), (2, 20, 0), (3, 30, 1), (4, 40, 1))
    rows = {  # epoch -> (row, loss, right)
        0: [(0, 1.0, 1), (1, 4.0, 0), (2, 9.0, 1)],
        1: [(0, 2.0, 0), (1, 4.0, 0)],
        2: [(0, 3.0, 1), (1, 4.0, 0), (2, 1.0, 0)],
        3: [(0, 6.0, 0), (1, 2.0, 0)],
    }
    for epoch, entries in rows.items():
        places, losses, right = zip(*entries, strict=True)
        columns = {'loss': torch.tensor(losses), 'correct': torch.tensor(right, dtype=torch.uint8)}
        archive.put('loss', epoch, everyone.take(np.array(places)), columns)
    return archive


@pytest.mark.parametrize(
    ('statistic', 'values'),
    {
        'mean': [3.0, 3.5, 5.0, NAN],
        'last': [6.0, 2.0, 1.0, NAN],
        'epoch 0': [1.0, 4.0, 9.0, NAN],
        'epoch 1': [2.0, 4.0, NAN, NAN],
        # The third was right in epoch 0 and wrong in epoch 2, the next that saw it. The second was never right: 4.
        'forgetting': [2.0, 4.0, 1.0, NAN],
    }.items(),
)
def test_difficulties_by_hand(earlier: Archive, statistic: str, values: list[float]) -> None:
    everyone = samples((1, 10, 0), (2, 20, 0), (3, 30, 1), (4, 40, 1))
    found = difficulties(earlier, everyone, statistic)
    torch.testing.assert_close(found, torch.tensor(values, dtype=torch.float64), equal_nan=True)


def test_samples_are_found_by_content_and_label_and_duplicates_share_what_is_known(earlier: Archive) -> None:
    now = samples((77, 20, 0), (78, 20, 0), (1, 99, 0), (3, 30, 0), (5, 10, 0))
    assert difficulties(earlier, now, 'mean').nan_to_num(-1).tolist() == [3.5, 3.5, -1, -1, 3.0]


def test_what_an_archive_lacks_is_said_with_the_remedy(earlier: Archive, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'no losses of epoch 9; recorded: 0, 1, 2, 3'):
        difficulties(earlier, samples((1, 10, 0)), 'epoch 9')
    for folder in (tmp_path / 'nowhere', earlier.run.path):
        if folder.exists():
            earlier.drop('loss', lambda epoch: False)
        with pytest.raises(UserError, match=r'recorded no losses.*archive: \{losses: true\}'):
            difficulties(Archive(folder), samples((1, 10, 0)), 'mean')


# -- rules ----------------------------------------------------------------------------------------------------------


def situation(stored: list[float], own: list[float] | None = None, epoch: int = 0, labels: list[int] | None = None):
    count = len(stored)
    return RuleContext(
        seed=1,
        progress=Progress(epoch, epoch * 10, 0, 10, 10.0),
        ids=torch.arange(count),
        labels=torch.tensor(labels or [0] * count),
        stored=torch.tensor(stored, dtype=torch.float64),
        own=torch.tensor(own or [NAN] * count, dtype=torch.float64),
    )


def paced(**options: Any) -> Paced:
    defaults = {'order': 'easy_first', 'pacing': 'linear', 'start': 0.25, 'use': 'selection', 'unseen': 'include'}
    until = Schedule('first 0.5dur, linear decay')
    return Paced(**{**defaults, 'schedule': until, 'balanced': False, **options})


def rows(rule: Any, where: RuleContext) -> list[int]:
    return rule.choose(where).rows.nonzero().squeeze(1).tolist()


def test_the_easiest_come_first_and_stay() -> None:
    stored = [4.0, 1.0, 3.0, 2.0]
    # Shares 0.25, 0.4, 0.55, 0.7, 0.85, 1 of four samples, rounded up.
    chosen = [rows(paced(), situation(stored, epoch=epoch)) for epoch in range(7)]
    assert chosen == [[1], [1, 3], [1, 2, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert rows(paced(order='hard_first'), situation(stored, epoch=1)) == [0, 2]


def test_balanced_takes_the_share_of_each_class() -> None:
    stored, labels = [1.0, 2.0, 3.0, 4.0, 11.0, 12.0, 13.0, 14.0], [0] * 4 + [1] * 4
    where = situation(stored, epoch=2, labels=labels)  # 0.55 of 8 are 5; of each 4, 3
    assert rows(paced(), where) == [0, 1, 2, 3, 4]
    assert rows(paced(balanced=True), where) == [0, 1, 2, 4, 5, 6]


@pytest.mark.parametrize(
    ('unseen', 'easy_first', 'hard_first'),
    [('include', [0, 1, 4], [2, 3, 4]), ('exclude', [0, 1], [2, 3]), ('easy', [0, 1, 4], [1, 2, 3]),
     ('hard', [0, 1, 2], [2, 3, 4])],
)  # fmt: skip
def test_where_unseen_samples_go(unseen: str, easy_first: list[int], hard_first: list[int]) -> None:
    where = situation([1.0, 2.0, 3.0, 4.0, NAN])
    rule = {'start': 0.5, 'unseen': unseen}
    assert rows(paced(**rule), where) == easy_first
    assert rows(paced(**rule, order='hard_first'), where) == hard_first


def test_weights_leave_nothing_out_but_what_is_excluded() -> None:
    where = situation([1.0, 2.0, 3.0, 4.0, NAN])
    choice = paced(use='weights', start=0.5).choose(where)
    assert choice.rows.all()
    assert choice.weights is not None
    assert choice.weights.tolist() == pytest.approx([15 / 14, 15 / 14, 15 / 14, 5 / 7, 15 / 14])  # 1, 1, 1, 2/3, 1
    # Their difficulty is that of what is trained on, as weighted: (1 + 2 + 3 + 4 * 2/3) / (3 + 2/3).
    assert choice.difficulty == pytest.approx(26 / 11)
    weights = paced(use='weights', start=0.5, unseen='exclude').choose(where).weights
    assert weights is not None
    assert weights.tolist() == pytest.approx([15 / 11, 15 / 11, 15 / 11, 10 / 11, 0])
    assert paced(use='weights').choose(situation([1.0, 2.0], epoch=9)).weights is None


def test_rho_keeps_what_this_run_has_yet_to_learn() -> None:
    rule = Rho(0.5, 'include')
    stored = [0.1, 2.0, 0.5, 1.0, NAN, 0.3]
    own = [2.0, 2.1, 3.0, 0.5, 9.0, NAN]  # Differences 1.9, 0.1, 2.5, -0.5, none, none.
    assert rows(rule, situation(stored)) == [0, 1, 2, 3, 4, 5], 'the first epoch is on everything'
    # 0 and 2 have the most to learn; the archive does not know 4; 5 was not trained on yet.
    assert rows(rule, situation(stored, own, epoch=1)) == [0, 2, 4, 5]
    assert rows(Rho(0.5, 'exclude'), situation(stored, own, epoch=1)) == [0, 2, 5]
    assert rows(Rho(0.5, 'exclude'), situation(stored)) == [0, 1, 2, 3, 5]


def test_infobatch_prunes_between_its_first_epoch_and_the_last_part() -> None:
    rule = InfoBatch(0.5, Schedule('first 0.9dur'))
    own = torch.linspace(0, 1, 1000).tolist()
    nothing = [NAN] * 1000
    pruned = [1000 - len(rows(rule, situation(nothing, nothing if epoch == 0 else own, epoch))) for epoch in range(10)]
    assert pruned[0] == pruned[9] == 0
    assert all(200 < count < 300 for count in pruned[1:9]), 'half of the 500 below the mean'
    assert len(set(pruned[1:9])) > 1


# -- training -------------------------------------------------------------------------------------------------------


def test_epochs_train_on_what_was_chosen() -> None:
    trained = Trained()
    algorithm = LossCurriculum(recorded_run(), start=0.3, until='3ep', balanced=False)
    trainer, log = curriculum_trainer(algorithm, epochs='5ep', callbacks=[trained])
    trainer.fit()
    trainer.close()
    shares = [0.3, 0.3 + 0.7 / 3, 0.3 + 1.4 / 3, 1.0, 1.0]
    assert logged(log, 'curriculum/fraction') == pytest.approx(shares)
    counts = [int(np.ceil(share * SAMPLES - 1e-6)) for share in shares]
    assert logged(log, 'curriculum/samples') == counts
    assert trained.lengths == [count // BATCH for count in counts]
    task = KeyedTask()
    order = difficulties(Archive(recorded_run()), Samples.of(task), 'mean').argsort().numpy()
    for epoch, count in enumerate(counts):
        assert trained.ids(epoch) <= set(task.ids[order[:count]].tolist())
        assert len(trained.ids(epoch)) == count // BATCH * BATCH
    shown = logged(log, 'curriculum/difficulty')
    assert shown == sorted(shown)
    assert trained.epochs[3] != trained.epochs[4], 'shuffled in the order of each epoch'


@pytest.mark.parametrize('smoothing', [False, True])
def test_weighted_loss_is_the_formula(smoothing: bool) -> None:
    student = net(1, batch_norm=False)
    batch = next(iter(keyed_loader()))
    targets = F.one_hot(batch[1], 10) * 0.9 + 0.01 if smoothing else batch[1]
    losses = F.cross_entropy(student(batch[0]), targets, reduction='none')
    algorithm = LossCurriculum(recorded_run(), use='weights', pacing='step', start=0.2)
    trainer, log = curriculum_trainer(
        algorithm, *([LabelSmoothing(0.1)] if smoothing else []), student=student, epochs='1ep',
        device_train_microbatch_size=8,
    )  # fmt: skip
    trainer.fit()
    trainer.close()
    assert algorithm.choice is not None
    assert algorithm.choice.weights is not None
    place = {one: row for row, one in enumerate(KeyedTask().ids.tolist())}
    weights = algorithm.choice.weights[[place[one] for one in batch[2][:, 0].tolist()]]
    assert weights.std() > 0.2
    assert logged(log, 'loss/train/total')[0] == pytest.approx(float((weights * losses).mean()), rel=1e-5)


def test_infobatch_weighs_what_stays_and_its_losses_are_those_of_the_training() -> None:
    trained, noted = Trained(), {}

    class Losses(Callback):
        def after_loss(self, state: State, logger: Any) -> None:
            losses = F.cross_entropy(state.outputs.detach(), state.batch[1], reduction='none')
            ids = state.batch[2][:, 0].tolist()
            noted.setdefault(int(state.timestamp.epoch), {}).update(zip(ids, losses.tolist(), strict=True))

    algorithm = LossCurriculum(mode='infobatch', prune=0.6, full_from='3ep')
    trainer, log = curriculum_trainer(algorithm, epochs='3ep', callbacks=[trained, Losses()])
    trainer.fit()
    trainer.close()
    assert trained.lengths[0] == FULL > max(trained.lengths[1:])
    first, second = noted[0], noted[1]
    mean = np.mean(list(first.values()))
    assert {one for one in KeyedTask().ids.tolist() if first[one] >= mean} >= {
        one for one in trained.ids(1) if first[one] >= mean
    }
    totals = logged(log, 'loss/train/total')[FULL : FULL + trained.lengths[1]]
    for total, ids in zip(totals, trained.epochs[1], strict=True):
        expected = np.mean([second[one] * (2.5 if first[one] < mean else 1) for one in ids])
        assert total == pytest.approx(expected, rel=1e-5)
    # What a fourth epoch would decide from: the newest loss of each.
    last = dict(zip(KeyedTask().ids.tolist(), with_nan(algorithm.state_dict()['own']['last']).tolist(), strict=True))
    assert last == pytest.approx({**first, **second, **noted[2]}, rel=1e-6)


def test_beside_a_teacher_in_either_order_of_the_list() -> None:
    for turned in (False, True):
        algorithms = [LossCurriculum(mode='infobatch'), TeacherMixupKD([trained_net(11)])]
        trainer, log = make_trainer(
            algorithms[::-1] if turned else algorithms, train_dataloader=keyed_loader(), epochs='3ep'
        )
        assert [type(one).__name__ for one in trainer.state.algorithms] == ['LossCurriculum', 'TeacherMixupKD']
        trainer.fit()
        trainer.close()
        label, distill, total = (logged(log, f'loss/train/{part}') for part in ('label', 'distill', 'total'))
        assert len(total) < 3 * FULL
        assert [a + b for a, b in zip(label, distill, strict=True)] == pytest.approx(total, abs=1e-5)


def test_a_run_records_and_the_next_one_uses_it_on_real_shards(tmp_path: Path) -> None:
    train([RecordLosses(tmp_path / 'gen0')], epochs='2ep')
    data, trained = keyed_data(), Trained()
    algorithm = LossCurriculum(tmp_path / 'gen0', statistic='epoch 0', start=0.5, until='1ep')
    with pytest.warns(UserWarning, match=r'no losses of 44 of the 300 training samples; they are trained on in every'):
        train([trained], data=data, epochs='2ep', algorithms=[algorithm])
    assert trained.lengths == [200 // 64 + 0, 300 // 64]


def test_a_duration_in_batches_paces_by_batches() -> None:
    trained = Trained()
    algorithm = LossCurriculum(recorded_run(), start=0.34, until='0.5dur', balanced=False)
    trainer, log = curriculum_trainer(algorithm, epochs='20ba', callbacks=[trained])
    trainer.fit()
    trainer.close()
    # 0.34 + 0.66 * batch / 10 at batches 0, 2, 4, 7, 11 and 17; the last epoch is cut off.
    assert logged(log, 'curriculum/fraction') == pytest.approx([0.34, 0.472, 0.604, 0.802, 1.0, 1.0])
    assert trained.lengths == [2, 2, 3, 4, 6, 3]


def test_a_second_fit_begins_from_what_the_first_left_as_it_was() -> None:
    scheduler = CosineAnnealingScheduler()
    trainer, _ = curriculum_trainer(LossCurriculum(recorded_run()), epochs='2ep', schedulers=scheduler)
    (compiled,) = trainer.state.schedulers
    before = list(compiled.lr_lambdas)
    sampler = trainer.state.train_dataloader.sampler

    class Stop(Callback):
        def batch_end(self, state: State, logger: Any) -> None:
            if int(state.timestamp.batch) == 1:
                raise KeyboardInterrupt

    stop = Stop()
    trainer.state.callbacks.append(stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert sampler.selection is not None
    trainer.state.callbacks.remove(stop)
    trainer.fit(reset_time=True)
    assert compiled.lr_lambdas == before
    assert sampler.selection is None
    assert int(trainer.state.dataloader_len) == len(sampler) // BATCH == FULL
    trainer.fit(duration='1ep')
    trainer.close()
    assert compiled.lr_lambdas == before


class Rates(Callback):
    """The rate that the scheduler sets at the end of each step, by (epoch, batch in epoch)."""

    def __init__(self) -> None:
        self.at: dict[tuple[int, int], float] = {}
        self.lengths: dict[int, int] = {}

    def batch_end(self, state: State, logger: Any) -> None:
        then = state.previous_timestamp
        assert then is not None
        self.at[int(then.epoch), int(then.batch_in_epoch)] = state.optimizers[0].param_groups[0]['lr']
        self.lengths[int(then.epoch)] = int(state.dataloader_len or 0)


SCHEDULERS = {
    'exponential': lambda: ExponentialScheduler(gamma=0.7),
    'cosine': CosineAnnealingScheduler,
    'multi_step': lambda: MultiStepScheduler(['2ep', '0.7dur', '20ba']),
    'one_cycle': OneCycleScheduler,
    'warm_up': lambda: LinearWithWarmupScheduler('1ep', alpha_f=0.1),
    'warm_up_and_cosine': lambda: CosineAnnealingWithWarmupScheduler('0.3dur'),
}


@pytest.mark.parametrize('make', SCHEDULERS.values(), ids=SCHEDULERS)
def test_learning_rates_follow_the_epochs(make: Any) -> None:
    found = []
    for algorithms in ([], [LossCurriculum(recorded_run(), start=0.3, until='4ep', balanced=False)]):
        rates = Rates()
        trainer, _ = make_trainer(
            algorithms, train_dataloader=keyed_loader(), epochs='5ep', schedulers=make(), callbacks=[rates]
        )
        trainer.fit()
        trainer.close()
        found.append(rates)
    full, short = found
    assert list(full.lengths.values()) == [6] * 5
    assert list(short.lengths.values()) == [1, 2, 3, 4, 6]
    # Batch b of l is where batch 6 b / l of a full epoch is.
    expected = {(epoch, batch): full.at[epoch, batch * 6 // short.lengths[epoch]] for epoch, batch in short.at}
    assert short.at == pytest.approx(expected)


def test_a_training_continued_from_a_checkpoint_has_the_rates_of_a_whole_one(tmp_path: Path) -> None:
    at = []
    for load in (None, tmp_path / 'ep2-ba4-rank0.pt'):
        rates = Rates()
        trainer, _ = curriculum_trainer(
            LossCurriculum(recorded_run(), until='4ep', balanced=False), epochs='5ep', callbacks=[rates],
            schedulers=CosineAnnealingScheduler(), folder=None if load else tmp_path, load=load, save_interval='1ba',
        )  # fmt: skip
        trainer.fit()
        trainer.close()
        at.append(rates.at)
    whole, resumed = at
    assert min(resumed) == (2, 1)
    assert resumed == {key: rate for key, rate in whole.items() if key >= (2, 1)}


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        ({}, r"from: mode 'curriculum' needs the run directory"),
        ({'mode': 'rho'}, r"from: mode 'rho' needs"),
        ({'mode': 'rohs'}, r"mode: 'rohs' is not one of them; did you mean 'rho'"),
        ({'mode': 'infobatch', 'from_': 'runs/a'}, r"from: mode 'infobatch' does not use it"),
        ({'mode': 'infobatch', 'start': 0.3}, r"start: mode 'infobatch' does not use it \('curriculum' does\)"),
        ({'mode': 'infobatch', 'prune': 1.0}, r'prune: expected a number above 0 and below 1, got 1.0'),
        ({'mode': 'infobatch', 'full_from': 'late'}, r"full_from: 'late' is not a point of the training"),
        ({'from_': 'a', 'prune': 0.5}, r"prune: mode 'curriculum' does not use it"),
        ({'from_': 'a', 'until': '0.5'}, r"until: '0.5' is not a point of the training; write '0.5dur'"),
        ({'from_': 'a', 'start': 0}, r'start: expected a number above 0 and at most 1, got 0'),
        ({'from_': 'a', 'start': True}, r'start: expected a number'),
        ({'from_': 'a', 'statistic': 'median'}, r"statistic: 'median' is not one"),
        ({'from_': 'a', 'mode': 'rho', 'statistic': 'forgetting'}, r"'forgetting' is no loss"),
        ({'from_': 'a', 'mode': 'rho', 'unseen': 'easy'}, r"unseen: 'easy' is not one of them"),
        ({'from_': 'a', 'pacing': 'linaer'}, r"pacing: 'linaer' is not one of them; did you mean 'linear'"),
    ],
)
def test_arguments_that_would_do_nothing_or_cannot_be_are_refused(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as raised:
        LossCurriculum(**arguments)
    assert '\n' not in str(raised.value)


def refused(line: str, algorithm: LossCurriculum, *others: Any, **options: Any) -> None:
    trainer, _ = curriculum_trainer(algorithm, *others, epochs='1ep', **options)
    with pytest.raises(UserError, match=line) as raised:
        trainer.fit()
    trainer.close()
    assert '\n' not in str(raised.value)


def test_company_and_data_that_cannot_work_are_refused_in_a_line() -> None:
    for spoiler in (MixUp(), CutMix(), SelectiveBackprop()):
        for arguments in ({'mode': 'infobatch'}, {'from_': recorded_run(), 'use': 'weights'}):
            name = type(spoiler).__name__
            refused(rf'LossCurriculum: {name} is in the same Trainer', LossCurriculum(**arguments), spoiler)
    # Infobatch reads no archive, so the line must not send anybody to look for one.
    refused(
        r'^(?!.*archive).*has no ids: what is .* chosen', LossCurriculum(mode='infobatch'), train_dataloader=loader()
    )
    other = torch.utils.data.DataLoader(KeyedTask(), BATCH, collate_fn=lambda batch: batch)
    refused('the sampler .* is a SequentialSampler', LossCurriculum(recorded_run()), train_dataloader=other)
    student = net(1)
    refused(
        r'OfTriples has no per_sample_loss', LossCurriculum(recorded_run(), use='weights'), student=student,
        model=OfTriples(student),
    )  # fmt: skip
    refused(
        'the model is a ComposerClassifier.*wrap the net in composer_kd.models.classifier',
        LossCurriculum(recorded_run()), student=student, model=ComposerClassifier(student, num_classes=10),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"LossCurriculum: max_duration is '?64sp'?, and epochs change their length"):
        curriculum_trainer(LossCurriculum(recorded_run()), epochs='64sp')[0].fit()


def test_selecting_by_recorded_losses_works_beside_mixed_images() -> None:
    trainer, _ = curriculum_trainer(LossCurriculum(recorded_run()), MixUp(), epochs='1ep')
    trainer.fit()
    trainer.close()


def test_an_archive_that_knows_none_of_the_data_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(UserError, match=r'recorded no losses of this training data; name a run that was trained'):
            train([], net=small_net(), algorithms=[LossCurriculum(recorded_run())])


def test_a_checkpoint_of_other_data_or_from_inside_an_epoch_without_it_is_refused(tmp_path: Path) -> None:
    algorithm = LossCurriculum(mode='infobatch')
    trainer, _ = curriculum_trainer(algorithm, epochs='1ep')
    trainer.fit()
    trainer.close()
    state = algorithm.state_dict()
    state['own']['digest'] += 1
    again = LossCurriculum(mode='infobatch')
    again.load_state_dict(state)
    refused('the checkpoint holds the losses of 192 other samples', again)

    plain, _ = make_trainer([], train_dataloader=keyed_loader(), epochs='1ep', folder=tmp_path, save_interval='2ba')
    plain.fit()
    plain.close()
    inside = tmp_path / 'ep0-ba2-rank0.pt'
    refused(r'inside an epoch of a training without LossCurriculum', LossCurriculum(mode='infobatch'), load=inside)


def test_a_training_goes_on_by_the_losses_it_began_with(tmp_path: Path) -> None:
    run = recorded_run()
    whole, _ = curriculum_trainer(LossCurriculum(run), epochs='4ep', folder=tmp_path, save_interval='1ba')
    whole.fit()
    whole.close()
    # The earlier run goes on recording: by now its losses say something else.
    record = Samples.of(KeyedTask())
    noise = torch.rand(SAMPLES, generator=torch.Generator().manual_seed(0))
    Archive(run).put('loss', 3, record, {'loss': 9 * noise, 'correct': torch.ones(SAMPLES, dtype=torch.uint8)})
    checkpoint = tmp_path / 'ep1-ba3-rank0.pt'
    again, _ = curriculum_trainer(LossCurriculum(run), student=net(5), epochs='4ep', load=checkpoint)
    again.fit()
    again.close()
    assert weights_hash(again.state.model) == weights_hash(whole.state.model)


def without_nan_anywhere(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(without_nan_anywhere, value.values()))
    if isinstance(value, list | tuple):
        return all(map(without_nan_anywhere, value))
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or not bool(value.isnan().any())
    return value == value


def test_a_checkpoint_holds_no_nan_and_brings_back_every_bit(tmp_path: Path) -> None:
    # An archive that knows half of the samples, and a checkpoint inside the first epoch: much is not known.
    archive, everyone = begun_archive(tmp_path / 'earlier'), Samples.of(KeyedTask())
    half = everyone.take(np.arange(0, SAMPLES, 2))
    losses = torch.linspace(0, 3, len(half))
    archive.put('loss', 0, half, {'loss': losses, 'correct': torch.ones(len(half), dtype=torch.uint8)})
    for arguments in ({'from_': archive, 'mode': 'rho'}, {'mode': 'infobatch'}, {'from_': archive}):
        algorithm = LossCurriculum(**arguments)
        trainer, _ = curriculum_trainer(algorithm, epochs='3ep')
        trainer.fit(duration='2ba')
        saved = algorithm.state_dict()
        trainer.close()
        assert without_nan_anywhere(saved)
        other = LossCurriculum(**arguments)
        other.load_state_dict(saved)
        if 'own' in saved:
            assert saved['own']['coming']['known'].sum() == 2 * BATCH
            for name in ('last', '_coming'):
                ours, theirs = (getattr(one._own, name) for one in (algorithm, other))
                assert ours.dtype == theirs.dtype
                assert ours.isnan().any()
                assert torch.equal(ours.isnan(), theirs.isnan())
                assert torch.equal(ours.nan_to_num(-1), theirs.nan_to_num(-1))
        if 'stored' in saved:
            assert other._saved is not None
            stored = other._saved[1]
            assert stored.dtype == torch.float64
            assert torch.equal(stored.isnan(), algorithm._stored.isnan())
            assert int(stored.isnan().sum()) == SAMPLES // 2
