"""Ensembles, and size, operations and speed, in every format: by hand, and nothing where there is nothing to say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from composer_kd import UserError
from composer_kd.report import report
from tests.report.runs_on_disk import accuracies, rows, values, write_run

ENSEMBLES = 'Ensembles: test accuracy, %'
SIZE = 'Size, operations and speed of each model, against the largest'


def write(folder: Path, arm: str, seed: int = 0, *, last: float = 0.4, runs_beside: int = 1, **manifest: Any) -> Path:
    """A run of the arm's own model, with further keys in its manifest; its weights are named after it."""
    records = accuracies([0.2, last], runs_beside=runs_beside)
    run = write_run(folder / f'{arm}-s{seed}', records, arm=arm, seed=seed, model={'name': arm.partition('_')[0]})
    file = run / 'archive' / 'manifest.json'
    content = {**json.loads(file.read_text()), 'weights': {'hash': run.name}, **manifest}
    file.write_text(json.dumps(content))
    return run


def speed(one: float | None, many: float | None, **changes: Any) -> dict[str, Any]:
    return {'1': one, '256': many, 'device': 'cpu', 'threads': 2, 'precision': 'fp32', **changes}


def write_ensembles(folder: Path, **seeds: list[tuple[dict[str, float], float, float]]) -> Path:
    """Names to one (run names to accuracies, accuracy by logits, by probabilities) for each seed."""
    content = {
        name: {
            'lineage': 'kd',
            'members': [run.removesuffix('-s0') for run in of_seeds[0][0]],
            'seeds': [
                {
                    'members': [{'run': run, 'weights': run, 'accuracy': value} for run, value in alone.items()],
                    'first': [
                        {'k': 1, 'logits': {'accuracy': 0.0}, 'probabilities': {'accuracy': 0.0}},
                        {'k': 2, 'logits': {'accuracy': logits}, 'probabilities': {'accuracy': probabilities}},
                    ],
                    'at_least_one': 0.75,
                }
                for alone, logits, probabilities in of_seeds
            ],
        }
        for name, of_seeds in seeds.items()
    }
    file = folder / 'ensembles.json'
    file.write_text(json.dumps({'format': 'composer_kd.ensembles', 'version': 1, 'ensembles': content}))
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in (0, 1):
        write(tmp_path, 'ban1', seed)
        write(tmp_path, 'ban2', seed)
    write_ensembles(
        tmp_path,
        ens2=[
            ({'ban1-s0': 0.50, 'ban2-s0': 0.40}, 0.60, 0.62),
            # The best of this seed is not the best on average.
            ({'ban1-s1': 0.44, 'ban2-s1': 0.46}, 0.64, 0.62),
        ],
    )
    return tmp_path


def test_an_ensemble_beside_its_best_member(folder: Path) -> None:
    made = report(folder)
    assert rows(made, 'ensembles') == [
        {
            'ensemble': 'ens2',
            'members': 'ban1, ban2',
            'n': '2',
            'by logits': '62.00 ±2.83',  # 60 and 64, deviation sqrt(8)
            'by probabilities': '62.00 ±0.00',
            'best member': 'ban1',
            'it alone': '47.00 ±4.24',
            'at least one right': '75.00 ±0.00',
        }
    ]
    (found,) = values(made, 'ensembles')
    assert found['logits'] == {'mean': pytest.approx(0.62), 'sd': pytest.approx(0.08**0.5 / 10), 'n': 2}
    for text in (made.text(), made.brief(), made.markdown(), made.html()):
        assert ENSEMBLES in text
        assert '47.00 ±4.24' in text
    for text in (made.markdown(), made.html()):
        assert 'what an oracle would reach' in text


def test_an_ensemble_is_shown_where_all_its_members_are(folder: Path) -> None:
    both = [folder / 'ban1-s0', folder / 'ban2-s0']
    assert [row['n'] for row in rows(report(both), 'ensembles')] == ['1'], 'the seed that is reported'
    assert rows(report([folder / 'ban1-s0', folder / 'ban2-s1']), 'ensembles') == []
    assert 'oracle' not in report(folder / 'ban1-s0').html()
    for run in both:  # Trained anew since.
        file = run / 'archive' / 'manifest.json'
        file.write_text(json.dumps({**json.loads(file.read_text()), 'weights': {'hash': 'other'}}))
        assert rows(report(both), 'ensembles') == []


