"""What was measured of the weights of finished runs: ``drifts.json`` and ``attacks.jsonl`` in their directories."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from composer_kd.core.errors import UserError
from composer_kd.report.load import Run, json_lines, plain_text

__all__ = [
    'ATTACKS_FILE', 'DRIFTS_FILE', 'MeasuredDrifts', 'attack_name', 'by_attack', 'lines_at_the_end', 'read_drifts',
    'same_samples',
]  # fmt: skip

# As in the archive and the callbacks, which a report does not import.
DRIFTS_FILE = 'drifts.json'
ATTACKS_FILE = 'attacks.jsonl'


def same_samples(fingerprint: str, entry: Mapping[str, Any]) -> bool:
    """Whether a drift is of data of this fingerprint, but for the last thing that it does to them.

    Args:
        fingerprint: Of the data that the model is tested on: of what is stored, and of the run's own drifts behind it.
        entry: One of ``drifts`` in the file.
    """

    def behind(described: Sequence[Mapping[str, Any]]) -> str:
        """What stands behind a fingerprint: ``drifts_hash`` of the archive, which a report does not import."""
        return xxhash.xxh3_64_hexdigest(json.dumps(list(described), sort_keys=True))

    stored, _, hashed = str(entry.get('fingerprint', '')).rpartition('-')
    before = entry['drift'][:-1]
    own = f'{stored}-{behind(before)}' if before else stored
    return hashed == behind(entry['drift']) and fingerprint == own


@dataclass(frozen=True)
class MeasuredDrifts:
    """The content of one run's file; ``fingerprint`` is that of the test data that the run is tested on."""

    fingerprint: str
    clean: Mapping[str, Any]
    drifts: Mapping[str, Mapping[str, Any]]
    groups: str

    def on(self, fingerprint: str) -> float | None:
        """The accuracy on these test data; ``None`` where it was not measured."""
        if fingerprint == self.fingerprint:
            return float(self.clean['accuracy'])
        found = (one for one in self.drifts.values() if one.get('fingerprint') == fingerprint)
        return next((float(one['accuracy']) for one in found), None)

    def has(self, drifts: Mapping[str, Any]) -> bool:
        """Whether it was measured under all of these, told by their names and by all that describes them."""
        return all(name in self.drifts and self.drifts[name]['drift'] == drift for name, drift in drifts.items())

    def accuracy(self, name: str) -> float:
        return float(self.drifts[name]['accuracy'])

    def errors(self, kinds: Mapping[str, Mapping[float, str]]) -> dict[str, list[float]]:
        return {kind: [1 - self.accuracy(name) for name in names.values()] for kind, names in kinds.items()}


def read_drifts(run: Run) -> MeasuredDrifts | None:
    """What was measured of the weights that the run has now."""
    file = run.path / DRIFTS_FILE
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding='utf-8'))
        if run.weights_hash is None or values['weights'] != run.weights_hash:
            return None
        drifts = {plain_text(name): entry for name, entry in values['drifts'].items()}
        for one in (values['clean'], *drifts.values()):
            if not all(math.isfinite(x) for x in (one['accuracy'], one['worst_group']['accuracy'])):
                raise ValueError
            _ = one['calibration_error']
        for entry in drifts.values():
            _ = [dict(one) for one in entry['drift']]
        return MeasuredDrifts(str(values['fingerprint']), values['clean'], drifts, plain_text(values['groups']))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f'{file}: not what a measurement writes there; remove it, and measure again with '
            f'`composer-kd evaluate --drifts`'
        ) from None


def lines_at_the_end(run: Path, end: int | None) -> list[Mapping[str, Any]]:
    """The lines of a run directory that are about the weights after so many batches."""

    def is_one(line: Any) -> bool:
        shares = all(0 <= line[key] <= 1 for key in ('accuracy', 'robust_accuracy'))
        return shares and line['samples'] >= 1 and bool(plain_text(line['split']) and attack_name(line))

    lines = json_lines(run / ATTACKS_FILE, is_one, 'what a measurement under attack writes')
    return [line for line in lines if end is None or line.get('batch') == end]


def by_attack(lines: Sequence[Mapping[str, Any]], split: str) -> dict[str, Mapping[str, Any]]:
    """Of the lines about a split, one for each attack: that of the most samples, the latest of several."""
    found: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        before = found.get(attack_name(line))
        if line['split'] == split and (before is None or line['samples'] >= before['samples']):
            found[attack_name(line)] = line
    return found


def attack_name(line: Mapping[str, Any]) -> str:
    """An attack in a few words: ``PGD-20, linf 8``; with its steps' size where that is not the usual quarter."""
    epsilon, steps, size = float(line['epsilon']), int(line['steps']), float(line['step_size'])
    usual = epsilon / 4 if steps > 1 else 1.25 * epsilon
    sized = '' if size == usual else f' by {size:g}'
    return f'PGD-{steps}, {plain_text(line["norm"])} {epsilon:g}{sized}{", targeted" if line.get("targeted") else ""}'
