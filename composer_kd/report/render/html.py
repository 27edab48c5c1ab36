"""One self-contained page: no script, nothing fetched, every name escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from composer_kd.report.headline import Headline
from composer_kd.report.render.figures import ACCENTS, Figure, css_variables
from composer_kd.report.render.text import SHARED, Table, capital, mean_text, percent, times, unit_for
from composer_kd.report.sections import ReportSection
from composer_kd.report.stats import COSTS
from composer_kd.report.summary import Summary

__all__ = ['page']

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(
    summary: Summary,
    answer: Headline,
    notes: Sequence[str],
    sections: Sequence[tuple[ReportSection, Sequence[Table]]],
    method: Sequence[str],
    figures: Sequence[Figure],
) -> str:
    """Lay out the whole HTML document."""
    lineages = list(dict.fromkeys(run.lineage for run in summary.runs if run.lineage))
    title = f'Report: {", ".join(lineages)}' if lineages else 'Report'
    colors = {arm.marked(): f'var({ACCENTS[place % len(ACCENTS)].variable})' for place, arm in enumerate(summary.arms)}
    parts = [
        '<!DOCTYPE html>',
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # The page needs nothing from anywhere, and says so: what a name might smuggle in would be refused.
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="color-scheme" content="light dark">',
        '<link rel="icon" href="data:,">',
        f'<title>{escape(title)}</title><style>{_style()}</style></head><body>',
        '<header>',
        f'<p class="eyebrow">{_eyebrow(summary, lineages)}</p>',
        f'<h1>{escape(answer.short)}</h1>',
        f'<p class="lead">{escape(capital(answer.detail))}</p>',
        _ratios(answer),
        _list('caveats', notes),
        '</header><main>',
        _heading('How it went', 'The accuracy of each arm by epoch, and what it took to get there.'),
        f'<div class="plots">{"".join(map(_figure, figures))}</div>',
        _heading('The numbers', f'Mean ± standard deviation over seeds. The baseline is {summary.baseline.name}.'),
        *(
            (_heading(section.heading, section.lead) if section.heading else '')
            + ''.join(_table(table, colors) for table in tables)
            for section, tables in sections
        ),
        _settings(summary),
        '</main><footer>',
        *(f'<p>{escape(line)}</p>' for line in method),
        '</footer></body></html>',
    ]
    return '\n'.join(part for part in parts if part) + '\n'


def _style() -> str:
    """Colours for light and for dark, and the style sheet beside this file."""
    dark = f'@media screen and (prefers-color-scheme: dark) {{ :root {{ {css_variables(dark=True)} }} }}'
    sheet = Path(__file__).with_name('page.css').read_text(encoding='utf-8')
    return f':root {{ color-scheme: light dark; {css_variables(dark=False)} }}\n{dark}\n{sheet}'


def _heading(title: str, lead: str) -> str:
    return f'<h2>{escape(title)}</h2>\n<p>{escape(lead)}</p>\n'


def _eyebrow(summary: Summary, lineages: Sequence[str]) -> str:
    arms = f'{len(summary.arms)} arm{"s" if len(summary.arms) > 1 else ""}'
    runs = f'{len(summary.runs)} run{"s" if len(summary.runs) > 1 else ""}'
    return escape(' · '.join([*lineages, f'{runs} in {arms}']))


def _ratios(answer: Headline) -> str:
    if not answer.comparisons or answer.threshold is None:
        return ''
    cells = []
    for cost, title in COSTS.items():
        found = answer.comparisons.get(cost)
        if found is None:
            continue
        unit = unit_for(cost, (found.arm, found.baseline))
        way = f'{mean_text(found.baseline, unit)} → {mean_text(found.arm, unit)}\u00a0{unit.name}'
        mark = f' {SHARED}' if found.shared else ''
        cells.append(
            f'<div><dt>{escape(title.capitalize())}{mark}</dt><dd class="ratio">{times(found.ratio)}</dd>'
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
            color = colors.get(text.removesuffix(f' {SHARED}')) if table.columns[0] == 'arm' else None
            swatch = f'<span class="swatch" style="background:{color}"></span>' if color else ''
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
    first = [(arm.name, _facts(arm.runs[0].config, arm.counted[0].manifest)) for arm in summary.arms]
    common = {key: value for key, value in first[0][1].items() if all(facts.get(key) == value for _, facts in first)}
    blocks = [_facts_block('Common to all arms' if len(first) > 1 else first[0][0], common.items())]
    for name, facts in first:
        own = [(key, value) for key, value in facts.items() if key not in common]
        if own:
            blocks.append(_facts_block(name, own))
    return ''.join(blocks)


def _facts(config: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, str]:
    facts = {str(key): value for key, value in config.items() if key not in ('name', 'arm', 'seed')}
    for key in ('hardware', 'versions', 'parameters', 'multiply_adds', 'precision'):
        if manifest.get(key) is not None:
            facts[key.replace('_', ' ')] = manifest[key]
    return {key: _as_yaml(value) for key, value in facts.items()}


def _as_yaml(value: Any) -> str:
    """A setting as it may stand in a YAML file."""
    written = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=None, width=1000)
    return written.removesuffix('...\n').rstrip()


def _facts_block(title: str, facts: Iterable[tuple[str, str]]) -> str:
    items = ''.join(f'<dt>{escape(key)}</dt><dd>{escape(value)}</dd>' for key, value in facts)
    return f'<h3>{escape(title)}</h3><dl class="facts">{items}</dl>' if items else ''
