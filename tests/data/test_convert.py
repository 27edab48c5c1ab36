"""Converting: counts, classes, superclasses, and one line for each thing that is wrong."""

import os

import numpy as np
import pytest
from PIL import Image

from composer_kd.data import open_data
from composer_kd.data.cifar import CIFAR100_CLASSES, CIFAR100_COARSE, CIFAR100_SUPERCLASSES, superclasses_of
from composer_kd.data.convert import convert
from composer_kd.data.section import DataSection
from composer_kd.errors import UserError


def test_npz_of_words_and_colours(gray_npz, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (39, 8, 8, 3), np.uint8)
    path = gray_npz(images=images, split=np.array(['train'] * 30 + ['test'] * 9), classes=None)
    written = convert(str(path), tmp_path / 'out')
    assert written.classes == ['0', '1', '2']
    assert written.shape == [3, 8, 8]
    assert {name: split['samples'] for name, split in written.splits.items()} == {'train': 30, 'test': 9}
    np.testing.assert_allclose(written.mean, images[:30].mean((0, 1, 2)) / 255, atol=1e-9)
    np.testing.assert_allclose(written.std, images[:30].std((0, 1, 2)) / 255, atol=1e-9)


def test_image_folder(tmp_path):
    for split, count in (('train', 4), ('val', 2)):
        for number, name in enumerate(('ant', 'bee')):
            folder = tmp_path / 'in' / split / name
            folder.mkdir(parents=True)
            for image in range(count):
                Image.new('RGB', (6, 5), (10 * image, 100 * number, 0)).save(folder / f'{image}.png')
            (folder / 'notes.txt').write_text('not an image')
    written = convert(str(tmp_path / 'in'), tmp_path / 'out')
    assert written.classes == ['ant', 'bee']
    assert written.shape == [3, 5, 6]
    data = open_data(DataSection(source=str(tmp_path / 'out'), cache_dir=str(tmp_path / 'cache')), 2, 0)
    image, label, _ = data.test.dataloader.dataset[3 - len(data.test.dataloader.dataset)]
    assert (label, image[:, 0, 0].tolist()) == (1, [10, 100, 0])


def test_a_broken_picture_is_named(tmp_path):
    for split in ('train', 'test'):
        (tmp_path / 'in' / split / 'ant').mkdir(parents=True)
        (tmp_path / 'in' / split / 'ant' / 'a.png').write_bytes(b'\x89PNG nothing')
    with pytest.raises(UserError, match=r'train/ant/a.png: not an image that can be read'):
        convert(str(tmp_path / 'in'), tmp_path / 'out')
    assert [path.name for path in tmp_path.iterdir()] == ['in']


def test_mnist_in_torchvisions_own_files(tmp_path):
    import struct

    raw = tmp_path / 'MNIST/raw'
    raw.mkdir(parents=True)
    for prefix, count in (('train', 30), ('t10k', 10)):
        pixels = (np.arange(count * 784) % 251).astype(np.uint8).tobytes()
        (raw / f'{prefix}-images-idx3-ubyte').write_bytes(struct.pack('>4i', 2051, count, 28, 28) + pixels)
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        (raw / f'{prefix}-labels-idx1-ubyte').write_bytes(struct.pack('>2i', 2049, count) + labels)
    written = convert(f'mnist:{tmp_path}', tmp_path / 'out', download=False)
    assert (len(written.classes), written.shape) == (10, [1, 28, 28])
    assert written.splits['train']['samples'] == 30


def test_without_the_files_and_without_a_network(tmp_path):
    with pytest.raises(UserError, match=r'^cifar100: not in .*, and it cannot be downloaded .*; allow the download'):
        convert(f'cifar100:{tmp_path}/nothing', tmp_path / 'out', download=False)


