"""The table of a study's arms under attack, by hand."""

from __future__ import annotations

from benchmarks.attacked import attacked_table


def run(attack: float, seconds: float | None = None, **robust: float) -> dict:
    found = {name: {'as it is': 50.0 + attack, 'robust': value, 'samples': 1000} for name, value in robust.items()}
    return {'attack': attack, 'attack_seconds': seconds, 'under_attack': found}


def test_means_over_seeds_and_shares_of_the_baseline() -> None:
    arms = {
        'plain': [run(0.0, weak=10.0, strong=2.0), run(0.0, weak=14.0, strong=4.0)],
        'taught': [{'test': 60.0}],
        'recycled': [run(5.0, strong=30.0), run(5.0, weak=41.0, strong=32.0)],
        'pgd7': [run(35.0, 70.0, weak=40.0, strong=30.0), run(35.0, 72.0, weak=40.0, strong=31.0)],
    }
    page = attacked_table({'arms': arms}, student=10.0)
    assert page[1].startswith('**Under attack** (1,000 test samples;')
    rows = [row.removeprefix('| ').removesuffix(' |').split(' | ') for row in page[6:]]
    assert rows[0][3:6] == ['weak, %', 'strong, %', 'gain']
    assert rows[0][7:] == ['less than pgd7', 'seconds']
    assert rows[2][:5] == ['plain', '2', '50.0 ± 0.0', '12.0 ± 2.8', '3.0 ± 1.4']
    assert rows[2][5].startswith('-28.0')
    assert rows[2][6:] == ['0.0 %', '–', '–']
    assert rows[3][3:5] == ['41.0', '31.0 ± 1.4']
    assert rows[3][5].startswith('+1.0'), 'of the one pair that was attacked so'
    assert rows[3][6:] == ['50.0 %', '7.0×', '–']
    assert rows[4][5:] == ['', '350.0 %', '1.0×', '71 ± 1']
    assert attacked_table({'arms': {'plain': [{'test': 1.0}]}}, student=10.0) == []
