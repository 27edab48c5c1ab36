"""Stratified splits by content: hand-counted shares, duplicates on one side, stability."""

import numpy as np
import pytest

from composer_kd.core.errors import UserError
from composer_kd.data.split import check_classes, choose_stratified, choose_validation, quotas


def made(count=1000, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2**64, count, np.uint64), rng.integers(0, classes, count)


def test_each_class_gives_its_share_and_the_lowest_hashes():
    hashes, labels = made()
    chosen = choose_validation(hashes, labels, 0.1)
    for label in range(7):
        of_class = labels == label
        assert (chosen & of_class).sum() == round(0.1 * of_class.sum())
        assert hashes[of_class & chosen].max() < hashes[of_class & ~chosen].min()


def test_the_order_of_the_samples_does_not_matter():
    hashes, labels = made()
    order = np.random.default_rng(1).permutation(1000)
    assert set(hashes[choose_validation(hashes, labels, 0.2)]) == set(
        hashes[order][choose_validation(hashes[order], labels[order], 0.2)]
    )


def test_identical_images_share_a_side_whatever_their_labels():
    hashes = np.array([5, 5, 6, 7, 8, 5, 9, 10, 11, 12], np.uint64)
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    chosen = choose_validation(hashes, labels, 0.2)
    assert chosen.tolist() == [True, True, False, False, False, True, False, False, False, False]


def test_a_small_class_gives_at_least_one_and_zero_gives_none():
    hashes, labels = np.arange(5, dtype=np.uint64), np.array([0, 0, 0, 1, 1])
    assert choose_validation(hashes, labels, 0.1).tolist() == [True, False, False, True, False]
    assert not choose_validation(hashes, labels, 0.0).any()


@pytest.mark.parametrize(
    ('sizes', 'count', 'expected'),
    [([10, 10, 10], 4, [2, 1, 1]), ([10, 10, 10], 3, [1, 1, 1]), ([90, 10], 10, [9, 1]), ([2, 1], 9, [2, 1])],
)
def test_quotas_by_hand(sizes, count, expected):
    assert quotas(np.array(sizes), count).tolist() == expected


def test_a_larger_subset_holds_the_smaller_one():
    hashes, labels = made()
    small, large = (set(choose_stratified(hashes, labels, count).tolist()) for count in (70, 350))
    assert len(small) == 70
    assert len(large) == 350
    assert len(small - large) <= 3  # rounding of the shares alone


def test_parts_that_lack_a_class_are_refused():
    with pytest.raises(UserError, match=r"^the part has no sample of class 'b' and 1 more; do this$"):
        check_classes(np.array([0, 0]), ['a', 'b', 'c'], 'the part', 'do this')
    with pytest.raises(UserError, match=r'^the part is empty; do this$'):
        check_classes(np.array([], np.int64), ['a'], 'the part', 'do this')


def test_another_seed_is_another_choice_of_the_same_shares():
    hashes, labels = made(4000)
    chosen = {seed: choose_stratified(hashes, labels, 1400, seed) for seed in (0, 1, 2)}
    assert np.array_equal(chosen[0], choose_stratified(hashes, labels, 1400)), 'without a seed it is what it was'
    shares = {seed: np.bincount(labels[rows]).tolist() for seed, rows in chosen.items()}
    assert shares[0] == shares[1] == shares[2]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        # Independent choices of 1400 of 4000 have 490 in common, give or take 3 standard deviations of 14.
        assert len(np.intersect1d(chosen[one], chosen[other])) == pytest.approx(490, abs=45)


def test_a_choice_by_seed_goes_by_content_alone():
    hashes, labels = made()
    order = np.random.default_rng(1).permutation(1000)
    chosen = hashes[choose_stratified(hashes, labels, 200, seed=5)]
    assert set(chosen) == set(hashes[order][choose_stratified(hashes[order], labels[order], 200, seed=5)])
    # Frozen: the subsets of runs that are there already must not change.
    few = choose_stratified(np.arange(12, dtype=np.uint64), np.arange(12) % 2, 4, seed=1)
    assert few.tolist() == [6, 7, 8, 9]