@pytest.mark.parametrize(
    'content', ['', '[]', '{"ensembles": 3}', '{"ensembles": {"a": {"members": ["x"], "seeds": [{"members": [3]}]}}}']
)
def test_a_file_that_no_lineage_wrote_is_named(folder: Path, content: str) -> None:
    (folder / 'ensembles.json').write_text(content)
    with pytest.raises(UserError, match=r'ensembles\.json: not what a lineage writes there; remove it'):
        report(folder)


def test_names_of_ensembles_are_escaped(folder: Path) -> None:
    file = folder / 'ensembles.json'
    file.write_text(file.read_text().replace('ens2', '<script>\\u0007'))
    assert '&lt;script&gt;\ufffd' in report(folder).html()


def test_size_and_speed_against_the_largest(tmp_path: Path) -> None:
    for seed, seconds in ((0, 0.01), (1, 0.02)):
        inference = speed(seconds, 100 * seconds)
        write(tmp_path, 'big', seed, last=0.5, parameters=9_000_000, multiply_adds=725_000_000, inference=inference)
    small = {'parameters': 250_000, 'multiply_adds': 30_000_000}
    write(tmp_path, 'small', last=0.4, **small, inference=speed(0.003, 0.128))
    made = report(tmp_path)
    big, little = rows(made, 'models')
    assert big == {
        'arm': 'big',
        'parameters, M': '9.000',
        'multiply-adds, M': '725.00',
        'images/s at 1': '75 ±35',  # 100 and 50
        'images/s at 256': '192 ±91',  # 256 and 128
        'test accuracy, %': '50.00 ±0.00',
        'smaller': '1.00×',
        'faster at 1': '1.00×',
        'faster at 256': '1.00×',
    }
    assert (little['smaller'], little['faster at 1'], little['faster at 256']) == ('36.00×', '4.44×', '10.42×')
    found = values(made, 'models')
    assert found['small']['times_smaller_than_the_largest'] == 36
    assert found['small']['times_faster_than_the_largest']['256'] == pytest.approx(2000 / 192)
    assert found['big']['images_per_second']['1']['mean'] == pytest.approx(75)
    for text in (made.text(), made.brief(), made.markdown(), made.html()):
        assert SIZE in text
        assert '36.00×' in text
    assert 'Images a second are of forward passes' in made.markdown()
    assert not [line for line in made.caveats if 'mages a second' in line]


def test_runs_of_earlier_versions_have_a_size_and_no_speed(tmp_path: Path) -> None:
    write(tmp_path, 'big', parameters=200)
    write(tmp_path, 'small', parameters=100)
    assert list(rows(report(tmp_path), 'models')[0]) == [
        'arm', 'parameters, M', 'multiply-adds, M', 'test accuracy, %', 'smaller',
    ]  # fmt: skip


def test_one_model_is_not_compared(tmp_path: Path) -> None:
    write(tmp_path, 'net_plain', inference=speed(0.1, 0.2))
    write(tmp_path, 'net_taught', inference=speed(0.1, 0.3, device='gpu'), runs_beside=2)
    made = report(tmp_path)
    assert rows(made, 'models') == []
    assert not [line for line in made.caveats if 'mages a second' in line]


def test_what_spoils_a_comparison_of_speeds_is_said(tmp_path: Path) -> None:
    write(tmp_path, 'big', inference=speed(0.1, 0.2))
    write(
        tmp_path, 'small', inference=speed(0.1, 0.2, threads=8, precision='bf16'), runs_beside=2, hardware={'cpu': 'x'}
    )
    made = report(tmp_path)
    assert rows(made, 'models')[1]['arm'] == 'small †'
    lines = [line for line in made.caveats if 'mages a second' in line]
    assert lines == [
        '† The images a second of small were measured on a machine that other runs used.',
        'Images a second were measured on different numbers of threads, precisions and machines: '
        'they cannot be compared.',
    ]


@pytest.mark.parametrize('strange', [None, 'fast', [1], {'1': 'x', '256': -1}, {'1': float('nan'), '256': True}])
def test_strange_measurements_are_not_known(tmp_path: Path, strange: Any) -> None:
    write(tmp_path, 'big', inference=strange, parameters='many')
    write(tmp_path, 'small', inference=speed(0.5, 1.0), parameters=100)
    big, small = rows(report(tmp_path), 'models')
    assert (big['images/s at 1'], big['parameters, M'], big['smaller']) == ('–', '–', '–')
    assert (small['images/s at 1'], small['smaller']) == ('2', '1.00×')
