"""Each measure against cases worked out by hand."""

from __future__ import annotations

import math

import pytest

from composer_kd.report.stats import (
    Spread,
    best,
    costs_at,
    curve,
    effective_robustness,
    first_costs,
    first_epoch_at,
    label_loss,
    mean_corruption_error,
    reach,
    relative_mean_corruption_error,
    series,
    speed_up,
)
from composer_kd.report.summary import default_epochs, default_thresholds, guessing_limit


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


def test_costs_are_those_of_the_first_epoch_that_is_as_good():
    values = [0.1, 0.4, 0.3, 0.5]
    epochs = [
        {'epoch': epoch, 'test_accuracy': value, 'seconds_train_total': 10.0 * epoch}
        for epoch, value in enumerate(values, start=1)
    ]
    assert first_costs(epochs, 'test_accuracy', 0.4) == {'epochs': 2, 'seconds': 20.0, 'multiply_adds': None}
    assert first_costs(epochs, 'test_accuracy', 0.45) == {'epochs': 4, 'seconds': 40.0, 'multiply_adds': None}
    assert first_costs(epochs, 'test_accuracy', 0.6) is None
    unknown = first_costs([{'epoch': 1, 'test_accuracy': 0.4}], 'test_accuracy', 0.4)
    assert unknown == {'epochs': 1, 'seconds': None, 'multiply_adds': None}


# -- under drift ---------------------------------------------------------------------------------------------------


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
