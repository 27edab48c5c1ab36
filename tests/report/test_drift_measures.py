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
    clean = [0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))]  # logits 0, 1, 2
    on_a_line = [1 / (1 + math.exp(-(0.5 * x - 1))) for x in range(3)]
    assert effective_robustness(clean, on_a_line) == pytest.approx([0, 0, 0], abs=1e-12)
    # Logits -1, 0, -1 have the line -2/3 through all three.
    bent = [1 / (1 + math.exp(1)), 0.5, 1 / (1 + math.exp(1))]
    expected = 1 / (1 + math.exp(2 / 3))
    assert effective_robustness(clean, bent) == pytest.approx([one - expected for one in bent])


def test_effective_robustness_needs_three_models_and_logits():
    assert effective_robustness([0.4, 0.5], [0.2, 0.3]) is None
    assert effective_robustness([0.4, 0.5, 1.0], [0.2, 0.3, 0.4]) is None
    assert effective_robustness([0.4, 0.5, 0.6], [0.0, 0.3, 0.4]) is None
    assert effective_robustness([0.5, 0.5, 0.5], [0.2, 0.3, 0.4]) is None


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
