"""Planted faults that hashes cannot show: wrong tables whose hashes were written anew to match."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from composer_kd import Archive
from composer_kd.archive import RunDir, file_records, read_manifest, write_manifest
from composer_kd.archive.table import write_table
from composer_kd.cli import main
from composer_kd.run import main as train
from composer_kd.runs.verify import KEYS
from tests.runs.common import write_yaml

torch.set_num_threads(1)


@pytest.fixture(scope='module')
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that are equal but for the form of their logits: all of them, and the top 10."""
    folder = tmp_path_factory.mktemp('recorded')
    lineage = {
        'whole': {'archive': {'losses': True, 'logits': {'views': 2}}},
        'top': {'archive': {'logits': {'views': 2, 'top_k': 10}}},
    }
    assert train([str(write_yaml(folder, lineage=lineage)), '--no-report']) == 0
    return folder / 'runs'


@pytest.fixture(params=['whole', 'top'])
def run(request: pytest.FixtureRequest, recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded / request.param, tmp_path / request.param))


def verified(run: Path, *words: str) -> int:
    return main(['verify', str(run), *words])


def rewrite(run: Path, view: int, change) -> None:
    """Put another table in the place of a view's, and its hash into the manifest."""
    table = Archive(run).table('logits', view)
    columns: dict[str, Tensor] = change({name: column.clone() for name, column in table.columns.items()})
    manifest = read_manifest(run)
    assert manifest.archive is not None
    name = manifest.archive.logits[view].file
    write_table(run / name, columns)
    write_manifest(run, manifest.model_copy(update={'files': {**manifest.files, **file_records(run, [name])}}))


def test_what_was_harvested_is_what_the_model_says(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(5):
        assert verified(run, '--seed', str(seed)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f'{run}: its model says to {KEYS} samples, in 2 views, what is recorded'
    assert verified(run, '--no-spot-check') == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


FAULTS = {
    'rows permuted': lambda columns: {name: column.roll(1, 0) for name, column in columns.items()},
    'logits shifted by a class': lambda columns: {
        name: column.roll(1, 1) if name == 'logits' else (column + 1) % 100 if name == 'indices' else column
        for name, column in columns.items()
    },
    'scaled': lambda columns: {
        name: column * 1.2 if column.dtype == torch.float16 else column for name, column in columns.items()
    },
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_wrong_table_is_found_though_its_hash_is_right(
    fault: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # By a short name, so that nothing of the line is left out.
    monkeypatch.chdir(run.parent)
    run = Path(run.name)
    rewrite(run, 1, FAULTS[fault])
    assert verified(run, '--no-spot-check') == 0
    for _ in range(3):
        assert verified(run) == 1
        error = capsys.readouterr().err
        assert 'the logits of view 1 are not what its model says to' in error
        assert f'`composer-kd record {run} --replace`' in error
        assert error.count('\n') == 1
    seed = error.partition('--seed ')[2].partition(' ')[0]
    assert verified(run, '--seed', seed) == 1
    assert capsys.readouterr().err == error


def test_views_of_another_augmentation_seed_are_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top_k = ['--top-k', '10'] if run.name == 'top' else []
    assert main(['record', str(run), '--views', '2', '--replace', 'data.augment_seed=5', *top_k]) == 0
    assert verified(run) == 0, 'it is what it says it is'
    Archive(run).update(lambda manifest: with_facts(manifest, augmentation=manifest.augmentation))
    assert verified(run) == 1
    assert 'are not what its model says to' in capsys.readouterr().err


def with_facts(manifest, **metadata):
    record = manifest.archive
    tables = {view: table.model_copy(update=metadata) for view, table in record.logits.items()}
    return manifest.model_copy(update={'archive': record.model_copy(update={'logits': tables})})


def test_logits_of_other_weights_are_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Archive(run).update(lambda manifest: with_facts(manifest, weights='0' * 32))
    assert verified(run) == 1
    assert 'the logits of view 0 are those of other weights than it has' in capsys.readouterr().err


def test_what_cannot_be_checked_is_said_and_no_fault(recorded: Path, tmp_path: Path, capsys) -> None:
    run = Path(shutil.copytree(recorded / 'whole', tmp_path / 'run'))
    config = RunDir(run).read_config()
    RunDir(run).write_config({**config, 'data': {**config['data'], 'source': '/nowhere'}})
    Archive(run).update(lambda m: m.model_copy(update={'files': {**m.files, **file_records(run, ['run.yaml'])}}))
    assert verified(run) == 0
    assert 'its logits cannot be checked against its model here: data.source: /nowhere' in capsys.readouterr().out
    Archive(run).update(lambda manifest: with_facts(manifest, source='training'))
    assert verified(run) == 0
    assert 'were recorded while it trained' in capsys.readouterr().out
    Archive(run).drop('logits', lambda view: False)
    assert verified(run) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_samples_that_are_not_in_the_training_data_are_left_out(run: Path, capsys) -> None:
    archive = Archive(run)
    ids = archive.samples().ids

    # Half of the samples become others, as if the data had changed since; their rows may say anything.
    samples = archive.samples()
    changed = np.arange(len(ids)) % 2 == 0
    other = type(samples)(
        samples.ids, np.where(changed, samples.content + np.uint64(1), samples.content), samples.labels
    )
    name = archive.record().samples
    other.save(run / name)
    archive.update(lambda m: m.model_copy(update={'files': {**m.files, **file_records(run, [name])}}))

    def noise(columns):
        mask = torch.from_numpy(changed)
        return {
            name: torch.where(mask.view(-1, *[1] * (column.dim() - 1)), torch.zeros_like(column), column)
            if name != 'seen'
            else column
            for name, column in columns.items()
        }

    for view in (0, 1):
        rewrite(run, view, noise)
    assert verified(run) == 0
    assert f'its model says to {KEYS} samples' in capsys.readouterr().out
