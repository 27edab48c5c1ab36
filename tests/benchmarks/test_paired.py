"""Student's t against printed tables, and pairs worked out by hand."""

from __future__ import annotations

import math

import pytest

from benchmarks.paired import Paired, at_least, held_from, p_value, pairs, quantile, repetition, spread

# Two-sided 95 % quantiles, as every table of the distribution prints them.
PRINTED = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 29: 2.045}


@pytest.mark.parametrize(('freedom', 't'), PRINTED.items())
def test_quantiles_are_those_of_the_printed_table(freedom: int, t: float):
    assert quantile(0.95, freedom) == pytest.approx(t, abs=6e-4)
    assert p_value(t, freedom) == pytest.approx(0.05, abs=5e-5)


def test_two_degrees_of_freedom_have_a_closed_form():
    for t in (0.3, 1.0, 4.0):
        assert p_value(t, 2) == pytest.approx(1 - t / math.sqrt(t * t + 2), abs=1e-9)


def test_differences_of_three_pairs_by_hand():
    # Mean 2, standard deviation 1, so t = 2 sqrt(3) and the half width is 4.303 / sqrt(3).
    paired = Paired.of([1.0, 2.0, 3.0])
    assert paired.mean == 2.0
    assert paired.half == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)
    assert paired.p == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-9)
    assert str(paired) == '+2.0 (-0.5 to +4.5), p 0.074'


def test_one_pair_has_no_interval_and_equal_differences_no_doubt():
    assert str(Paired.of([1.25])) == '+1.2'
    assert Paired.of([2.0, 2.0]).p == 0.0
    assert Paired.of([0.0, 0.0]).p == 1.0
    assert spread([1.0, 3.0]) == '2.0 ± 1.4'


def test_what_was_not_reached_is_a_lower_bound_over_all_runs():
    assert at_least([(2.0, True), (4.0, True)]) == '3.0 ± 1.4'
    assert at_least([(2.0, True), (8.0, False)], ' %', 0) == '≥ 5 % (1 of 2)'
    assert at_least([(8.0, False)]) == '≥ 8.0 (0 of 1)'


def test_runs_are_told_by_their_repetition():
    assert [repetition(name, 'warm1') for name in ('warm1', 'warm1-s0', 'warm1-s12')] == [0, 0, 12]
    first, second, third = ({'repetition': number} for number in range(3))
    assert pairs([third, first], [first, second, third]) == [(third, third), (first, first)]
    assert pairs([second], [first]) == []


@pytest.mark.parametrize(
    ('values', 'level', 'place'),
    [([1, 5, 2, 4, 4], 4, 3), ([4, 5], 4, 0), ([5, 3], 4, None), ([5], 6, None), ([], 1, None)],
)
def test_a_level_counts_where_it_is_held_to_the_end(values: list[float], level: float, place: int | None) -> None:
    assert held_from(values, level) == place
