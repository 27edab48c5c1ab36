"""The pictures, drawn once with matplotlib: the PNG as it is, the SVG in the colours of the page.

They are narrow, so that on a phone their letters are as large as the text beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from composer_kd.report.caveats import SHARED, mark_arm
from composer_kd.report.collect import Run
from composer_kd.report.measures import Curve, Measure, Reach, Series, costs_at, curve, label_loss, series
from composer_kd.report.palette import INK, Style, style_of
from composer_kd.report.picture import WIDTH, Figure, finished, look
from composer_kd.report.summary import ArmSummary, Summary
from composer_kd.report.wording import percent, unit_for, with_spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import MaxNLocator

__all__ = ['figures']

_PLOT_HEIGHT = 2.05  # inches
_LEFT, _RIGHT, _BOTTOM, _TITLE, _ROW = 0.46, 0.14, 0.42, 0.30, 0.185
_LONGEST = 40
_STEPS = [1, 2, 2.5, 5, 10]


def figures(summary: Summary) -> list[Figure]:
    """For each accuracy its curve and its epochs to reach; then accuracy against cost, and the loss."""
    # Validation mostly repeats the picture of test: it is drawn where there is no test, and tabulated always.
    drawn = [measure for measure in summary.measures if measure.name != 'val' or measure is summary.primary]
    with look():
        found = [figure for measure in drawn for figure in (_curves(summary, measure), _bars(summary, measure))]
        found += [_against(summary, 'seconds'), _against(summary, 'multiply_adds'), _losses(summary)]
    return [figure for figure in found if figure]


def _curves(summary: Summary, measure: Measure) -> Figure | None:
    lines = [(arm, curve([series(run.epochs, measure.key) for run in arm.arm.counted])) for arm in summary.arms]
    title = f'{measure.title[0].upper()}{measure.title[1:]}'
    # As high as the bars that stand beside it on a wide page.
    height = min(max(_PLOT_HEIGHT, _bars_height(summary, measure)), 1.5 * _PLOT_HEIGHT)
    return _plot(summary, f'{measure.name}_accuracy', title, 'epoch', lines, as_percent=True, height=height)


def _losses(summary: Summary) -> Figure | None:
    lines = [(arm, curve([label_loss(run.epochs) for run in arm.arm.counted])) for arm in summary.arms]
    note = 'The part of the training loss that compares with the labels; distillation terms are left out.'
    return _plot(summary, 'label_loss', 'Training loss, labels only', 'epoch', lines, as_percent=False, note=note)


def _against(summary: Summary, cost: str) -> Figure | None:
    measure = summary.primary

    def spent(run: Run) -> Series:
        return costs_at(run.epochs)[cost]

    lines = []
    for arm in summary.arms:
        runs = arm.arm.counted
        lines.append((arm, curve([series(run.epochs, measure.key) for run in runs], [spent(run) for run in runs])))
    unit = unit_for(cost, (line.x[-1] for _, line in lines if line))
    lines = [(arm, line and _scaled(line, unit.size)) for arm, line in lines]
    what, note = {
        'seconds': (
            f'training time, {unit.name}',
            'Teachers inside, evaluation apart; the mean time of the seeds at each epoch.',
        ),
        'multiply_adds': (f'multiply-adds, {unit.name}', 'Of student and teachers together.'),
    }[cost]
    if cost == 'seconds' and any(arm.arm.shared for arm in summary.arms):
        note += f' {SHARED} Some runs shared the machine: their seconds are not their own.'
    title = (
        f'{measure.title[0].upper()}{measure.title[1:]} against {"training time" if cost == "seconds" else "compute"}'
    )
    return _plot(summary, f'{measure.name}_against_{cost}', title, what, lines, as_percent=True, note=note)


def _scaled(line: Curve, size: float) -> Curve:
    return Curve(line.epochs, tuple(x / size for x in line.x), line.mean, line.sd, line.n)


def _plot(
    summary: Summary,
    name: str,
    title: str,
    x_label: str,
    lines: Sequence[tuple[ArmSummary, Curve | None]],
    as_percent: bool,
    note: str = '',
    height: float = _PLOT_HEIGHT,
) -> Figure | None:
    """Mean curves with a band of one standard deviation over the seeds."""
    present = [(arm, line) for arm, line in lines if line]
    if not present:
        return None
    scale = 100 if as_percent else 1

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for arm, line in present:
            style = _style(summary, arm)
            mean = [scale * value for value in line.mean]
            axes.plot(line.x, mean, color=style.color, linestyle=style.line, **_markers(style, len(mean)), zorder=3)
            if all(sd is not None for sd in line.sd):
                low = [middle - scale * (sd or 0) for middle, sd in zip(mean, line.sd, strict=True)]
                high = [middle + scale * (sd or 0) for middle, sd in zip(mean, line.sd, strict=True)]
                axes.fill_between(line.x, low, high, color=style.color, alpha=0.16, linewidth=0, zorder=2)
        axes.grid(True)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(_whole_epochs() if x_label == 'epoch' else MaxNLocator(6, steps=_STEPS))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=_STEPS))
        if as_percent:
            axes.yaxis.set_major_formatter(lambda value, _: f'{value:g} %')

    bands = any(line.n > 1 for _, line in present)
    reading = 'Line: mean over the seeds; band: one standard deviation.' if bands else 'One seed an arm, so no band.'
    form = '{:.1f} %' if as_percent else '{:.3f}'
    ends = '; '.join(
        f'{arm.name} {form.format(scale * line.mean[-1])} at epoch {line.epochs[-1]}' for arm, line in present
    )
    alt = f'{title} by {x_label}, line chart. Ends: {ends}.'
    legend = [arm for arm, _ in present]
    return _figure(summary, name, title, f'{reading} {note}'.strip(), alt, legend, height, draw)


def _bars(summary: Summary, measure: Measure) -> Figure | None:
    """Epochs to reach each threshold, a bar for an arm; what was not reached is written, not drawn."""
    levels = summary.thresholds[measure.name]
    arms = [arm for arm in summary.arms if arm.accuracy[measure.name].last]
    longest = max((level.epochs.mean for arm in arms for level in arm.reach[measure.name] if level.epochs), default=0.0)
    if not levels or not arms or not longest:
        return None

    def draw(axes: Axes) -> None:
        step = len(arms) + 0.8
        for place, arm in enumerate(arms):
            color = _style(summary, arm).color
            for index, level in enumerate(arm.reach[measure.name]):
                y = index * step + place
                mean = level.epochs.mean if level.epochs else 0.0
                axes.barh(y, mean, 0.78, facecolor=color if level.complete else 'none', edgecolor=color, linewidth=0.8)
                axes.text(mean + 0.015 * longest, y, _bar_label(level), va='center', fontsize=8.0, color=INK.light)
        axes.set_yticks(
            [index * step + (len(arms) - 1) / 2 for index in range(len(levels))], [percent(x) for x in levels]
        )
        axes.set_xlim(0, 1.34 * longest)
        axes.set_ylim(len(levels) * step - 0.8, -0.8)
        axes.set_xlabel('epochs')
        axes.xaxis.set_major_locator(_whole_epochs())
        axes.spines['left'].set_visible(False)
        axes.grid(True, axis='x')
        axes.set_axisbelow(True)

    partial = any(0 < level.reached < level.of for arm in arms for level in arm.reach[measure.name])
    caption = 'First epoch at or above the accuracy, mean ± standard deviation over the seeds; shorter is cheaper.'
    if partial:
        caption += ' Hollow: only k of n seeds (k/n) reached it.'
    title = f'Epochs to reach {measure.title}'
    bars = (f'{arm.name}: {", ".join(map(_bar_in_words, arm.reach[measure.name]))}.' for arm in arms)
    alt = f'{title}, bar chart. {" ".join(bars)}'
    height = _bars_height(summary, measure)
    return _figure(summary, f'epochs_to_{measure.name}_accuracy', title, caption, alt, arms, height, draw, bars=True)


def _whole_epochs() -> MaxNLocator:
    from matplotlib.ticker import MaxNLocator

    # Asked for two ticks, as it is by default, it would put fractions where the axis holds one whole number.
    return MaxNLocator(6, steps=_STEPS, integer=True, min_n_ticks=1)


def _bars_height(summary: Summary, measure: Measure) -> float:
    arms = sum(arm.accuracy[measure.name].last is not None for arm in summary.arms)
    return max(1.2, 0.152 * len(summary.thresholds[measure.name]) * (arms + 0.8))


def _bar_label(level: Reach) -> str:
    return with_spread(level.epochs, unit_for('epochs', ()), level.of) if level.reached else 'not reached'


def _bar_in_words(level: Reach) -> str:
    return f'{percent(level.threshold)} {_bar_label(level)}'


def _figure(
    summary: Summary,
    name: str,
    title: str,
    caption: str,
    alt: str,
    legend: Sequence[ArmSummary],
    plot_height: float,
    draw: Callable[[Axes], None],
    bars: bool = False,
) -> Figure:
    """Title, legend and plot at fixed distances, whatever the number of arms."""
    from matplotlib.figure import Figure as Canvas

    names = [_shortened(mark_arm(arm.arm)) for arm in legend]
    # DejaVu Sans, the widest face it may be set in: 0.078 inches a letter, beside 0.45 for the sample.
    columns = max(1, min(len(names), int(3.5 / (0.45 + 0.078 * max(map(len, names))))))
    rows = -(-len(names) // columns)
    height = _TITLE + rows * _ROW + 0.06 + plot_height + _BOTTOM
    canvas = Canvas(figsize=(WIDTH, height))
    axes = canvas.add_axes((_LEFT / WIDTH, _BOTTOM / height, (WIDTH - _LEFT - _RIGHT) / WIDTH, plot_height / height))
    draw(axes)
    canvas.text(0.06 / WIDTH, 1 - 0.04 / height, title, va='top', fontsize=9.2, fontweight='bold')
    styles = [_style(summary, arm) for arm in legend]
    # matplotlib fills a legend by columns; people read it by rows.
    order = [index for column in range(columns) for index in range(column, len(names), columns)]
    names, styles = [names[index] for index in order], [styles[index] for index in order]
    _legend(canvas, names, styles, columns, 1 - _TITLE / height, bars)
    return finished(canvas, name, title, caption, alt)


def _legend(canvas: Canvas, names: list[str], styles: list[Style], columns: int, top: float, bars: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(facecolor=style.color)
        if bars
        else Line2D([], [], color=style.color, linestyle=style.line, marker=style.marker)
        for style in styles
    ]
    placeholders = [str(index) for index in range(len(names))]
    drawn = canvas.legend(
        handles,
        placeholders,
        loc='upper left',
        bbox_to_anchor=(0.02 / WIDTH, top),
        ncols=columns,
        frameon=False,
        borderpad=0.2,
        borderaxespad=0,
        handlelength=2.4,
        labelspacing=0.35,
        columnspacing=1.2,
    )
    # Set afterwards: matplotlib drops labels that begin with an underscore.
    for text, name in zip(drawn.get_texts(), names, strict=True):
        text.set_text(name)


def _style(summary: Summary, arm: ArmSummary) -> Style:
    return style_of(summary.arms.index(arm))


def _markers(style: Style, points: int) -> dict[str, Any]:
    return {'marker': style.marker, 'markevery': max(1, points // 8)}


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + '…'
