"""Shards of our own and of others, read whole or refused with the damaged file's name."""

import json
import shutil

import numpy as np
import pytest
import torch

from composer_kd.core.errors import UserError
from composer_kd.data import open_data
from composer_kd.data.convert import convert
from composer_kd.data.section import DataSection


@pytest.fixture
def folder(gray_npz, tmp_path):
    convert(str(gray_npz()), tmp_path / 'out')
    return tmp_path / 'out'


def opened(source, tmp_path, **options):
    return open_data(DataSection(source=str(source), cache_dir=str(tmp_path / 'cache'), **options), 8, 0)


def pixels(data):
    return data.train_set.images(torch.arange(len(data.train_set)))


def write_mds(folder, images, labels, ids=None, hashes=None, compression=None):
    from streaming import MDSWriter

    columns = {'x': 'ndarray', 'y': 'int', **({'i': 'int'} if ids is not None else {})}
    with MDSWriter(out=str(folder), columns=columns, hashes=hashes, compression=compression, size_limit=1024) as out:
        for row in range(len(images)):
            sample = {'x': images[row], 'y': int(labels[row])}
            out.write(sample if ids is None else {**sample, 'i': int(ids[row])})


@pytest.mark.parametrize('name', ['dataset.json', 'train/index.json', 'train/shard.00000.mds', 'test/shard.00000.mds'])
def test_a_flipped_byte_is_named(folder, tmp_path, flip_byte, name):
    flip_byte(folder / name)
    with pytest.raises(UserError) as caught:
        opened(folder, tmp_path)
    assert str(folder / name) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_truncated_and_a_missing_shard_are_named(folder, tmp_path):
    shard = folder / 'train/shard.00000.mds'
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(UserError, match=rf'^{shard}: damaged: it has {len(content) - 100} bytes and the index says'):
        opened(folder, tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match=rf'^{shard}: cannot be read: No such file'):
        opened(folder, tmp_path)


def test_a_file_name_that_leaves_the_folder_is_refused(tmp_path):
    images, labels = np.zeros((9, 8, 8), np.uint8), np.arange(9) % 3
    for split in ('train', 'test'):
        write_mds(tmp_path / 'evil' / split, images, labels)
    index = tmp_path / 'evil/train/index.json'
    index.write_text(index.read_text().replace('shard.00000.mds', '../test/shard.00000.mds'))
    with pytest.raises(UserError, match='leaves the folder'):
        opened(tmp_path / 'evil', tmp_path)


def test_pickled_columns_are_never_loaded(tmp_path):
    from streaming import MDSWriter

    for split in ('train', 'test'):
        with MDSWriter(out=str(tmp_path / 'bad' / split), columns={'x': 'pkl', 'y': 'int'}) as out:
            out.write({'x': np.zeros((4, 4), np.uint8), 'y': 0})
    with pytest.raises(UserError, match='unsafe type'):
        opened(tmp_path / 'bad', tmp_path)


@pytest.mark.parametrize('hashes', [None, ['md5']])
def test_somebody_elses_shards_without_ids(tmp_path, hashes):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (30, 8, 8, 3), np.uint8), np.arange(30) % 3
    write_mds(tmp_path / 'own/train', images, labels, hashes=hashes)
    write_mds(tmp_path / 'own/val', images[:6], labels[:6], hashes=hashes)
    data = opened(tmp_path / 'own', tmp_path, val_fraction=0.0)
    assert data.classes == ('0', '1', '2')
    assert data.train_set.ids.tolist() == list(range(30))
    assert np.array_equal(pixels(data).permute(0, 2, 3, 1).numpy(), images)
    assert len(data.test.dataloader.dataset) == 6


