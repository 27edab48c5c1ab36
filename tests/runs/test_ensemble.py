"""Runs evaluated as one, by the command and by a lineage's key: against their predictions in numpy, and going wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from composer_kd import UserError
from composer_kd.archive import Archive, RunDir
from composer_kd.archive.archive import manifest_update
from composer_kd.archive.predictions import predictions_of
from composer_kd.cli import main
from composer_kd.report import report
from composer_kd.run import main as train
from composer_kd.runs.ensemble import measure_ensemble
from composer_kd.runs.plan import make_plan
from tests.runs.common import TINY, write_yaml

NAMES = ['gen0-s0', 'gen0-s1', 'small-s0', 'small-s1']


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of two models, the smaller of which was trained on a part of the data of its own choice."""
    folder = tmp_path_factory.mktemp('ensemble')
    small = {'model': {'name': 'mlp', 'hidden': [16]}, 'data': {'subset': 300, 'subset_seed': 4}}
    file = write_yaml(
        folder,
        repeat=2,
        max_duration='2ep',
        lineage={'gen0': None, 'small': small},
        ensembles={'both': ['gen0', 'small'], 'seeds': ['gen0-s0', 'gen0-s1']},
    )
    assert train([str(file)]) == 0
    return folder / 'runs'


@pytest.fixture
def copies(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs, tmp_path / 'runs'))


def answers(run: Path, split: str = 'test') -> tuple[np.ndarray, np.ndarray]:
    kept = predictions_of(RunDir(run), split)
    assert kept is not None
    return kept.logits.double().numpy(), kept.labels.numpy()


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    return float((scores.argmax(axis=-1) == labels).mean())


def test_the_command_against_numpy(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [runs / name for name in NAMES]
    assert main(['ensemble', *map(str, paths), '--json', str(tmp_path / 'all.json')]) == 0
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / 'all.json').read_text())
    logits = np.stack([answers(path)[0] for path in paths])
    labels = answers(paths[0])[1]
    powers = np.exp(logits)
    probabilities = powers / powers.sum(axis=2, keepdims=True)

    alone = [line.split()[:2] for line in shown.splitlines() if line.split()[1:2] and line.split()[1] in NAMES]
    assert alone == [[str(k), name] for k, name in enumerate(NAMES, 1)]
    assert (found['split'], found['samples']) == ('test', len(labels))
    for path, member in zip(paths, found['members'], strict=True):
        assert member['run'] == str(path)
        assert member['accuracy'] == pytest.approx(RunDir(path).metrics()[-1]['test_accuracy'], abs=1e-6)
    assert [one['k'] for one in found['first']] == [1, 2, 3, 4]
    for k, one in enumerate(found['first'], 1):
        mean = logits[:k].mean(axis=0)
        by_logits = np.exp(mean) / np.exp(mean).sum(axis=1, keepdims=True)
        by_probabilities = probabilities[:k].mean(axis=0)
        for name, expected in (('logits', by_logits), ('probabilities', by_probabilities)):
            entropy = -np.log(expected[np.arange(len(labels)), labels]).mean()
            assert one[name]['accuracy'] == pytest.approx(accuracy(expected, labels))
            assert one[name]['cross_entropy'] == pytest.approx(entropy, rel=1e-4)
    right = (logits.argmax(axis=2) == labels).sum(axis=0)
    assert found['right'] == [int((right == count).sum()) for count in range(5)]
    assert found['at_least_one'] == pytest.approx((right > 0).mean())
    last = [line.split() for line in shown.splitlines() if line.startswith('at least one')]
    assert last == [['at', 'least', 'one', str((right > 0).sum()), f'{100 * (right > 0).mean():.2f}']]


def test_runs_of_one_name_are_told_apart(runs: Path, copies: Path) -> None:
    found = measure_ensemble([runs / 'gen0-s0', copies / 'gen0-s0'])
    shown = [row[1] for row in found.tables()[0].rows]
    assert shown == [f'{runs.parent.name}/runs/gen0-s0', f'{copies.parent.name}/runs/gen0-s0']


