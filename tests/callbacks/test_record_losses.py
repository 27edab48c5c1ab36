"""Recorded losses against a training loop written by hand; resumed, by two ranks, refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from composer.algorithms import SAM, CutMix, MixUp
from composer.core import Callback
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import Archive, RecordLosses, UserError
from composer_kd.archive import Samples, verify
from composer_kd.cli import main
from composer_kd.data import Data
from tests.callbacks.keyed import BATCH, keyed_data, same_weights, small_net, tables, train

torch.set_num_threads(1)


def assert_equal(one: dict[int, dict[str, torch.Tensor]], other: dict[int, dict[str, torch.Tensor]]) -> None:
    assert one.keys() == other.keys()
    for epoch, columns in one.items():
        assert columns.keys() == other[epoch].keys()
        for name, column in columns.items():
            assert torch.equal(column, other[epoch][name]), (epoch, name)


def by_hand(data: Data, net: torch.nn.Module, epochs: int) -> list[dict[int, tuple[float, int]]]:
    """A training without Composer: for each epoch, id to (loss, correct)."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    loader = data.train.dataloader
    assert isinstance(loader, DataLoader)
    noted = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        noted.append({})
        for batch in loader:
            images, labels, keys = data.train.microbatch_transforms(batch)
            logits = net.train()(images)
            losses = F.cross_entropy(logits, labels, reduction='none')
            for sample, loss, logit, label in zip(keys[:, 0], losses, logits, labels, strict=True):
                noted[-1][int(sample)] = float(loss), int(logit.argmax() == label)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
    return noted


@pytest.fixture(autouse=True)
def _own_warnings():
    # The command shows warnings in its own way; other tests keep theirs.
    with warnings.catch_warnings():
        yield


@pytest.fixture(scope='module')
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp('recorded') / 'run'
    return folder, train([RecordLosses(folder)])


def test_losses_are_those_of_a_loop_by_hand(recorded: tuple[Path, torch.nn.Module]) -> None:
    data = keyed_data()
    archive = Archive(recorded[0])
    samples = archive.samples()
    assert archive.epochs == [0, 1, 2]
    for epoch, noted in enumerate(by_hand(data, small_net(), 3)):
        table = archive.table('loss', epoch)
        assert archive.metadata('loss', epoch)['seen'] == len(noted) == 256, 'four batches; 44 samples are left out'
        assert len(table) <= len(samples)
        for row, seen in enumerate(table['seen'].tolist()):
            assert seen == (int(samples.ids[row]) in noted)
            if seen:
                loss, correct = noted[int(samples.ids[row])]
                assert float(table['loss'][row]) == pytest.approx(loss, rel=1e-4, abs=1e-5)
                assert int(table['correct'][row]) == correct
    known = samples.rows_by_key(Samples.of(data.train_set))
    assert len(samples) == len(set(samples.ids.tolist())) == int((known >= 0).sum())
    assert samples.labels[known[known >= 0]].tolist() == data.train_set.labels[known >= 0].tolist()


def test_the_manifest_says_what_data_it_is(recorded: tuple[Path, torch.nn.Module]) -> None:
    manifest = verify(recorded[0])
    data = keyed_data()
    assert not manifest.finished
    assert manifest.weights is None
    assert manifest.data.fingerprint == data.fingerprint
    assert manifest.data.num_samples == 300
    assert manifest.data.num_classes == 100
    assert manifest.data.shape == [3, 32, 32]
    assert manifest.data.normalization.mean == pytest.approx(list(data.normalization[0]))
    assert manifest.augmentation is not None
    assert manifest.augmentation['name'] == 'crop_flip'
    assert main(['verify', str(recorded[0])]) == 0, 'a folder with recordings need not be that of a YAML'


def test_training_is_the_same_without_it(recorded: tuple[Path, torch.nn.Module]) -> None:
    assert same_weights(recorded[1], train([]))


