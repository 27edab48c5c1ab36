"""``drift.json``: what a run's model answers to its test data under drifts, each measured once for its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer_kd.archive.files import atomic_write
from composer_kd.archive.manifest import DRIFT_FILE

__all__ = ['DriftFile']

_FORMAT, _VERSION = 'composer_kd.drift', 1


@dataclass
class DriftFile:
    """The content of ``drift.json``.

    Attributes:
        weights: The hash of the model's weights.
        epoch: How many epochs had been trained.
        fingerprint: Of the test data that the model is judged on.
        groups: What the worst group is one of: ``superclass`` or ``class``.
        clean: How good the model is on them.
        drifts: By name: ``drift``, a list of what describes it, and how good the model is under it.
    """

    weights: str
    epoch: int
    fingerprint: str
    groups: str
    clean: dict[str, Any] = field(default_factory=dict)
    drifts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def knows(self, name: str, drift: list[dict[str, Any]]) -> bool:
        """Whether this very drift was measured under that name."""
        return name in self.drifts and self.drifts[name].get('drift') == drift

    def with_what_was_measured(self, run_dir: Path) -> DriftFile:
        """This, with what the file of the run directory holds of the same weights and test data."""
        try:
            values = json.loads((run_dir / DRIFT_FILE).read_text(encoding='utf-8'))
            facts = (values['version'], values['weights'], values['fingerprint'], values['groups'])
            if facts == (_VERSION, self.weights, self.fingerprint, self.groups):
                self.clean, self.drifts = dict(values['clean']), dict(values['drifts'])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # There is none, or it is none of ours: everything is measured.
        return self

    def write(self, run_dir: Path) -> None:
        """All of it or nothing."""
        values: Mapping[str, Any] = {'format': _FORMAT, 'version': _VERSION, **self.__dict__}
        text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
        atomic_write(run_dir / DRIFT_FILE, text + '\n')
