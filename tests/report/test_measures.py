"""Each measure against cases worked out by hand."""

from __future__ import annotations

import math

import pytest

from composer_kd.report.measures import (
    Spread,
    best,
    costs_at,
    curve,
    default_epochs,
    default_thresholds,
    first_epoch_at,
    guessing_limit,
    label_loss,
    reach,
    series,
    speed_up,
)


def run(values, **columns):
    """Epochs 1, 2, ... with test accuracies, and further columns beside them."""
    rows = [{'epoch': epoch, 'test_accuracy': value} for epoch, value in enumerate(values, start=1)]
    for key, column in columns.items():
        for row, value in zip(rows, column, strict=True):
            row[key] = value
    return rows


def test_first_epoch_at_or_above_without_interpolation():
    values = {1: 0.10, 2: 0.30, 3: 0.25, 4: 0.40}
    assert first_epoch_at(values, 0.30) == 2
    assert first_epoch_at(values, 0.31) == 4
    assert first_epoch_at(values, 0.10) == 1
    assert first_epoch_at(values, 0.41) is None
    assert first_epoch_at({}, 0.1) is None


def test_a_threshold_is_met_by_the_fraction_that_equals_it():
    # 0.1 + 0.2 is above 0.3 in binary, 29 * 0.01 below 0.29: neither may decide.
    assert first_epoch_at({1: 0.3}, 0.1 + 0.2) == 1
    assert first_epoch_at({1: 29 * 0.01}, 0.29) == 1
    # As float32 counters give them.
    assert first_epoch_at({1: 0.009999999776482582}, 0.01) == 1
    assert first_epoch_at({1: 0.699999988079071}, 0.7) == 1
    assert default_thresholds([run([0.699999988079071])], 'test_accuracy')[-1] == 0.7
    # One sample of 100,000 short is short.
    assert first_epoch_at({1: 0.69999}, 0.7) is None


def test_epochs_without_an_evaluation_are_no_epochs_of_the_series():
    assert series(run([None, 0.2, None, 0.5]), 'test_accuracy') == {2: 0.2, 4: 0.5}
    assert series([{'epoch': 1, 'test_accuracy': True}, {'epoch': 2}], 'test_accuracy') == {}


def test_spread_is_the_sample_standard_deviation():
    spread = Spread.of([82, 85, 81, 87])
    assert spread is not None
    assert spread.mean == 83.75
    # deviations -1.75, 1.25, -2.75, 3.25: squares add up to 22.75, over n - 1 = 3
    assert spread.sd == pytest.approx(math.sqrt(22.75 / 3))
    assert Spread.of([5, None]) == Spread(5, None, 1)
    assert Spread.of([None]) is None


def test_published_table_of_epochs_to_reach():
    """The mean of five baseline runs and the speed-up against a distilled average, recomputed from a printed table."""
    to_95, to_99 = [97, 82, 85, 81, 87], [135, 114, 118, 107, 122]
    assert speed_up(Spread.of(to_95), Spread(76, None, 1)) == pytest.approx(86.4 / 76)
    assert speed_up(Spread.of(to_99), Spread(105, None, 1)) == pytest.approx(119.2 / 105)


def test_reach_counts_who_reached_and_averages_them_alone():
    runs = [run([0.1, 0.3, 0.5]), run([0.3, 0.4, 0.5]), run([0.1, 0.1, 0.2])]
    found = reach(runs, 'test_accuracy', 0.3)
    assert (found.reached, found.of, found.complete) == (2, 3, False)
    assert found.epochs == Spread(1.5, pytest.approx(math.sqrt(0.5)), 2)
    none = reach(runs, 'test_accuracy', 0.9)
    assert (none.reached, none.epochs, none.seconds, none.complete) == (0, None, None, False)
    assert reach(runs, 'test_accuracy', 0.1).complete


def test_cost_of_reaching_has_the_teacher_inside_and_evaluation_apart():
    one = run(
        [0.1, 0.3],
        seconds_train_total=[10.0, 21.0],
        seconds_teacher_total=[2.0, 4.0],
        seconds_eval_total=[50.0, 100.0],
        multiply_adds_student_total=[100, 200],
        multiply_adds_teacher_total=[30, 60],
    )
    found = reach([one], 'test_accuracy', 0.3)
    assert found.seconds == Spread(21.0, None, 1)
    assert found.multiply_adds == Spread(260, None, 1)
    assert costs_at(one)['seconds_teacher'] == {1: 2.0, 2: 4.0}
    assert costs_at(one)['seconds_eval'] == {1: 50.0, 2: 100.0}


def test_seconds_of_single_epochs_are_summed_where_totals_are_missing():
    one = run([0.1, 0.2, 0.3], seconds_train=[10.0, 11.0, 12.0])
    assert costs_at(one)['seconds'] == {1: 10.0, 2: 21.0, 3: 33.0}
    gap = run([0.1, 0.2, 0.3], seconds_train=[10.0, None, 12.0])
    assert costs_at(gap)['seconds'] == {1: 10.0}


