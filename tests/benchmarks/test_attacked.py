"""The table of a study's arms under attack, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.attacked import attacked_table, by_others, under_attack
from composer_kd.core.errors import UserError
from composer_kd.runs.plan import make_plan
from tests.report.runs_on_disk import write_run


def run(repetition: int, attack: float, seconds: tuple[float, float] | None = None, way=(), **robust: float) -> dict:
    found = {name: {'as it is': 50.0 + attack, 'robust': value, 'samples': 1000} for name, value in robust.items()}
    attacking, training = seconds or (None, None)
    return {'repetition': repetition, 'attack': attack, 'attack_seconds': attacking, 'train_seconds': training,
            'under_attack': found, 'on_the_way': [list(one) for one in way]}  # fmt: skip


def rows_of(arms: dict, **more) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    page = attacked_table({'arms': arms, **more}, student=10.0)
    first = next(number for number, line in enumerate(page) if line.startswith('| arm'))
    cells = [line.removeprefix('| ').removesuffix(' |').split(' | ') for line in page[first:]]
    return {'text': '\n'.join(page[:first])}, {one[0]: dict(zip(cells[0], one, strict=True)) for one in cells[2:]}


def test_means_over_seeds_and_shares_of_the_baseline() -> None:
    arms = {
        'plain': [run(0, 0.0, weak=10.0, strong=2.0), run(1, 0.0, weak=14.0, strong=4.0)],
        'taught': [{'test': 60.0}],
        'recycled': [run(0, 5.0, strong=30.0), run(1, 5.0, weak=41.0, strong=32.0)],
        'pgd7': [run(0, 35.0, weak=40.0, strong=30.0), run(1, 35.0, weak=40.0, strong=31.0)],
    }
    page, rows = rows_of(arms)
    assert page['text'].strip().startswith('**Under attack** (1,000 test samples;')
    assert list(rows) == ['plain', 'recycled', 'pgd7']
    assert list(rows['plain'].values())[:5] == ['plain', '2', '50.0 ± 0.0', '12.0 ± 2.8', '3.0 ± 1.4']
    assert rows['plain']['gain'].startswith('-28.0')
    assert (rows['plain']['attacks in training'], rows['plain']['less than pgd7']) == ('0.0 %', '–')
    assert (rows['recycled']['weak, %'], rows['recycled']['strong, %']) == ('41.0', '31.0 ± 1.4')
    assert rows['recycled']['gain'].startswith('+1.0'), 'of the one pair that was attacked so'
    assert (rows['recycled']['attacks in training'], rows['recycled']['less than pgd7']) == ('50.0 %', '7.0×')
    assert (rows['pgd7']['gain'], rows['pgd7']['as robust'], rows['pgd7']['less than pgd7']) == ('', '', '1.0×')
    assert attacked_table({'arms': {'plain': [{'test': 1.0}]}}, student=10.0) == []


def test_pairs_are_repetitions_whatever_the_place() -> None:
    pgd7 = [run(number, 35.0, weak=value) for number, value in enumerate((40.0, 50.0, 45.0))]
    # The first repetition is missing: by their places, gains would be +10, 0.
    _, rows = rows_of({'pgd7': pgd7, 'other': [run(1, 5.0, weak=50.0), run(2, 5.0, weak=45.0)]})
    assert rows['other']['gain'].startswith('+0.0 (+0.0 to +0.0)')


@pytest.mark.parametrize(
    ('gains', 'verdict'),
    # Three pairs: half of the interval is 2.48 standard deviations. 0.2 and 0.6 of them, around -0.1 and -2.
    [((-0.3, -0.1, 0.1), 'yes'), ((-0.7, -0.1, 0.5), 'not shown'), ((-2.2, -2.0, -1.8), 'no'), ((-0.1,), '–')],
)
def test_as_robust_is_an_interval_above_the_margin(gains: tuple[float, ...], verdict: str) -> None:
    pgd7 = [run(number, 35.0, weak=40.0) for number in range(3)]
    _, rows = rows_of({'pgd7': pgd7, 'other': [run(number, 5.0, weak=40 + gain) for number, gain in enumerate(gains)]})
    assert rows['other']['as robust'] == verdict


def test_attacks_until_an_accuracy_and_runs_that_do_not_get_there() -> None:
    arms = {
        # 39 and 41 are to be reached.
        'pgd7': [run(0, 60.0, way=[(5, 20.0, 20.0), (10, 39.0, 40.0), (15, 40.0, 60.0)], weak=40.0),
                 run(1, 60.0, way=[(5, 20.0, 20.0), (10, 40.0, 40.0), (15, 42.0, 60.0)], weak=42.0)],
        'recycled': [run(1, 9.0, way=[(5, 20.0, 3.0), (10, 39.0, 6.0), (15, 40.0, 9.0)], weak=40.0),
                     run(0, 9.0, way=[(5, 20.0, 3.0), (10, 39.0, 6.0), (15, 38.0, 9.0)], weak=38.0)],
        'plain': [run(0, 0.0, weak=1.0)],
    }  # fmt: skip
    _, rows = rows_of(arms)
    assert rows['pgd7']['until there'] == '83 ± 24 %'
    # In repetition 0 it is there after 10 %, and no more after 15 %; in 1 not at all.
    assert rows['recycled']['until there'] == '≥ 15 % (0 of 2)'
    arms['recycled'][1]['on_the_way'][-1][1] = 39.0
    assert rows_of(arms)[1]['recycled']['until there'] == '≥ 12 % (1 of 2)'
    assert rows['plain']['until there'] == '–'


def test_other_libraries_are_columns_where_they_attacked_the_same_weights(tmp_path: Path) -> None:
    arms = {'pgd7': [{**run(0, 35.0, strong=40.0), 'weights': 'aa'}, {**run(1, 35.0, strong=41.0), 'weights': 'bb'}],
            'plain': [{**run(0, 0.0, strong=1.0), 'weights': 'cc'}, run(1, 0.0, strong=1.0)]}  # fmt: skip
    attack = {'library': 'foolbox 3.3.4', 'epsilon': 8.0, 'steps': 50, 'step_size': 2.0, 'norm': 'linf',
              'targeted': False, 'samples': 1500, 'accuracy': 0.6, 'split': 'test'}  # fmt: skip
    runs = [{**attack, 'run': 'anywhere', 'weights': weights, 'robust_accuracy': left}
            for weights, left in (('aa', 0.39), ('bb', 0.37), ('dd', 0.9), (None, 0.9))]  # fmt: skip
    runs += [{**attack, 'split': 'val', 'run': 'anywhere', 'weights': 'aa', 'robust_accuracy': 0.9, 'samples': 9}]
    document = {'format': 'composer_kd.attack', 'version': 1}
    (tmp_path / 'attacked-foolbox.json').write_text(json.dumps({**document, 'runs': runs}))
    steps = 'steps', 'step_size', 'targeted'
    third = {key: value for key, value in runs[0].items() if key not in steps} | {'library': 'autoattack 0.1'}
    (tmp_path / 'attacked-auto.json').write_text(json.dumps({**document, 'runs': [third]}))
    result = {'arms': arms}
    by_others(result, tmp_path)
    page, rows = rows_of(**result)
    column = 'PGD-50, linf 8, foolbox 3.3.4, 1,500 samples, %'
    assert {arm: row[column] for arm, row in rows.items()} == {'pgd7': '38.0 ± 1.4', 'plain': '–'}
    assert rows['pgd7']['linf 8, autoattack 0.1, 1,500 samples, %'] == '39.0'
    assert not [name for name in rows['pgd7'] if '9 samples' in name]
    assert '(1,000 test samples;' in page['text'], 'those of the attack that gains are of'
    (tmp_path / 'attacked-auto.json').write_text('[]')
    with pytest.raises(
        UserError, match=r'attacked-auto\.json: not what `composer-kd evaluate --attacks --json` writes'
    ):
        by_others(result, tmp_path)


def test_seconds_are_compared_where_runs_had_the_machine_alone() -> None:
    arms = {
        'plain': [run(0, 0.0, (0.0, 100.0), weak=1.0), run(1, 0.0, weak=1.0)],
        'recycled': [run(0, 5.0, (70.0, 168.0), weak=1.0), run(1, 5.0, (74.0, 172.0), weak=1.0)],
        'pgd7': [run(0, 35.0, weak=1.0)],
    }
    page, rows = rows_of(arms, baseline='plain')
    assert 'runs that had the machine for themselves, and compared between such runs' in page['text']
    assert [list(row.values())[-3:] for row in rows.values()] == [
        ['0', '0.0 %', '1.00×'],
        ['72 ± 3', '72.0 %', '1.70×'],
        ['–', '–', '–'],
    ]


def test_what_is_read_off_a_run(tmp_path: Path) -> None:
    def line(batch: int, robust: float, samples: int, steps: int = 20, split: str = 'test') -> dict:
        attack = {'epsilon': 8.0, 'steps': steps, 'step_size': 2.0, 'norm': 'linf', 'targeted': False}
        return {'epoch': batch // 10, 'batch': batch, 'split': split, 'subset': None, 'samples': samples, **attack,
                'accuracy': 0.6, 'robust_accuracy': robust}  # fmt: skip

    values = {'model': {'name': 'resnet20'}, 'max_duration': '2ep', 'save_folder': str(tmp_path), 'repeat': 2}
    _, planned = make_plan(
        {**values, 'lineage': {'recycled': {'seed': 217, 'algorithms': ['AdversarialRecycling']}}}
    ).runs
    totals = [{'multiply_adds_attack_total': 1e12 * n, 'seconds_attack_total': 3.0 * n, 'seconds_train_total': 9.0 * n,
               'batch': 10 * n, 'test_accuracy': 0.5, 'runs_beside': 1} for n in (1, 2)]  # fmt: skip
    write_run(planned.folder, totals, arm='recycled', seed=218)
    lines = [line(10, 0.1, 500), line(10, 0.3, 500, split='val'), line(20, 0.25, 4000), line(20, 0.2, 4000, steps=50),
             line(20, 0.26, 500)]  # fmt: skip
    (planned.folder / 'attacks.jsonl').write_text(''.join(json.dumps(one) + '\n' for one in lines))
    found = under_attack(planned, totals[-1])
    assert found['under_attack'] == {
        'PGD-20, linf 8': {'as it is': 60.0, 'robust': 25.0, 'samples': 4000},
        'PGD-50, linf 8': {'as it is': 60.0, 'robust': 20.0, 'samples': 4000},
    }
    assert found['on_the_way'] == [[1, 10.0, 1e12], [2, 26.0, 2e12]]
    assert (found['attack_seconds'], found['train_seconds']) == (6.0, 18.0)
