"""Linear combinations by hand; Dirichlet weights against the distribution's theory, and as a pure function."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from composer_kd.functional import (
    confidence_weights,
    dirichlet_weights,
    mix_outputs,
    oracle_mix,
    permute_dark_knowledge,
)

OUTPUTS = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[10.0, 20.0], [30.0, 40.0]]])  # [K=2, B=2, C=2]


def test_mixes_the_same_weights_for_all_samples() -> None:
    mixed = mix_outputs(OUTPUTS, torch.tensor([0.25, 0.75]))
    assert mixed.tolist() == [[7.75, 15.5], [23.25, 31.0]]


def test_mixes_weights_of_their_own_for_every_sample() -> None:
    mixed = mix_outputs(OUTPUTS, torch.tensor([[1.0, 0.5], [0.0, 0.5]]))
    assert mixed.tolist() == [[1.0, 2.0], [16.5, 22.0]]


def test_mixes_in_the_precision_of_the_outputs() -> None:
    assert mix_outputs(OUTPUTS, torch.tensor([0.5, 0.5], dtype=torch.float64)).dtype == torch.float32


N = 40_000


@pytest.mark.parametrize('alpha', [0.1, 0.7, 1.0, 10.0])
@pytest.mark.parametrize('teachers', [2, 3, 5])
def test_moments_are_those_of_the_dirichlet_distribution(alpha: float, teachers: int) -> None:
    weights = dirichlet_weights(teachers, alpha, seed=5, step=9, ids=torch.arange(N)).double()
    assert weights.shape == (teachers, N)
    assert (weights > 0).all()
    np.testing.assert_allclose(weights.sum(dim=0).numpy(), 1, atol=1e-6)
    variance = (teachers - 1) / (teachers**2 * (teachers * alpha + 1))
    covariance = -1 / (teachers**2 * (teachers * alpha + 1))
    # Five standard errors; the variance's own, from the fourth moment of the sample.
    np.testing.assert_allclose(weights.mean(dim=1).numpy(), 1 / teachers, atol=5 * np.sqrt(variance / N))
    squares = (weights - 1 / teachers) ** 2
    error = 5 * squares.std(dim=1).max().item() / np.sqrt(N)
    np.testing.assert_allclose(squares.mean(dim=1).numpy(), variance, atol=error)
    product = ((weights[0] - 1 / teachers) * (weights[1] - 1 / teachers)).mean().item()
    assert product == pytest.approx(covariance, abs=error)


@pytest.mark.parametrize('alpha', [0.1, 0.5, 1.0, 10.0])
def test_a_weight_alone_is_beta_distributed(alpha: float) -> None:
    # Two-sample Kolmogorov-Smirnov against NumPy's own Beta(alpha, (K - 1) alpha) draws; 1.95 is its 0.1 % point.
    weights = dirichlet_weights(3, alpha, seed=1, step=2, ids=torch.arange(N))[1].double().numpy()
    drawn = np.random.default_rng(0).beta(alpha, 2 * alpha, size=4 * N)
    grid = np.concatenate([weights, drawn])
    empirical = [np.searchsorted(np.sort(sample), grid, side='right') / len(sample) for sample in (weights, drawn)]
    assert np.abs(empirical[0] - empirical[1]).max() < 1.95 * np.sqrt(1 / N + 1 / (4 * N))


def test_two_teachers_at_alpha_one_are_uniform() -> None:
    weights = np.sort(dirichlet_weights(2, 1.0, seed=1, step=2, ids=torch.arange(N))[0].double().numpy())
    assert np.abs(weights - (np.arange(N) + 0.5) / N).max() < 1.95 / np.sqrt(N)


@pytest.mark.parametrize('alpha', [1e-3, 1e6])
def test_extreme_concentrations_stay_weights(alpha: float) -> None:
    weights = dirichlet_weights(3, alpha, seed=1, step=2, ids=torch.arange(1000)).double()
    np.testing.assert_allclose(weights.sum(dim=0).numpy(), 1, atol=1e-6)
    assert (weights >= 0).all()
    largest = weights.max(dim=0).values.mean().item()
    assert largest > 0.99 if alpha < 1 else largest < 0.34


def test_a_column_is_a_function_of_seed_step_and_id_alone() -> None:
    ids = torch.tensor([7, 123_456_789, 0, 5, 9, 2**40, 12, 1])
    whole = dirichlet_weights(3, 0.4, seed=3, step=17, ids=ids)
    order = torch.tensor([3, 0, 7, 1, 2, 6, 5, 4])
    # But for the last bits: vector units and their scalar tails round logarithms differently.
    same = partial(torch.testing.assert_close, rtol=1e-13, atol=0)
    same(dirichlet_weights(3, 0.4, 3, 17, ids[order]), whole[:, order])
    # Microbatches, and the ranks that take every second sample.
    same(torch.cat([dirichlet_weights(3, 0.4, 3, 17, part) for part in ids.split(3)], dim=1), whole)
    same(dirichlet_weights(3, 0.4, 3, 17, ids[1::2]), whole[:, 1::2])
    # And nothing of the generators' states.
    torch.manual_seed(999)
    assert torch.equal(dirichlet_weights(3, 0.4, 3, 17, ids), whole)


def test_seed_step_and_id_each_draw_anew() -> None:
    ids = torch.arange(2000)
    drawn = [
        dirichlet_weights(2, 1.0, seed, step, ids + shift)[0].double()
        for seed, step, shift in ((3, 17, 0), (4, 17, 0), (3, 18, 0), (3, 17, 1))
    ]
    for other in drawn[1:]:
        assert abs(torch.corrcoef(torch.stack([drawn[0], other]))[0, 1].item()) < 0.1
    # Neighbouring ids, steps and seeds must not shift into each other: step 18 of id n is not step 17 of id n + 1.
    assert not torch.equal(drawn[2][:-1], drawn[0][1:])


def test_oracle_averages_the_teachers_that_are_right() -> None:
    # Three teachers, four samples with the labels 0, 1, 1, 0: right are all, the first, none, the second and third.
    outputs = torch.tensor(
        [
            [[3.0, 0.0], [0.0, 2.0], [5.0, 0.0], [0.0, 1.0]],
            [[1.0, 0.0], [4.0, 0.0], [1.0, 0.0], [6.0, 2.0]],
            [[2.0, 0.0], [1.0, 0.0], [2.0, 1.0], [8.0, 4.0]],
        ]
    )
    target, right = oracle_mix(outputs, torch.tensor([0, 1, 1, 0]))
    assert right.tolist() == [True, True, False, True]
    assert target.tolist() == [[2.0, 0.0], [0.0, 2.0], [0.0, 0.0], [7.0, 3.0]]


def test_oracle_does_not_ask_what_a_teacher_does_not_know() -> None:
    outputs = torch.tensor([[[3.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 4.0]]])
    known = torch.tensor([[True, False], [False, False]])
    target, right = oracle_mix(outputs, torch.tensor([0, 1]), known)
    assert right.tolist() == [True, False]
    assert target.tolist() == [[3.0, 0.0], [0.0, 0.0]]


def test_confidence_weights_are_shares_of_the_top_probabilities() -> None:
    sure, undecided = torch.log(torch.tensor([0.9, 0.1])), torch.log(torch.tensor([0.6, 0.4]))
    outputs = torch.stack([torch.stack([sure, undecided]), torch.stack([undecided, undecided.flip(0)])])
    torch.testing.assert_close(confidence_weights(outputs), torch.tensor([[0.6, 0.5], [0.4, 0.5]]))
    # Of one teacher: over the samples of the batch.
    torch.testing.assert_close(confidence_weights(outputs[0]), torch.tensor([0.6, 0.4]))


def test_permuting_keeps_the_top_where_it_is_and_every_value() -> None:
    outputs = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    permuted = permute_dark_knowledge(outputs, seed=3, step=5)
    assert torch.equal(permuted.argmax(dim=1), outputs.argmax(dim=1))
    assert torch.equal(permuted.amax(dim=1), outputs.amax(dim=1))
    assert torch.equal(permuted.sort(dim=1).values, outputs.sort(dim=1).values)
    moved = (permuted != outputs).float().mean().item()
    assert 0.7 < moved < 0.9  # Of ten values nine may move, and each stays in its place once in nine times.


def test_permutations_are_uniform() -> None:
    outputs = torch.tensor([[0.0, 1.0, 2.0, 9.0]]).expand(24_000, 4)
    permuted = permute_dark_knowledge(outputs, seed=1)
    kinds = permuted.unique(dim=0, return_counts=True)[1]
    assert len(kinds) == 6
    assert (kinds - 4000).abs().max() < 5 * (24_000 * (1 / 6) * (5 / 6)) ** 0.5


def test_permutations_are_drawn_by_sample_and_step() -> None:
    outputs = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([5, 900, 3, 12, 7, 8, 2, 40])
    permuted = permute_dark_knowledge(outputs, ids, seed=3, step=5)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(permute_dark_knowledge(outputs[order], ids[order], seed=3, step=5), permuted[order])
    assert not torch.equal(permute_dark_knowledge(outputs, ids, seed=3, step=6), permuted)
    assert not torch.equal(permute_dark_knowledge(outputs, ids, seed=4, step=5), permuted)