def test_one_run_is_itself(runs: Path) -> None:
    found = measure_ensemble([runs / 'gen0-s0'])
    assert found.logits[0].accuracy == found.probabilities[0].accuracy == found.members[0].quality.accuracy
    assert sum(found.right) == found.samples
    assert len(found.right) == 2
    recorded = RunDir(runs / 'gen0-s0').manifest().evaluation['test'].calibration_error
    assert found.logits[0].calibration_error == pytest.approx(recorded)


@pytest.mark.parametrize('split', ['test', 'val'])
def test_a_model_is_asked_where_nothing_was_kept_and_says_the_same(split: str, runs: Path, copies: Path) -> None:
    paths = [copies / 'gen0-s0', copies / 'small-s0']
    file = f'predictions/{split}.safetensors'
    (paths[1] / file).unlink()
    Archive(RunDir(paths[1])).update(
        lambda manifest: manifest.model_copy(
            update={'files': {name: record for name, record in manifest.files.items() if name != file}}
        )
    )
    said: list[str] = []
    asked = measure_ensemble(paths, split, batch_size=37, device='cpu', say=said.append)
    kept = measure_ensemble([runs / 'gen0-s0', runs / 'small-s0'], split, say=said.append)
    assert said == [
        f'{paths[1]}: its model is asked about {asked.samples} {split} samples, for it kept no predictions of {split}'
    ]
    assert asked.right == kept.right
    assert asked.logits[-1].cross_entropy == pytest.approx(kept.logits[-1].cross_entropy, rel=1e-3)


def test_the_training_data_as_stored(runs: Path) -> None:
    paths = [runs / 'gen0-s0', runs / 'gen0-s1']
    found = measure_ensemble(paths, 'train', device='cpu', say=lambda line: None)
    lines = [RunDir(path).metrics()[-1] for path in paths]
    assert found.samples == RunDir(paths[0]).manifest().data.num_samples
    for member, line in zip(found.members, lines, strict=True):
        assert member.quality.accuracy == pytest.approx(line['train_accuracy_clean'], abs=1e-6)


def test_what_is_refused(runs: Path, copies: Path, tmp_path: Path) -> None:
    first, small = runs / 'gen0-s0', runs / 'small-s0'
    with pytest.raises(UserError, match=r'gen0-s0: this run is there twice'):
        measure_ensemble([first, small, runs / 'small-s1' / '..' / 'gen0-s0'])
    with pytest.raises(UserError, match=r'small-s0: its train samples are not those of .*use --split test'):
        measure_ensemble([first, small], 'train', say=lambda line: None)
    file = copies / 'gen0-s1' / 'archive' / 'manifest.json'
    values = json.loads(file.read_text())
    values.pop('xxh3')
    values['data']['fingerprint'] = 'f00d'
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r'the data in synthetic100 is not what it was trained on'):
        measure_ensemble([copies / 'gen0-s1'], 'train')
    file.unlink()
    (copies / 'gen0-s1' / 'weights.safetensors').unlink()
    with pytest.raises(UserError, match=r'gen0-s1 has no weights.safetensors: the run has not finished'):
        measure_ensemble([first, copies / 'gen0-s1'])


FOG = {'name': 'corruption', 'kind': 'fog', 'severity': 5, 'parts': ['test']}


def test_members_answer_to_the_same_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lineage = {'whole': None, 'half': {'data': {'drift': {'name': 'growing', 'share': 0.5}}}}
    file = write_yaml(tmp_path, max_duration='1ep', lineage=lineage, ensembles={'both': ['whole', 'half']})
    assert train([str(file)]) == 0
    whole, half = (tmp_path / 'runs' / name for name in ('whole', 'half'))
    # Trained on other data, tested on the same.
    assert 'both (whole, half): test accuracy' in capsys.readouterr().out
    assert RunDir(half).manifest().data.fingerprint != RunDir(whole).manifest().data.fingerprint

    # Ids and labels are the same under a drift of the test images, the images are not.
    file = write_yaml(tmp_path, max_duration='1ep', lineage={'fogged': {'data': {'drift': FOG}}, 'whole': None})
    assert train([str(file), '--only', 'fogged']) == 0
    fogged = tmp_path / 'runs' / 'fogged'
    assert RunDir(fogged).manifest().data.fingerprint == RunDir(whole).manifest().data.fingerprint
    with pytest.raises(UserError, match=r'fogged: its test data \(.*\) are not those of .*whole \(.*leave one'):
        measure_ensemble([whole, fogged])
    # The same where a model is asked.
    found = measure_ensemble([whole, fogged], 'train', device='cpu', say=lambda line: None)
    assert found.samples == RunDir(whole).manifest().data.num_samples


