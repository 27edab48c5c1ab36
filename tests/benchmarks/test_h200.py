"""The GPU phases at toy size on the CPU: each does its work, goes on where it was, and hands its results over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.h200.pack import pack, unpack
from benchmarks.h200.toy import H200, HERE, toy, toy_study
from benchmarks.retrain.cells import Scale
from composer_kd.core.errors import UserError
from composer_kd.runs.plan import make_plan
from composer_kd.runs.yaml_file import read_yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('h200')


def phase(place: Path, *words: object, status: int = 0) -> str:
    """A phase at toy size; what it printed."""
    out = place / 'out'
    out.mkdir(exist_ok=True)
    toy_size = {'TOY': '1', 'TOY_FOLDER': str(place / 'toy'), 'OUT': str(out), 'PYTHON': sys.executable}
    done = subprocess.run(
        ['bash', str(ROOT / 'benchmarks' / 'h200.sh'), *map(str, words)],
        env={**os.environ, **toy_size, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_help_lists_the_phases_and_an_unknown_one_is_one_line(place: Path) -> None:
    listed = [
        line.split()[0] for line in phase(place, '--help').splitlines() if line.startswith('  ') and line[2] != ' '
    ]
    assert {'wheels', 'install', 'data', 'check', 'epoch', 'steps', 'retrain', 'retrain-N'} <= set(listed)
    assert {'adversarial', 'drift'} <= set(listed)
    assert phase(place, 'chekc', status=2).startswith('error: chekc: there is no such phase')
    assert 'there is no such phase' in phase(place, 'retrain-99', status=2)
    names = [line.split()[1].rstrip(',') for line in phase(place, 'phases').splitlines()]
    assert names == [one['name'] for one in yaml.safe_load(H200.read_text())['phases']]


def test_wheels_are_pinned_and_hold_no_torch() -> None:
    lines = (ROOT / 'benchmarks' / 'h200' / 'wheels.txt').read_text().split()
    names = [name for name, _, version in (line.partition('==') for line in lines) if version]
    assert len(names) == len(lines) == len(set(names))
    assert {'mosaicml', 'mosaicml-streaming', 'pydantic', 'pydantic-core'} <= set(names)
    assert not {'torch', 'torchvision', 'torchmetrics', 'numpy'} & set(names)


def test_the_toy_has_every_phase_and_every_arm_of_the_scale(tmp_path: Path) -> None:
    values = yaml.safe_load(H200.read_text())
    file = tmp_path / 'h200.yaml'
    file.write_text(yaml.safe_dump(toy(values, 'runs')))
    small, whole = (Scale(name, accuracy=lambda cell: 0.5) for name in (str(file), 'h200'))
    assert {(cell.scenario, cell.arm) for cell in small.cells()} == {
        (cell.scenario, cell.arm) for cell in whole.cells()
    }
    assert max(cell.budget for cell in small.cells()) == 2
    assert {cell.entry['model']['name'] for cell in small.cells()} == {'mlp'}


@pytest.mark.parametrize('name', ['adversarial', 'drift'])
def test_a_toy_study_has_every_run_of_the_study(name: str) -> None:
    values = read_yaml(HERE / name / f'{name}.yaml')
    whole, small = make_plan(values).runs, make_plan(toy_study(values, 'runs')).runs
    assert [run.arm for run in small] == list(dict.fromkeys(run.arm for run in whole))
    assert {run.config.model.name for run in small} == {'mlp'}
    assert {run.config.max_duration for run in small} == {'1ep', '2ep'}
    assert {run.config.device for run in small} == {'cpu'}


def test_the_first_phases_answer_the_main_question() -> None:
    """Recycling in a fifth of the epochs against the baseline's whole length, two seeds, within five phases."""
    whole = Scale('h200', accuracy=lambda cell: 0.5)
    first = [one['name'] for one in whole.yaml['phases'][:5]]
    runs = {(cell.arm, cell.budget, cell.number) for cell in whole.cells(first)}
    assert {('baseline', 200, 0), ('baseline', 200, 1)} <= runs
    assert {(arm, 40, number) for arm in ('scratch', 'kd', 'warm', 'shrink_kd') for number in (0, 1)} <= runs


