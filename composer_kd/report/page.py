"""One self-contained page: no script, nothing fetched, every name escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from composer_kd.report.caveats import SHARED, mark_arm
from composer_kd.report.headline import Headline
from composer_kd.report.measures import COSTS
from composer_kd.report.page_style import STYLE
from composer_kd.report.palette import ACCENTS
from composer_kd.report.picture import Figure
from composer_kd.report.summary import Summary
from composer_kd.report.tables import Table
from composer_kd.report.wording import mean_text, percent, times, unit_for

__all__ = ['method', 'page']

_METHOD = (
    'Accuracies are reached in the first epoch at or above them; nothing is interpolated.',
    'Means and sample standard deviations (n − 1) go over the seeds of an arm; n stands beside them.',
    'Running training accuracy is counted during the epoch, on augmented images, while the weights change; '
    'clean training accuracy after it, in evaluation mode, without augmentation. They are different measures.',
    'The best epoch is chosen with hindsight; compare last epochs.',
    'Training time and multiply-adds have the teachers inside. What it once cost to train the teachers is not counted: '
    'they are earlier versions that exist already. Nor is a harvest of their outputs, but where that is said; outputs '
    'that a student computed to fill an archive are inside its training.',
)
_FIDELITY = (
    'Calibration and fidelity are of the last evaluation. The calibration error is the gap between the probability of '
    'the most probable class and its accuracy, in 15 bins of equal width, averaged over the samples (Guo et al, 2017). '
    'Agreement is the share of the test samples for which an arm and its teacher prefer the same class; KL, in nats, '
    "is the divergence of the arm's probabilities from the teacher's at temperature 1."
)
_ROBUSTNESS = (
    'Each drift changes the test data alone, in the place of any drift of the run. The drop is the accuracy on the '
    'test data minus the mean over the drifts. The mean corruption error (mCE) sums the errors of a kind over its '
    "severities, divides by the baseline's and averages over kinds: less is better, and the baseline has 1. The "
    'relative one does so with what corruptions add to the clean error (Hendrycks and Dietterich, 2019), where they '
    'add something to that of the baseline. Effective robustness is the accuracy under drift beyond that which a line '
    'through the other arms (three at least), fitted on the logit scale, expects of the clean accuracy (Taori et al, '
    '2020). The worst group and the calibration error are averaged over the drifts.'
)
_ATTACK = (
    'PGD-N: projected gradient descent of N steps from a random start, in a ball of the given norm and radius, in '
    'pixels from 0 to 255, made against the trained model in evaluation mode. A sample counts under attack that the '
    'model gets right both as it is and as the attack leaves it.'
)
_TAKEOVER = (
    'An arm takes over from the run that `replaces` names in its settings. It has recovered in the first epoch whose '
    'accuracy on its own test data is that of the replaced model on the data from before. Forgotten is what the '
    'accuracies of the earlier models on their own test data have over that of the new model on the same, averaged '
    'over the models whose data are others; below 0 the new model is the better one there too. '
    'What it took to recover has the passes of live teachers inside, not the harvest of outputs that were looked up.'
)
_ENSEMBLES = (
    'An ensemble averages the logits, or the probabilities, of its members on the test samples. Its best member is the '
    'one that is best on average over the seeds. At least one right: the share of the samples for which some member '
    'is, the reach of an oracle that would choose among them.'
)
_SPEED = (
    'Images a second are of forward passes in evaluation mode at batches of 1 and of 256, the median of several, in '
    "the run's own precision and layout and without compilation, measured when the run had ended."
)
_ARCHIVE = (
    'What runs left for later ones, and what those saved by looking it up. Losses, and logits “from training”, are '
    'by-products; a harvest takes a forward pass for each output. “Not computed” is the share of the outputs that '
    'teachers gave, each weighted by its cost; what a run computed to fill an archive is no saving of that run.'
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def method(tables: Sequence[Table]) -> tuple[str, ...]:
    """How the numbers came about, a paragraph each: of those alone that are shown."""
    sections = {table.section for table in tables}
    of_sections = (
        ('ensembles', _ENSEMBLES), ('size', _SPEED), ('fidelity', _FIDELITY), ('robustness', _ROBUSTNESS),
        ('attack', _ATTACK), ('takeover', _TAKEOVER),
    )  # fmt: skip
    return (*_METHOD, *(text for section, text in of_sections if section in sections))


def page(
    summary: Summary, answer: Headline, notes: Sequence[str], tables: Sequence[Table], figures: Sequence[Figure]
) -> str:
    """The whole HTML document."""
    lineages = list(dict.fromkeys(run.lineage for run in summary.runs if run.lineage))
    title = f'Report: {", ".join(lineages)}' if lineages else 'Report'
    by_section = {
        section: [table for table in tables if table.section == section]
        for section in dict.fromkeys(t.section for t in tables)
    }
    primary = by_section.pop(summary.primary.name, [])
    runs = by_section.pop('runs', [])
    models = [table for section in ('ensembles', 'size') for table in by_section.pop(section, [])]
    fidelity = by_section.pop('fidelity', [])
    robustness = [table for section in ('robustness', 'attack', 'takeover') for table in by_section.pop(section, [])]
    cost = by_section.pop('cost', [])
    archive = by_section.pop('archive', [])
    colors = {
        mark_arm(arm.arm): f'var({ACCENTS[place % len(ACCENTS)].variable})' for place, arm in enumerate(summary.arms)
    }
    parts = [
        '<!DOCTYPE html>',
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # The page needs nothing from anywhere, and says so: what a name might smuggle in would be refused.
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="color-scheme" content="light dark">',
        '<link rel="icon" href="data:,">',
        f'<title>{escape(title)}</title><style>{STYLE}</style></head><body>',
        '<header>',
        f'<p class="eyebrow">{_eyebrow(summary, lineages)}</p>',
        f'<h1>{escape(answer.short)}</h1>',
        f'<p class="lead">{escape(answer.detail[:1].upper() + answer.detail[1:])}</p>',
        _ratios(answer),
        _list('caveats', notes),
        '</header><main>',
        '<h2>How it went</h2>',
        '<p>Each arm by the end of each epoch, and what it took to get there.</p>',
        f'<div class="plots">{"".join(map(_figure, figures))}</div>',
        '<h2>The numbers</h2>',
        f'<p>Mean ± standard deviation over seeds. The baseline is {escape(summary.baseline.name)}.</p>',
        *(_table(table, colors) for table in primary + models + fidelity + robustness + cost),
        *(_table(table, colors) for others in by_section.values() for table in others),
        *(('<h2>The archive</h2>', f'<p>{_ARCHIVE}</p>') if archive else ()),
        *(_table(table, colors) for table in archive),
        '<h2>The runs</h2>',
        '<p>What each was, where it ran, and with which settings.</p>',
        *(_table(table, colors) for table in runs),
        _settings(summary),
        '</main><footer>',
        *(f'<p>{escape(line)}</p>' for line in method(tables)),
        '</footer></body></html>',
    ]
    return '\n'.join(part for part in parts if part) + '\n'


def _eyebrow(summary: Summary, lineages: Sequence[str]) -> str:
    arms = f'{len(summary.arms)} arm{"s" if len(summary.arms) > 1 else ""}'
    runs = f'{len(summary.runs)} run{"s" if len(summary.runs) > 1 else ""}'
    return escape(' · '.join([*lineages, f'{runs} in {arms}']))


def _ratios(answer: Headline) -> str:
    if not answer.comparisons or answer.threshold is None:
        return ''
    cells = []
    for cost in COSTS:
        found = answer.comparisons.get(cost.name)
        if found is None:
            continue
        unit = unit_for(cost.name, (found.arm.mean, found.baseline.mean))
        way = f'{mean_text(found.baseline, unit)} → {mean_text(found.arm, unit)}\u00a0{unit.name}'
        mark = f' {SHARED}' if found.shared else ''
        cells.append(
            f'<div><dt>{escape(cost.title.capitalize())}{mark}</dt><dd class="ratio">{times(found.ratio)}</dd>'
            f'<dd class="from">{escape(way)}</dd></div>'
        )
    label = f'Speed-up to {percent(answer.threshold)}, by cost'
    return f'<dl class="ratios" aria-label="{escape(label)}">{"".join(cells)}</dl>'


def _list(kind: str, lines: Sequence[str]) -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>' if lines else ''


def _figure(figure: Figure) -> str:
    picture = figure.svg.replace('<svg', f'<svg role="img" aria-label="{escape(figure.alt)}"', 1)
    return f'<figure id="{figure.name}">{picture}<figcaption>{escape(figure.caption)}</figcaption></figure>'


def _table(table: Table, colors: Mapping[str, str]) -> str:
    def cell(text: str, place: int, head: bool) -> str:
        kind = ' class="label"' if place < table.labels else ''
        if head:
            return f'<th scope="col"{kind}>{escape(text)}</th>'
        if place == 0:
            color = colors.get(text.removesuffix(f' {SHARED}'))
            swatch = (
                f'<span class="swatch" style="background:{color}"></span>' if color and table.section != 'runs' else ''
            )
            return f'<th scope="row"{kind}>{swatch}{escape(text)}</th>'
        return f'<td{kind}>{escape(text)}</td>'

    head = ''.join(cell(text, place, True) for place, text in enumerate(table.columns))
    rows = ''.join(
        f'<tr>{"".join(cell(text, place, False) for place, text in enumerate(row))}</tr>' for row in table.rows
    )
    return (
        f'<h3>{escape(table.title)}</h3>'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(table.title)}">'
        f'<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _settings(summary: Summary) -> str:
    """What all runs have in common once, then each arm's own; hardware and versions the same way."""
    first = [(arm.name, _facts(arm.arm.runs[0].config, arm.arm.counted[0].manifest)) for arm in summary.arms]
    common = {key: value for key, value in first[0][1].items() if all(facts.get(key) == value for _, facts in first)}
    blocks = [_facts_block('Common to all arms' if len(first) > 1 else first[0][0], common.items())]
    for name, facts in first:
        own = [(key, value) for key, value in facts.items() if key not in common]
        if own:
            blocks.append(_facts_block(name, own))
    return ''.join(blocks)


