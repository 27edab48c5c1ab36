"""The order: a pure function of (seed, epoch); ranks that add up; evaluation that counts every sample once."""

import numpy as np
import pytest

from composer_kd.data.sampler import EvalSampler, TrainSampler


class Samples:
    """As much of a data set as a sampler asks for."""

    def __init__(self, ids, views=None):
        self.ids = np.array(ids, np.int64)
        self.views = views

    def __len__(self):
        return len(self.ids)


def epoch_of(samples, epoch, batch_size=8, seed=0, ranks=1, rank=0):
    sampler = TrainSampler(samples, batch_size, seed, ranks, rank)
    sampler.set_epoch(epoch)
    packed = list(sampler)
    assert len(packed) == len(sampler)
    views, rows = np.divmod(packed, len(samples))
    return rows, views


def test_an_epoch_is_a_permutation_cut_to_whole_batches():
    rows, views = epoch_of(Samples(range(50)), 3)
    assert len(rows) == 48
    assert len(set(rows.tolist())) == 48
    assert set(views.tolist()) == {3}


def test_views_repeat_after_v_epochs():
    samples = Samples(range(16), views=4)
    assert [set(epoch_of(samples, epoch)[1].tolist()) for epoch in range(6)] == [{0}, {1}, {2}, {3}, {0}, {1}]


def test_order_depends_on_seed_and_epoch_alone():
    samples = Samples(range(64))
    first = epoch_of(samples, 2)[0].tolist()
    assert epoch_of(samples, 2)[0].tolist() == first
    assert epoch_of(samples, 3)[0].tolist() != first
    assert epoch_of(samples, 2, seed=1)[0].tolist() != first


def test_when_samples_leave_the_others_keep_their_order():
    ids = np.arange(100)
    whole = epoch_of(Samples(ids), 0, batch_size=1)[0]
    kept = np.flatnonzero(ids % 3 != 0)
    part = kept[epoch_of(Samples(ids[kept]), 0, batch_size=1)[0]]
    assert part.tolist() == [row for row in whole.tolist() if row % 3 != 0]


@pytest.mark.parametrize('ranks', [2, 4])
def test_the_ranks_batches_add_up_to_one_ranks_batch(ranks):
    samples, batch = Samples(range(50)), 8
    alone = epoch_of(samples, 5)[0].reshape(-1, batch)
    apart = [epoch_of(samples, 5, ranks=ranks, rank=rank)[0].reshape(-1, batch // ranks) for rank in range(ranks)]
    for step in range(len(alone)):
        assert set(alone[step].tolist()) == set(np.concatenate([part[step] for part in apart]).tolist())


@pytest.mark.parametrize(('count', 'ranks'), [(10, 1), (10, 3), (11, 4), (9, 2), (1, 2)])
def test_evaluation_counts_every_sample_once_when_composer_trims(count, ranks):
    samples = Samples(range(count))
    kept = []
    for rank in range(ranks):
        sampler = EvalSampler(samples, ranks, rank)
        sampler.set_epoch(12345)  # Composer tells it the batch number
        views, rows = np.divmod(list(sampler), count)
        assert set(views.tolist()) == {-1}
        # Composer's evaluation loop: the last ranks drop one sample each, as many as there was padding.
        padding = sampler.total_size - len(sampler.dataset)
        kept += rows.tolist()[: -1 if rank >= ranks - padding else None]
    assert sorted(kept) == list(range(count))


def selecting(samples, rows, epoch, **options):
    sampler = TrainSampler(samples, options.pop('batch_size', 4), 0, options.pop('ranks', 1), options.pop('rank', 0))
    sampler.selection = lambda _: rows
    sampler.set_epoch(epoch)
    return sampler


def test_a_selection_keeps_the_order_that_its_rows_have_among_all():
    samples = Samples(range(50))
    rows = np.arange(50) % 3 == 0
    chosen = np.array(list(selecting(samples, rows, 2))) % 50
    among_all = epoch_of(samples, 2, batch_size=1)[0]
    assert chosen.tolist() == [row for row in among_all.tolist() if rows[row]][:16], '17 rows are 4 whole batches of 4'


def test_an_epoch_has_the_length_of_its_selection_and_the_full_one_after_it():
    samples = Samples(range(50))
    sampler = selecting(samples, np.arange(50) < 21, 0)
    assert (len(sampler), len(list(sampler))) == (20, 20)
    sampler.selection = lambda epoch: np.arange(50) < 9 + 4 * epoch
    sampler.set_epoch(1)
    assert (len(sampler), len(list(sampler))) == (12, 12)
    sampler.selection = None
    sampler.set_epoch(2)
    assert (len(sampler), len(set(sampler))) == (48, 48)


def test_fewer_rows_than_a_batch_are_repeated_and_none_is_no_batch():
    samples = Samples(range(50))
    few = np.array(list(selecting(samples, np.arange(50) < 3, 1, batch_size=8))) % 50
    assert len(few) == 8
    assert set(few.tolist()) == {0, 1, 2}
    assert list(selecting(samples, np.zeros(50, bool), 1)) == []


def test_the_ranks_of_a_selection_add_up_to_one_ranks_batches():
    samples, rows = Samples(range(50)), np.arange(50) % 2 == 0
    alone = np.array(list(selecting(samples, rows, 3))).reshape(-1, 4)
    apart = [np.array(list(selecting(samples, rows, 3, ranks=2, rank=rank))).reshape(-1, 2) for rank in range(2)]
    assert len(alone) == len(apart[0]) == 6
    for step, parts in zip(alone.tolist(), np.concatenate(apart, axis=1).tolist(), strict=True):
        assert set(step) == set(parts)
