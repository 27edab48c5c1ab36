"""Pictures of a scale: test accuracy by budget, and by the work that it took."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.retrain.measures import Study
from composer_kd.archive import atomic_write
from composer_kd.report.palette import GRID, INK, MUTED, style_of

__all__ = ['write_plots']

MOST_ARMS = 7  # In the order of arms.yaml; beyond that, colours and marks begin again.


def write_plots(study: Study, results: Path) -> dict[str, str]:
    """A PNG for each scenario with two arms or more beside the baseline; scenario -> file name beside the results."""
    made = {}
    for scenario in study.scale.scenarios:
        own = {arm for place, arm, _ in study.entries if place == scenario}
        there = [arm for arm in study.arms(scenario) if arm != 'baseline' and arm in own | {'scratch'}]
        if len(there) > 1 and own & set(there):
            arms = there[:MOST_ARMS]
            file = results.with_name(f'{results.stem}-{scenario}.png')
            atomic_write(file, _picture(study, scenario, arms))
            made[scenario] = file.name
    return made


def _on_its_way(study: Study, scenario: str) -> list[tuple[int, float, float]]:
    """Epoch, work in 10^12 multiply-adds and mean accuracy of the baseline, wherever all of its seeds were tested."""
    entry = study.entry(scenario, 'baseline', study.scale.full)
    runs = [] if entry is None else [entry.lines[number]['epochs'] for number in entry.numbers]
    tested = [{one['epoch']: one for one in epochs if 'test_accuracy' in one} for epochs in runs]
    common = sorted(set.intersection(*map(set, tested))) if tested else []
    return [
        (
            epoch,
            statistics.fmean(one[epoch]['multiply_adds_student_total'] for one in tested) / 1e12,
            100 * statistics.fmean(one[epoch]['test_accuracy'] for one in tested),
        )
        for epoch in common
        if epoch >= min(study.scale.yaml['budgets'])
    ]


def _picture(study: Study, scenario: str, arms: Sequence[str]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), dpi=110, layout='constrained')
    by_budget, by_work = figure.subplots(1, 2, sharey=True)
    baseline = list(study.baseline(scenario).values())
    way = _on_its_way(study, scenario)
    if way:
        epochs, work, accuracies = zip(*way, strict=True)
        by_budget.plot(epochs, accuracies, color=MUTED.light, linewidth=1.2, linestyle=':', label='baseline on its way')
        by_work.plot(work, accuracies, color=MUTED.light, linewidth=1.2, linestyle=':')
    for axes in (by_budget, by_work):
        axes.set_xscale('log')
        axes.grid(True, color=GRID.light, linewidth=0.8)
        axes.spines[['top', 'right']].set_visible(False)
        axes.tick_params(colors=MUTED.light)
        if baseline:
            axes.axhline(statistics.fmean(baseline), color=INK.light, linewidth=1)
    if baseline:
        by_budget.annotate(
            f'baseline, {study.scale.full} epochs', (min(study.scale.yaml['budgets']), statistics.fmean(baseline)),
            xytext=(0, 4), textcoords='offset points', color=INK.light, fontsize=9,
        )  # fmt: skip
    every = sorted({budget for arm in arms for budget in study.budgets(scenario, arm)} | {study.scale.full})
    for place, arm in enumerate(arms):
        style = style_of(place)
        budgets, works, means, errors = [], [], [], []
        for budget in study.budgets(scenario, arm):
            entry = study.entry(scenario, arm, budget)
            costs = study.mean_costs(entry) if entry else None
            if entry is None or costs is None:
                continue
            values = list(entry.last('test_accuracy').values())
            budgets.append(budget)
            works.append(costs.total() / 1e12)
            means.append(statistics.fmean(values))
            errors.append(statistics.stdev(values) if len(values) > 1 else 0.0)
        look = {'color': style.color, 'linestyle': style.line, 'marker': style.marker, 'markersize': 5, 'capsize': 3}
        by_budget.errorbar(budgets, means, errors, label=arm, linewidth=1.6, **look)
        by_work.errorbar(works, means, errors, linewidth=1.6, **look)
    by_budget.set_xticks(every, [str(budget) for budget in every])
    by_budget.minorticks_off()
    low, high = by_work.get_xlim()
    round_ones = [n * 10.0**power for power in range(-3, 7) for n in (1, 2, 5)]
    by_work.set_xticks(shown := [one for one in round_ones if low <= one <= high], [f'{one:g}' for one in shown])
    by_work.minorticks_off()
    by_budget.set_xlabel('epochs', color=INK.light)
    by_work.set_xlabel('multiply-adds, teachers and harvest inside, 10¹²', color=INK.light)
    by_budget.set_ylabel('test accuracy, last epoch, %', color=INK.light)
    figure.legend(loc='outside lower center', ncols=5, frameon=False, fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format='png', metadata={'Software': None})
    return file.getvalue()
