"""What a run's last evaluation said of held-out samples: a file of logits, labels and ids for each split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from composer_kd.archive.manifest import read_manifest, verify_file
from composer_kd.archive.remote import RemoteRun
from composer_kd.archive.run_dir import RunDir
from composer_kd.archive.table import read_table, write_table
from composer_kd.core.errors import UserError

__all__ = ['Predictions', 'predictions_file', 'predictions_of', 'read_predictions', 'remove_predictions']

_FOLDER = 'predictions'


@dataclass(frozen=True)
class Predictions:
    """One row for each sample of a split.

    Attributes:
        logits: float16 ``[N, C]``, never probabilities.
        labels: int64 ``[N]``.
        ids: int64 ``[N]``, ascending.
        metadata: Where they are from: ``split``, ``epoch`` and ``batch`` (how many were trained), ``fingerprint`` of
            the split's data, or null where it has none.
    """

    logits: Tensor
    labels: Tensor
    ids: Tensor
    metadata: Mapping[str, Any]

    def same_samples(self, other: Predictions) -> bool:
        """Whether both are of the same pixels with the same labels, and tell the same classes apart.

        A drift leaves ids and labels as they are and changes the images: the fingerprint of the split's data tells.
        """
        return (
            self.logits.shape == other.logits.shape
            and not self.other_data(other)
            and torch.equal(self.ids, other.ids)
            and torch.equal(self.labels, other.labels)
        )

    def other_data(self, other: Predictions) -> bool:
        """Whether the two say that they are of different data; those without a fingerprint do not."""
        ours, theirs = self.metadata.get('fingerprint'), other.metadata.get('fingerprint')
        return ours is not None and theirs is not None and ours != theirs

    def write(self, path: Path) -> None:
        """All of it or nothing; the same predictions make the same bytes."""
        columns = {'logits': self.logits, 'labels': self.labels, 'ids': self.ids}
        # One fact: safetensors puts several into any order.
        write_table(path, columns, {'metadata': json.dumps(dict(self.metadata), sort_keys=True)})


def predictions_file(split: str) -> str:
    """Where the predictions of a split lie in a run directory."""
    return f'{_FOLDER}/{split}.safetensors'


def read_predictions(path: Path) -> Predictions:
    """What a file holds; one that was cut off or is another table is refused."""
    table = read_table(path)
    logits, labels, ids = (table.columns.get(name) for name in ('logits', 'labels', 'ids'))
    try:
        metadata = json.loads(table.metadata['metadata'])
    except (KeyError, ValueError):
        metadata = None
    if (
        logits is None or logits.dtype != torch.float16 or logits.dim() != 2
        or labels is None or labels.dtype != torch.int64 or labels.dim() != 1
        or ids is None or ids.dtype != torch.int64 or ids.dim() != 1
        or not isinstance(metadata, dict)
    ):  # fmt: skip
        raise UserError(
            f'{path}: not predictions: expected logits float16 [N, C], labels and ids int64 [N]; remove the file'
        )
    return Predictions(logits, labels, ids, metadata)


def predictions_of(run: RunDir, split: str) -> Predictions | None:
    """The predictions that a finished run kept, compared with its manifest; ``None`` where it kept none."""
    if not run.manifest_file.is_file():
        return None
    manifest, name = read_manifest(run.path), predictions_file(split)
    if name not in manifest.files:
        return None
    if isinstance(run, RemoteRun):
        return read_predictions(run.fetch_listed(manifest, name))
    verify_file(run.path, manifest, name)
    return read_predictions(run.path / name)


def remove_predictions(folder: Path) -> None:
    """Forget what an earlier evaluation said, and what a killed writer left half-written."""
    for path in (folder / _FOLDER).glob('*.safetensors*'):
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):  # Not empty, or not there.
        (folder / _FOLDER).rmdir()