def _facts(config: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, str]:
    facts = {str(key): _plain(value) for key, value in config.items() if key not in ('name', 'arm', 'seed')}
    for key in ('hardware', 'versions', 'parameters', 'multiply_adds', 'precision'):
        if manifest.get(key) is not None:
            facts[key.replace('_', ' ')] = _plain(manifest[key])
    return facts


def _plain(value: Any) -> str:
    """A setting as one readable line or a few: ``key: value`` pairs, nested ones in brackets."""
    if isinstance(value, Mapping):
        return '\n'.join(f'{key}: {_inline(inner)}' for key, inner in value.items()) or 'none'
    return _inline(value)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return '{' + ', '.join(f'{key}: {_inline(inner)}' for key, inner in value.items()) + '}'
    if isinstance(value, list):
        return '[' + ', '.join(map(_inline, value)) + ']'
    if value is None:
        return 'none'
    if isinstance(value, bool):
        return json.dumps(value)
    return f'{value:,}' if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def _facts_block(title: str, facts: Iterable[tuple[str, str]]) -> str:
    items = ''.join(f'<dt>{escape(key)}</dt><dd>{escape(value)}</dd>' for key, value in facts)
    return f'<h3>{escape(title)}</h3><dl class="facts">{items}</dl>' if items else ''
