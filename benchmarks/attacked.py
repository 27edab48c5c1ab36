"""What a study says of arms under attack: what is left of their accuracy, and what attacks took in their training."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.paired import spread
from composer_kd.report.under_attack import attack_in_words, lines_at_the_end
from composer_kd.runs.plan import PlannedRun

__all__ = ['attacked_table', 'under_attack']


def under_attack(run: PlannedRun, last: dict[str, Any]) -> dict[str, Any]:
    """Of a finished run, by the last line of its metrics; nothing where it was not attacked when it had ended."""
    lines = [one for one in lines_at_the_end(run.folder, last.get('batch')) if one['split'] == 'test']
    if not lines:
        return {}
    found = {
        attack_in_words(one): {
            'as it is': round(100 * one['accuracy'], 2),
            'robust': round(100 * one['robust_accuracy'], 2),
            'samples': one['samples'],
        }
        for one in lines
    }
    return {'attack': last['multiply_adds_attack_total'], 'under_attack': found}


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
    samples = sorted({one['samples'] for of in everyone for one in of.values()})
    of_how_many = ' or '.join(f'{number:,}' for number in samples)
    lines = [
        '',
        f'**Under attack** ({of_how_many} test samples; those count that are right both as they are and as the',
    ]
    lines += ["attack leaves them; attacks in training are multiply-adds, as shares of the baseline's training)", '']
    lines += [f'| arm | seeds | as they are, % | {" | ".join(f"{one}, %" for one in attacks)} | attacks in training |']
    lines += ['|---|' + '---:|' * (len(attacks) + 3)]
    for arm, runs in measured.items():
        if not runs:
            continue
        of = [one['under_attack'] for one in runs]
        robust = [[one[name]['robust'] for one in of if name in one] for name in attacks]
        cells = [
            arm,
            str(len(runs)),
            spread([next(iter(one.values()))['as it is'] for one in of]),
            *(spread(one) if one else '–' for one in robust),
            f'{100 * statistics.mean(one["attack"] for one in runs) / student:.1f} %',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return lines