def test_reordered_shards_train_in_the_same_order(tmp_path):
    rng = np.random.default_rng(0)
    images, labels, ids = rng.integers(0, 256, (30, 8, 8), np.uint8), np.arange(30) % 3, 100 + np.arange(30) * 7
    order = rng.permutation(30)
    for name, rows in (('one', np.arange(30)), ('two', order)):
        write_mds(tmp_path / name / 'train', images[rows], labels[rows], ids[rows])
        write_mds(tmp_path / name / 'test', images[:6], labels[:6], ids[:6])
    one, two = (opened(tmp_path / name, tmp_path) for name in ('one', 'two'))
    for left, right in zip(one.train.dataloader, two.train.dataloader, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    assert one.fingerprint != two.fingerprint


def test_ids_that_repeat_and_labels_out_of_range(tmp_path):
    images, labels = np.zeros((9, 8, 8), np.uint8), np.arange(9) % 3
    write_mds(tmp_path / 'twice/train', images, labels, np.zeros(9))
    write_mds(tmp_path / 'twice/test', images, labels, np.arange(9))
    with pytest.raises(UserError, match=r'the ids \(column i\) of the train split are not unique'):
        opened(tmp_path / 'twice', tmp_path)
    write_mds(tmp_path / 'minus/train', images, labels - 1)
    write_mds(tmp_path / 'minus/test', images, labels)
    with pytest.raises(UserError, match='label -1 of train sample 0 is out of range; 3 classes have labels 0 to 2'):
        opened(tmp_path / 'minus', tmp_path)


def test_mixed_sizes_are_named_and_resized_on_request(tmp_path):
    for split in ('train', 'test'):
        images = [np.full((8 + row % 2, 8), row, np.uint8) for row in range(12)]
        write_mds(tmp_path / 'mixed' / split, images, np.arange(12) % 2)
    with pytest.raises(UserError, match=r'mixed sizes: the first is 1x8x8, sample 1 is 1x9x8; set data.image_size'):
        opened(tmp_path / 'mixed', tmp_path)
    assert opened(tmp_path / 'mixed', tmp_path, image_size=6, val_fraction=0.0).shape == (1, 6, 6)


@pytest.mark.parametrize('compression', [None, 'zstd:3'])
@pytest.mark.parametrize('encoding', ['png', 'ndarray'])
def test_every_encoding_gives_the_same_pixels(gray_npz, tmp_path, encoding, compression):
    convert(str(gray_npz()), tmp_path / 'out', encoding=encoding, compression=compression)
    with np.load(gray_npz()) as arrays:
        expected = arrays['images'][:30]
    data = opened(tmp_path / 'out', tmp_path, val_fraction=0.0)
    assert np.array_equal(pixels(data)[:, 0].numpy(), expected)


def test_a_file_url_is_fetched_verified_and_kept(folder, tmp_path, flip_byte):
    local = opened(folder, tmp_path)
    remote = opened(f'file://{folder}', tmp_path / 'away')
    assert remote.fingerprint == local.fingerprint
    assert torch.equal(pixels(remote), pixels(local))
    [copy] = (tmp_path / 'away/cache/downloads').glob('*/train/shard.00000.mds')

    # A damaged copy, as a broken download leaves it, is fetched again; a damaged remote is refused by name.
    flip_byte(copy)
    shutil.rmtree(next((tmp_path / 'away/cache').glob('images-*')))
    assert torch.equal(pixels(opened(f'file://{folder}', tmp_path / 'away')), pixels(local))
    flip_byte(copy)
    flip_byte(folder / 'train/shard.00000.mds')
    shutil.rmtree(next((tmp_path / 'away/cache').glob('images-*')))
    with pytest.raises(UserError, match=r'file://.*/train/shard.00000.mds: its xxh64 .* the remote copy is damaged'):
        opened(f'file://{folder}', tmp_path / 'away')
    assert not copy.exists()


def test_a_remote_that_went_away_serves_what_was_downloaded(folder, tmp_path):
    first = opened(f'file://{folder}', tmp_path)
    folder.rename(tmp_path / 'elsewhere')
    assert torch.equal(pixels(opened(f'file://{folder}', tmp_path)), pixels(first))
    with pytest.raises(UserError, match=r'not a data set of shards: it has no train/index.json .*cannot be downloaded'):
        opened(f'file://{tmp_path}/never', tmp_path)


def test_a_folder_that_is_no_data_set(tmp_path):
    (tmp_path / 'pictures').mkdir()
    with pytest.raises(UserError, match=r'^data.source: .*/pictures: not a data set of shards: .*composer-kd convert'):
        opened(tmp_path / 'pictures', tmp_path)
    for split in ('train', 'test'):
        (tmp_path / 'pictures' / split).mkdir()
        (tmp_path / 'pictures' / split / 'index.json').write_text(json.dumps({'version': 2, 'shards': []}))
    with pytest.raises(UserError, match=r'pictures/train: the split is empty'):
        opened(tmp_path / 'pictures', tmp_path)
