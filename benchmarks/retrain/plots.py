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

MOST_ARMS = 9


def write_plots(study: Study, results: Path) -> dict[str, str]:
    """A PNG for each scenario with arms on two budgets or more; scenario -> file name beside the results."""
    made = {}
    for scenario in study.scale.scenarios:
        own = {arm for place, arm, _ in study.entries if place == scenario} | {'scratch'}
        arms = [arm for arm in study.arms(scenario) if arm in own and len(study.budgets(scenario, arm)) > 1]
        if len(arms) > 1 and any(place == scenario for place, _, _ in study.entries):
            file = results.with_name(f'{results.stem}-{scenario}.png')
            atomic_write(file, _picture(study, scenario, arms[:MOST_ARMS]))
            made[scenario] = file.name
    return made


def _picture(study: Study, scenario: str, arms: Sequence[str]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), dpi=110, layout='constrained')
    by_budget, by_work = figure.subplots(1, 2, sharey=True)
    baseline = list(study.baseline(scenario).values())
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
    every = sorted({budget for arm in arms for budget in study.budgets(scenario, arm)})
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
    by_budget.set_xlabel('epochs', color=INK.light)
    by_work.set_xlabel('multiply-adds, teachers and harvest inside, 10¹²', color=INK.light)
    by_budget.set_ylabel('test accuracy, last epoch, %', color=INK.light)
    figure.legend(loc='outside lower center', ncols=5, frameon=False, fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format='png', metadata={'Software': None})
    return file.getvalue()
