"""A small drawn data set, made once for all tests of the room, and a few ways to make and to damage data."""

from pathlib import Path

import numpy as np
import pytest
import torch

from composer_kd.data.section import DataSection, SyntheticSection

TINY = SyntheticSection(train_size=300, test_size=100)


@pytest.fixture(autouse=True, scope='session')
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def cache(tmp_path_factory) -> Path:
    """A cache folder that tests share; what they damage they copy first."""
    return tmp_path_factory.mktemp('cache')


@pytest.fixture
def tiny(cache):
    """Makes a data section on the small drawn set: ``tiny(val_fraction=0.2)``."""

    def make(**options) -> DataSection:
        return DataSection(**{'synthetic': TINY, 'cache_dir': str(cache), **options})

    return make


@pytest.fixture
def gray_npz(tmp_path):
    """Writes 8x8 grey images of three classes to an .npz and returns its path; arguments replace its arrays."""

    def make(name='gray.npz', train=30, test=9, **arrays):
        count = train + test
        rng = np.random.default_rng(0)
        content = {
            'images': rng.integers(0, 256, (count, 8, 8), np.uint8),
            'labels': np.arange(count) % 3,
            'split': np.arange(count) >= train,
            'classes': np.array(['ant', 'bee', 'cat']),
        }
        content['split'] = content['split'].astype(np.uint8)
        content.update(arrays)
        path = tmp_path / name
        np.savez(path, **{key: value for key, value in content.items() if value is not None})
        return path

    return make


@pytest.fixture
def flip_byte():
    """Changes one bit in the middle of a file."""

    def flip(path, at=0.5):
        content = bytearray(Path(path).read_bytes())
        content[int(len(content) * at)] ^= 1
        Path(path).write_bytes(content)

    return flip
