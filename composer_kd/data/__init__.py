"""A data set -> MDS shards -> verified uint8 cache -> (image, label, key) batches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from composer_kd.data.dataset import KeyedImages
    from composer_kd.data.loaders import Data, open_data
    from composer_kd.data.section import DataSection
    from composer_kd.data.transform import Augmentation

__all__ = ['Augmentation', 'Data', 'DataSection', 'KeyedImages', 'open_data']

# Looked up when first asked for: checking a YAML needs the section alone, not Composer's loaders.
_HOMES = {
    'Augmentation': 'composer_kd.data.transform',
    'Data': 'composer_kd.data.loaders',
    'DataSection': 'composer_kd.data.section',
    'KeyedImages': 'composer_kd.data.dataset',
    'open_data': 'composer_kd.data.loaders',
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
