import os
import shutil

import pytest
import torch
from composer import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from composer_kd.archive import RunDir, file_records, write_manifest
from composer_kd.core.errors import UserError
from composer_kd.models import classifier, save_weights

torch.set_num_threads(1)


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / 'gen0')
    run.write_config({'name': 'gen0', 'max_duration': '12ep'})
    return run


@pytest.fixture
def finish(manifest):
    def finish(run):
        save_weights(nn.Linear(2, 3), run.weights_file)
        write_manifest(run.path, manifest(file_records(run.path, ['run.yaml', 'weights.safetensors'])))

    return finish


def test_config_comes_back(run):
    config = {
        'name': 'gen0',
        'model': {'name': 'mlp', 'hidden': [3, 4]},
        'lr': 1e-05,
        'duration': '12ep',
        'text': 'yes',
        'number': '007',
        'date': '2024-01-01',
        'none': None,
        'words': 'größer: # "',
    }
    run.write_config(config)
    assert run.read_config() == config
    assert list(run.read_config()) == list(config)


@pytest.mark.parametrize(
    'content', [b'a: [', b'- 3', b'', b'\xff', b'!!python/object/apply:os.system ["touch harmed"]']
)
def test_a_config_that_is_none(run, monkeypatch, content):
    monkeypatch.chdir(run.path)
    run.config_file.write_bytes(content)
    with pytest.raises(UserError, match=r'run\.yaml: ') as refusal:
        run.read_config()
    assert '\n' not in str(refusal.value)
    assert not os.path.exists('harmed')


def test_metrics_are_cut_back_to_an_epoch(run):
    assert run.metrics() == []
    run.truncate_metrics(3)
    for epoch in (1, 2, 3, 4):
        run.append_metrics({'epoch': epoch, 'test_accuracy': epoch / 10})
    run.truncate_metrics(4)
    assert len(run.metrics()) == 4
    run.truncate_metrics(2)
    assert run.metrics() == [{'epoch': 1, 'test_accuracy': 0.1}, {'epoch': 2, 'test_accuracy': 0.2}]
    run.append_metrics({'epoch': 3})
    assert [line['epoch'] for line in run.metrics()] == [1, 2, 3]
    run.truncate_metrics(0)
    assert run.metrics() == []


def test_finished(run, finish):
    assert not run.finished
    finish(run)
    assert run.finished
    assert run.verify() == run.manifest()
    size = run.weights_file.stat().st_size
    with open(run.weights_file, 'ab') as file:
        file.write(b'x')
    assert not run.finished
    os.truncate(run.weights_file, size)
    assert run.finished
    run.weights_file.unlink()
    assert not run.finished


def test_what_is_missing_is_said(tmp_path, run):
    with pytest.raises(UserError, match='gen1: no such run directory; train that run first'):
        RunDir(tmp_path / 'gen1').finished_manifest()
    with pytest.raises(UserError, match=r'not a run directory, it has no run\.yaml'):
        RunDir(tmp_path).finished_manifest()
    for missing in (RunDir(tmp_path / 'gen1').read_config, RunDir(tmp_path / 'gen1').verify):
        with pytest.raises(UserError, match='no such run directory'):
            missing()
    with pytest.raises(UserError, match=r'gen0 has no weights\.safetensors: .*\(0 of 12 epochs\); run it to its end'):
        run.finished_manifest()
    for epoch in (1, 2, 3):
        run.append_metrics({'epoch': epoch})
    with pytest.raises(UserError, match=r'\(3 of 12 epochs\)'):
        run.finished_manifest()
    run.write_config({'max_duration': '500ba'})
    with pytest.raises(UserError, match=r'\(3 epochs so far\)'):
        run.finished_manifest()
    with pytest.raises(UserError, match='has not finished'):
        run.verify()


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Checkpoints as a real Trainer writes them: three epochs of two batches."""
    folder = tmp_path_factory.mktemp('trained') / 'checkpoints'
    model = classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))
    trainer = Trainer(
        model=model,
        train_dataloader=DataLoader(TensorDataset(torch.randn(8, 3, 2, 2), torch.arange(8) % 3), 4),
        optimizers=torch.optim.SGD(model.parameters(), lr=0.1),
        max_duration='3ep',
        save_folder=str(folder),
        device='cpu',
        progress_bar=False,
    )
    trainer.fit()
    trainer.close()
    return folder


@pytest.fixture
def with_checkpoints(run, trained):
    shutil.copytree(trained, run.checkpoints, symlinks=True)
    return run


def flip(path, share):
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 1
    path.write_bytes(content)


def test_the_latest_checkpoint(run, with_checkpoints):
    names = {'ep1-ba2-rank0.pt', 'ep2-ba4-rank0.pt', 'ep3-ba6-rank0.pt', 'latest-rank0.pt'}
    assert {path.name for path in run.checkpoints.iterdir()} == names
    assert run.checkpoint() == (run.checkpoints / 'ep3-ba6-rank0.pt').resolve()
    assert RunDir(run.path.parent / 'gen1').checkpoint() is None


def test_a_checkpoint_that_was_cut_off(run, with_checkpoints):
    last = run.checkpoints / 'ep3-ba6-rank0.pt'
    os.truncate(last, last.stat().st_size // 2)
    with pytest.warns(UserWarning, match=r'ep3-ba6-rank0\.pt: the checkpoint is damaged'):
        assert run.checkpoint().name == 'ep2-ba4-rank0.pt'
    os.truncate(run.checkpoints / 'ep2-ba4-rank0.pt', 0)
    assert run.checkpoint().name == 'ep1-ba2-rank0.pt'
    (run.checkpoints / 'ep1-ba2-rank0.pt').unlink()
    assert run.checkpoint() is None


def test_a_kill_between_the_file_and_its_link(run, with_checkpoints):
    link = run.checkpoints / 'latest-rank0.pt'
    link.unlink()
    assert run.checkpoint().name == 'ep3-ba6-rank0.pt'
    link.symlink_to('ep9-ba18-rank0.pt')
    assert run.checkpoint().name == 'ep3-ba6-rank0.pt'
    # A number, not a word: batch 10 comes after batch 6.
    shutil.copy(run.checkpoints / 'ep1-ba2-rank0.pt', run.checkpoints / 'ep5-ba10-rank0.pt')
    assert run.checkpoint().name == 'ep5-ba10-rank0.pt'


def test_a_flipped_byte_in_the_tensors(run, with_checkpoints):
    last = run.checkpoints / 'ep3-ba6-rank0.pt'
    content = last.read_bytes()
    weight = torch.load(last, weights_only=False)['state']['model']['module.1.weight']
    at = content.index(weight.numpy().tobytes())
    flip(last, (at + 0.5) / len(content))
    assert run.checkpoint().name == 'ep2-ba4-rank0.pt'


def test_a_checkpoint_moved_with_its_run(run, with_checkpoints, tmp_path):
    shutil.move(run.path, tmp_path / 'moved')
    moved = RunDir(tmp_path / 'moved')
    assert moved.checkpoint() == (moved.checkpoints / 'ep3-ba6-rank0.pt').resolve()


def test_pruning_leaves_the_newest_checkpoints(run, with_checkpoints):
    run.prune_checkpoints(-1)
    assert len(list(run.checkpoints.glob('ep*'))) == 3
    run.prune_checkpoints(1)
    assert [path.name for path in run.checkpoints.glob('ep*')] == ['ep3-ba6-rank0.pt']
    assert run.checkpoint().name == 'ep3-ba6-rank0.pt'
