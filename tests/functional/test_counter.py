"""The counter-based hash: published reference values, one result whatever the arguments' form, and flat statistics."""

import pytest
import torch

from composer_kd.functional.counter import counter_hash, uniform


def unsigned(value):
    return int(value) & ((1 << 64) - 1)


def test_the_published_splitmix64_sequence():
    # The first outputs of SplitMix64 seeded with 1234567, as in the reference C program and Rosetta Code. Its n-th
    # state is seed + n * gamma, and one hashed integer is the output for that state less one gamma.
    gamma = 0x9E3779B97F4A7C15
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [unsigned(counter_hash(1234567 + n * gamma)) for n in range(4)] == expected


def test_integers_tensors_and_broadcast_agree():
    seeds, ids = torch.tensor([3, -1, 2**62]), torch.arange(5, dtype=torch.int32)
    table = counter_hash(7, seeds[:, None], ids, -1)
    assert table.shape == (3, 5)
    assert table.dtype == torch.int64
    for row, seed in enumerate(seeds.tolist()):
        for column in range(5):
            assert table[row, column] == counter_hash(7, seed, column, -1)


def test_golden_values_never_change():
    """Recordings of earlier runs are looked up by these numbers: a change here makes every archive wrong."""
    assert counter_hash(1, 2, 3).tolist() == 7702586659592502839
    assert uniform(0, torch.arange(3)).tolist() == [0.6524484863740322, 0.1663964394676608, 0.509878999625511]


def test_order_and_count_matter():
    assert len({int(counter_hash(*integers)) for integers in [(), (0,), (0, 0), (1, 2), (2, 1), (1, 2, 0)]}) == 6


def test_uniform_is_flat_and_independent_between_neighbours():
    draws = uniform(5, torch.arange(1000)[:, None], torch.arange(100))
    assert draws.dtype == torch.float64
    assert 0 < draws.min() < 1e-4 < 1 - 1e-4 < draws.max() < 1
    counts = torch.histc(draws.float(), 50, 0, 1)
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert chi_square < 90  # 49 degrees of freedom: the 99.97th percentile
    assert torch.corrcoef(draws[:, :2].T)[0, 1].abs() < 0.1
    assert torch.corrcoef(draws[:2])[0, 1].abs() < 0.35


def test_uniform_never_reaches_its_ends(monkeypatch):
    import composer_kd.functional.counter as counter

    monkeypatch.setattr(counter, 'counter_hash', lambda *_: torch.tensor([0, -1]))
    low, high = counter.uniform(0).tolist()
    assert 0 < low < 1e-15
    assert 1 - 1e-15 < high < 1


def test_a_float_is_refused():
    with pytest.raises(TypeError, match='integers'):
        counter_hash(torch.ones(2))
