"""The results of a scale as Markdown: every table from the lines alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from benchmarks.paired import spread
from benchmarks.retrain.cells import Scale
from benchmarks.retrain.grid_table import grid_table
from benchmarks.retrain.measures import Study
from benchmarks.retrain.overlap import overlap_table
from benchmarks.retrain.pairs import pairs
from benchmarks.retrain.plots import write_plots
from benchmarks.retrain.results import Results
from benchmarks.retrain.scenarios import generations, search
from benchmarks.retrain.table import NOTHING, markdown_table
from benchmarks.retrain.work_tables import costs, matches, ratios, thresholds, train_thresholds, trained
from composer_kd.archive import atomic_write

__all__ = ['markdown', 'write_tables']


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
        parts += [_accuracies(study, scenario, arms), _gains(study, scenario, arms), _pairs(study, scenario)]
        parts += [matches(study, scenario, arms), ratios(study, scenario, arms)]
        parts += [thresholds(study, scenario, arms), train_thresholds(study, scenario, arms)]
        parts += [trained(study, scenario, arms), _more(study, scenario, arms)]
        parts += [overlap_table(study, scenario, arms)]
        parts += [generations(study, scenario), search(study, scenario)]
    parts += [pairs(study), grid_table(study), costs(study)]
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
            cells.append(study.reached(entry) if entry else f'({spread(at)})' if at else NOTHING)
        rows.append([f'`{arm}`', *cells])
    note = 'In brackets: the baseline on its way, at that epoch of its full length.' if len(budgets) > 1 else ''
    return markdown_table('Test accuracy', ['arm', *(f'{budget} epochs' for budget in budgets)], rows, note)


def _curve_at(study: Study, scenario: str, epoch: int) -> list[float]:
    entry = study.entry(scenario, 'baseline', study.scale.full)
    if entry is None:
        return []
    found = [one for number in entry.numbers for one in entry.lines[number]['epochs'] if one['epoch'] == epoch]
    return [100 * one['test_accuracy'] for one in found if 'test_accuracy' in one]


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


def _pairs(study: Study, scenario: str) -> str:
    """Arms that differ in one thing, whatever `scratch` does."""
    gains = {}
    for (arm, other), budget in product(study.scale.pairs, sorted({budget for _, _, budget in study.entries})):
        entry = study.entry(scenario, arm, budget) if (scenario, arm, budget) in study.entries else None
        gain = study.gain(entry, over=other) if entry else None
        if gain is not None:
            few = f', n = {gain.n}' if gain.n != study.scale.yaml['seeds'] else ''
            gains[arm, other, budget] = f'{gain}{few}'
    budgets = sorted({budget for _, _, budget in gains})
    rows = [
        [f'`{arm}` over `{other}`', *(gains.get((arm, other, budget), NOTHING) for budget in budgets)]
        for arm, other in dict.fromkeys((arm, other) for arm, other, _ in gains)
    ]
    note = (
        'Points, paired by seed, with the 95 % interval and the probability of as much by chance. An interval that has '
        'zero inside says that these seeds do not tell the two apart. Students of several teachers share some of them, '
        'so their seeds are less independent than those of one.'
    )
    return markdown_table('Arm against arm', ['pair', *(f'{b} epochs' for b in budgets)], rows, note)


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
