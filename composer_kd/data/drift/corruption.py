"""Damaged pixels: the corruptions of the CIFAR-C protocol, computed, or read from the published files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import features
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from composer_kd.core.errors import UserError, nearest
from composer_kd.core.options import PathText, option_error
from composer_kd.data.drift.base import Drift, Part, SampleSet, linear, marked, split_seed
from composer_kd.functional.corruptions import CORRUPTIONS, CORRUPTIONS_VERSION, SEVERITIES, corrupt, severities_of
from composer_kd.storage.atomic import xxh3_of

__all__ = ['Corruption', 'PublishedFile']


class Corruption(Drift):
    """One kind of corruption at a severity.

    Attributes:
        kind: One of the fifteen.
        severity: 1 to 5, or between two of them.
        files: A folder with ``KIND.npy`` and ``labels.npy`` as CIFAR-10-C and CIFAR-100-C are published, to be read
            instead of computing; they hold test images alone.
    """

    between: ClassVar = {'severity': linear}
    nothing: ClassVar = {'severity': 0.0}

    name: str = 'corruption'
    kind: str
    severity: Annotated[float, Field(ge=1, le=5)] = 3.0
    files: PathText | None = None

    @field_validator('kind')
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in CORRUPTIONS:
            raise option_error(None, f'{kind!r} is not a kind of corruption; {nearest(kind, CORRUPTIONS)}', kind)
        return kind

    @model_validator(mode='before')
    @classmethod
    def _of_the_test_part(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get('files') is not None:
            values = {'parts': ['test'], **values}
            if values['parts'] != ['test']:
                raise option_error('parts', 'the published files hold test images alone; leave it out', values['parts'])
        return values

    @property
    def paints(self) -> bool:
        return True

    @property
    def replaces_images(self) -> bool:
        return self.files is not None

    def simplify(self) -> Drift | None:
        return self if self.severity > 0 else None

    def description(self, part: Part) -> dict[str, Any]:
        if self.files is None:
            return {**super().description(part), **self._versions}
        return {**super().description(part), 'files': self._published.hash}

    def check_files(self) -> None:
        if self.files is not None:
            self._published.check_there()

    def check(self, undrifted: SampleSet, shape: tuple[int, ...]) -> None:
        if self.files is not None:
            self._published.check(undrifted.ids, undrifted.labels, shape)

    def paint(self, images: Tensor, ids: Tensor, part: Part) -> Tensor:
        if self.files is None:
            return corrupt(images, ids, self.kind, self.severity, split_seed(self.seed, part))
        images = images.clone()
        severities = self._severities(ids, part)
        for severity in severities.unique().tolist():
            if severity > 0:
                chosen = severities == severity
                images[chosen] = self._published.images(severity, ids[chosen])
        return images

    def mark(self, hashes: NDArray[np.uint64], ids: Tensor, part: Part) -> NDArray[np.uint64]:
        severities = self._severities(ids, part)
        marks = hashes.copy()
        for severity in severities.unique().tolist():
            if severity > 0:
                chosen = (severities == severity).numpy()
                marks[chosen] = self._marked(hashes[chosen], ids[chosen], part, float(severity))
        return marks

    def _marked(self, hashes: NDArray[np.uint64], ids: Tensor, part: Part, severity: float) -> NDArray[np.uint64]:
        if self.files is None and not CORRUPTIONS[self.kind].draws:
            # One image looks the same under every id: what is known of it serves data that was renumbered.
            return marked(hashes, {'kind': self.kind, 'severity': severity, **self._versions})
        return marked(hashes, {**self.description(part), 'severity': severity}, ids, part)

    def _severities(self, ids: Tensor, part: Part) -> Tensor:
        """Of each sample: between two of them, where no constants lie between, it has the one or the other."""
        if self.files is None and CORRUPTIONS[self.kind].none is not None:
            return torch.full((len(ids),), self.severity, dtype=torch.float64)
        return severities_of(ids, self.severity, split_seed(self.seed, part))

    @property
    def _versions(self) -> dict[str, Any]:
        versions = {'version': CORRUPTIONS_VERSION, 'paint': CORRUPTIONS[self.kind].version}
        return {**versions, 'library': features.version('jpg')} if self.kind == 'jpeg_compression' else versions

    @property
    def _published(self) -> PublishedFile:
        assert self.files is not None
        return PublishedFile(Path(self.files).expanduser(), self.kind)


@dataclass(frozen=True)
class PublishedFile:
    """``KIND.npy`` and ``labels.npy`` in a folder; row ``(severity - 1) * N + i`` is the test image with id i."""

    folder: Path
    kind: str

    @property
    def path(self) -> Path:
        return self.folder / f'{self.kind}.npy'

    @property
    def hash(self) -> str:
        """Of the images' file."""
        _present(self.path)
        info = self.path.stat()
        return _hash_of(self.path, info.st_size, info.st_mtime_ns)

    def check_there(self) -> None:
        """Refuse a folder without the two files."""
        for path in (self.path, self.folder / 'labels.npy'):
            _present(path)

    def check(self, ids: NDArray[np.int64], labels: NDArray[np.int64], shape: tuple[int, ...]) -> None:
        """Refuse files that are not of this test split: of another number, shape or order of images."""
        count = len(ids)
        if not np.array_equal(np.sort(ids), np.arange(count)):
            raise UserError(f'{self.folder}: its rows are test images 0 to N - 1, and the ids of this test split are '
                            f'others; convert the data again with composer-kd convert')  # fmt: skip
        images, expected = _open(self.path), (SEVERITIES * count, *shape[1:], shape[0])
        if images.dtype != np.uint8 or images.shape != expected:
            raise UserError(
                f'{self.path}: it holds {images.dtype} {list(images.shape)}; uint8 {list(expected)} is needed, '
                f'{SEVERITIES} severities of {count} test images'
            )
        path = self.folder / 'labels.npy'
        published = _open(path)
        if published.shape != (SEVERITIES * count,):
            raise UserError(f'{path}: it holds {list(published.shape)} labels; {SEVERITIES * count} are needed')
        ours = np.empty(count, np.int64)
        ours[ids] = labels
        if (published.reshape(SEVERITIES, count) != ours).any():
            raise UserError(f'{path}: these are not the labels of the test split; name the files of this data set')

    def images(self, severity: int, ids: Tensor) -> Tensor:
        """The images [B, C, H, W] of these ids at a severity from 1 to 5."""
        stored = _open(self.path)
        rows = (severity - 1) * (len(stored) // SEVERITIES) + ids.numpy()
        return torch.from_numpy(np.ascontiguousarray(stored[rows].transpose(0, 3, 1, 2)))


def _present(path: Path) -> None:
    if not path.is_file():
        raise UserError(f'{path}: no such file; files names a folder with KIND.npy and labels.npy as published')


def _open(path: Path) -> NDArray[Any]:
    _present(path)
    try:
        return np.load(path, mmap_mode='r', allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f'{path}: not an .npy file that can be read ({error}); fetch it again') from None


@lru_cache(maxsize=64)
def _hash_of(path: Path, size: int, modified: int) -> str:
    return xxh3_of(path)
