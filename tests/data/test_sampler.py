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
