"""The results of a scale as Markdown: every table from the lines alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.paired import spread
from benchmarks.retrain.cells import Scale
from benchmarks.retrain.measures import Entry, Line, Study, first_epoch_at, took
from benchmarks.retrain.overlap import overlap_table
from benchmarks.retrain.pairs import pairs
from benchmarks.retrain.plots import write_plots
from benchmarks.retrain.results import Results
from benchmarks.retrain.scenarios import generations, search
from benchmarks.retrain.table import NOTHING, markdown_table
from composer_kd.archive import atomic_write

__all__ = ['markdown', 'write_tables']

TRAIN_ACCURACIES = (0.95, 0.96, 0.97, 0.98, 0.99)
STUDENTS = (1, 3, 10)


def write_tables(scale: Scale, results: Results) -> Path:
    """``results/SCALE.md`` and its pictures, from ``results/SCALE.jsonl``."""
    scale.accuracy = results.accuracy
    study = Study(scale, results.by_name(), results.by_name(alone=True))
    file = results.file.with_suffix('.md')
    atomic_write(file, markdown(study, write_plots(study, results.file)))
    print(f'written: {file}')
    return file


def markdown(study: Study, pictures: dict[str, str] | None = None) -> str:
    """All tables.

    Args:
        study: What there is.
        pictures: File names of the scenarios' pictures.
    """
    parts = [f'# Retraining: the scale `{study.scale.name}`', _header(study)]
    for scenario, facts in study.scale.scenarios.items():
        arms = study.arms(scenario)
        own = [arm for arm in arms if any(place == scenario and name == arm for place, name, _ in study.entries)]
        if not own:
            continue
        parts.append(f'## {facts["title"]} (`{scenario}`)')
        if pictures and scenario in pictures:
            parts.append(f'![Test accuracy by budget, and by what it cost]({pictures[scenario]})')
        parts += [_earlier(study, scenario)]
        parts += [_accuracies(study, scenario, arms), _gains(study, scenario, arms), _matches(study, scenario, arms)]
        parts += [_thresholds(study, scenario, arms), _trained(study, scenario, arms), _more(study, scenario, arms)]
        parts += [overlap_table(study, scenario, arms)]
        parts += [generations(study, scenario), search(study, scenario)]
    parts += [pairs(study), _grid(study), _costs(study)]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _header(study: Study) -> str:
    lines = [line for line in study.lines.values() if line.get('hardware')]
    if not lines:
        return 'Nothing is finished yet.'
    machines = sorted({_machine(line['hardware']) for line in lines})
    torch = sorted({line['versions']['torch'] for line in lines})
    dates = sorted(line['finished_at'][:10] for line in lines)
    scale = study.scale
    return (
        f'`python -m benchmarks.retrain {scale.name}`, {len(study.lines)} runs from {dates[0]} to {dates[-1]}, '
        f'{"; ".join(machines)}, torch {", ".join(torch)}.\n\n'
        f'Test accuracies in percent, of the last epoch if not said, mean ± standard deviation over seeds; n stands '
        f'beside it where it is not {scale.yaml["seeds"]}. The baseline is the recipe of the first study '
        f'({scale.yaml["baseline"]["scheduler"]["name"]} rate, {scale.full} epochs); every other arm has a cosine for '
        f'its budget, with a rate and a weight decay from one grid, '
        f'its own or that of an arm like it ([the grid](#the-grid) says whose). What each arm does stands in '
        f'[arms.yaml](../arms.yaml). Multiply-adds of a training step count three forward passes.'
    )


def _machine(facts: dict) -> str:
    gpu = f'{facts["gpu"]}, ' if 'gpu' in facts else ''
    return f'{gpu}{facts["cpu"]}, {facts["cores"]} cores'


def _earlier(study: Study, scenario: str) -> str:
    lines = [line for line in study.lines.values() if (line['scenario'], line['arm']) == (scenario, 'earlier')]
    ends = [100 * line['epochs'][-1]['test_accuracy'] for line in lines if line['epochs']]
    return f'The earlier iterations end with {spread(ends)} % (n = {len(ends)}).' if ends else ''


def _accuracies(study: Study, scenario: str, arms: Sequence[str]) -> str:
    budgets = sorted({budget for arm in arms for budget in study.budgets(scenario, arm)})
    rows = []
    for arm in arms:
        cells = []
        for budget in budgets:
            entry = study.entry(scenario, arm, budget)
            at = _curve_at(study, scenario, budget) if arm == 'baseline' and entry is None else None
            cells.append(_spread(study, entry) if entry else f'({spread(at)})' if at else NOTHING)
        rows.append([f'`{arm}`', *cells])
    note = 'In brackets: the baseline on its way, at that epoch of its full length.' if len(budgets) > 1 else ''
    return markdown_table('Test accuracy', ['arm', *(f'{budget} epochs' for budget in budgets)], rows, note)


def _curve_at(study: Study, scenario: str, epoch: int) -> list[float]:
    entry = study.entry(scenario, 'baseline', study.scale.full)
    if entry is None:
        return []
    found = [one for number in entry.numbers for one in entry.lines[number]['epochs'] if one['epoch'] == epoch]
    return [100 * one['test_accuracy'] for one in found if 'test_accuracy' in one]


def _spread(study: Study, entry: Entry) -> str:
    values = list(entry.last('test_accuracy').values())
    count = f' (n = {len(values)})' if len(values) != study.scale.yaml['seeds'] else ''
    return spread(values) + count


def _gains(study: Study, scenario: str, arms: Sequence[str]) -> str:
    budgets = study.budgets(scenario, 'scratch')
    rows = []
    for arm in arms:
        entries = [study.entry(scenario, arm, budget) for budget in budgets]
        gains = [study.gain(entry) if entry else None for entry in entries]
        if arm not in ('baseline', 'scratch') and any(gains):
            rows.append([f'`{arm}`', *(str(gain) if gain else NOTHING for gain in gains)])
    note = (
        'Points, paired by seed, with the 95 % interval of the mean and the probability of as much by chance (t test).'
    )
    return markdown_table(
        'Gain over `scratch` on the same budget', ['arm', *(f'{b} epochs' for b in budgets)], rows, note
    )


def _matches(study: Study, scenario: str, arms: Sequence[str]) -> str:
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
                f'{entry.budget} ({_spread(study, entry)})',
                f'{study.scale.full / entry.budget:.1f}×',
                *(f'{whole.total() / costs.total(students):.1f}×' for students in STUDENTS),
                f'{whole.total() / (costs.total() + costs.sunk):.2f}×',
                f'{seconds.total() / timed.total():.1f}×' if seconds and timed else NOTHING,
                f'{_share(costs.teachers + costs.harvest, costs.student)}',
            ]
        )
    head = ['arm', 'epochs, and what it reached', 'fewer epochs', 'less work', *(f'{n} students' for n in STUDENTS[1:])]
    head += ['less work, teachers’ training charged', 'less time', 'teachers and harvest, of its training']
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


def _thresholds(study: Study, scenario: str, arms: Sequence[str]) -> str:
    reached = study.baseline(scenario).values()
    if not reached:
        return ''
    top = 5 * int(max(reached) // 5)
    levels = [level for level in range(top - 15, top + 6, 5) if level > 0]
    rows = []
    for arm in arms:
        cells = []
        for level in levels:
            found = study.cheapest(scenario, arm, level / 100)
            cells.append(f'{found[0]:.1f} / {found[1] / 1e12:.1f} ({found[2]})' if found else NOTHING)
        if any(cell != NOTHING for cell in cells):
            rows.append([f'`{arm}`', *cells])
    note = (
        'Epochs / multiply-adds in 10^12 (budget) until the test accuracy is first reached by all seeds, on the budget '
        'where that is cheapest; teachers and harvest inside.'
    )
    return markdown_table('Epochs and work to an accuracy', ['arm', *(f'{level} %' for level in levels)], rows, note)


def _trained(study: Study, scenario: str, arms: Sequence[str]) -> str:
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


def _more(study: Study, scenario: str, arms: Sequence[str]) -> str:
    rows = []
    for arm in arms:
        for budget in study.budgets(scenario, arm):
            entry = study.entry(scenario, arm, budget)
            assert entry is not None
            rows.append(
                [
                    f'`{arm}`',
                    str(budget),
                    spread(list(entry.best('test_accuracy').values())),
                    _optional(entry.evaluation('test', 'calibration_error').values(), 100),
                    _optional(entry.evaluation('test', 'agreement').values(), 100),
                    _optional(entry.evaluation('test', 'teacher_kl').values(), 1, 2),
                ]
            )
    head = ['arm', 'epochs', 'best epoch, %', 'calibration error, %', 'agrees with its teachers, %', 'KL to them']
    note = 'On the test images. The best epoch is chosen with hindsight; compare last epochs.'
    return markdown_table('Best epoch, calibration and fidelity', head, rows, note)


def _optional(values: Iterable[float], factor: float, digits: int = 1) -> str:
    present = [factor * value for value in values]
    return spread(present, digits) if present else NOTHING


def _grid(study: Study) -> str:
    rows = []
    scale = study.scale
    points = dict.fromkeys(
        _values(point)
        for family, budgets in scale.yaml['tune'].items()
        for budget in budgets
        for point in scale.grid_of(family, budget)
    )
    for phase in scale.phases():
        for family, budget in scale.tuned_by(phase):
            reached = {}
            for point in scale.grid_of(family, budget):
                cell = scale.cell(phase['scenario'], family, budget, 0, point)
                reached[_values(point)] = _validated(study.lines.get(cell.name)) if cell else None
            if any(reached.values()):
                best = max(value or 0.0 for value in reached.values())
                shown = [_of_grid(reached.get(name), best) for name in points]
                rows.append([f'`{family}`', phase['scenario'], str(budget), *shown])
    note = (
        f'Validation accuracy of the last epoch, first seed. Where the best rate was the highest of the grid, one '
        f'beyond it was tried. Scenarios without a grid have the values of `same`. {_borrowing(study)}'
    )
    return markdown_table('## The grid', ['arm', 'scenario', 'epochs', *points], rows, note)


def _values(point: Mapping[str, float]) -> str:
    return ', '.join(f'{key.rpartition(".")[2]} {value:g}' for key, value in point.items())


def _of_grid(value: float | None, best: float) -> str:
    if value is None:
        return NOTHING
    text = f'{100 * value:.1f}' if value else 'NaN'
    return f'**{text}**' if value == best else text


def _borrowing(study: Study) -> str:
    """Which arms have the values of another one's grid, and which budgets those of another budget."""
    scale = study.scale
    others: dict[str, list[str]] = {}
    lengths: dict[str, list[str]] = {}
    for (_, arm, budget), entry in study.entries.items():
        if not entry.numbers or scale.arms[arm].get('recipe') == 'baseline':
            continue
        family, name = scale.family_of(arm), f'`{arm.partition("@")[0]}`'
        if family != arm and name not in others.setdefault(family, []):
            others[family].append(name)
        tuned = scale.tuned_at(family, budget)
        if tuned != budget and str(budget) not in lengths.setdefault(f'{family}, {tuned}', []):
            lengths[f'{family}, {tuned}'].append(str(budget))
    said = [f'The values of `{family}` are also those of {", ".join(arms)}.' for family, arms in others.items() if arms]
    for place, budgets in lengths.items():
        family, _, tuned = place.partition(', ')
        said.append(f'At {" and ".join(budgets)} epochs they are those of `{family}` at {tuned}.')
    return ' '.join(said)


def _validated(line: Line | None) -> float | None:
    """The validation accuracy that a run ended with; 0 for one that failed."""
    if line is None:
        return None
    return line['epochs'][-1]['val_accuracy'] if line['epochs'] else 0.0


def _costs(study: Study) -> str:
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
    note = (
        f'Multiply-adds and minutes of one run. In the study runs train side by side and are evaluated every few '
        f'epochs, which is inside; all runs together took {total / 3600:.1f} hours of one worker.'
    )
    return markdown_table('## What the runs cost', head, rows, note)