def test_a_cost_that_one_of_the_seeds_did_not_record_is_not_averaged_over_the_others():
    known, unknown = run([0.3], seconds_train=[10.0]), run([0.3])
    assert reach([known, unknown], 'test_accuracy', 0.3).seconds is None


def test_best_is_the_earliest_maximum():
    assert best({1: 0.2, 2: 0.5, 3: 0.5, 4: 0.4}) == (2, 0.5)
    assert best({}) is None


def test_speed_up_is_above_one_where_the_arm_is_cheaper():
    assert speed_up(Spread(10, None, 1), Spread(8, None, 1)) == 1.25
    assert speed_up(Spread(8, None, 1), Spread(10, None, 1)) == 0.8
    assert speed_up(None, Spread(10, None, 1)) is None


@pytest.mark.parametrize(
    ('lowest', 'expected'),
    [
        (0.437, [0.2, 0.25, 0.3, 0.35, 0.4]),
        (0.997, [0.95, 0.96, 0.97, 0.98, 0.99]),
        (0.95, [0.86, 0.88, 0.9, 0.92, 0.94]),
        (0.3, [0.22, 0.24, 0.26, 0.28, 0.3]),
        (0.02, [0.012, 0.014, 0.016, 0.018, 0.02]),
    ],
)
def test_default_thresholds_are_round_and_every_baseline_run_reaches_them(lowest, expected):
    runs = [run([0.01, lowest]), run([0.01, min(1.0, lowest + 0.02)])]
    found = default_thresholds(runs, 'test_accuracy')
    assert found == expected
    assert all(reach(runs, 'test_accuracy', level).complete for level in found)


def test_default_thresholds_go_up_to_what_every_baseline_run_reached_not_where_it_ended():
    found = default_thresholds([run([0.2, 0.57, 0.49]), run([0.3, 0.5, 0.61])], 'test_accuracy')
    assert found == [0.35, 0.4, 0.45, 0.5, 0.55]


def test_guessing_ends_at_twice_chance_and_half_way_up_for_two_classes():
    assert guessing_limit(100) == 0.02
    assert guessing_limit(10) == 0.2
    assert guessing_limit(3) == pytest.approx(2 / 3)
    assert guessing_limit(2) == 0.75  # twice chance would be 1
    assert guessing_limit(1) is None


def test_default_thresholds_below_the_limit_are_dropped_and_a_finer_step_found():
    assert default_thresholds([run([0.02])], 'test_accuracy', at_least=0.016) == [0.016, 0.018, 0.02]
    assert default_thresholds([run([0.02])], 'test_accuracy', at_least=0.02) == [0.02]
    assert default_thresholds([run([0.019])], 'test_accuracy', at_least=0.02) == []
    # In steps of 0.05 there is none between 2/3 and 0.69; of 0.02, 0.68 is one.
    assert default_thresholds([run([0.69])], 'test_accuracy', at_least=2 / 3) == [0.68]


def test_default_thresholds_of_nothing():
    assert default_thresholds([run([0.0])], 'test_accuracy') == []
    assert default_thresholds([run([None])], 'test_accuracy') == []


def test_default_epochs_are_quarters_of_the_shortest_run():
    assert default_epochs([run([0.1] * 12), run([0.1] * 16)], 'test_accuracy') == [3, 6, 9, 12]
    # All end at 12: that is the last epoch, which has a column of its own.
    assert default_epochs([run([0.1] * 12)] * 2, 'test_accuracy') == [3, 6, 9]
    # Evaluated every fifth epoch: 3, 6, 9 move to what was measured.
    sparse = [0.1 if epoch % 5 == 0 else None for epoch in range(1, 16)]
    assert default_epochs([run(sparse), run([0.1] * 20)], 'test_accuracy') == [5, 10, 15]


def test_curves_go_over_the_epochs_that_all_seeds_have():
    line = curve([{1: 0.1, 2: 0.2, 3: 0.9}, {1: 0.3, 2: 0.4}])
    assert line is not None
    assert line.epochs == (1, 2)
    assert line.mean == pytest.approx((0.2, 0.3))
    assert line.sd == pytest.approx((math.sqrt(0.02), math.sqrt(0.02)))
    against = curve([{1: 0.1, 2: 0.2}, {1: 0.3, 2: 0.4}], [{1: 5.0, 2: 10.0}, {1: 7.0, 2: 14.0}])
    assert against is not None
    assert against.x == (6.0, 12.0)
    assert curve([{}, {}]) is None


def test_the_loss_of_different_arms_is_compared_without_distillation_terms():
    distilled = run([0.1], loss_total=[3.0], loss_label=[2.0], loss_distill=[1.0])
    plain = run([0.1], loss_total=[2.5])
    unknown = run([0.1], loss_total=[3.0], loss_distill=[1.0])
    assert label_loss(distilled) == {1: 2.0}
    assert label_loss(plain) == {1: 2.5}
    assert label_loss(unknown) == {}