def test_members_that_would_be_tested_on_other_images_are_refused_before_they_train(tmp_path: Path) -> None:
    lineage = {'whole': None, 'fogged': {'data': {'drift': FOG}}}
    with pytest.raises(UserError, match=r"ensembles.both: a data.drift moves the test data of 'fogged' and 'whole'"):
        make_plan({**TINY, 'lineage': lineage, 'ensembles': {'both': ['whole', 'fogged']}}, 'tiny')


def test_a_lineage_measures_its_ensembles_and_its_report_shows_them(runs: Path) -> None:
    kept = json.loads((runs / 'ensembles.json').read_text())['ensembles']
    assert list(kept) == ['both', 'seeds']
    assert kept['both']['members'] == ['gen0', 'small']
    assert [[one['run'] for one in seed['members']] for seed in kept['both']['seeds']] == [
        ['gen0-s0', 'small-s0'],
        ['gen0-s1', 'small-s1'],
    ]
    pairs = [[answers(runs / f'{name}-s{seed}')[0] for name in ('gen0', 'small')] for seed in (0, 1)]
    labels = answers(runs / 'gen0-s0')[1]
    expected = [accuracy(np.mean(pair, axis=0), labels) for pair in pairs]
    found = json.loads((runs / 'report.json').read_text())['sections']['ensembles']
    assert [one['name'] for one in found] == ['both', 'seeds']
    assert found[0]['logits'] == {
        'mean': pytest.approx(np.mean(expected)),
        'sd': pytest.approx(np.std(expected, ddof=1)),
        'n': 2,
    }
    assert 'Ensembles: test accuracy, %' in (runs / 'report.html').read_text()
    assert [one.name for one in report([runs / 'gen0-s0', runs / 'gen0-s1']).sections['ensembles'].values] == ['seeds']


def test_every_run_says_what_its_model_costs_at_inference(runs: Path) -> None:
    manifests = [RunDir(runs / name).manifest() for name in ('gen0-s0', 'small-s0')]
    for manifest in manifests:
        found = manifest.inference
        assert found is not None
        assert found.batch_1
        assert found.batch_256
        assert (found.device, found.precision) == ('cpu', 'fp32')
    text = (runs / 'report.md').read_text()
    assert 'Size, operations and speed' in text
    sizes = [manifest.parameters or 0 for manifest in manifests]
    assert f'{sizes[0] / sizes[1]:.2f}×' in text


def test_the_same_command_measures_again_and_keeps_what_others_wrote(
    copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = copies / 'ensembles.json'
    values = json.loads(file.read_text())
    values['ensembles']['theirs'] = {'lineage': 'another', 'members': [], 'seeds': []}
    values['ensembles']['gone'] = {'lineage': TINY['name'], 'members': [], 'seeds': []}
    file.write_text(json.dumps(values))
    command = [
        'lineage={gen0: null}', 'repeat=2', 'max_duration=2ep', 'ensembles={seeds: [gen0-s0, gen0-s1]}', '--no-report',
    ]  # fmt: skip
    assert train([str(write_yaml(copies.parent)), *command]) == 0
    assert 'seeds (gen0-s0, gen0-s1): test accuracy' in capsys.readouterr().out
    assert sorted(json.loads(file.read_text())['ensembles']) == ['seeds', 'theirs']


def test_a_run_from_before_a_key_existed_goes_on(copies: Path) -> None:
    """Its run.yaml lacks ``data.subset_seed``: what it did then is the default."""
    run = RunDir(copies / 'gen0-s0')
    config = run.read_config()
    del config['data']['subset_seed']
    with manifest_update(run, 'run.yaml'):
        run.write_config(config)
    file = str(write_yaml(copies.parent, repeat=2, max_duration='2ep', lineage={'gen0': None}))
    assert train([file, '--no-report']) == 0
    assert train([file, '--no-report', 'data.subset_seed=1']) == 1
