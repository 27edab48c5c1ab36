"""Accuracy under drift as heat maps: drifts by arms, and for each arm kinds of corruption by severity.

A cell is one colour, more or less of it, over whatever the paper is: so one drawing serves light and dark pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from composer_kd.report.palette import ACCENTS, INK
from composer_kd.report.picture import WIDTH, Figure, finished, look
from composer_kd.report.robustness import Robustness
from composer_kd.report.summary import Summary

__all__ = ['PALEST', 'STRONGEST', 'heat_map', 'heat_maps']

_COLOR = ACCENTS[1].light
# At most so much of the colour: letters keep a contrast of 4.5 on it.
PALEST, STRONGEST = 0.03, 0.55
_ROW, _TITLE, _LETTER, _GAP = 0.19, 0.34, 0.068, 0.08  # inches
_LONGEST = 22
_ARMS = 8


def heat_maps(summary: Summary) -> list[Figure]:
    """Drifts by arms; kinds by severity of the first arms, where there are several severities."""
    found = summary.robustness
    if found is None:
        return []
    values = [spread.mean for arm in found.arms.values() for spread in (arm.clean, *arm.by_drift.values())]
    shades = (min(values), max(values))
    with look():
        return [_by_arm(found, shades), *_by_severity(found, shades)]


def _by_arm(found: Robustness, shades: tuple[float, float]) -> Figure:
    """A kind of several severities is one row, their mean; any other drift is one of its own."""
    of_kinds = {name for names in found.kinds.values() if len(names) > 1 for name in names.values()}
    rows = {kind: list(names.values()) for kind, names in found.kinds.items() if len(names) > 1}
    rows |= {name: [name] for name in found.drifts if name not in of_kinds}
    cells = [[arm.clean.mean for arm in found.arms.values()]]
    cells += [
        [fmean(arm.by_drift[name].mean for name in names) for arm in found.arms.values()] for names in rows.values()
    ]
    several = ' Kinds of corruption: mean over their severities.' if of_kinds else ''
    caption = f'Mean over the seeds, %; more colour is higher.{several}'
    return heat_map(
        'drift_arms', 'Test accuracy under drift', caption, ['clean', *rows], list(found.arms), cells, shades
    )


def _by_severity(found: Robustness, shades: tuple[float, float]) -> list[Figure]:
    severities = sorted({severity for names in found.kinds.values() for severity in names})
    if len(severities) < 2:
        return []
    columns = [f'{severity:g}' for severity in severities]
    figures = []
    for place, (name, arm) in enumerate(list(found.arms.items())[:_ARMS]):
        cells = [
            [arm.by_drift[names[severity]].mean if severity in names else None for severity in severities]
            for names in found.kinds.values()
        ]
        title = f'{_short(name, 28)}, by severity'
        caption = f'Test accuracy of {name} under corruptions, mean over the seeds, %; more colour is higher.'
        figures.append(heat_map(f'drift_severity_{place}', title, caption, list(found.kinds), columns, cells, shades))
    return figures


def heat_map(
    name: str,
    title: str,
    caption: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[float | None]],
    shades: tuple[float, float],
) -> Figure:
    """One map, in the look of reports.

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

    row_names, column_names = [_short(one) for one in rows], [_short(one) for one in columns]
    left = _LETTER * max(map(len, row_names)) + 2 * _GAP
    width = (WIDTH - left - _GAP) / len(columns)
    upright = _LETTER * max(map(len, column_names)) + 0.04 > width
    heads = _LETTER * max(map(len, column_names)) + _GAP if upright else _ROW
    height = _TITLE + heads + _ROW * len(rows) + _GAP
    canvas = Canvas(figsize=(WIDTH, height))
    axes = canvas.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    # In inches, from the upper left corner.
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(height, 0)
    axes.text(0.06, 0.04, _short(title, 44), va='top', fontsize=9.2, fontweight='bold')
    top = _TITLE + heads
    for place, text in enumerate(column_names):
        middle = left + (place + 0.5) * width
        rotation = 90 if upright else 0
        axes.text(middle, top - 0.04, text, ha='center', va='bottom', rotation=rotation, fontsize=8.0)
    low, high = shades
    for row, (text, values) in enumerate(zip(row_names, cells, strict=True)):
        y = top + row * _ROW
        axes.text(left - _GAP / 2, y + _ROW / 2, text, ha='right', va='center', fontsize=8.0)
        for column, value in enumerate(values):
            if value is None:
                continue
            part = (value - low) / (high - low) if high > low else 1.0
            x, alpha = left + column * width, PALEST + (STRONGEST - PALEST) * part
            axes.add_patch(Rectangle((x, y), width - 0.02, _ROW - 0.02, facecolor=_COLOR, alpha=alpha, linewidth=0))
            if width >= 0.2:
                digits = 1 if width >= 0.3 else 0
                written = f'{100 * value:.{digits}f}'
                axes.text(
                    x + width / 2 - 0.01, y + _ROW / 2, written, ha='center', va='center', fontsize=7.4, color=INK.light
                )
    ends = '; '.join(f'{head} {_in_words(rows, [line[place] for line in cells])}' for place, head in enumerate(columns))
    return finished(canvas, name, title, caption, f'{title}, heat map. {ends}.')


def _in_words(rows: Sequence[str], values: Sequence[float | None]) -> str:
    known = [(value, row) for value, row in zip(values, rows, strict=True) if value is not None]
    (low, worst), (high, best) = min(known), max(known)
    return f'from {100 * low:.1f} % ({worst}) to {100 * high:.1f} % ({best})'


def _short(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1] + '…'
