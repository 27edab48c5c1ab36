"""The table of a study whose arms take over from others."""

from __future__ import annotations

from benchmarks.aged import aged_table


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
