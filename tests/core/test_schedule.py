"""When, and how strongly: every form against weights worked out by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from composer.core import Callback, DataSpec
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from composer_kd import Distillation, Schedule, UserError
from composer_kd.core.ramp import Ramp
from composer_kd.core.schedule import Progress
from tests.algorithms.common import make_trainer, net


def at(epoch: int, batch_in_epoch: int = 0, length: int | None = 10, epochs: float | None = 100) -> Progress:
    """The progress after ``epoch`` epochs of ten batches and some batches of the next."""
    return Progress(epoch, epoch * (length or 10) + batch_in_epoch, batch_in_epoch, length, epochs)


def on(text: str, epochs: int, length: int = 10) -> list[tuple[int, int]]:
    """The (epoch, batch in epoch) at which a schedule is on."""
    schedule = Schedule(text)
    steps = [(epoch, batch) for epoch in range(epochs) for batch in range(length)]
    return [(e, b) for e, b in steps if schedule.weight(at(e, b, length, epochs)) > 0]


def whole(*epochs: int) -> list[tuple[int, int]]:
    return [(epoch, batch) for epoch in epochs for batch in range(10)]


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('always', whole(*range(31))),
        ('every 10ep', whole(0, 10, 20, 30)),
        ('every 1ep', whole(*range(31))),
        ('every 100ba', [(0, 0), (10, 0), (20, 0), (30, 0)]),
        ('every 7ba', [divmod(batch, 10) for batch in range(0, 310, 7)]),
        ('first 3ep', whole(0, 1, 2)),
        ('first 1.5ep', [*whole(0), *[(1, b) for b in range(5)]]),
        ('first 12ba', [*whole(0), (1, 0), (1, 1)]),
        ('from 10ep to 12ep', whole(10, 11)),
        ('from 5ba to 8ba', [(0, 5), (0, 6), (0, 7)]),
        ('until overtaken', whole(*range(31))),
    ],
)
def test_is_on_exactly_then(text: str, expected: list[tuple[int, int]]) -> None:
    assert on(text, epochs=31) == expected


def test_dur_is_a_fraction_of_the_whole_training_not_of_an_epoch() -> None:
    # (epoch + batch / length) / epochs: 0.3 of 4 epochs of 10 batches are 12 batches.
    assert on('first 0.3dur', epochs=4) == [*whole(0), (1, 0), (1, 1)]
    assert on('from 0.25dur to 0.5dur', epochs=4) == whole(1)
    assert at(2, 5, length=10, epochs=4).fraction == 0.625


@pytest.mark.parametrize('epochs', [1, 3, 7, 30, 200])
@pytest.mark.parametrize('length', [1, 7, 10, 49, 391])
def test_no_step_is_won_or_lost_to_rounding(epochs: int, length: int) -> None:
    # The exact count, in fractions: steps n with n / total < share are ceil(share * total).
    total = epochs * length
    for tenths in range(1, 10):
        schedule = Schedule(f'first 0.{tenths}dur')
        edge = math.ceil(Fraction(tenths, 10) * total)
        for step, expected in ((edge - 1, 1.0), (edge, 0.0)):
            epoch, batch = divmod(step, length)
            assert schedule.weight(at(epoch, batch, length, epochs)) == expected, (tenths, step, total)


@pytest.mark.parametrize(
    ('text', 'progress', 'expected'),
    [
        ('first 20ep, linear decay', at(0), 1.0),
        ('first 20ep, linear decay', at(5), 0.75),
        ('first 20ep, linear decay', at(19, 9), 1 - 19.9 / 20),
        ('first 20ep, linear decay', at(20), 0.0),
        ('first 20ep, linear decay to 0.2', at(10), 0.6),
        ('first 20ep, cosine decay', at(5), 0.5 * (1 + math.sqrt(0.5))),
        ('first 20ep, cosine decay to 0.5', at(10), 0.75),
        ('first 20ep, exponential decay', at(10), 0.1),
        ('first 20ep, exponential decay to 0.25', at(10), 0.5),
        ('from 10ep to 30ep, linear decay', at(9, 9), 0.0),
        ('from 10ep to 30ep, linear decay', at(10), 1.0),
        ('from 10ep to 30ep, linear decay', at(25), 0.25),
        ('first 100ba, linear decay', at(2, 5), 0.75),
        ('first 0.5dur, linear decay', at(25), 0.5),
        ('always, linear decay', at(25), 0.75),
        ('always, cosine decay to 0.1', at(50), 0.55),
        ('every 10ep, linear decay', at(30), 0.7),
        ('every 10ep, linear decay', at(31), 0.0),
        ('until overtaken, exponential decay to 0.01', at(50), 0.1),
    ],
)
def test_decays_over_the_span_that_it_has(text: str, progress: Progress, expected: float) -> None:
    assert Schedule(text).weight(progress) == pytest.approx(expected, abs=1e-12)


def test_until_overtaken_is_off_once_overtaken_and_nothing_else_is() -> None:
    assert Schedule('until overtaken').weight(at(3), overtaken=True) == 0.0
    assert Schedule('always').weight(at(3), overtaken=True) == 1.0


@pytest.mark.parametrize(
    'text',
    [
        '', 'sometimes', 'every', 'every 10', 'every 0ep', 'every 1.5ep', 'every 0.1dur', 'every -1ep', 'first',
        'first 20', 'first 0ep', 'first 20 epochs', 'first -3ep', 'first 1.5dur', 'first 20sp', 'from 10ep',
        'from 10ep to', 'from 50ep to 10ep', 'from 10ep to 10ep', 'from 10ep to 500ba', 'from 0.5dur to 1.5dur',
        'from 10 to 20ep', 'always,', 'always, slow decay', 'always, linear', 'always, linear decay to',
        'always, linear decay to 1', 'always, linear decay to -0.5', 'always, linear decay to 2',
        'always, exponential decay to 0', 'always; linear decay', 'first nanep', 'first infep', 'until',
        'until overtaken 3ep', 'always, linear decay, cosine decay', 'first 1e2ep',
    ],
)  # fmt: skip
def test_refuses_what_is_no_schedule_in_one_line(text: str) -> None:
    with pytest.raises(UserError) as refused:
        Schedule(text)
    assert str(refused.value).startswith('schedule: ')
    assert '\n' not in str(refused.value)
    assert repr(text.strip()) in str(refused.value)


@pytest.mark.parametrize('value', [None, 3, 0.5, ['always']])
def test_refuses_what_is_no_text(value) -> None:
    with pytest.raises(UserError, match='is not a schedule; write'):
        Schedule(value)


@pytest.mark.parametrize(
    ('text', 'line'),
    [
        ('from 50ep to 60ep', r'begins after the training ends \(50ep\)'),
        ('from 500ba to 600ba', r'begins after the training ends \(500ba\)'),
        ('from 70ep to 80ep, linear decay', 'begins after the training ends'),
    ],
)
def test_refuses_a_window_after_the_end(text: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        Schedule(text).check(at(0, epochs=50), where='here')


def test_accepts_a_window_that_ends_after_the_training() -> None:
    for text in ('first 200ep', 'from 49ep to 60ep', 'from 499ba to 600ba', 'from 0.9dur to 1dur', 'every 90ep'):
        Schedule(text).check(at(0, epochs=50))


def test_says_what_an_unknown_length_rules_out() -> None:
    unknown = at(0, epochs=None)
    for text in ('first 0.3dur', 'always, linear decay', 'every 2ep, cosine decay', 'until overtaken, linear decay'):
        with pytest.raises(UserError, match='needs to know how long the training is'):
            Schedule(text).check(unknown)
    for text in ('always', 'first 3ep', 'every 2ep', 'first 3ep, linear decay', 'until overtaken'):
        Schedule(text).check(unknown)
        assert Schedule(text).weight(unknown) == 1.0


@pytest.mark.parametrize('duration', ['4ep', '24ba', '768sp'])
def test_reads_the_same_fractions_off_every_unit_of_duration(duration: str) -> None:
    """24 batches of 32 samples, 6 to an epoch, whatever they are called."""
    seen = []

    class Read(Callback):
        def before_forward(self, state, logger) -> None:
            seen.append(Progress.of(state).fraction)

    trainer, _ = make_trainer([], epochs=duration, callbacks=[Read()])
    trainer.fit()
    trainer.close()
    assert seen == pytest.approx([step / 24 for step in range(24)], abs=1e-12)


def test_samples_that_a_short_last_batch_drops_are_not_counted() -> None:
    seen = []

    class Read(Callback):
        def before_forward(self, state, logger) -> None:
            seen.append(Progress.of(state).fraction)

    # 6 batches of 32 an epoch out of 200 samples.
    data = DataLoader(TensorDataset(torch.randn(200, 3, 8, 8), torch.zeros(200, dtype=torch.int64)), 32, drop_last=True)
    trainer, _ = make_trainer([], train_dataloader=data, epochs='768sp', callbacks=[Read()])
    trainer.fit()
    trainer.close()
    assert seen == pytest.approx([step / 24 for step in range(24)], abs=1e-12)


class Endless(IterableDataset):
    """Data whose loader has no length."""

    def __iter__(self):
        for row in range(64):
            yield torch.full((3, 8, 8), float(row)), row % 10


def test_a_share_of_samples_of_a_loader_without_a_length_names_units_that_work() -> None:
    for arguments in ({'schedule': 'first 0.3dur'}, {'kd_weight': '1 to 0 until 0.5dur'}):
        for duration, works in (('50sp', False), ('4ba', True)):
            endless = DataSpec(DataLoader(Endless(), 16))
            trainer, _ = make_trainer([Distillation([net(2)], **arguments)], train_dataloader=endless, epochs=duration)
            if works:
                trainer.fit()
            else:
                with pytest.raises(UserError, match=r'in ep or ba \(sp needs a loader that has a length\)') as refused:
                    trainer.fit()
                assert '\n' not in str(refused.value)
            trainer.close()
    with pytest.raises(UserError, match=r'ep or ba \(sp needs a loader that has a length\)'):
        _ = Progress(0, 0).fraction


def test_batches_are_length_enough_where_an_epoch_has_none() -> None:
    streamed = Progress(epoch=0, batch=50, batches=100)
    Schedule('first 0.3dur').check(streamed)
    Ramp('8 to 1').check(streamed)
    assert Schedule('first 0.3dur').weight(streamed) == 0.0
    assert Ramp('8 to 1').at(streamed) == 4.5


def test_a_duration_in_batches_counts_batches_whatever_the_length_of_the_epochs() -> None:
    after_short_epochs = Progress(epoch=5, batch=10, batch_in_epoch=0, epoch_length=10, epochs=10.0, batches=100)
    assert after_short_epochs.fraction == 0.1
    assert Schedule('first 0.2dur, linear decay').weight(after_short_epochs) == 0.5


def test_is_a_value() -> None:
    assert Schedule.of('first 3ep') == Schedule('first 3ep') == eval(repr(Schedule('first 3ep')))
    assert Schedule.of(schedule := Schedule('always')) is schedule
    assert len({Schedule('always'), Schedule('always'), Schedule('first 3ep')}) == 2
