"""What a study says of arms under attack: what is left of their accuracy, and what attacks took in their training."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.paired import Paired, spread
from composer_kd.archive import RunDir
from composer_kd.report.under_attack import by_attack, lines_at_the_end
from composer_kd.runs.plan import PlannedRun

__all__ = ['attacked_table', 'under_attack']


def under_attack(run: PlannedRun, last: dict[str, Any]) -> dict[str, Any]:
    """Of a finished run, by the last line of its metrics; nothing where it was not attacked when it had ended."""
    lines = by_attack(lines_at_the_end(run.folder, last.get('batch')), 'test')
    if not lines:
        return {}
    found = {
        name: {
            'as it is': round(100 * one['accuracy'], 2),
            'robust': round(100 * one['robust_accuracy'], 2),
            'samples': one['samples'],
        }
        for name, one in lines.items()
    }
    alone = all((line.get('runs_beside') or 1) == 1 for line in RunDir(run.folder).metrics())
    seconds = last.get('seconds_attack_total') if alone else None
    return {'attack': last.get('multiply_adds_attack_total', 0.0), 'attack_seconds': seconds, 'under_attack': found}


def attacked_table(result: dict[str, Any], student: float) -> list[str]:
    """Lines of Markdown; none where no arm was attacked.

    Args:
        result: The study, as its JSON has it.
        student: The multiply-adds of the baseline's training.
    """
    measured = {arm: [one for one in runs if 'under_attack' in one] for arm, runs in result['arms'].items()}
    everyone = [one['under_attack'] for runs in measured.values() for one in runs]
    attacks = list(dict.fromkeys(name for of in everyone for name in of))
    if not attacks:
        return []
    sizes = sorted({one['samples'] for of in everyone for one in of.values()})
    work = {arm: statistics.mean(one['attack'] for one in runs) for arm, runs in measured.items() if runs}
    most = max(work, key=work.__getitem__)
    lines = [
        '',
        f'**Under attack** ({" or ".join(f"{size:,}" for size in sizes)} test samples; those count that are right both',
        "as they are and as the attack leaves them. Attacks in training: multiply-adds as shares of the baseline's",
        'training, and their seconds where a run had the machine for itself. The gain is under the first attack, over',
        f'{most}, paired by seed)',
        '',
    ]
    heads = ['arm', 'seeds', 'as they are, %', *(f'{attack}, %' for attack in attacks), 'gain', 'attacks in training']
    lines += [f'| {" | ".join([*heads, "less than " + most, "seconds"])} |', '|---|' + '---:|' * (len(heads) + 1)]
    for arm, runs in measured.items():
        if runs:
            of = [one['under_attack'] for one in runs]
            robust = [[one[name]['robust'] for one in of if name in one] for name in attacks]
            seconds = [one['attack_seconds'] for one in runs if one.get('attack_seconds') is not None]
            cells = [
                arm,
                str(len(runs)),
                spread([next(iter(one.values()))['as it is'] for one in of]),
                *(spread(one) if one else '–' for one in robust),
                '' if arm == most else _gain(runs, measured[most], attacks[0]),
                f'{100 * work[arm] / student:.1f} %',
                f'{work[most] / work[arm]:.1f}×' if work[arm] else '–',
                spread(seconds, 0) if seconds else '–',
            ]
            lines.append(f'| {" | ".join(cells)} |')
    return lines


def _gain(own: list[dict[str, Any]], theirs: list[dict[str, Any]], attack: str) -> str:
    """Runs in the same places are pairs: an arm that recycles another one's examples has other seeds."""
    both = zip(own, theirs, strict=False)  # A study may be under way.
    pairs = [(one['under_attack'].get(attack), other['under_attack'].get(attack)) for one, other in both]
    known = [one['robust'] - other['robust'] for one, other in pairs if one is not None and other is not None]
    return str(Paired.of(known)) if known else '–'
