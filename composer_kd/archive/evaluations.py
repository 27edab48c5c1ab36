"""``drifts.json``: a model's accuracy on its test data under drifts, each measured once for its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from composer_kd.archive.manifest import DRIFTS_FILE
from composer_kd.storage.atomic import atomic_write

__all__ = ['DriftFile', 'drifts_hash']

_FORMAT, _VERSION = 'composer_kd.drift', 1


def drifts_hash(described: Sequence[Mapping[str, Any]]) -> str:
    """Hash the descriptions of drifts: the suffix of the fingerprint of data under these drifts."""
    return xxhash.xxh3_64_hexdigest(json.dumps(list(described), sort_keys=True))


@dataclass
class DriftFile:
    """The content of ``drifts.json``.

    Attributes:
        weights: The hash of the model's weights.
        epoch: The number of trained epochs.
        fingerprint: Of the test data without these drifts.
        groups: The groups of which the worst is reported: ``superclass``, ``class`` or ``fine class``.
        clean: The measures on that test data.
        drifts: By name: ``drift``, a list of descriptions, the ``fingerprint`` of the drifted test data, and the
            measures on it.
    """

    weights: str
    epoch: int
    fingerprint: str
    groups: str
    clean: dict[str, Any] = field(default_factory=dict)
    drifts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def knows(self, name: str, drift: list[dict[str, Any]]) -> bool:
        """Tell whether this very drift was measured under that name."""
        entry = self.drifts.get(name, {})
        return entry.get('drift') == drift and 'fingerprint' in entry

    @classmethod
    def read(cls, run_dir: Path, weights: str) -> DriftFile | None:
        """Read the measurements of these weights; ``None`` where there are none in our format."""
        try:
            values = json.loads((run_dir / DRIFTS_FILE).read_text(encoding='utf-8'))
            if (values.pop('format'), values.pop('version'), values['weights']) != (_FORMAT, _VERSION, weights):
                return None
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def write(self, run_dir: Path) -> None:
        """Write the file atomically."""
        values: Mapping[str, Any] = {'format': _FORMAT, 'version': _VERSION, **self.__dict__}
        text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
        atomic_write(run_dir / DRIFTS_FILE, text + '\n')
