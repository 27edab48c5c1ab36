"""A picture of each scenario: what every arm reached, and the work that it took."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.retrain.measures import Study
from composer_kd.archive import atomic_write
from composer_kd.report.render.figures import GRID, INK, MUTED, style_of

__all__ = ['write_plots']

ROW, HEAD = 0.27, 1.5  # Inches.


def write_plots(study: Study, results: Path) -> dict[str, str]:
    """A PNG for each scenario with two arms or more beside the baseline; scenario -> file name beside the results."""
    made = {}
    for scenario in study.scale.scenarios:
        own = {arm for place, arm, _ in study.entries if place == scenario}
        arms = [arm for arm in study.arms(scenario) if arm in own | {'scratch', 'baseline'}]
        if len([arm for arm in arms if arm != 'baseline']) > 1 and own & set(arms):
            file = results.with_name(f'{results.stem}-{scenario}.png')
            atomic_write(file, _picture(study, scenario, arms))
            made[scenario] = file.name
    return made


def _picture(study: Study, scenario: str, arms: Sequence[str]) -> bytes:
    """A row an arm, a mark a budget: on the left its test accuracy, on the right its work."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, HEAD + ROW * len(arms)), dpi=110, layout='constrained')
    reached, spent = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    budgets = sorted({budget for arm in arms for budget in study.budgets(scenario, arm)})
    for place, budget in enumerate(budgets):
        rows, means, errors, work = [], [], [], []
        for row, arm in enumerate(arms):
            entry = study.entry(scenario, arm, budget)
            costs = study.mean_costs(entry) if entry else None
            if entry is None or costs is None:
                continue
            values = list(entry.last('test_accuracy').values())
            rows.append(row)
            means.append(statistics.fmean(values))
            errors.append(statistics.stdev(values) if len(values) > 1 else 0.0)
            work.append(costs.total() / 1e12)
        style = style_of(place)
        look = {'color': style.color, 'marker': style.marker, 'markersize': 5, 'linestyle': 'none'}
        reached.errorbar(means, rows, xerr=errors, capsize=2.5, linewidth=1.2, label=f'{budget} epochs', **look)
        spent.plot(work, rows, **look)
    whole = study.entry(scenario, 'baseline', study.scale.full)
    costs = study.mean_costs(whole) if whole else None
    if whole is not None and costs is not None:
        # The two lines to be left of in work, and right of in accuracy.
        for axes, value in (
            (reached, statistics.fmean(whole.last('test_accuracy').values())),
            (spent, costs.total() / 1e12),
        ):
            axes.axvline(value, color=INK.light, linewidth=1)
    reached.set_yticks(range(len(arms)), arms)
    reached.invert_yaxis()
    spent.set_xscale('log')
    low, high = spent.get_xlim()
    round_ones = [n * 10.0**power for power in range(-3, 7) for n in (1, 2, 5)]
    spent.set_xticks(shown := [one for one in round_ones if low <= one <= high], [f'{one:g}' for one in shown])
    spent.minorticks_off()
    for axes in (reached, spent):
        axes.grid(True, color=GRID.light, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
        axes.tick_params(colors=MUTED.light, labelsize=9)
    reached.set_xlabel('test accuracy, last epoch, %: mean and standard deviation', color=INK.light)
    spent.set_xlabel('multiply-adds, teachers and harvest inside, 10¹²', color=INK.light)
    full = study.scale.full
    title = f'{study.scale.scenarios[scenario]["title"]}. The lines: baseline of {full} epochs'
    figure.suptitle(title, fontsize=10, color=INK.light)
    figure.legend(loc='outside lower center', ncols=5, frameon=False, fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format='png', metadata={'Software': None})
    return file.getvalue()
