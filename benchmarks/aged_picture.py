"""The picture of a study of ageing: the accuracy of each way at each step, by epochs and by the work that they took."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.aged import ANEW, Ageing
from benchmarks.paired import Run, pairs
from composer_kd.report.render.figures import GRID, INK, MUTED, Style, style_of

__all__ = ['aged_picture']

_TICKS = [1, 2, 5, 10, 20, 50, 100, 200]


def aged_picture(result: Mapping[str, Any]) -> bytes | None:
    """A PNG, a column a step; ``None`` where the study has no ways by steps."""
    of = Ageing(result['arms'])
    if not of.steps:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 3.3 * len(of.steps), 6.6), dpi=110, layout='constrained')
    grid = figure.subplots(2, len(of.steps), sharey=True, squeeze=False)
    others = [way for way in of.ways if way != ANEW]
    for column, step in enumerate(of.steps):
        by_epochs, by_work = grid[0][column], grid[1][column]
        for axes in (by_epochs, by_work):
            _lines_across(axes, of, step, first=column == 0 and axes is by_epochs)
        for way, style in [(ANEW, Style(INK.light, 'solid', '')), *zip(others, map(style_of, range(99)), strict=False)]:
            epochs, work, tests = way_of(of, way, step)
            look = {'color': style.color, 'linestyle': style.line, 'marker': style.marker, 'markersize': 4}
            look['linewidth'] = 2.0 if way == ANEW else 1.4
            by_epochs.plot(epochs, tests, label=way if column == 0 else None, **look)
            by_work.plot(work, tests, **look)
        by_epochs.set_title(f'step {step}', color=INK.light, fontsize=10)
        by_epochs.set_xlabel('epochs', color=INK.light)
        by_work.set_xlabel(f'work, % of {ANEW}, teachers and harvest inside', color=INK.light)
        for axes in (by_epochs, by_work):
            _finish(axes)
    for row in grid:
        row[0].set_ylabel('test accuracy, %', color=INK.light)
    figure.legend(loc='outside lower center', ncols=5, frameon=False, fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format='png', metadata={'Software': None})
    return file.getvalue()


def way_of(of: Ageing, way: str, step: int) -> tuple[list[int], list[float], list[float]]:
    """Epochs that all its runs were tested after, their work in percent of ``full``'s, and their mean accuracy."""
    both = [(_by_epoch(own), own, anew) for own, anew in pairs(of.runs(way, step), of.runs(ANEW, step))]
    epochs = sorted(set.intersection(*(set(tests) for tests, _, _ in both))) if both else []
    work = [
        statistics.fmean(
            100 * (dict(own['spent'])[epoch] + own['harvest']) / anew['spent'][-1][1] for _, own, anew in both
        )
        for epoch in epochs
    ]
    return epochs, work, [statistics.fmean(tests[epoch] for tests, _, _ in both) for epoch in epochs]


def _by_epoch(run: Run) -> dict[int, float]:
    return {int(epoch): test for epoch, test in run['curve']}


def _lines_across(axes: Any, of: Ageing, step: int, first: bool) -> None:
    anew: Sequence[Run] = of.runs(ANEW, step)
    if anew:
        level = statistics.fmean(one['test'] for one in anew)
        axes.axhline(level, color=INK.light, linewidth=0.8, label=f'end of {ANEW}' if first else None)
    if kept := of.kept(step):
        level = statistics.fmean(one['test'] for one in kept)
        axes.axhline(level, color=MUTED.light, linewidth=1.2, linestyle=':', label='kept' if first else None)


def _finish(axes: Any) -> None:
    axes.set_xscale('log')
    low, high = axes.get_xlim()
    shown = [one for one in _TICKS if low <= one <= high]
    axes.set_xticks(shown, [f'{one:g}' for one in shown])
    axes.minorticks_off()
    axes.grid(True, color=GRID.light, linewidth=0.8)
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(colors=MUTED.light)