def test_cifar_100_classes_know_their_superclasses():
    assert (len(CIFAR100_CLASSES), len(CIFAR100_SUPERCLASSES)) == (100, 20)
    # The published order of the coarse labels of fine classes 0 to 9.
    assert CIFAR100_COARSE[:10] == (4, 1, 14, 8, 0, 6, 7, 7, 18, 3)
    reverse = CIFAR100_CLASSES[::-1]
    assert superclasses_of(reverse)[1] == CIFAR100_COARSE[::-1]
    assert superclasses_of(['ant', 'bee']) == (None, None)


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        ({'split': None}, "it has no array 'split'; images, labels and split are needed"),
        ({'images': np.zeros((39, 8, 8), np.float32)}, r'images are float32 \[39, 8, 8\]; uint8'),
        ({'labels': np.zeros(5, np.int64)}, '39 images, 5 labels and 39 splits; all must agree'),
        ({'labels': np.arange(39)}, 'label 3 of sample 3 is out of range; 3 classes have labels 0 to 2'),
        ({'labels': np.arange(39) - 1}, 'label -1 of sample 0 is out of range'),
        ({'split': np.array(['train'] * 38 + ['tset'])}, "split holds 'tset'"),
        ({'split': np.zeros(39, np.int64)}, 'the test split is empty; both train and test need samples'),
        ({'classes': np.array([{}], dtype=object)}, 'not an .npz that can be read: .*pickle'),
    ],
)
def test_an_npz_that_is_refused(gray_npz, tmp_path, arrays, message):
    path = gray_npz(**arrays)
    with pytest.raises(UserError, match=message) as caught:
        convert(str(path), tmp_path / 'out')
    assert '\n' not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_other_refusals(gray_npz, tmp_path):
    path = str(gray_npz())
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/file').write_text('kept')
    with pytest.raises(UserError, match='full: exists already; remove it or name another folder'):
        convert(path, tmp_path / 'full')
    assert (tmp_path / 'full/file').read_text() == 'kept'
    with pytest.raises(UserError, match="unknown compression 'zst'; did you mean 'zstd'"):
        convert(path, tmp_path / 'out', compression='zst')
    with pytest.raises(UserError, match="unknown encoding 'pgn'; did you mean 'png'"):
        convert(path, tmp_path / 'out', encoding='pgn')
    with pytest.raises(UserError, match=r"^cifar10O: no such file or folder; did you mean 'cifar10'"):
        convert('cifar10O', tmp_path / 'out')
    with pytest.raises(UserError, match=r'nothing.npz: no such file'):
        convert(f'{tmp_path}/nothing.npz', tmp_path / 'out')
    (tmp_path / 'torn.npz').write_bytes((tmp_path / 'gray.npz').read_bytes()[:500])
    with pytest.raises(UserError, match=r'torn.npz: not an .npz that can be read'):
        convert(f'{tmp_path}/torn.npz', tmp_path / 'out')


@pytest.mark.slow
@pytest.mark.skipif('COMPOSER_KD_CIFAR100_NPZ' not in os.environ, reason='COMPOSER_KD_CIFAR100_NPZ names no .npz')
def test_the_real_cifar_100(tmp_path):
    written = convert(os.environ['COMPOSER_KD_CIFAR100_NPZ'], tmp_path / 'out', compression='zstd')
    assert written.superclasses == list(CIFAR100_SUPERCLASSES)
    np.testing.assert_allclose(written.mean, [0.50708, 0.48655, 0.44092], atol=5e-6)
    np.testing.assert_allclose(written.std, [0.26733, 0.25644, 0.27615], atol=5e-6)
    section = DataSection(source=str(tmp_path / 'out'), cache_dir=str(tmp_path / 'cache'))
    data = open_data(section, 128, 0)
    train, val, test = (spec.dataloader.dataset for spec in (data.train, data.val, data.test))
    counts = np.bincount(np.concatenate([train.labels, val.labels]))
    assert counts.tolist() == [500] * 100
    assert np.bincount(test.labels).tolist() == [100] * 100
    # 26 pairs of identical images: whichever lie in the training split share a side of the division.
    assert not set(train.content_hashes) & set(val.content_hashes)
    hashes = np.concatenate([part.content_hashes for part in (train, val, test)])
    assert len(hashes) - len(np.unique(hashes)) == 26
