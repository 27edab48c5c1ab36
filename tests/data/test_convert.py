"""Converting: counts, classes, superclasses, and one line for each thing that is wrong."""

import io
import os
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from composer_kd.core.errors import UserError
from composer_kd.data import open_data
from composer_kd.data.convert import CIFAR100_CLASSES, CIFAR100_COARSE, CIFAR100_SUPERCLASSES, convert, superclasses_of
from composer_kd.data.section import DataSection
from composer_kd.storage.atomic import _host


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
        ({'labels': np.zeros((39, 2), np.int64)}, r'labels has the shape \[39, 2\]; a plain row is needed'),
        ({'split': np.uint8(0)}, r'split has the shape \[\]; a plain row is needed'),
        ({'split': np.array([b'\xff'] * 39)}, 'split holds .*are known'),
        ({'images': np.zeros((39, 0, 8), np.uint8)}, r'train sample 0: an image without pixels, \[0, 8\]; remove it'),
        ({'images': np.zeros((39, 8, 0, 3), np.uint8)}, r'train sample 0: an image without pixels, \[8, 0, 3\]'),
        (
            {'labels': np.array([0] * 38 + [2**40]), 'classes': None},
            r'label 1099511627776 of sample 38 would be one of 1,099,511,627,777 classes; labels count from 0',
        ),
        ({'labels': np.array([0] * 38 + [2**63], np.uint64), 'classes': None}, r'of sample 38 would be one of'),
    ],
)
def test_an_npz_that_is_refused(gray_npz, tmp_path, arrays, message):
    path = gray_npz(**arrays)
    with pytest.raises(UserError, match=message) as caught:
        convert(str(path), tmp_path / 'out')
    assert '\n' not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def claiming(shape: tuple[int, ...], content: bytes = b'', dtype: str = '|u1') -> bytes:
    """The bytes of an .npy whose header says so, whatever it holds."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {'descr': dtype, 'fortran_order': False, 'shape': shape})
    return file.getvalue() + content


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        (
            'images',
            claiming((2**40, 32, 32, 3)),
            r'images\.npy claims uint8 \[1099511627776, 32, 32, 3\], .* holds less',
        ),
        ('images', claiming((39, 8, 8), bytes(100)), r'images\.npy claims uint8 \[39, 8, 8\], 2,496 bytes'),
        ('images', claiming((-(2**40), 8, 8)), r'images\.npy claims'),
        ('labels', claiming((2**50,), dtype='<i8'), r'labels\.npy claims int64'),
        (
            'classes',
            claiming((1,), dtype='<U1000000'),
            r'classes\.npy claims <U1000000 \[1\], 4,000,000 bytes',
        ),
        ('split', b'\x93NUMPY\x01\x00\x10\x00{nothing of this}', r'not an \.npz that can be read'),
        ('classes', claiming((1,), dtype='<U1000000000'), r'not an \.npz that can be read'),
        ('split', b'no array', r'not an \.npz that can be read'),
    ],
)
def test_an_array_that_is_not_what_it_claims(gray_npz, tmp_path, name, content, message):
    whole = gray_npz()
    path = tmp_path / 'claims.npz'
    with zipfile.ZipFile(whole) as read, zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as written:
        for entry in read.namelist():
            written.writestr(entry, content if entry == f'{name}.npy' else read.read(entry))
    with pytest.raises(UserError, match=message) as caught:
        convert(str(path), tmp_path / 'out')
    assert str(caught.value).startswith(f'{path}: ')
    assert '\n' not in str(caught.value)


def test_a_zip_that_claims_what_it_claims(gray_npz, tmp_path):
    """The size of the entry is written by whoever wrote the array's: what is there in the file is not."""
    path = tmp_path / 'claims.npz'
    claimed = 2**30
    with zipfile.ZipFile(gray_npz()) as read, zipfile.ZipFile(path, 'w') as written:
        for entry in read.namelist():
            if entry == 'images.npy':
                header = claiming((claimed // 64, 8, 8))
                written.writestr(entry, header)
                written.getinfo(entry).file_size = claimed + len(header)
            else:
                written.writestr(entry, read.read(entry))
    with pytest.raises(UserError, match=r'images\.npy claims uint8 .* holds less'):
        convert(str(path), tmp_path / 'out')


def test_an_array_that_is_no_zip(gray_npz, tmp_path):
    np.save(tmp_path / 'one.npy', np.zeros(3))
    (tmp_path / 'one.npy').rename(tmp_path / 'one.npz')
    with pytest.raises(UserError, match=r'one\.npz: not an \.npz that can be read'):
        convert(f'{tmp_path}/one.npz', tmp_path / 'out')


def test_what_a_killed_conversion_left_is_removed_by_the_next_one(gray_npz, tmp_path):
    source = str(gray_npz())
    killed = """if True:
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from composer_kd.data.write import Images, write_dataset
        def samples():
            yield np.zeros((8, 8), np.uint8), 0
            os.kill(os.getpid(), signal.SIGKILL)
        write_dataset(Path(sys.argv[1]), {'train': Images(samples(), 2)}, 'killed', ['a'])
    """
    for name in ('out', 'other'):
        subprocess.run([sys.executable, '-c', killed, str(tmp_path / name)], timeout=100, check=False)
    assert len(list(tmp_path.glob('.out.*.converting'))) == 1
    # One that is still at work, one of another host, and one of that host of which nobody has heard for long.
    at_work, elsewhere, long_ago = (
        tmp_path / f'.out.{owner}.converting'
        for owner in (f'{os.getpid()}-{_host()}-0a0a0a0a', '7-00000000-0a0a0a0a', '7-00000000-0b0b0b0b')
    )
    for folder in (at_work, elsewhere, long_ago):
        (folder / 'train').mkdir(parents=True)
        (folder / 'train/shard.00000.mds').touch()
        yesterday = time.time() - 25 * 3600
        for path in (folder, folder / 'train'):
            os.utime(path, (yesterday, yesterday))
    os.utime(long_ago / 'train/shard.00000.mds', (yesterday, yesterday))
    os.utime(at_work / 'train/shard.00000.mds', None)
    convert(source, tmp_path / 'out')
    left = sorted(path for path in tmp_path.iterdir() if path.suffix == '.converting')
    assert at_work in left
    assert elsewhere in left, 'a shard of it is new'
    assert long_ago not in left
    assert [path.name.partition('.other.')[0] for path in left if path not in (at_work, elsewhere)] == ['']


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
