"""``composer-kd retrain``: what it lays out, what it trains, what it says, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import composer_kd
from composer_kd.archive import RunDir, verify
from composer_kd.cli import main
from composer_kd.core.errors import UserError
from composer_kd.data.convert import convert
from composer_kd.data.section import SyntheticSection
from composer_kd.data.synthetic import draw
from composer_kd.models import load_weights
from composer_kd.models.finished_run import FinishedRun
from composer_kd.runs.command import run_file
from composer_kd.runs.retrain import RETRAIN_FILE, retrain
from composer_kd.runs.retrain_recipe import FullTraining

torch.set_num_threads(1)

EPOCHS = 5
RUN = {
    'name': 'week1',
    'seed': 3,
    'data': {'source': 'data/week1', 'val_fraction': 0.1, 'clean_subset': 100},
    'model': {'name': 'mlp', 'hidden': [32]},
    'optimizer': {'name': 'SGD', 'lr': 0.02, 'momentum': 0.9},
    'batch_size': 32,
    'max_duration': f'{EPOCHS}ep',
    'precision': 'fp32',
    'threads': 1,
}


def save(path: Path, train: np.ndarray, test: np.ndarray, classes: list[str] | None = None) -> None:
    """Shards of some of the drawn images, of the superclasses; ``classes`` are the names of those that are there."""
    section = SyntheticSection(train_size=1000, test_size=300, difficulty=0.3)
    (train_images, train_labels), (test_images, test_labels) = draw(1000, 0, section), draw(300, 1, section)
    arrays: dict[str, Any] = {
        'images': np.concatenate([train_images[train], test_images[test]]),
        'labels': np.concatenate([train_labels[train], test_labels[test]]) // 5,
        'split': np.array([0] * len(train) + [1] * len(test)),
    }
    if classes is not None:
        arrays['labels'] = np.unique(arrays['labels'], return_inverse=True)[1]
        order = np.argsort(classes)
        arrays['labels'], arrays['classes'] = np.argsort(order)[arrays['labels']], np.array(classes)[order]
    np.savez(path.with_suffix('.npz'), **arrays)
    convert(str(path.with_suffix('.npz')), path)


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of half of the data, and all of it as the new data."""
    folder = tmp_path_factory.mktemp('weeks')
    (folder / 'data').mkdir()
    everything, tests = np.arange(1000), np.arange(300)
    save(folder / 'data' / 'week1', everything[:500], tests)
    save(folder / 'data' / 'week2', everything, tests)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / 'week1.yaml').write_text(yaml.safe_dump(RUN))
        run_file('week1.yaml', [], report=False, bar=False)
    return folder


