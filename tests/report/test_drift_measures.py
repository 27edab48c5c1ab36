"""Measures of drift against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from composer_kd.report.drift_measures import (
    Recovery,
    effective_robustness,
    forgetting,
    mean_corruption_error,
    recovery,
    relative_mean_corruption_error,
)


def share(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


BASE = {'fog': [0.4, 0.6], 'snow': [0.5, 0.5]}


def test_the_mean_corruption_error_is_a_mean_of_ratios_of_sums():
    # (0.2 + 0.3) / 1 and (0.75 + 0.75) / 1; not the ratio of all sums, nor the mean of four ratios.
    own = {'fog': [0.2, 0.3], 'snow': [0.75, 0.75]}
    assert mean_corruption_error(own, BASE) == pytest.approx((0.5 + 1.5) / 2)
    assert mean_corruption_error({'fog': [0.2, 0.6], 'snow': [0.9]}, {'fog': [0.1, 0.3], 'snow': [0.3]}) == (
        pytest.approx((2 + 3) / 2)
    )
    assert mean_corruption_error(BASE, BASE) == 1
    assert mean_corruption_error({}, {}) is None
    assert mean_corruption_error({'fog': [0.1]}, {'fog': [0.0]}) is None


def test_the_relative_one_is_of_what_corruptions_add():
    own = {'fog': [0.2, 0.3], 'snow': [0.75, 0.75]}
    # Added to 0.1: 0.3 and 1.3; to the baseline's 0.3: 0.4 and 0.4.
    assert relative_mean_corruption_error(own, 0.1, BASE, 0.3) == pytest.approx((0.3 / 0.4 + 1.3 / 0.4) / 2)
    # A worse model that loses the same is the baseline's equal, though its errors are larger.
    worse = {kind: [error + 0.2 for error in errors] for kind, errors in BASE.items()}
    assert relative_mean_corruption_error(worse, 0.5, BASE, 0.3) == pytest.approx(1)
    assert mean_corruption_error(worse, BASE) > 1
    # Snow adds nothing to the baseline's errors: fog alone counts.
    assert relative_mean_corruption_error(own, 0.1, {**BASE, 'snow': [0.3, 0.3]}, 0.3) == pytest.approx(0.75)


def test_effective_robustness_is_what_lies_beyond_a_line_of_logits():
    clean = [share(x) for x in range(4)]
    on_a_line = [share(0.5 * x - 1) for x in range(4)]
    assert effective_robustness(clean, on_a_line) == pytest.approx([0, 0, 0, 0], abs=1e-12)


def test_a_model_does_not_draw_the_line_that_it_is_held_against():
    # The first three are on 0.5 x - 1; the last one, on 2 instead of 0.5, is as far beyond as it is above that line.
    drifted = [share(-1), share(-0.5), share(0), share(2)]
    found = effective_robustness([share(x) for x in range(4)], drifted)
    assert found[3] == pytest.approx(share(2) - share(0.5))
    # The first: the others' logits -0.5, 0, 2 at 1, 2, 3 have the mean 0.5 at 2 and the slope 1.25, so -2 at 0.
    assert found[0] == pytest.approx(share(-1) - share(-2))


def test_effective_robustness_needs_three_others_and_logits():
    assert effective_robustness([0.4, 0.5, 0.6], [0.2, 0.3, 0.5]) == [None] * 3
    assert effective_robustness([0.4, 0.5, 0.6, 1.0], [0.2, 0.3, 0.4, 0.4]) == [None] * 4
    assert effective_robustness([0.4, 0.5, 0.6, 0.7], [0.0, 0.3, 0.4, 0.4]) == [None] * 4
    # One that has no place on the scale takes nothing from the others.
    rest, drifted = [0.4, 0.5, 0.6, 0.7], [0.2, 0.3, 0.4, 0.4]
    assert effective_robustness([*rest, 0.9], [*drifted, 0.0]) == [*effective_robustness(rest, drifted), None]
    assert None not in effective_robustness(rest, drifted)
    upright = effective_robustness([0.5, 0.5, 0.5, 0.6], [0.2, 0.3, 0.4, 0.5])
    assert [one is None for one in upright] == [False, False, False, True], 'three others of one clean accuracy'


def test_forgetting_is_what_is_gone_of_each_earlier_step():
    assert forgetting([0.5, 0.6], [0.4, 0.3]) == pytest.approx(0.2)
    assert forgetting([0.5], [0.6]) == pytest.approx(-0.1)
    assert forgetting([], []) is None


def test_recovery_is_the_first_epoch_as_good_as_before():
    values = [0.1, 0.4, 0.3, 0.5]
    epochs = [
        {'epoch': epoch, 'test_accuracy': value, 'seconds_train_total': 10.0 * epoch}
        for epoch, value in enumerate(values, start=1)
    ]
    assert recovery(epochs, 0.4) == Recovery(2, 20.0)
    assert recovery(epochs, 0.45) == Recovery(4, 40.0)
    assert recovery(epochs, 0.6) is None
    assert recovery([{'epoch': 1, 'test_accuracy': 0.4}], 0.4) == Recovery(1, None)
