"""Ensembles of a lineage, out of ``ensembles.json`` beside its runs: where all members are reported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer_kd.core.errors import UserError
from composer_kd.report.load import plain_text
from composer_kd.report.render.text import PERCENT, Table, with_spread
from composer_kd.report.sections import SECTIONS, ReportSection
from composer_kd.report.stats import Spread

__all__ = ['EnsembleAccuracy', 'EnsemblesReport']

_FILE = 'ensembles.json'


@dataclass(frozen=True)
class EnsembleAccuracy:
    """Test accuracies of runs together, over the seeds of which all members are reported."""

    name: str  # as the file calls it
    members: tuple[str, ...]  # likewise
    logits: Spread  # their logits averaged
    probabilities: Spread  # their probabilities averaged
    best: str  # the member that is best on average
    alone: Spread  # its accuracy
    at_least_one: Spread  # the share of the samples for which one of them is right


@SECTIONS.register('ensembles')
class EnsemblesReport(ReportSection):
    """Ensembles beside their best member."""

    order = 20
    method = (
        'An ensemble averages the logits, or the probabilities, of its members on the test samples. Its best member is '
        'best on average over the seeds. At least one right: the share of the samples for which some member is right, '
        'which is what an oracle would reach that chooses among them.'
    )

    def read(self) -> list[EnsembleAccuracy]:
        weights = {run.path.resolve(): run.weights_hash for run in self.summary.runs}
        folders = dict.fromkeys(path.parent for path in weights)
        return [found for folder in folders for found in _of_folder(folder, weights)]

    def tables(self) -> Iterable[Table]:
        yield Table.of(
            'Ensembles: test accuracy, %',
            zip(self.values, strict=True),
            {
                'ensemble': lambda one: one.name,
                'members': lambda one: ', '.join(one.members),
                'n': lambda one: str(one.logits.n),
                'by logits': lambda one: with_spread(one.logits, PERCENT),
                'by probabilities': lambda one: with_spread(one.probabilities, PERCENT),
                'best member': lambda one: one.best,
                'it alone': lambda one: with_spread(one.alone, PERCENT),
                'at least one right': lambda one: with_spread(one.at_least_one, PERCENT),
            },
            labels=2,
        )


def _of_folder(folder: Path, weights: Mapping[Path, Any]) -> Iterable[EnsembleAccuracy]:
    """Those whose members are all reported, with the weights that were measured."""
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


def _over(name: str, members: Sequence[str], seeds: Sequence[Mapping[str, Any]]) -> EnsembleAccuracy:
    def spread(values: Iterable[Any]) -> Spread:
        return Spread.over(map(float, values))

    alone = [spread(seed['members'][place]['accuracy'] for seed in seeds) for place in range(len(members))]
    best = max(range(len(alone)), key=lambda place: alone[place].mean)
    return EnsembleAccuracy(
        name=name,
        members=tuple(members),
        logits=spread(seed['first'][-1]['logits']['accuracy'] for seed in seeds),
        probabilities=spread(seed['first'][-1]['probabilities']['accuracy'] for seed in seeds),
        best=members[best],
        alone=alone[best],
        at_least_one=spread(seed['at_least_one'] for seed in seeds),
    )
