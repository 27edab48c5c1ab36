"""``composer-kd convert SOURCE OUT``: image data of the usual kinds to a folder of MDS shards."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from composer_kd.core.errors import UserError, nearest
from composer_kd.data.shards import Description
from composer_kd.data.write import Encoding, Images, Labelled, write_dataset
from composer_kd.storage.fetch import default_cache

__all__ = [
    'CIFAR10_CLASSES',
    'CIFAR100_CLASSES',
    'CIFAR100_COARSE',
    'CIFAR100_SUPERCLASSES',
    'Format',
    'convert',
    'superclasses_of',
]

Format = Literal['npz', 'torchvision', 'imagefolder']

_TORCHVISION = {'cifar10': 'CIFAR10', 'cifar100': 'CIFAR100', 'fashion_mnist': 'FashionMNIST', 'mnist': 'MNIST'}
_TEST_NAMES = ('test', 'val', 'valid', 'validation')
_ARRAYS = ('images', 'labels', 'split', 'classes')
# A label that is not one names as many classes as it is large.
_MOST_CLASSES = 10**6
# Deflate makes nothing smaller than this.
_MOST_COMPRESSED = 1100
_IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')


@dataclass(frozen=True)
class _Found:
    """A source, opened: its splits, and what the classes are called."""

    splits: dict[str, Images]
    classes: Sequence[str]


def convert(
    source: str,
    out: str | Path,
    format: Format | None = None,
    compression: str | None = None,
    encoding: Encoding = 'png',
    download: bool = True,
) -> Description:
    """Write ``source`` as MDS shards (``i`` id, ``x`` image, ``y`` label) with ``dataset.json`` and a table of samples.

    Args:
        source: An ``.npz`` file (``images`` [N, H, W] or [N, H, W, C] uint8, ``labels``, ``split`` of 0 and 1 or
            ``'train'`` and ``'test'``, perhaps ``classes``); a folder with ``train/CLASS/*`` and ``test/CLASS/*`` or
            ``val/CLASS/*``; or a torchvision data set, ``cifar10``, ``cifar100``, ``fashion_mnist`` or ``mnist``, with
            the folder it is in or shall be downloaded to as ``cifar100:FOLDER``.
        out: The folder to write, which must not exist or be empty.
        format: What ``source`` is, where that is not plain from its name.
        compression: ``None``, ``'zstd'`` or any other that Streaming knows, perhaps with a level as ``'zstd:7'``.
        encoding: ``'png'``, or ``'ndarray'`` for raw pixels: larger, and read faster.
        download: Whether a torchvision data set may be downloaded.

    Returns:
        What was written: classes, counts, shape, mean and standard deviation.
    """
    _check_options(format, compression, encoding)
    format = format or _guess(source)
    if format == 'npz':
        found = _open_npz(Path(source).expanduser())
    elif format == 'torchvision':
        found = _open_torchvision(source, download)
    else:
        found = _open_folder(Path(source).expanduser())
    superclasses, coarse = superclasses_of(found.classes)
    name = source.partition(':')[0] if format == 'torchvision' else Path(source).name
    return write_dataset(Path(out), found.splits, name, found.classes, superclasses, coarse, encoding, compression)


def _check_options(format: str | None, compression: str | None, encoding: str) -> None:
    for what, value, known in (('format', format, get_args(Format)), ('encoding', encoding, get_args(Encoding))):
        if value is not None and value not in known:
            raise UserError(f'convert: unknown {what} {value!r}; {nearest(value, known)}')
    if compression is not None:
        from streaming.base.compression import get_compressions, is_compression

        if not is_compression(compression):
            known = sorted({name.partition(':')[0] for name in get_compressions()})
            raise UserError(f'convert: unknown compression {compression!r}; {nearest(compression, known)}')


def _guess(source: str) -> Format:
    if source.endswith('.npz'):
        return 'npz'
    if source.partition(':')[0] in _TORCHVISION:
        return 'torchvision'
    path = Path(source).expanduser()
    if path.is_dir():
        return 'imagefolder'
    if path.exists():
        raise UserError(
            f'{source}: not an .npz file, a folder with train/ and test/, or one of {", ".join(_TORCHVISION)}'
        )
    hint = nearest(source, _TORCHVISION) if '/' not in source else 'check the path'
    raise UserError(f'{source}: no such file or folder; {hint}')


def _open_npz(path: Path) -> _Found:
    if not path.is_file():
        raise UserError(f'{path}: no such file; check the path')
    held = _arrays(path)
    for name in ('images', 'labels', 'split'):
        if name not in held:
            raise UserError(f'{path}: it has no array {name!r}; images, labels and split are needed')
    images, labels, split = held['images'], held['labels'], held['split']
    gray = images.ndim == 3
    if images.dtype != np.uint8 or not (gray or (images.ndim == 4 and images.shape[3] in (1, 3))):
        raise UserError(
            f'{path}: images are {images.dtype} {list(images.shape)}; uint8 [N, H, W] or [N, H, W, C] with 1 or 3 '
            f'channels is needed'
        )
    for name in _ARRAYS[1:]:
        if name in held and held[name].ndim != 1:
            raise UserError(f'{path}: {name} has the shape {list(held[name].shape)}; a plain row is needed')
    if not len(images) == len(labels) == len(split):
        raise UserError(f'{path}: {len(images)} images, {len(labels)} labels and {len(split)} splits; all must agree')
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f'{path}: labels are {labels.dtype}; integers from 0 are needed')
    highest = int(labels.max()) if len(labels) else -1
    if highest >= _MOST_CLASSES and 'classes' not in held:
        raise UserError(
            f'{path}: label {highest} of sample {int(labels.argmax())} would be one of {highest + 1:,} classes; labels '
            f'count from 0, and {_MOST_CLASSES:,} are the most'
        )
    classes = [str(name) for name in held.get('classes', range(highest + 1))]
    outside = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(outside):
        row = int(outside[0])
        raise UserError(
            f'{path}: label {labels[row]} of sample {row} is out of range; {len(classes)} classes have labels 0 to '
            f'{len(classes) - 1}'
        )
    tests = _is_test(path, split)
    splits = {}
    for name, rows in (('train', np.flatnonzero(~tests)), ('test', np.flatnonzero(tests))):
        splits[name] = Images(((images[row], int(labels[row])) for row in rows), len(rows))
    return _Found(splits, classes)


def _arrays(path: Path) -> Mapping[str, NDArray[Any]]:
    """The arrays of an .npz that are ours, once their sizes are known to be those of its content."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in _ARRAYS if f'{name}.npy' in archive.namelist()]
            for name in names:
                _check_size(archive, f'{name}.npy')
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except UserError as error:
        raise UserError(f'{path}: {error}') from None
    except MemoryError as error:
        raise UserError(f'{path}: it does not fit into the memory: {error}; convert it in parts') from None
    except Exception as error:  # zipfile, zlib and what NumPy parses headers with have each their own for damage.
        reason = str(error).strip().partition('\n')[0] or type(error).__name__
        raise UserError(f'{path}: not an .npz that can be read: {reason}') from None


def _check_size(archive: zipfile.ZipFile, name: str) -> None:
    """Refuse an array that claims more values than are there: NumPy makes room for them before it reads the first."""
    entry = archive.getinfo(name)
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        header = file.tell()
    if dtype.hasobject:
        return  # Has no size of its own, and is refused as a pickle.
    claimed = math.prod(shape) * dtype.itemsize
    most = min(entry.file_size - header, entry.compress_size * _MOST_COMPRESSED)
    if min((dtype.itemsize, *shape)) < 0 or claimed > most:
        raise UserError(
            f'not an .npz that can be read: {name} claims {dtype} {list(shape)}, {claimed:,} bytes, and holds less; it '
            f'is cut off or damaged: write it again'
        )


def _is_test(path: Path, split: NDArray[Any]) -> NDArray[np.bool_]:
    names = {'0': False, 'train': False, '1': True, **dict.fromkeys(_TEST_NAMES, True)}
    values, inverse = np.unique(split, return_inverse=True)
    words = [value.decode(errors='replace') if isinstance(value, bytes) else str(value) for value in values.tolist()]
    unknown = [word for word in words if word not in names]
    if unknown:
        raise UserError(f"{path}: split holds {unknown[0]!r}; 0 or 'train' and 1 or 'test' are known")
    return np.array([names[word] for word in words], np.bool_)[inverse]


def _open_torchvision(source: str, download: bool) -> _Found:
    name, _, given = source.partition(':')
    if name not in _TORCHVISION:
        raise UserError(f'{source}: not a torchvision data set that we convert; {nearest(name, _TORCHVISION)}')
    from torchvision import datasets

    root = Path(given).expanduser() if given else default_cache() / 'torchvision'
    kind = getattr(datasets, _TORCHVISION[name])
    splits, classes = {}, []
    for split in ('train', 'test'):
        try:
            data = kind(str(root), train=split == 'train', download=download)
        except Exception as error:  # URLError, RuntimeError of a wrong checksum, OSError of a disk ...
            reason = str(error).strip().partition('\n')[0] or type(error).__name__
            remedy = 'connect to a network' if download else 'allow the download'
            raise UserError(
                f'{name}: not in {root}, and it cannot be downloaded ({reason}); {remedy}, or name its folder as '
                f'{name}:FOLDER'
            ) from None
        classes = [str(label) for label in data.classes]
        pixels, labels = np.asarray(data.data), np.asarray(data.targets)
        splits[split] = Images(((image, int(label)) for image, label in zip(pixels, labels, strict=True)), len(labels))
    return _Found(splits, classes)


def _open_folder(root: Path) -> _Found:
    train = root / 'train'
    test = next((root / name for name in _TEST_NAMES if (root / name).is_dir()), None)
    if not train.is_dir() or test is None:
        raise UserError(f'{root}: not a data set: folders train/CLASS/... and test/CLASS/... (or val/) are needed')
    classes = _folders(train)
    if not classes:
        raise UserError(f'{train}: it holds no folder; one folder of images for each class is needed')
    unknown = sorted(set(_folders(test)) - set(classes))
    if unknown:
        raise UserError(f'{test}: the class {unknown[0]!r} is not in {train}; {nearest(unknown[0], classes)}')
    splits = {}
    for name, folder in (('train', train), ('test', test)):
        files = [
            (path, label)
            for label, label_name in enumerate(classes)
            for path in sorted((folder / label_name).rglob('*'))
            if path.suffix.lower() in _IMAGE_SUFFIXES
        ]
        splits[name] = Images(_read(files), len(files))
    return _Found(splits, classes)


def _folders(parent: Path) -> list[str]:
    return sorted(entry.name for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith('.'))


def _read(files: list[tuple[Path, int]]) -> Iterator[Labelled]:
    from PIL import Image

    for path, label in files:
        try:
            with Image.open(path) as image:
                yield np.asarray(image.convert('RGB')), label
        except Exception as error:  # Each format of Pillow has exceptions of its own for what is damaged.
            raise UserError(f'{path}: not an image that can be read: {error}; replace or remove it') from None


_TREE = {
    'aquatic_mammals': 'beaver dolphin otter seal whale',
    'fish': 'aquarium_fish flatfish ray shark trout',
    'flowers': 'orchid poppy rose sunflower tulip',
    'food_containers': 'bottle bowl can cup plate',
    'fruit_and_vegetables': 'apple mushroom orange pear sweet_pepper',
    'household_electrical_devices': 'clock keyboard lamp telephone television',
    'household_furniture': 'bed chair couch table wardrobe',
    'insects': 'bee beetle butterfly caterpillar cockroach',
    'large_carnivores': 'bear leopard lion tiger wolf',
    'large_man-made_outdoor_things': 'bridge castle house road skyscraper',
    'large_natural_outdoor_scenes': 'cloud forest mountain plain sea',
    'large_omnivores_and_herbivores': 'camel cattle chimpanzee elephant kangaroo',
    'medium_mammals': 'fox porcupine possum raccoon skunk',
    'non-insect_invertebrates': 'crab lobster snail spider worm',
    'people': 'baby boy girl man woman',
    'reptiles': 'crocodile dinosaur lizard snake turtle',
    'small_mammals': 'hamster mouse rabbit shrew squirrel',
    'trees': 'maple_tree oak_tree palm_tree pine_tree willow_tree',
    'vehicles_1': 'bicycle bus motorcycle pickup_truck train',
    'vehicles_2': 'lawn_mower rocket streetcar tank tractor',
}

CIFAR100_SUPERCLASSES = tuple(_TREE)
_PARENT = {fine: number for number, names in enumerate(_TREE.values()) for fine in names.split()}
CIFAR100_CLASSES = tuple(sorted(_PARENT))
CIFAR100_COARSE = tuple(_PARENT[fine] for fine in CIFAR100_CLASSES)
CIFAR10_CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')


def superclasses_of(classes: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]] | tuple[None, None]:
    """The superclasses, and the superclass of each class, when these are CIFAR-100's class names in any order."""
    if set(classes) != set(CIFAR100_CLASSES):
        return None, None
    return CIFAR100_SUPERCLASSES, tuple(_PARENT[name] for name in classes)
