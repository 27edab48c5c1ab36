"""The command ``composer-kd``, and ``composer run`` in a folder that it made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from composer_kd.cli import main
from composer_kd.core.ramp import Ramp
from composer_kd.core.schedule import Progress
from composer_kd.data.convert import _TORCHVISION
from composer_kd.data.section import AugmentSection
from composer_kd.runs.yaml_file import shipped_yamls


def write_npz(path: Path, **changes) -> Path:
    rng = np.random.default_rng(0)
    values = {
        'images': rng.integers(0, 255, (60, 8, 8, 3), dtype=np.uint8),
        'labels': np.arange(60) % 3,
        'split': (np.arange(60) >= 45).astype(np.uint8),
        'classes': np.array(['cat', 'dog', 'owl']),
        **changes,
    }
    np.savez(path, **{name: value for name, value in values.items() if value is not None})
    return path


def test_init_makes_a_folder_that_composer_can_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / 'new' / 'project'
    assert main(['init', str(folder)]) == 0
    assert 'composer run yamls/kd.yaml' in capsys.readouterr().out
    assert os.access(folder / 'run', os.X_OK)
    for name, path in shipped_yamls().items():
        assert (folder / 'yamls' / name).read_text() == path.read_text()
    (folder / 'yamls' / 'kd.yaml').write_text('mine: 1\n')
    assert main(['init', str(folder)]) == 0, 'a second time is no harm'
    assert (folder / 'yamls' / 'kd.yaml').read_text() == 'mine: 1\n', 'what a person changed is left alone'
    (folder / 'yamls' / 'kd.yaml').write_text(shipped_yamls()['kd.yaml'].read_text())
    small = ['max_duration=1ep', 'model={name: mlp, hidden: [16]}', 'data.synthetic={train_size: 300, test_size: 100}']
    done = subprocess.run(
        [sys.executable, '-m', 'composer.cli.launcher', 'run', 'yamls/kd.yaml', *small],
        cwd=folder,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '[2/2] gen1: done' in done.stdout
    assert (folder / 'runs' / 'report.html').exists()
    assert main(['verify', *(str(folder / 'runs' / name) for name in ('gen0', 'gen1'))]) == 0
    assert capsys.readouterr().out.count('files are as they were written') == 2
    weights = folder / 'runs' / 'gen1' / 'weights.safetensors'
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert main(['verify', str(folder / 'runs' / 'gen1')]) == 1
    assert 'weights.safetensors: damaged' in capsys.readouterr().err


def test_convert_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_npz(tmp_path / 'pets.npz')
    assert main(['convert', str(source), str(tmp_path / 'pets'), '--compression', 'zstd', '--encoding', 'ndarray']) == 0
    assert '45 train, 15 test images of 3 classes' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('changes', 'line'),
    [
        ({'labels': None}, 'labels'),
        ({'labels': np.arange(60)}, 'label'),
        ({'labels': np.arange(59) % 3}, '59'),
        ({'split': np.full(60, 7)}, 'split'),
        ({'images': np.zeros((60, 8, 8, 3), np.float64)}, 'uint8'),
        ({'images': np.array([{'a': 1}] * 60, dtype=object)}, 'npz'),
    ],
    ids=['no labels', 'labels out of range', 'too few labels', 'unknown split', 'floats', 'pickled objects'],
)
def test_an_npz_that_is_wrong_is_one_line_and_nothing_is_left(
    tmp_path: Path, changes: dict, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_npz(tmp_path / 'pets.npz', **changes)
    assert main(['convert', str(source), str(tmp_path / 'pets')]) == 1
    error = capsys.readouterr().err
    assert line in error
    assert [text for text in error.splitlines() if text.startswith('composer-kd:')] == [error.splitlines()[-1]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ['pets.npz']


@pytest.mark.parametrize(
    ('words', 'line'),
    [
        (['convert', '/nowhere.npz', 'out'], 'nowhere.npz'),
        (['convert', 'cifar1000', 'out'], 'cifar100'),
        (['report', '/nowhere'], 'nowhere'),
        (['verify', '/nowhere'], 'no such run directory'),
        (['ensemble', '/nowhere'], 'no such run directory'),
        (['list', 'model'], "did you mean 'models'"),
        (['run', 'dk.yaml'], "did you mean 'kd.yaml'"),
        (['run', 'kd.yaml', '--only', 'gen7'], 'there is no such run'),
        (['run', 'kd.yaml', 'lineage.gen1.seed=x'], 'lineage.gen1.seed'),
    ],
)
def test_mistakes_are_one_line_and_a_status(
    words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    error = capsys.readouterr().err
    assert line in error
    assert error.count('\n') == 1


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['list']) == 0
    output = capsys.readouterr().out
    for name in (
        'TeacherMixupKD',
        'LabelSmoothing',
        'dirichlet',
        'resnet56',
        'soft_ce',
        'AdamW',
        'Exponential',
        'OneCycle',
        'first 20ep',
        'synthetic100',
        'resized_crop',
    ):
        assert f'  {name} ' in output
    assert main(['list', 'mixes']) == 0
    assert 'resnet56' not in capsys.readouterr().out


def lines_of(kind: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main(['list', kind]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == f'{kind}:'
    return {line[2:30].strip(): line[31:] for line in lines}


def test_list_says_what_options_there_are_and_how_numbers_change(capsys: pytest.CaptureFixture[str]) -> None:
    losses = lines_of('losses', capsys)
    assert losses['kl'].endswith('(temperature: 4, average: samples)')
    assert losses['dkd'].endswith('(alpha: 1, beta: 8, temperature: 4)')
    assert '(' not in losses['mse']
    assert lines_of('mixes', capsys)['dirichlet'].endswith('(alpha: 1, per: batch)')
    changing = lines_of('weights and temperatures that change', capsys)
    for form in changing:
        if form not in ('learned', '..., cosine'):
            Ramp(form)
    assert Ramp('8 to 1, cosine').at(Progress(epoch=1, batch=10, epochs=2.0)) == pytest.approx(4.5)


def test_list_counts_where_names_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['list', 'models']) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith('  resnet')]
    assert names[:6] == ['resnet8', 'resnet8x4', 'resnet14', 'resnet18', 'resnet20', 'resnet32']
    assert names[-1] == 'resnet110'


def test_list_says_how_to_get_each_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    told = lines_of('data sets', capsys)
    named = {name for name, line in told.items() if f'composer-kd convert {name} FOLDER' in line}
    assert named == {*_TORCHVISION, 'FILE.npz'}


def test_list_has_every_family_of_views_and_what_comes_after_them(capsys: pytest.CaptureFixture[str]) -> None:
    told = lines_of('augmentations', capsys)
    fields = AugmentSection.model_fields
    after = {f'..., {name}' for name in fields if name not in ('name', 'scale', 'ratio')}
    assert set(told) == {*get_args(fields['name'].annotation), *after}
    assert all(told.values())