# -- data in pieces ---------------------------------------------------------------------------------------------------


def some_data(path: Path, shape: tuple[int, ...], **arrays) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(1)
    held = {
        'images': drawn.integers(0, 256, shape, np.uint8), 'labels': drawn.integers(0, 5, shape[0]),
        'split': drawn.integers(0, 2, shape[0]).astype(np.uint8), **arrays,
    }  # fmt: skip
    np.savez(path, **held)
    return held


@pytest.mark.parametrize(
    ('shape', 'arrays'),
    [
        ((230, 8, 8, 3), {'classes': np.array(list('abcde'))}),
        ((230, 8, 8), {'split': np.array(['train', 'test'] * 115)}),
        ((3, 9000, 2, 1), {}),
    ],
)
def test_pieces_in_any_order_make_the_same_data(shape, arrays, tmp_path: Path) -> None:
    held = some_data(tmp_path / 'some.npz', shape, **arrays)
    pieces = list(pack(tmp_path / 'some.npz', tmp_path / 'pieces', megabytes=0.006))
    assert len(pieces) > 1
    missing = [unpack([piece], tmp_path / 'kept', tmp_path / 'whole.npz') for piece in reversed(pieces)]
    assert missing[-1] == 0 < missing[0]
    assert missing == sorted(missing, reverse=True)
    with np.load(tmp_path / 'whole.npz') as whole:
        assert sorted(whole.files) == sorted(held)
        for name, array in held.items():
            assert whole[name].dtype == array.dtype
            assert np.array_equal(whole[name], array)


def test_what_is_no_piece_is_one_line(tmp_path: Path) -> None:
    some_data(tmp_path / 'some.npz', (10, 4, 4, 3))
    with pytest.raises(UserError, match=r'some\.npz: no piece that `pack` wrote'):
        unpack([tmp_path / 'some.npz'], tmp_path / 'kept', tmp_path / 'whole.npz')
    some_data(tmp_path / 'strange.npz', (10, 4, 4, 4))
    with pytest.raises(UserError, match=r'strange\.npz: images are uint8'):
        list(pack(tmp_path / 'strange.npz', tmp_path / 'pieces', 25))


# -- the phases: half a minute and more -------------------------------------------------------------------------------


@pytest.mark.slow
def test_data_arrives_in_several_calls(place: Path, tmp_path: Path) -> None:
    some_data(tmp_path / 'some.npz', (300, 8, 8, 3), split=(np.arange(300) >= 240).astype(np.uint8))
    pieces = list(pack(tmp_path / 'some.npz', tmp_path / 'pieces', 0.03))
    told = [phase(place, 'data', piece) for piece in pieces]
    assert 'still to come' in told[0]
    assert '240 train, 60 test images of 5 classes' in told[-1]


@pytest.mark.slow
def test_check_tries_every_mode(place: Path) -> None:
    told = phase(place, 'check')
    assert 'cache and device end in the same weights' in told
    checks = json.loads((place / 'out' / 'check.json').read_text())['checks']
    assert {'cache', 'device', 'stream'} <= set(checks)
    assert not [name for name, outcome in checks.items() if 'error' in outcome]
    assert 'works' not in phase(place, 'check'), 'what has worked is not tried again'


@pytest.mark.slow
def test_epoch_goes_on_with_what_is_missing(place: Path) -> None:
    phase(place, 'epoch')
    file = place / 'toy' / 'h200' / 'epoch.json'
    # What was cut off by the end of a phase is measured by the next one.
    cut = json.loads(file.read_text())
    cut['rows'][1] = {'variant': 'eager', 'beside': 2, 'error': 'took longer than there was time'}
    file.write_text(json.dumps(cut))
    phase(place, 'epoch')
    rows = json.loads((place / 'out' / 'epoch.json').read_text())['rows']
    assert [(row['variant'], row['beside']) for row in rows] == [('eager', 1), ('eager', 2)]
    assert all(row['train_seconds'] > 0 and row['images_per_second'] > 0 for row in rows)
    assert phase(place, 'epoch').strip() == '', 'nothing is measured twice'


