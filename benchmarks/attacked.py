"""What a study says of arms under attack: what is left of their accuracy, and what attacks took in their training."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paired import Paired, Run, at_least, held_from, pairs, spread
from composer_kd.archive import RunDir
from composer_kd.core.errors import UserError
from composer_kd.report.measured import attack_name, by_attack, lines_at_the_end
from composer_kd.runs.plan import PlannedRun

__all__ = ['MARGIN', 'attacked_table', 'by_others', 'first_attack', 'gains_under_attack', 'under_attack']

# Points of robust accuracy that an arm may be worse by and still count as robust; studies say so in their heads.
MARGIN = 1.0


def under_attack(run: PlannedRun, last: dict[str, Any]) -> dict[str, Any]:
    """Of a finished run, by the last line of its metrics; nothing where it was not attacked when it had ended."""
    lines = by_attack(lines_at_the_end(run.folder, last.get('batch')), 'test')
    if not lines:
        return {}
    found = {
        name: {
            'as it is': _percent(one['accuracy']),
            'robust': _percent(one['robust_accuracy']),
            'samples': one['samples'],
        }
        for name, one in lines.items()
    }
    metrics = RunDir(run.folder).metrics()
    alone = all((line.get('runs_beside') or 1) == 1 for line in metrics)
    return {
        'attack': last.get('multiply_adds_attack_total', 0.0),
        'attack_seconds': last.get('seconds_attack_total') if alone else None,
        'train_seconds': last.get('seconds_train_total') if alone else None,
        'under_attack': found,
        'on_the_way': _on_the_way(run, next(iter(lines)), metrics),
    }


def _on_the_way(run: PlannedRun, attack: str, metrics: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Epoch, robust accuracy on always the same test samples, and multiply-adds of attacks until then."""
    lines = [one for one in lines_at_the_end(run.folder, None) if one['split'] == 'test']
    lines = [one for one in lines if attack_name(one) == attack]
    fewest = min(one['samples'] for one in lines)
    costs = {line['batch']: (line['epoch'], line.get('multiply_adds_attack_total', 0.0)) for line in metrics}
    way = [
        [costs[one['batch']][0], _percent(one['robust_accuracy']), costs[one['batch']][1]]
        for one in lines
        if one['samples'] == fewest and one.get('batch') in costs
    ]
    return way if len(way) > 1 else []


def _percent(share: float) -> float:
    return round(100 * share, 2)


def by_others(result: dict[str, Any], folder: Path) -> None:
    """Enter what other libraries left of the same weights: files of ``composer-kd evaluate --attacks --json``.

    A file is called ``attacked-*.json``. What is of other weights than the run has now is no word about it, and what is
    of validation samples none about the test.
    """
    for file in sorted(folder.glob('attacked-*.json')):
        for line in _lines_of(file):
            name = f'{_by_another(line)}, {line["library"]}, {line["samples"]:,} samples'
            for run in (one for runs in result['arms'].values() for one in runs if 'under_attack' in one):
                if run.get('weights') is not None and run['weights'] == line['weights']:
                    run['under_attack'][name] = {
                        'as it is': _percent(line['accuracy']),
                        'robust': _percent(line['robust_accuracy']),
                        'samples': line['samples'],
                    }