@pytest.mark.parametrize('at', ['ep0-ba2', 'ep0-ba4', 'ep1-ba6', 'ep1-ba8'])
def test_resumed_it_ends_with_the_same_tables(at: str, recorded: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    run, checkpoints = tmp_path / 'run', tmp_path / 'checkpoints'
    train([RecordLosses(run)], epochs='3ep', folder=checkpoints, save_interval='2ba')
    # What an interrupted run wrote after its checkpoint must go, though it was wrong.
    archive = Archive(run)
    wrong = {'loss': torch.ones(1), 'correct': torch.ones(1, dtype=torch.uint8)}
    for epoch in range(int(at[2]), 3):
        archive.put('loss', epoch, archive.samples().take(np.array([0])), wrong)
    net = small_net(seed=9)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.* are replaced')
        train([RecordLosses(run)], net=net, load=checkpoints / f'{at}-rank0.pt')
    assert same_weights(net, recorded[1])
    assert_equal(tables(run), tables(recorded[0]))


class KilledError(Exception):
    pass


def test_epochs_after_the_checkpoint_are_dropped_at_once(tmp_path: Path) -> None:
    class Kill(Callback):
        def batch_start(self, state, logger) -> None:
            raise KilledError

    run, checkpoints = tmp_path / 'run', tmp_path / 'checkpoints'
    train([RecordLosses(run)], epochs='3ep', folder=checkpoints)
    with pytest.raises(KilledError):
        train([RecordLosses(run), Kill()], net=small_net(seed=9), load=checkpoints / 'ep1-ba4-rank0.pt')
    assert Archive(run).epochs == [0]


def test_a_training_from_the_beginning_replaces_what_was_there(tmp_path: Path) -> None:
    train([RecordLosses(tmp_path)], epochs='2ep')
    before = tables(tmp_path)
    with pytest.warns(UserWarning, match=r'the losses of an earlier training \(2 epochs\) are replaced'):
        train([RecordLosses(tmp_path)], epochs='1ep', net=small_net(seed=2))
    after = tables(tmp_path)
    assert list(after) == [0]
    assert not torch.equal(before[0]['loss'], after[0]['loss'])


def test_a_part_of_an_epoch_is_kept_and_grows(tmp_path: Path) -> None:
    train([RecordLosses(tmp_path)], epochs='6ba')
    archive = Archive(tmp_path)
    assert [archive.metadata('loss', epoch)['seen'] for epoch in archive.epochs] == [4 * BATCH, 2 * BATCH]


@pytest.mark.parametrize('microbatch', [24])
def test_microbatches_make_one_table(microbatch: int, tmp_path: Path) -> None:
    # Without BatchNorm a microbatch changes nothing but the order of sums.
    for name, size in (('whole', None), ('parts', microbatch)):
        train([RecordLosses(tmp_path / name)], net=small_net(False), epochs='2ep', device_train_microbatch_size=size)
    whole, parts = tables(tmp_path / 'whole'), tables(tmp_path / 'parts')
    for epoch in (0, 1):
        assert torch.equal(whole[epoch]['seen'], parts[epoch]['seen'])
        torch.testing.assert_close(whole[epoch]['loss'], parts[epoch]['loss'], rtol=1e-3, atol=1e-4)


def test_sams_first_pass_is_recorded(tmp_path: Path) -> None:
    class First(Callback):
        """Losses of the first pass of each step."""

        def __init__(self) -> None:
            self.losses: dict[int, float] = {}

        def batch_start(self, state, logger) -> None:
            self.open = True

        def after_loss(self, state, logger) -> None:
            if self.open:
                loss = F.cross_entropy(torch.as_tensor(state.outputs), state.batch[1], reduction='none')
                self.losses |= dict(zip(state.batch[2][:, 0].tolist(), loss.tolist(), strict=True))
            self.open = False

    first = First()
    train([RecordLosses(tmp_path), first], epochs='1ep', algorithms=[SAM(rho=0.5)])
    archive = Archive(tmp_path)
    losses = archive.table('loss', 0)['loss']
    assert len(first.losses) == len(losses) == 256
    for sample, loss in zip(archive.samples().ids.tolist(), losses.tolist(), strict=True):
        assert loss == pytest.approx(first.losses[sample], rel=1e-5)


@pytest.mark.parametrize('algorithm', [MixUp(), CutMix()], ids=['MixUp', 'CutMix'])
def test_mixed_images_are_refused_before_the_first_step(algorithm, tmp_path: Path) -> None:
    line = f'RecordLosses: {type(algorithm).__name__} is in the same Trainer; the losses of its mixed images'
    with pytest.raises(UserError, match=line):
        train([RecordLosses(tmp_path / 'run')], algorithms=[algorithm])
    assert not (tmp_path / 'run').exists()


def test_data_without_keys_is_refused_before_the_first_step(tmp_path: Path) -> None:
    data = keyed_data()
    plain = DataLoader(TensorDataset(torch.zeros(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64)), 4)
    object.__setattr__(data, 'train', plain)
    with pytest.raises(UserError, match=r'the training data \(TensorDataset\) has no ids'):
        train([RecordLosses(tmp_path / 'run')], data)
    assert not (tmp_path / 'run').exists()


def test_a_folder_of_other_data_or_of_a_finished_run_is_refused(tmp_path: Path) -> None:
    train([RecordLosses(tmp_path)], epochs='1ep')
    with pytest.raises(UserError, match='holds recordings of other data; choose another folder'):
        train([RecordLosses(tmp_path)], keyed_data(subset=200), epochs='1ep')
    archive = Archive(tmp_path)
    archive.update(
        lambda manifest: manifest.model_validate({**manifest.model_dump(by_alias=True), 'weights': {'hash': 'f'}})
    )
    with pytest.raises(UserError, match='is a finished run; record into a folder of this training'):
        train([RecordLosses(tmp_path)], epochs='1ep')
    assert archive.epochs == [0]


def test_keys_that_the_data_set_does_not_list_are_refused(tmp_path: Path) -> None:
    data = keyed_data()
    data.train_set._ids = data.train_set._ids + 1_000_000
    with pytest.raises(UserError, match='a sample with id 1000'):
        train([RecordLosses(tmp_path)], data, epochs='1ep')
