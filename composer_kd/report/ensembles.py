"""Ensembles of a lineage, out of ``ensembles.json`` beside its runs: where all members are reported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer_kd.core.errors import UserError
from composer_kd.report.collect import Run, plain_text
from composer_kd.report.measures import Spread

__all__ = ['Ensemble', 'ensembles']

_FILE = 'ensembles.json'


@dataclass(frozen=True)
class Ensemble:
    """Test accuracies of runs together, over the seeds of which all members are reported.

    Attributes:
        name: As the file calls it.
        members: Likewise.
        logits: Their logits averaged.
        probabilities: Their probabilities averaged.
        best: The member that is best on average.
        alone: Its accuracy.
        at_least_one: The share of the samples for which one of them is right.
    """

    name: str
    members: tuple[str, ...]
    logits: Spread
    probabilities: Spread
    best: str
    alone: Spread
    at_least_one: Spread


def ensembles(runs: Sequence[Run]) -> tuple[Ensemble, ...]:
    """Those beside ``runs`` whose members are all among them, with the weights that were measured.

    Args:
        runs: All that a report is about.
    """
    weights = {run.path.resolve(): _hash(run) for run in runs}
    folders = dict.fromkeys(path.parent for path in weights)
    return tuple(found for folder in folders for found in _of_folder(folder, weights))


def _of_folder(folder: Path, weights: Mapping[Path, str | None]) -> Iterable[Ensemble]:
    file = folder / _FILE
    if not file.is_file():
        return
    try:
        for name, entry in json.loads(file.read_text(encoding='utf-8'))['ensembles'].items():
            reported = [
                seed
                for seed in entry['seeds']
                if all(weights.get(folder / member['run'], '') == member['weights'] for member in seed['members'])
            ]
            if reported:
                yield _over(plain_text(name), [plain_text(member) for member in entry['members']], reported)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise UserError(
            f'{file}: not what a lineage writes there; remove it, and repeat the lineage to have it again'
        ) from None


def _over(name: str, members: Sequence[str], seeds: Sequence[Mapping[str, Any]]) -> Ensemble:
    alone = [_spread(seed['members'][place]['accuracy'] for seed in seeds) for place in range(len(members))]
    best = max(range(len(alone)), key=lambda place: alone[place].mean)
    return Ensemble(
        name=name,
        members=tuple(members),
        logits=_spread(seed['first'][-1]['logits']['accuracy'] for seed in seeds),
        probabilities=_spread(seed['first'][-1]['probabilities']['accuracy'] for seed in seeds),
        best=members[best],
        alone=alone[best],
        at_least_one=_spread(seed['at_least_one'] for seed in seeds),
    )


def _spread(values: Iterable[float]) -> Spread:
    found = Spread.of(float(value) for value in values)
    assert found is not None
    return found


def _hash(run: Run) -> str | None:
    weights = run.manifest.get('weights')
    return weights.get('hash') if isinstance(weights, Mapping) else None
