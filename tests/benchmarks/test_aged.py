"""The table of a study whose arms take over from others."""

from __future__ import annotations

from benchmarks.aged import aged_table, spent, steps_table


def mean(value: float, sd: float | None = None) -> dict:
    return {'mean': value, 'sd': sd, 'n': 1 if sd is None else 3}


def test_a_row_for_each_arm_and_nothing_without_any() -> None:
    warm = {'before': mean(0.5, 0.01), 'aged': mean(0.4, 0.02), 'after': mean(0.52, 0.01), 'recovered': 2, 'of': 3}
    warm |= {'epochs': mean(3.0, 1.0), 'multiply_adds': mean(4e12, 1e12), 'forgotten': mean(-0.01)}
    scratch = {'before': mean(0.5), 'aged': None, 'after': mean(0.3), 'recovered': 0, 'of': 1}
    scratch |= {'epochs': None, 'multiply_adds': None, 'forgotten': None}
    rows = [row.split(' | ') for row in aged_table({'warm1': warm, 'scratch1': scratch})[-2:]]
    assert rows[0][:5] == ['| warm1', '3', '50.0 ± 1.0', '40.0 ± 2.0', '52.0 ± 1.0']
    assert rows[0][5:] == ['3.0 ± 1.0 (2 of 3)', '4.00 ± 1.00 (2 of 3)', '-1.0 |']
    assert rows[1] == ['| scratch1', '1', '50.0', '–', '30.0', '– (0 of 1)', '– (0 of 1)', '– |']
    assert aged_table({}) == []


def run(seed: int, curve: list[float], student: float, harvest: float = 0.0) -> dict:
    epochs = list(enumerate(curve, start=1))
    return {'seed': seed, 'test': curve[-1], 'curve': [list(one) for one in epochs], 'harvest': harvest,
            'spent': [[epoch, student * epoch] for epoch, _ in epochs]}  # fmt: skip


def test_ways_are_measured_by_what_scratch_ends_with_at_each_step() -> None:
    arms = {
        'gen0': [{'test': 50.0}],
        'scratch1': [run(0, [10.0, 20.0], 1e12), run(1, [12.0, 22.0], 1e12)],
        'warm1': [run(0, [21.0, 30.0], 1e12), run(1, [15.0, 28.0], 1e12)],
        'recorded1': [run(0, [15.0, 25.0], 1e12, harvest=5e11), run(1, [15.0, 19.0], 1e12, harvest=5e11)],
        'scratch2': [run(0, [30.0], 1e12)],
    }
    rows = {row.split(' | ')[0]: row.split(' | ')[1:] for row in steps_table({'arms': arms})[8:]}
    # Level 21.0, 2 T of work: warm is there after epochs 1 and 2, recorded in one of two seeds, harvest inside.
    assert rows['| warm'][0] == '29.0 ± 1.4'
    assert rows['| warm'][1].startswith('+8.0')
    assert rows['| warm'][2:4] == ['1.5 ± 0.7', '75 ± 35 %']
    assert rows['| recorded'][2:4] == ['2.0 (1 of 2)', '125 % (1 of 2)']
    assert rows['| warm'][4:] == ['–', '–', '–', '– |']
    assert steps_table({'arms': {'views4': [run(0, [1.0], 1.0)]}}) == []
    costs = {'multiply_adds_student_total': 3.0, 'multiply_adds_teacher_total': 1.0}
    assert spent([{'epoch': 1, 'test_accuracy': 0.1, **costs}, {'epoch': 2, **costs}]) == [[1, 4.0]]