@pytest.mark.slow
def test_steps(place: Path) -> None:
    phase(place, 'steps')
    result = json.loads((place / 'out' / 'steps.json').read_text())
    assert result['hardware']['cpu']
    assert result['milliseconds']['trainer'][1] > 0
    attacks = {'replay', 'recycle', 'fgsm', 'pgd7'}
    assert attacks <= set(result['milliseconds'])
    assert set(result['attack milliseconds']) == attacks
    assert {f'{name} / trainer' for name in attacks} <= set(result['ratios'])
    median, low, high = result['ratios']['attacks of pgd7 / attacks of recycle']
    assert median > 1
    assert low <= median <= high
    page = (place / 'out' / 'steps.md').read_text()
    assert "| a step's adversarial examples, milliseconds | median | quartiles |" in page


@pytest.mark.slow
def test_retrain_by_phases_and_earlier_iterations_are_carried_on(place: Path) -> None:
    phase(place, 'retrain-1')
    phase(place, 'retrain-2')
    results = place / 'out' / 'h200.jsonl'
    assert [json.loads(line)['arm'] for line in results.read_text().splitlines()] == ['baseline', 'scratch']
    (tar,) = [Path(line.partition(':')[0]) for line in phase(place, 'keep').splitlines()]
    kept = place / 'out' / tar.name
    assert kept.is_file()
    runs = place / 'toy' / 'runs'
    runs.rename(place / 'toy' / 'runs-of-another-machine')
    assert 'restored' in phase(place, 'restore', kept)
    told = phase(place, 'retrain-2')  # The next one open is taught by what was restored.
    assert 'same.kd.' in told
    assert 'same.baseline.2ep.s0: mlp' not in told, 'it was trained again'
    assert [json.loads(line)['arm'] for line in results.read_text().splitlines()] == ['baseline', 'scratch', 'kd']


@pytest.mark.slow
def test_alone_times_one_run_at_a_time_and_stops_when_its_time_is_over(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = place / 'out' / 'h200.jsonl'

    def timed() -> list[str]:
        lines = map(json.loads, results.read_text().splitlines()) if results.is_file() else ()
        return [line['arm'] for line in lines if line['alone']]

    before = timed()
    monkeypatch.setenv('MINUTES', '0')
    told = phase(place, 'alone')
    assert 'the time is over; the same command goes on' in told
    assert 'not timed, for the grid of their rates is open: ' in told
    assert timed() == before
    monkeypatch.delenv('MINUTES')
    phase(place, 'alone')  # At toy size a call trains one.
    assert timed() == [*before, 'baseline']


@pytest.mark.slow
def test_the_study_of_attacks_trains_what_its_results_lack(place: Path) -> None:
    phase(place, 'adversarial')
    results = place / 'out' / 'adversarial.json'
    arms = json.loads(results.read_text())['arms']
    assert {'plain', 'pgd7', 'recycled', 'refreshed', 'warm_replayed'} <= set(arms)
    assert all(one['under_attack'] for runs in arms.values() for one in runs)
    assert [len(arms[arm][0]['on_the_way']) for arm in ('pgd7', 'plain')] == [2, 2]
    # Another machine has the results and not the runs.
    (place / 'toy' / 'runs' / 'adversarial').rename(place / 'toy' / 'runs' / 'elsewhere')
    there = place / 'toy' / 'h200' / 'adversarial.json'
    before = json.loads(there.read_text())
    there.write_text(json.dumps({**before, 'arms': {arm: arms[arm] for arm in arms if arm != 'warm'}}))
    told = phase(place, 'adversarial')
    assert 'warm: done' in told
    assert 'recycled: done' in told, 'whose weights it begins at'
    assert 'pgd7: done' not in told
    after = json.loads(results.read_text())['arms']
    assert set(after) == set(arms)
    assert after['pgd7'] == arms['pgd7']


@pytest.mark.slow
def test_the_study_of_drift(place: Path) -> None:
    told = phase(place, 'drift')
    assert '**What each way takes to be as good as training anew in full**' in told
    result = json.loads((place / 'out' / 'drift.json').read_text())
    assert len(result['arms']) == 28
    assert set(result['arms']['gen0'][0]['drifts']) == {'step0', 'step1', 'step2', 'step3'}
    assert (place / 'out' / 'drift.png').read_bytes().startswith(b'\x89PNG')