@pytest.fixture
def weeks(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, which is the working directory."""
    shutil.copytree(trained, tmp_path / 'weeks')
    monkeypatch.chdir(tmp_path / 'weeks')
    return tmp_path / 'weeks'


def said(*arguments: Any, **options: Any) -> tuple[Any, list[str]]:
    lines: list[str] = []
    return retrain(*arguments, say=lines.append, bar=False, **options), lines


def test_the_new_model_begins_at_the_old_weights_within_the_budget(weeks: Path) -> None:
    found, lines = said('runs/week1', 'data/week2', budget=0.45)
    # 45 % of 5 epochs of 450 samples are 1.1 epochs of 900.
    assert found.plan.duration == '1ep'
    assert found.plan.work == pytest.approx(900 / (EPOCHS * 450), rel=0.03)
    config = RunDir('runs/week2').read_config()
    assert config['algorithms']['WarmStart']['from'] == 'runs/week1'
    earlier = FinishedRun.open('runs/week1')
    constants = earlier.manifest.data.normalization
    assert (config['data']['mean'], config['data']['std']) == (constants.mean, constants.std)
    assert lines[0].startswith('data/week2: 900 training samples, ')
    roles = {one.role: one for one in found.models}
    assert roles['retrained'].accuracy == pytest.approx(RunDir('runs/week2').metrics()[-1]['test_accuracy'], abs=1e-6)
    assert roles['earlier'].accuracy == pytest.approx(RunDir('runs/week1').metrics()[-1]['test_accuracy'], abs=1e-6)
    assert roles['retrained'].earlier_accuracy == roles['retrained'].accuracy, 'both weeks have the same test images'
    assert roles['retrained'].work / roles['earlier'].work == pytest.approx(found.plan.work, rel=0.1)
    assert 'retrained: runs/week2' in lines[-1]
    verify(Path('runs/week2'))
    assert RETRAIN_FILE in RunDir('runs/week2').manifest().files


def test_repeating_it_trains_nothing_and_tells_the_same(weeks: Path) -> None:
    first, _ = said('runs/week1', 'data/week2')
    before = Path('runs/week2/weights.safetensors').read_bytes()
    again, lines = said('runs/week1', 'data/week2')
    assert again.models == first.models
    assert Path('runs/week2/weights.safetensors').read_bytes() == before
    assert not any('epoch 1' in line for line in lines)


def test_comparing_trains_anew_at_the_full_length(weeks: Path) -> None:
    found, _ = said('runs/week1', 'data/week2', compare=True)
    anew = RunDir('runs/week2-anew').read_config()
    assert anew['max_duration'] == f'{EPOCHS}ep'
    assert anew['optimizer'] == FinishedRun.open('runs/week1').config['optimizer']
    assert not anew['algorithms']
    assert [one.role for one in found.models] == ['earlier', 'retrained', 'anew']


def test_a_retrained_run_is_retrained_for_a_part_of_the_first_training(weeks: Path) -> None:
    said('runs/week1', 'data/week2', budget=0.4)
    found, _ = said('runs/week2', 'data/week1', name='week3', budget=0.4)
    assert found.full.run == 'runs/week1'
    assert found.plan.duration == '2ep'
    kept = json.loads(Path('runs/week3', RETRAIN_FILE).read_text())
    assert kept['full_training']['run'] == 'runs/week1'
    assert kept['full_training']['settings']['max_duration'] == f'{EPOCHS}ep'


def test_a_dry_run_and_a_yaml_train_nothing(weeks: Path) -> None:
    _, lines = said('runs/week1', 'data/week2', dry_run=True)
    assert lines[-1].startswith('plan: week2 begins at the weights of runs/week1')
    said('runs/week1', 'data/week2', yaml_file=Path('mine.yaml'), compare=True)
    assert not Path('runs/week2').exists()
    run_file('mine.yaml', [], report=False, bar=False)
    weights = RunDir('runs/week2').manifest().weights
    shutil.rmtree('runs/week2')
    said('runs/week1', 'data/week2')
    assert RunDir('runs/week2').manifest().weights == weights, 'the file is the retraining'


def test_new_classes_are_given_outputs_and_the_others_keep_theirs(weeks: Path) -> None:
    """The new class stands first in the alphabet, so that all others move."""
    section = SyntheticSection(train_size=1000, test_size=300, difficulty=0.3)
    train, test = (draw(size, split, section)[1] // 5 for size, split in ((1000, 0), (300, 1)))
    names = [f'class {number:02d}' for number in range(20)]
    save(weeks / 'data' / 'old', np.flatnonzero(train < 19), np.flatnonzero(test < 19), names[:19])
    save(weeks / 'data' / 'new', np.arange(1000), np.arange(300), [*names[:19], 'a new one'])
    Path('old.yaml').write_text(yaml.safe_dump({**RUN, 'name': 'old', 'data': {**RUN['data'], 'source': 'data/old'}}))
    run_file('old.yaml', [], report=False, bar=False)
    found, lines = said('runs/old', 'data/new', changes=['optimizer.lr=1e-12', 'optimizer.momentum=0'])
    assert any('1 new classes: a new one' in line for line in lines)
    old, new = (load_weights(f'runs/{name}/weights.safetensors') for name in ('old', 'new'))
    (head,) = (name for name, tensor in new.items() if tensor.dim() == 2 and len(tensor) == 20)
    torch.testing.assert_close(new[head][1:], old[head], rtol=1e-4, atol=1e-6)
    roles = {one.role: one for one in found.models}
    assert roles['earlier'].earlier_accuracy == pytest.approx(roles['earlier'].accuracy * 300 / 285, abs=1e-6)


def test_another_model_is_taught_and_the_record_serves_the_next(weeks: Path) -> None:
    found, _ = said('runs/week1', 'data/week2', budget=1.0, model={'name': 'mlp', 'hidden': [16]})
    config = RunDir('runs/week2').read_config()
    assert config['algorithms']['TeacherMixupKD']['teachers'] == [{'recorded': 'runs/week1', 'fill': True}]
    assert config['model'] == {'name': 'mlp', 'hidden': [16]}
    assert RunDir('runs/week2').metrics()[-1]['multiply_adds_teacher_total'] > 0
    assert found.models[-1].work <= found.models[0].work * 1.05


def test_python_and_the_command_are_one(weeks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert composer_kd.retrain is retrain
    words = ['retrain', 'runs/week1', '--data', 'data/week2', 'batch_size=16']
    assert main(words) == 0
    assert RunDir('runs/week2').read_config()['batch_size'] == 16
    assert 'retrained: runs/week2' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('options', 'line'),
    [
        ({'budget': 0.0}, r'budget: expected a part of the full training, above 0 and at most 1, got 0\.0'),
        ({'budget': 1.5}, 'at most 1, got 1.5'),
        ({'budget': 1e-6}, 'budget: it is less than one batch of the new data; give more'),
        ({'name': 'week1'}, 'runs/week1: another run is there; name the new one with --name'),
        ({'name': '../up'}, "'../up' cannot be the name of a run"),
        ({'changes': ['data.image_size=8']}, r'images of \[3, 8, 8\], runs/week1 was trained on \[3, 32, 32\]'),
        ({'changes': ['optimiser.lr=1']}, "optimiser: unknown key; did you mean 'optimizer'"),
        ({'model': 'resnet21'}, 'model.name'),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(weeks: Path, options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as refusal:
        said('runs/week1', 'data/week2', **options)
    assert '\n' not in str(refusal.value)
    assert not Path('runs/week2').exists()


def test_other_inputs_that_cannot_be_are_one_line(weeks: Path) -> None:
    with pytest.raises(UserError, match='runs/none: no such run directory'):
        said('runs/none', 'data/week2')
    with pytest.raises(UserError, match='data/none: no such folder; make it with'):
        said('runs/week1', 'data/none')
    Path('runs/week1/weights.safetensors').unlink()
    with pytest.raises(UserError, match=r'runs/week1 has no weights\.safetensors'):
        said('runs/week1', 'data/week2')


def test_data_that_lacks_a_class_is_refused(weeks: Path) -> None:
    section = SyntheticSection(train_size=1000, test_size=300, difficulty=0.3)
    train, test = (draw(size, split, section)[1] // 5 for size, split in ((1000, 0), (300, 1)))
    save(weeks / 'data' / 'fewer', np.flatnonzero(train < 18), np.flatnonzero(test < 18))
    with pytest.raises(UserError, match="lacks the class '18', which runs/week1 knows"):
        said('runs/week1', 'data/fewer')


def test_a_budget_counts_steps_of_the_full_training() -> None:
    full = FullTraining('runs/week1', epochs=10, samples=100, multiply_adds=7, settings={})
    assert full.work == 10 * 100 * 7 * 3
