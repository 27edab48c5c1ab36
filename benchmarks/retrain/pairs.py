"""The published pairs of CIFAR-100, ours beside theirs: rows that have not run yet wait."""

from __future__ import annotations

from benchmarks.paired import spread
from benchmarks.retrain.measures import Study
from benchmarks.retrain.table import NOTHING, markdown_table

__all__ = ['pairs']

# Test accuracies of the published tables, of the best epoch; theirs are means of up to five runs.
PUBLISHED = {
    'pair_56_20': {'teacher': 72.34, 'scratch': 69.06, 'kd_published': 70.66, 'dkd': 71.97, 'kd_standardized': 71.43},
    'pair_110_20': {'teacher': 74.31, 'scratch': 69.06, 'kd_published': 70.67, 'kd_standardized': 71.48},
    'pair_110_32': {'teacher': 74.31, 'scratch': 71.14, 'kd_published': 73.08, 'dkd': 74.11, 'kd_standardized': 74.17},
    'pair_32x4_8x4': {'teacher': 79.42, 'scratch': 72.5, 'kd_published': 73.33, 'dkd': 76.32, 'kd_standardized': 76.62},
}
ROWS = {
    'teacher': 'teacher',
    'student alone': 'scratch',
    'KD, 0.1 CE + 0.9 KL at T = 4': 'kd_published',
    'DKD': 'dkd',
    'KD of standardized logits': 'kd_standardized',
    'DIST': 'dist',
}
NOTE = """In brackets the published figures: those of the best test epoch, of students of one teacher. Ours are the last
epoch's, mean and standard deviation over three seeds, each with a teacher of its own, in bfloat16. Otherwise the recipe
is the published one: all 50,000 images, and 240 epochs for teachers too. What waits has not run yet.
yamls/cifar100/pair_*.yaml have it with one teacher of five students."""


def pairs(study: Study) -> str:
    """A row a method, a column a pair: our last epoch's accuracy, and in brackets the published one."""
    there = [scenario for scenario in PUBLISHED if scenario in study.scale.yaml['scenarios']]
    head = ['test accuracy, %', *(scenario.removeprefix('pair_').replace('_', ' to ') for scenario in there)]
    rows = [[title, *(_cell(study, scenario, row) for scenario in there)] for title, row in ROWS.items() if there]
    return markdown_table('## The published pairs', head, rows, NOTE)


def _cell(study: Study, scenario: str, row: str) -> str:
    # The weight of DKD's second part differs from pair to pair, so it is several arms.
    planned = [arm for place, arm, _ in study.entries if place == scenario and arm.partition('_beta')[0] == row]
    if not planned and row != 'teacher':
        return NOTHING
    reached = [accuracy for arm in planned or [row] for accuracy in _reached(study, scenario, arm)]
    published = PUBLISHED[scenario].get(row)
    return ' '.join(
        filter(None, [spread(reached) if reached else 'waits', '' if published is None else f'({published:.2f})'])
    )


def _reached(study: Study, scenario: str, arm: str) -> list[float]:
    if arm == 'teacher':
        lines = [
            line for name, line in study.lines.items() if name.startswith(f'{scenario}.earlier.') and line['epochs']
        ]
        return [100 * line['epochs'][-1]['test_accuracy'] for line in lines]
    return [
        accuracy
        for budget in study.budgets(scenario, arm)
        if (entry := study.entry(scenario, arm, budget)) is not None
        for accuracy in entry.last('test_accuracy').values()
    ]