def _lines_of(file: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(file.read_text())
        if document['format'] != 'composer_kd.attack':
            raise ValueError
        return [line for line in document['runs'] if line['split'] == 'test']
    except (ValueError, KeyError, TypeError):
        raise UserError(f'{file}: not what `composer-kd evaluate --attacks --json` writes; remove it') from None


def _by_another(line: Mapping[str, Any]) -> str:
    """AutoAttack has no steps."""
    return attack_name(line) if 'steps' in line else f'{line["norm"]} {line["epsilon"]:g}'


def first_attack(result: Mapping[str, Any]) -> str | None:
    """The attack that gains are of; ``None`` where no arm was attacked."""
    everyone = (one['under_attack'] for runs in result['arms'].values() for one in runs if one.get('under_attack'))
    return next((next(iter(of)) for of in everyone), None)


def gains_under_attack(runs: Sequence[Run], others: Sequence[Run], attack: str) -> list[float]:
    """Differences in robust accuracy, repetition by repetition."""
    both = [[one.get('under_attack', {}).get(attack) for one in pair] for pair in pairs(runs, others)]
    return [round(own['robust'] - other['robust'], 2) for own, other in both if own is not None and other is not None]


def attacked_table(result: dict[str, Any], student: float) -> list[str]:
    """Lines of Markdown; none where no arm was attacked.

    Args:
        result: The study, as its JSON has it.
        student: The multiply-adds of the baseline's training.
    """
    measured = {arm: [one for one in runs if 'under_attack' in one] for arm, runs in result['arms'].items()}
    measured = {arm: runs for arm, runs in measured.items() if runs}
    everyone = [one['under_attack'] for runs in measured.values() for one in runs]
    attacks = list(dict.fromkeys(name for of in everyone for name in of))
    if not attacks:
        return []
    plain = result.get('baseline') or next(iter(result['arms']))
    table = _Table(measured, attacks, plain, student)
    sizes = sorted({of[attacks[0]]['samples'] for of in everyone if attacks[0] in of})
    most = table.most
    lines = [
        '',
        f'**Under attack** ({" or ".join(f"{size:,}" for size in sizes)} test samples; those count that are right both',
        f'as they are and as the attack leaves them. Gain: under {attacks[0]}, over {most}, paired by repetition; as',
        f'robust: the lower end of its 95 % interval is above -{MARGIN:g}, "no" if the upper one is below. Attacks in',
        f"training: multiply-adds as shares of {plain}'s training; until there: as shares of all those of {most},",
        f'until the accuracy on the way that {most} ends with, less {MARGIN:g}, held to the end; in how many runs,',
        'where not in all. Seconds are of runs that had the machine for themselves, and compared between such runs',
        'alone)',
        '',
    ]
    heads = ['arm', 'seeds', 'as they are, %', *(f'{attack}, %' for attack in attacks), 'gain', 'as robust']
    heads += ['attacks in training', f'less than {most}', 'until there']
    heads += ['seconds of attacks', f"as a part of {plain}'s training", f'seconds of training over {plain}']
    lines += [f'| {" | ".join(heads)} |', '|---|' + '---:|' * (len(heads) - 1)]
    return lines + [f'| {" | ".join(table.row(arm))} |' for arm in measured]


class _Table:
    """What the rows have in common.

    Attributes:
        most: The arm whose attacks cost most: what others are held against.
    """

    def __init__(self, measured: Mapping[str, Sequence[Run]], attacks: Sequence[str], plain: str, student: float):
        self._measured, self._attacks, self._student = measured, attacks, student
        self._work = {arm: statistics.fmean(one['attack'] for one in runs) for arm, runs in measured.items()}
        self.most = max(self._work, key=self._work.__getitem__)
        self._plain_seconds = _alone(measured.get(plain, ()), 'train_seconds')

    def row(self, arm: str) -> list[str]:
        runs, work = self._measured[arm], self._work[arm]
        of = [one['under_attack'] for one in runs]
        robust = [[one[name]['robust'] for one in of if name in one] for name in self._attacks]
        return [
            arm,
            str(len(runs)),
            spread([next(iter(one.values()))['as it is'] for one in of]),
            *(spread(one) if one else '–' for one in robust),
            *(('', '') if arm == self.most else self._against_the_most(runs)),
            f'{100 * work / self._student:.1f} %',
            f'{self._work[self.most] / work:.1f}×' if work else '–',
            self._until_there(runs),
            *self._seconds(runs),
        ]

    def _against_the_most(self, runs: Sequence[Run]) -> tuple[str, str]:
        gains = gains_under_attack(runs, self._measured[self.most], self._attacks[0])
        if not gains:
            return '–', '–'
        paired = Paired.of(gains)
        if paired.half is None:
            return str(paired), '–'
        if paired.mean - paired.half > -MARGIN:
            return str(paired), 'yes'
        return str(paired), 'no' if paired.mean + paired.half < -MARGIN else 'not shown'

    def _until_there(self, runs: Sequence[Run]) -> str:
        shares = []
        for one, other in pairs(runs, self._measured[self.most]):
            if one.get('on_the_way') and other.get('on_the_way') and other['attack']:
                level = other['on_the_way'][-1][1] - MARGIN
                first = held_from([robust for _, robust, _ in one['on_the_way']], level)
                spent = one['attack'] if first is None else one['on_the_way'][first][2]
                shares.append((100 * spent / other['attack'], first is not None))
        return at_least(shares, ' %', 0) if shares else '–'

    def _seconds(self, runs: Sequence[Run]) -> list[str]:
        attacks, training, plain = _alone(runs, 'attack_seconds'), _alone(runs, 'train_seconds'), self._plain_seconds
        return [
            spread(attacks, 0) if attacks else '–',
            _of_means(attacks, plain, lambda ratio: f'{100 * ratio:.1f} %'),
            _of_means(training, plain, lambda ratio: f'{ratio:.2f}×'),
        ]


def _alone(runs: Sequence[Run], key: str) -> list[float]:
    """Seconds of the runs that had the machine for themselves."""
    return [one[key] for one in runs if one.get(key) is not None]


def _of_means(values: Sequence[float], plain: Sequence[float], text: Callable[[float], str]) -> str:
    return text(statistics.fmean(values) / statistics.fmean(plain)) if values and plain else '–'
