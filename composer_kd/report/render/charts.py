"""The charts of a report, drawn once with matplotlib: lines over epochs or costs, bars, and heat maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from composer_kd.report.render.figures import ACCENTS, INK, WIDTH, Figure, Style, finished, look
from composer_kd.report.stats import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import MaxNLocator

__all__ = ['HEIGHT', 'PALEST', 'STRONGEST', 'Bar', 'Drawn', 'bar_chart', 'bars_height', 'heat_map', 'line_chart']

HEIGHT = 2.05  # of a plot; here and below, inches
_LEFT, _RIGHT, _BOTTOM, _TITLE, _ROW = 0.46, 0.14, 0.42, 0.30, 0.185
_LONGEST = 40
_STEPS = [1, 2, 2.5, 5, 10]
_MAP_ROW, _MAP_TITLE, _LETTER, _GAP = 0.19, 0.34, 0.068, 0.08
# A cell of a heat map is one colour, more or less of it, over whatever the paper is: so one drawing serves light and
# dark pages. At most so much of the colour: letters keep a contrast of 4.5 on it.
_COLOR = ACCENTS[1].light
PALEST, STRONGEST = 0.03, 0.55


@dataclass(frozen=True)
class Drawn:
    """Something that has a line or bars of its own, and a place in the legend."""

    name: str
    style: Style


@dataclass(frozen=True)
class Bar:
    """One bar: how long it is, what stands at its end, and whether it is hollow."""

    length: float
    label: str
    hollow: bool = False


def line_chart(
    name: str,
    title: str,
    x_label: str,
    lines: Sequence[tuple[Drawn, Curve | None]],
    as_percent: bool = True,
    note: str = '',
    height: float = HEIGHT,
) -> list[Figure]:
    """Mean curves with a band of one standard deviation over the seeds; no figure where there is no curve.

    Args:
        name: Of the figure.
        title: Stands in the picture.
        x_label: Of the horizontal axis; ``'epoch'`` has whole numbers alone.
        lines: Whose they are, and the curves.
        as_percent: Whether the values are fractions to be shown as percentages.
        note: Behind how to read it, in the caption.
        height: Of the plot.
    """
    present = [(drawn, line) for drawn, line in lines if line]
    if not present:
        return []
    scale = 100 if as_percent else 1

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for drawn, line in present:
            style, mean = drawn.style, [scale * value for value in line.mean]
            marked = {'marker': style.marker, 'markevery': max(1, len(mean) // 8)}
            axes.plot(line.x, mean, color=style.color, linestyle=style.line, zorder=3, **marked)
            if all(sd is not None for sd in line.sd):
                low, high = (
                    [middle + side * (sd or 0) for middle, sd in zip(mean, line.sd, strict=True)]
                    for side in (-scale, scale)
                )
                axes.fill_between(line.x, low, high, color=style.color, alpha=0.16, linewidth=0, zorder=2)
        axes.grid(True)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(_whole_numbers() if x_label == 'epoch' else MaxNLocator(6, steps=_STEPS))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=_STEPS))
        if as_percent:
            axes.yaxis.set_major_formatter(lambda value, _: f'{value:g} %')

    bands = any(line.n > 1 for _, line in present)
    reading = 'Line: mean over the seeds; band: one standard deviation.' if bands else 'One seed an arm, so no band.'
    form = '{:.1f} %' if as_percent else '{:.3f}'
    ends = '; '.join(
        f'{drawn.name} {form.format(scale * line.mean[-1])} at epoch {line.epochs[-1]}' for drawn, line in present
    )
    alt = f'{title} by {x_label}, line chart. Ends: {ends}.'
    return [_plot(name, title, f'{reading} {note}'.strip(), alt, [drawn for drawn, _ in present], height, draw)]


def bar_chart(
    name: str, title: str, caption: str, x_label: str, groups: Sequence[str], bars: Sequence[tuple[Drawn, list[Bar]]]
) -> list[Figure]:
    """Groups of bars with whole numbers on the axis; no figure where all bars are empty.

    Args:
        name: Of the figure.
        title: Stands in the picture.
        caption: How to read it.
        x_label: What the bars measure.
        groups: Their names, from above.
        bars: Whose they are, and one for each group.
    """
    longest = max((bar.length for _, one in bars for bar in one), default=0.0)
    if not longest:
        return []

    def draw(axes: Axes) -> None:
        step = len(bars) + 0.8
        for place, (drawn, one) in enumerate(bars):
            color = drawn.style.color
            for index, bar in enumerate(one):
                y = index * step + place
                face = 'none' if bar.hollow else color
                axes.barh(y, bar.length, 0.78, facecolor=face, edgecolor=color, linewidth=0.8)
                axes.text(bar.length + 0.015 * longest, y, bar.label, va='center', fontsize=8.0, color=INK.light)
        axes.set_yticks([index * step + (len(bars) - 1) / 2 for index in range(len(groups))], groups)
        axes.set_xlim(0, 1.34 * longest)
        axes.set_ylim(len(groups) * step - 0.8, -0.8)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(_whole_numbers())
        axes.spines['left'].set_visible(False)
        axes.grid(True, axis='x')
        axes.set_axisbelow(True)

    told = (
        f'{drawn.name}: {", ".join(f"{group} {bar.label}" for group, bar in zip(groups, one, strict=True))}.'
        for drawn, one in bars
    )
    alt = f'{title}, bar chart. {" ".join(told)}'
    height = bars_height(len(groups), len(bars))
    return [_plot(name, title, caption, alt, [drawn for drawn, _ in bars], height, draw, bars=True)]


def bars_height(groups: int, bars: int) -> float:
    """How high the plot of so many groups of so many bars is."""
    return max(1.2, 0.152 * groups * (bars + 0.8))


def _whole_numbers() -> MaxNLocator:
    from matplotlib.ticker import MaxNLocator

    # Asked for two ticks, as it is by default, it would put fractions where the axis holds one whole number.
    return MaxNLocator(6, steps=_STEPS, integer=True, min_n_ticks=1)


def _plot(
    name: str,
    title: str,
    caption: str,
    alt: str,
    legend: Sequence[Drawn],
    plot_height: float,
    draw: Callable[[Axes], None],
    bars: bool = False,
) -> Figure:
    """Title, legend and plot at fixed distances, whatever the number of lines."""
    from matplotlib.figure import Figure as Canvas

    names = [_shortened(one.name, _LONGEST) for one in legend]
    # DejaVu Sans, the widest face it may be set in: 0.078 inches a letter, beside 0.45 for the sample.
    columns = max(1, min(len(names), int(3.5 / (0.45 + 0.078 * max(map(len, names))))))
    rows = -(-len(names) // columns)
    height = _TITLE + rows * _ROW + 0.06 + plot_height + _BOTTOM
    # matplotlib fills a legend by columns; people read it by rows.
    order = [index for column in range(columns) for index in range(column, len(names), columns)]
    with look():
        canvas = Canvas(figsize=(WIDTH, height))
        inside = (_LEFT / WIDTH, _BOTTOM / height, (WIDTH - _LEFT - _RIGHT) / WIDTH, plot_height / height)
        draw(canvas.add_axes(inside))
        canvas.text(0.06 / WIDTH, 1 - 0.04 / height, title, va='top', fontsize=9.2, fontweight='bold')
        entries = [(names[index], legend[index].style) for index in order]
        _legend(canvas, entries, columns, 1 - _TITLE / height, bars)
        return finished(canvas, name, title, caption, alt)


def _legend(canvas: Canvas, entries: Sequence[tuple[str, Style]], columns: int, top: float, bars: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(facecolor=style.color)
        if bars
        else Line2D([], [], color=style.color, linestyle=style.line, marker=style.marker)
        for _, style in entries
    ]
    placeholders = [str(index) for index in range(len(entries))]
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
    for text, (name, _) in zip(drawn.get_texts(), entries, strict=True):
        text.set_text(name)


def heat_map(
    name: str,
    title: str,
    caption: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[float | None]],
    shades: tuple[float, float],
) -> Figure:
    """Shares as shades of a colour.

    Args:
        name: Of the figure.
        title: Stands in the picture.
        caption: How to read it.
        rows: Their names, from above.
        columns: Their names, from the left.
        cells: By rows, shares; ``None`` where there is none.
        shades: The shares that are palest and strongest.
    """
    from matplotlib.figure import Figure as Canvas
    from matplotlib.patches import Rectangle

    row_names, column_names = [_shortened(one) for one in rows], [_shortened(one) for one in columns]
    left = _LETTER * max(map(len, row_names)) + 2 * _GAP
    width = (WIDTH - left - _GAP) / len(columns)
    upright = _LETTER * max(map(len, column_names)) + 0.04 > width
    heads = _LETTER * max(map(len, column_names)) + _GAP if upright else _MAP_ROW
    height = _MAP_TITLE + heads + _MAP_ROW * len(rows) + _GAP
    ends = '; '.join(f'{head} {_range(rows, [line[place] for line in cells])}' for place, head in enumerate(columns))
    with look():
        canvas = Canvas(figsize=(WIDTH, height))
        axes = canvas.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        # In inches, from the upper left corner.
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(height, 0)
        axes.text(0.06, 0.04, _shortened(title, 44), va='top', fontsize=9.2, fontweight='bold')
        top = _MAP_TITLE + heads
        for place, text in enumerate(column_names):
            middle = left + (place + 0.5) * width
            rotation = 90 if upright else 0
            axes.text(middle, top - 0.04, text, ha='center', va='bottom', rotation=rotation, fontsize=8.0)
        low, high = shades
        for row, (text, values) in enumerate(zip(row_names, cells, strict=True)):
            y, middle = top + row * _MAP_ROW, top + (row + 0.5) * _MAP_ROW
            axes.text(left - _GAP / 2, middle, text, ha='right', va='center', fontsize=8.0)
            for column, value in enumerate(values):
                if value is None:
                    continue
                part = (value - low) / (high - low) if high > low else 1.0
                x, alpha = left + column * width, PALEST + (STRONGEST - PALEST) * part
                cell = Rectangle((x, y), width - 0.02, _MAP_ROW - 0.02, facecolor=_COLOR, alpha=alpha, linewidth=0)
                axes.add_patch(cell)
                if width >= 0.2:
                    written, place = f'{100 * value:.{1 if width >= 0.3 else 0}f}', x + width / 2 - 0.01
                    axes.text(place, middle, written, ha='center', va='center', fontsize=7.4, color=INK.light)
        return finished(canvas, name, title, caption, f'{title}, heat map. {ends}.')


def _range(rows: Sequence[str], values: Sequence[float | None]) -> str:
    known = [(value, row) for value, row in zip(values, rows, strict=True) if value is not None]
    (low, worst), (high, best) = min(known), max(known)
    return f'from {100 * low:.1f} % ({worst}) to {100 * high:.1f} % ({best})'


def _shortened(text: str, longest: int = 22) -> str:
    return text if len(text) <= longest else text[: longest - 1] + '…'
