"""Curricula by hand: pacing values, places, shares, weights, and pruning that leaves the expectation as it is."""

from __future__ import annotations

import pytest
import torch

from composer_kd.functional import pace, places, prune, share_weights, top_share, within_share

NAN = float('nan')


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ('pacing', 'values'),
    {
        'linear': (0.36, 0.52, 0.68, 0.84, 1.0),
        # sqrt(0.1296 + 0.8704 t)
        'root': (0.36, 0.58924, 0.75153, 0.88453, 1.0),
        # 0.36^(1 - t): a factor of 0.36^(-1/4) from each to the next
        'exponential': (0.36, 0.46476, 0.6, 0.77460, 1.0),
        'step': (0.36, 0.36, 0.36, 0.36, 1.0),
    }.items(),
)
def test_pacing_by_hand(pacing: str, values: tuple[float, ...]) -> None:
    assert [pace(pacing, 0.36, quarter / 4) for quarter in range(5)] == pytest.approx(values, abs=1e-5)
    assert pace(pacing, 0.36, 7.0) == 1.0


def test_places_are_counted_in_each_group_and_nan_has_none() -> None:
    values = tensor(0.5, 3.0, NAN, 1.0, 2.0, 0.1, 0.2)
    groups = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    found = places(values, torch.arange(7), groups)
    assert found.nan_to_num(-1).tolist() == [0.0, 0.75, -1.0, 0.25, 0.5, 0.0, 0.5]
    together = places(values, torch.arange(7))
    assert (together * 6).nan_to_num(-1).round().tolist() == [2, 5, -1, 3, 4, 0, 1]


def test_equal_values_are_ordered_by_their_ids_wherever_they_stand() -> None:
    ids = torch.arange(100)
    mixed = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    one = places(torch.zeros(100, dtype=torch.float64), ids)
    other = places(torch.zeros(100, dtype=torch.float64), ids[mixed])
    assert torch.equal(one[mixed], other)
    assert not torch.equal(one, one.sort().values), 'not simply by number'


def test_a_share_is_rounded_up_in_every_group_and_survives_floats() -> None:
    place = places(torch.arange(10).double(), torch.arange(10))
    assert [int(within_share(place, share).sum()) for share in (1e-12, 0.05, 0.1, 0.11, 0.3, 0.1 * 3, 0.99, 1.0)] == [
        1, 1, 1, 2, 3, 3, 10, 10,
    ]  # fmt: skip
    groups = torch.tensor([0] * 7 + [1] * 3)
    chosen = within_share(places(torch.arange(10).double(), torch.arange(10), groups), 0.4)
    assert chosen.tolist() == [True] * 3 + [False] * 4 + [True] * 2 + [False]


def test_weights_are_equal_within_the_share_fall_beyond_it_and_average_to_one() -> None:
    place = places(torch.arange(10).double(), torch.arange(10))
    weights = share_weights(place, 0.5)
    raw = [1.0] * 6 + [5 / 6, 5 / 7, 5 / 8, 5 / 9]
    assert weights.tolist() == pytest.approx([w * 10 / sum(raw) for w in raw])
    assert share_weights(place, 1.0).tolist() == [1.0] * 10
    assert share_weights(tensor(NAN, 0.0, 0.5), 0.25).tolist() == pytest.approx([1.2, 1.2, 0.6])


def test_pruning_keeps_what_is_not_below_the_mean_and_weights_the_rest_up() -> None:
    losses = tensor(0.0, 1.0, 2.0, 5.0, NAN)  # The mean is 2: two samples are below it.
    ids = torch.arange(5)
    drawn = [prune(losses, ids, 0.6, 1, epoch) for epoch in range(3000)]
    kept = torch.stack([one for one, _ in drawn]).double()
    for _, weights in drawn[:3]:
        assert weights.tolist() == pytest.approx([2.5, 2.5, 1.0, 1.0, 1.0])
    assert kept[:, 2:].all()
    # Three standard deviations of 3000 draws.
    assert kept[:, :2].mean(0).tolist() == pytest.approx([0.4, 0.4], abs=3 * (0.24 / 3000) ** 0.5)
    correlation = torch.corrcoef(kept[:, :2].T)[0, 1]
    assert abs(correlation) < 3 / 3000**0.5, 'samples are drawn apart'


@pytest.mark.parametrize('probability', [0.25, 0.5, 0.9])
def test_the_expected_gradient_of_what_is_left_is_that_of_all_data(probability: float) -> None:
    losses = tensor(0.1, 0.4, 0.2, 3.0, 2.0)
    gradients = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, weights = prune(losses, torch.arange(5), probability, 0, 0)
    # All outcomes with their probabilities: each of the three low samples is left out or not.
    expected = torch.zeros(4, dtype=torch.float64)
    for outcome in torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3):
        chance = torch.where(outcome == 1, 1 - probability, probability).prod()
        kept = torch.cat([outcome, torch.ones(2, dtype=torch.float64)])
        expected += chance * (kept * weights) @ gradients
    torch.testing.assert_close(expected, gradients.sum(0))


def test_who_is_pruned_depends_on_seed_epoch_and_id_alone() -> None:
    losses, ids = torch.arange(200).double(), torch.arange(200) * 3
    kept, _ = prune(losses, ids, 0.5, 4, 7)
    assert torch.equal(kept, prune(losses, ids, 0.5, 4, 7)[0])
    assert not torch.equal(kept, prune(losses, ids, 0.5, 4, 8)[0])
    assert not torch.equal(kept, prune(losses, ids, 0.5, 5, 7)[0])
    some = torch.arange(0, 200, 2)
    among_others = prune(losses[some], ids[some], 0.5, 4, 7)[0]
    assert torch.equal(among_others[:49], kept[some][:49]), 'below both means: the others do not matter'


def test_the_top_share_is_of_those_that_have_a_value() -> None:
    assert top_share(tensor(0.3, NAN, -1.0, 2.0, 0.9), torch.arange(5), 0.5).tolist() == [
        False, False, False, True, True,
    ]  # fmt: skip
