"""What accuracies cost: work, epochs and time, beside the baseline and up to fixed levels."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from benchmarks.paired import spread
from benchmarks.retrain.measures import Entry, Reached, Study, first_epoch_at, took
from benchmarks.retrain.table import NOTHING, markdown_table

__all__ = ['costs', 'matches', 'ratios', 'thresholds', 'train_thresholds', 'trained']

TRAIN_ACCURACIES = (0.95, 0.96, 0.97, 0.98, 0.99)
STUDENTS = (1, 3, 10)


def matches(study: Study, scenario: str, arms: Sequence[str]) -> str:
    """For the baseline in its full length, and for the honest rival in its full length where that has run."""
    references = [study.entry(scenario, arm, study.scale.full) for arm in ('baseline', 'scratch')]
    return '\n\n'.join(_matches_of(study, scenario, arms, entry) for entry in references if entry)


def _matches_of(study: Study, scenario: str, arms: Sequence[str], reference: Entry) -> str:
    whole, seconds = study.mean_costs(reference), study.mean_costs(reference, seconds=True)
    assert whole is not None
    target = statistics.fmean(reference.last('test_accuracy').values())
    rows = []
    for arm in arms:
        if arm in ('baseline', reference.arm):
            continue
        entry = study.match(scenario, arm, target)
        if entry is None:
            rows.append([f'`{arm}`', 'not within its budgets', *[NOTHING] * (4 + len(STUDENTS))])
            continue
        costs, timed = study.mean_costs(entry), study.mean_costs(entry, seconds=True)
        assert costs is not None
        rows.append(
            [
                f'`{arm}`',
                f'{entry.budget} ({study.reached(entry)})',
                f'{study.scale.full / entry.budget:.1f}×',
                *(f'{whole.total() / costs.total(students):.1f}×' for students in STUDENTS),
                f'{whole.total() / (costs.total() + costs.sunk):.2f}×',
                f'{seconds.total() / timed.total():.1f}×' if seconds and timed else NOTHING,
                f'{_share(costs.teachers + costs.harvest, costs.student)}',
            ]
        )
    head = ['arm', 'epochs, and what it reached', f'`{reference.arm}`’s epochs ÷ its epochs', 'work ÷ work']
    head += [*(f'for {n} students' for n in STUDENTS[1:]), 'teachers’ training charged', 'time ÷ time']
    head += ['teachers and harvest, of its training']
    note = (
        f'The smallest budget on which an arm’s mean is at least {target:.1f} %, what `{reference.arm}` reaches in '
        f'{study.scale.full} epochs. Work is multiply-adds, teachers and harvest inside; the harvest serves several '
        f'students, so it is divided among 1, 3 and 10. The teachers’ own training is there already in a sequence; '
        f'charged to one run it gives the column of its own. Time: the counted work at rates measured with the machine '
        f'idle.'
    )
    return markdown_table(f'What it takes to match `{reference.arm}` of {study.scale.full} epochs', head, rows, note)


def _share(part: float, whole: float) -> str:
    return f'{100 * part / whole:.0f} %' if part else '0 %'


def ratios(study: Study, scenario: str, arms: Sequence[str]) -> str:
    """What every arm costs beside the baseline in its full length, whatever it reaches."""
    reference = study.entry(scenario, 'baseline', study.scale.full)
    whole = study.mean_costs(reference) if reference else None
    if whole is None:
        return ''
    rows = []
    for arm in arms:
        for budget in study.budgets(scenario, arm):
            entry = study.entry(scenario, arm, budget)
            costs = study.mean_costs(entry) if entry and entry is not reference else None
            if entry is None or costs is None:
                continue
            ratios = [whole.total() / costs.total(students) for students in STUDENTS]
            charged = whole.total() / (costs.total() + costs.sunk)
            shown = [f'{ratio:.1f}' for ratio in ratios if costs.harvest] or [f'{ratios[0]:.1f}', *['same'] * 2]
            rows.append([f'`{arm}`', str(budget), study.reached(entry), *shown, f'{charged:.2f}'])
    head = ['arm', 'epochs', 'test accuracy', 'baseline’s work ÷ its work', 'for 3 students', 'for 10 students']
    head += ['teachers’ training charged']
    note = (
        f'Work is multiply-adds, teachers and harvest inside; a harvest serves several students, so it is divided '
        f'among them. The baseline has {study.scale.full} epochs and the accuracy above; below 1, an arm costs more.'
    )
    return markdown_table('What each arm costs beside the baseline', head, rows, note)


def thresholds(study: Study, scenario: str, arms: Sequence[str]) -> str:
    reached = study.baseline(scenario).values()
    if not reached:
        return ''
    top = 5 * int(max(reached) // 5)
    levels = [level for level in range(top - 15, top + 11, 5) if level > 0]
    note = (
        f'Epochs / multiply-adds in 10^12{_minutes(study)} (budget) until the test accuracy is first reached by all '
        f'seeds, on the budget where that is the least work; teachers and harvest inside. Of every arm the tests after '
        f'each {study.tested_every(scenario)} epochs count, and the last one.'
    )
    return _to_accuracy(study, scenario, arms, 'test_accuracy', levels, 'Epochs, work and time to an accuracy', note)


def train_thresholds(study: Study, scenario: str, arms: Sequence[str]) -> str:
    levels = study.scale.yaml.get('train_accuracies', [])
    note = 'Likewise, by the accuracy on training images that are not augmented.'
    title = 'Epochs, work and time to a training accuracy'
    return _to_accuracy(study, scenario, arms, 'train_accuracy_clean', levels, title, note)


def _to_accuracy(
    study: Study, scenario: str, arms: Sequence[str], key: str, levels: Sequence[int], title: str, note: str
) -> str:
    rows = []
    for arm in arms:
        found = [study.cheapest(scenario, arm, level / 100, key) for level in levels]
        if any(found):
            rows.append([f'`{arm}`', *(_took(one) if one else NOTHING for one in found)])
    return markdown_table(title, ['arm', *(f'{level} %' for level in levels)], rows, note)


def _took(reached: Reached) -> str:
    minutes = '' if math.isnan(reached.seconds) else f' / {reached.seconds / 60:.1f}'
    return f'{reached.epochs:.1f} / {reached.work / 1e12:.1f}{minutes} ({reached.budget})'


def _minutes(study: Study) -> str:
    return ' / minutes of an idle machine' if study.rates else ''


def trained(study: Study, scenario: str, arms: Sequence[str]) -> str:
    """Epochs to the training accuracies of the published table, where any run comes near them."""
    rows = []
    for arm in arms:
        entry = study.entry(scenario, arm, study.scale.full)
        if entry is None:
            continue
        for key, name in (('train_accuracy_running', 'running'), ('train_accuracy_clean', 'clean')):
            cells = [_epochs_to(entry, threshold, key) for threshold in TRAIN_ACCURACIES]
            if any(cell != NOTHING for cell in cells):
                rows.append([f'`{arm}`', name, *cells])
    head = ['arm', 'training accuracy', *(f'{threshold:.2f}' for threshold in TRAIN_ACCURACIES)]
    note = (
        'Published (ResNet-56, CIFAR-100, 200 epochs): baselines 81 to 97, 84 to 101, 88 to 109, 97 to 117 and 107 to '
        '135 epochs; with teacher mixup 76, 82, 84, 93 and 105. Running: during the epoch, as augmented; clean: after '
        'it, in evaluation mode.'
    )
    return markdown_table('Epochs to a training accuracy', head, rows, note)


def _epochs_to(entry: Entry, threshold: float, key: str) -> str:
    found = [first_epoch_at(entry.lines[number]['epochs'], threshold, key) for number in entry.numbers]
    reached = [float(one['epoch']) for one in found if one is not None]
    if not reached:
        return NOTHING
    return spread(reached) + ('' if len(reached) == len(found) else f' ({len(reached)} of {len(found)})')


def costs(study: Study) -> str:
    rows = []
    for (scenario, arm, budget), entry in study.entries.items():
        costs = study.mean_costs(entry) if entry.numbers else None
        if costs is None:
            continue
        seconds = [took(entry.lines[number]) for number in entry.numbers]
        timed = study.mean_costs(entry, seconds=True)
        rows.append(
            [
                f'`{scenario}` `{arm}`',
                str(budget),
                str(len(entry.numbers)),
                f'{costs.student / 1e12:.2f}',
                f'{costs.teachers / 1e12:.2f}',
                f'{costs.harvest / 1e12:.2f}',
                f'{statistics.fmean(seconds) / 60:.1f}',
                f'{timed.total() / 60:.1f}' if timed else NOTHING,
            ]
        )
    head = ['scenario, arm', 'epochs', 'n', 'student, 10^12', 'teachers, 10^12', 'harvest, 10^12']
    head += ['minutes in the study', 'minutes, machine idle']
    total = sum(map(took, study.lines.values()))
    measured = study.rates.measured if study.rates else ''
    rates = f' Minutes of an idle machine are the counted work at the rates of {measured}.' if measured else ''
    note = (
        f'Multiply-adds and minutes of one run. In the study runs train side by side and are evaluated every few '
        f'epochs, which is inside; all runs together took {total / 3600:.1f} hours of one worker.{rates}'
    )
    return markdown_table('## What the runs cost', head, rows, note)
