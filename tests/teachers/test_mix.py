"""Mixes: what they combine, which teachers they ask, and what they refuse."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch

from composer_kd import UserError
from composer_kd.functional import dirichlet_weights
from composer_kd.teachers import MIXES, Mix, make_mix
from composer_kd.teachers.mix import Dirichlet, MixContext, RandomOne, Uniform, Weights

OUTPUTS = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))


def step(batch: int = 0, seed: int = 1, ids: list[int] | None = None) -> MixContext:
    return MixContext(seed=seed, batch=batch, ids=torch.tensor(ids or [0, 1, 2, 3]))


def test_uniform_is_the_average() -> None:
    expected = (OUTPUTS[0] + OUTPUTS[1] + OUTPUTS[2]) / 3
    torch.testing.assert_close(make_mix('uniform')(OUTPUTS, step()), expected)
    torch.testing.assert_close(make_mix('uniform').expected(OUTPUTS), expected)


def test_weights_are_used_as_they_are() -> None:
    expected = 0.2 * OUTPUTS[0] + 0.5 * OUTPUTS[1] + 0.3 * OUTPUTS[2]
    torch.testing.assert_close(make_mix([0.2, 0.5, 0.3])(OUTPUTS, step()), expected)
    torch.testing.assert_close(make_mix({'name': 'weights', 'weights': [0.2, 0.5, 0.3]}).expected(OUTPUTS), expected)
    with pytest.warns(UserWarning, match='sum to 2, so the target is scaled'):
        doubled = make_mix([0, 2, 0])
    torch.testing.assert_close(doubled(OUTPUTS, step()), 2 * OUTPUTS[1])


def test_a_teacher_of_weight_0_is_not_asked() -> None:
    mix = make_mix([0.25, 0, 0.75])
    assert list(mix.selected(3, step())) == [0, 2]
    expected = 0.25 * OUTPUTS[0] + 0.75 * OUTPUTS[2]
    torch.testing.assert_close(mix(OUTPUTS[[0, 2]], step()), expected)
    torch.testing.assert_close(mix.expected(OUTPUTS), expected)


def test_dirichlet_per_batch_mixes_all_samples_alike_and_anew_each_batch() -> None:
    mix = make_mix({'name': 'dirichlet', 'alpha': 0.5})
    one, other = mix(OUTPUTS, step(batch=3)), mix(OUTPUTS, step(batch=4))
    weights = dirichlet_weights(3, 0.5, seed=1, step=3, ids=torch.zeros(1, dtype=torch.int64)).float()[:, 0]
    torch.testing.assert_close(one, torch.einsum('k,kbc->bc', weights, OUTPUTS))
    assert not torch.allclose(one, other)
    # Whatever the samples are: the ranks of one step mix alike.
    assert torch.equal(one, mix(OUTPUTS, step(batch=3, ids=[9, 8, 7, 6])))


def test_dirichlet_per_sample_knows_samples_by_their_ids() -> None:
    mix = make_mix({'name': 'dirichlet', 'alpha': 0.5, 'per': 'sample'})
    whole = mix(OUTPUTS, step(ids=[5, 6, 7, 8]))
    order = [2, 0, 3, 1]
    permuted = mix(OUTPUTS[:, order], step(ids=[7, 5, 8, 6]))
    torch.testing.assert_close(permuted, whole[order])
    parts = [mix(OUTPUTS[:, :2], step(ids=[5, 6])), mix(OUTPUTS[:, 2:], step(ids=[7, 8]))]
    torch.testing.assert_close(torch.cat(parts), whole)
    same = torch.ones(3, 4, 1) * torch.arange(3.0)[:, None, None]
    assert len(set(mix(same, step()).flatten().tolist())) == 4


def test_a_dirichlet_target_is_the_average_in_expectation() -> None:
    mix = make_mix('dirichlet')
    mean = torch.stack([mix(OUTPUTS, step(batch=batch)) for batch in range(3000)]).mean(dim=0)
    assert (mean - mix.expected(OUTPUTS)).abs().max() < 0.05


def test_random_one_asks_the_same_teacher_for_the_same_seed_and_batch() -> None:
    mix = make_mix('random_one')
    asked = [mix.selected(3, step(batch=batch)) for batch in range(6000)]
    assert asked == [mix.selected(3, step(batch=batch, ids=[9])) for batch in range(6000)]
    assert asked != [mix.selected(3, step(batch=batch, seed=2)) for batch in range(6000)]
    assert all(len(teachers) == 1 for teachers in asked)
    counts = np.bincount([teachers[0] for teachers in asked], minlength=3)
    # Chi-squared with two degrees of freedom: 13.8 is its 0.1 % point.
    assert ((counts - 2000) ** 2 / 2000).sum() < 13.8
    pairs = np.bincount([3 * a[0] + b[0] for a, b in pairwise(asked)], minlength=9)
    assert ((pairs - 5999 / 9) ** 2 / (5999 / 9)).sum() < 26.1, 'one step tells of the next'
    assert torch.equal(mix(OUTPUTS[1:2], step()), OUTPUTS[1])


@pytest.mark.parametrize('mix', ['uniform', 'dirichlet', [0.2, 0.5, 0.3]])
def test_the_others_ask_all(mix) -> None:
    assert list(make_mix(mix).selected(3, step())) == [0, 1, 2]


def test_makes_what_is_meant() -> None:
    assert make_mix('uniform') == Uniform()
    assert make_mix('random_one') == RandomOne()
    assert make_mix((0.5, 0.5)) == make_mix([0.5, 0.5]) == Weights([0.5, 0.5])
    assert make_mix({'name': 'dirichlet', 'alpha': 2, 'per': 'sample'}) == Dirichlet(2, 'sample')
    assert make_mix(mix := Dirichlet(0.3)) is mix
    assert set(MIXES.names()) >= {'uniform', 'weights', 'dirichlet', 'random_one'}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        make_mix([1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize(
    ('mix', 'line'),
    [
        ([0.5, -0.5], r'number from 0 on, got -0\.5'),
        ([0.5, float('nan')], 'got nan'),
        ([0.5, float('inf')], 'got inf'),
        ([0.5, '0.5'], "got '0.5'"),
        ([0.5, True], 'got True'),
        ([0.5, None], 'got None'),
        ([0, 0], 'at least one weight must be above 0'),
        ([], 'at least one weight must be above 0'),
        ('unifrom', "did you mean 'uniform'"),
        ('', 'is not one of the mixes'),
        (None, 'is not a mix; write'),
        (3, 'is not a mix; write'),
        ({'alpha': 1.0}, 'is not a mix; write'),
        ({'name': ['dirichlet']}, 'is not a mix; write'),
        ({'name': 'dirichlet', 'alpha': 0}, 'above 0, got 0'),
        ({'name': 'dirichlet', 'alpha': -1.0}, r'above 0, got -1\.0'),
        ({'name': 'dirichlet', 'alpha': float('nan')}, 'above 0, got nan'),
        ({'name': 'dirichlet', 'alpha': '1'}, "mix.alpha: expected a number, got '1'"),
        ({'name': 'dirichlet', 'alpha': True}, 'mix.alpha: expected a number, got True'),
        ({'name': 'dirichlet', 'per': 'epoch'}, "per: 'epoch' is not one of them; known: batch, sample"),
        ({'name': 'dirichlet', 'alfa': 1}, "mix.alfa: unknown key; did you mean 'alpha'"),
        ({'name': 'uniform', 'alpha': 1}, 'mix.alpha: unknown key; none is known'),
        ({'name': 'weights'}, 'mix.weights: this key is required'),
        ({'name': 'weights', 'weights': 0.5}, 'mix.weights: should be an instance of Sequence'),
    ],
)
def test_refuses_in_one_line(mix, line: str) -> None:
    with pytest.raises(UserError, match=line) as refused:
        make_mix(mix)
    assert str(refused.value).startswith(('mix: ', 'mix.'))
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize('count', [1, 3])
def test_refuses_the_wrong_count_of_weights(count: int) -> None:
    with pytest.raises(UserError, match=f'mix: 2 weights for {count} teachers'):
        make_mix([0.5, 0.5]).check(count)
    make_mix([0.5, 0.5]).check(2)


def test_a_mix_of_ones_own_needs_a_call_alone() -> None:
    class First(Mix):
        def __call__(self, outputs, step):
            return outputs[0]

    mix = make_mix(First())
    mix.check(3)
    assert list(mix.selected(3, step())) == [0, 1, 2]
    assert torch.equal(mix(OUTPUTS, step()), OUTPUTS[0])


LABELS = torch.tensor([1, 0])
OF_THREE = torch.tensor([[[0.0, 9.0], [9.0, 0.0]], [[0.0, 1.0], [0.0, 4.0]], [[6.0, 0.0], [0.0, 1.0]]])


def test_oracle_has_a_target_where_a_teacher_is_right() -> None:
    mix, now = make_mix('oracle'), MixContext(seed=1, batch=2, ids=torch.tensor([4, 5]), labels=LABELS)
    assert mix(OF_THREE, now).tolist() == [[0.0, 5.0], [9.0, 0.0]]
    assert mix.mask(OF_THREE, now).tolist() == [True, True]
    assert mix.mask(OF_THREE[1:], now).tolist() == [True, False]
    torch.testing.assert_close(mix.expected(OF_THREE), OF_THREE.mean(dim=0))  # Evaluation knows no labels to ask by.


def test_oracle_without_labels_is_refused() -> None:
    with pytest.raises(UserError, match='mix: oracle asks which teachers are right, and the batch has no hard labels'):
        make_mix('oracle')(OF_THREE, MixContext(seed=1, batch=2, ids=torch.tensor([4, 5])))


def test_all_other_mixes_have_a_target_for_every_sample() -> None:
    now = MixContext(seed=1, batch=2, ids=torch.tensor([4, 5]))
    for name in set(MIXES.names()) - {'oracle', 'weights'}:
        assert make_mix(name).mask(OF_THREE, now) is None


def test_confidence_weighs_each_teacher_by_its_top_probability() -> None:
    outputs = torch.log(torch.tensor([[[0.9, 0.1]], [[0.4, 0.6]]]))
    expected = 0.6 * outputs[0] + 0.4 * outputs[1]
    torch.testing.assert_close(make_mix('confidence')(outputs, step()), expected)


def test_permuted_shuffles_the_average() -> None:
    outputs = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(0))
    now = MixContext(seed=1, batch=2, ids=torch.tensor([4, 5, 900, 7]))
    permuted = make_mix('permuted')(outputs, now)
    average = outputs.mean(dim=0)
    assert torch.equal(permuted.argmax(dim=1), average.argmax(dim=1))
    assert torch.equal(permuted.sort(dim=1).values, average.sort(dim=1).values)
    assert not torch.equal(permuted, average)
    assert torch.equal(permuted, make_mix('permuted')(outputs, now))
