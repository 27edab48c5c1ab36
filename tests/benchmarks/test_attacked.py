"""The table of a study's arms under attack, by hand."""

from __future__ import annotations

from benchmarks.attacked import attacked_table


def run(attack: float, **robust: float) -> dict:
    found = {name: {'as it is': 50.0 + attack, 'robust': value, 'samples': 1000} for name, value in robust.items()}
    return {'attack': attack, 'under_attack': found}


def test_means_over_seeds_and_shares_of_the_baseline() -> None:
    arms = {
        'plain': [run(0.0, weak=10.0, strong=2.0), run(0.0, weak=14.0, strong=4.0)],
        'taught': [{'test': 60.0}],
        'recycled': [run(5.0, strong=30.0)],
    }
    page = attacked_table({'arms': arms}, student=10.0)
    assert page[1].startswith('**Under attack** (1,000 test samples;')
    assert page[4:] == [
        '| arm | seeds | as they are, % | weak, % | strong, % | attacks in training |',
        '|---|---:|---:|---:|---:|---:|',
        '| plain | 2 | 50.0 ± 0.0 | 12.0 ± 2.8 | 3.0 ± 1.4 | 0.0 % |',
        '| recycled | 1 | 55.0 | – | 30.0 | 50.0 % |',
    ]
    assert attacked_table({'arms': {'plain': [{'test': 1.0}]}}, student=10.0) == []
