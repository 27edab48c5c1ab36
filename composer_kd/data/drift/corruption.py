"""Damaged pixels: the corruptions of the CIFAR-C protocol, computed, or read from the published files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import features
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from composer_kd.data.drift.drift import Drift, linear, marked, refused
from composer_kd.data.drift.population import Part, Population, split_seed
from composer_kd.data.drift.published import PublishedFile
from composer_kd.errors import nearest
from composer_kd.functional.corruptions import CORRUPTIONS, CORRUPTIONS_VERSION, corrupt, severities_of
from composer_kd.section import PathText

__all__ = ['Corruption']


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
            raise refused(None, f'{kind!r} is not a kind of corruption; {nearest(kind, CORRUPTIONS)}', kind)
        return kind

    @model_validator(mode='before')
    @classmethod
    def _of_the_test_part(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get('files') is not None:
            values = {'parts': ['test'], **values}
            if values['parts'] != ['test']:
                raise refused('parts', 'the published files hold test images alone; leave it out', values['parts'])
        return values

    @property
    def paints(self) -> bool:
        return True

    @property
    def replaces_images(self) -> bool:
        return self.files is not None

    def settled(self) -> Drift | None:
        return self if self.severity > 0 else None

    def description(self, part: Part) -> dict[str, Any]:
        if self.files is None:
            return {**super().description(part), **self._versions}
        return {**super().description(part), 'files': self._published.hash}

    def check_files(self) -> None:
        if self.files is not None:
            self._published.check_there()

    def check(self, undrifted: Population, shape: tuple[int, ...]) -> None:
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
