"""The style sheet of the page: phone first, light and dark, and paper."""

from __future__ import annotations

from composer_kd.report.palette import css_variables

__all__ = ['STYLE']

STYLE = (
    ':root { color-scheme: light dark; '
    + css_variables(dark=False)
    + ' }\n@media screen and (prefers-color-scheme: dark) { :root { '
    + css_variables(dark=True)
    + ' } }\n'
    + """
* { box-sizing: border-box; }
:root {
  --sans: system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', Arial, sans-serif;
}
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 var(--sans);
}
main, header, footer { max-width: 62rem; margin: 0 auto; padding: 0 16px; overflow-wrap: anywhere; }
header { padding-top: 2.5rem; }
.eyebrow { margin: 0 0 .6rem; color: var(--muted); font-size: .875rem; }
h1 {
  margin: 0 0 .75rem; font-size: clamp(1.6rem, 1.2rem + 2.2vw, 2.5rem);
  line-height: 1.15; letter-spacing: -.018em; text-wrap: balance;
}
.lead { margin: 0; max-width: 46rem; font-size: 1.0625rem; color: var(--ink); text-wrap: pretty; }
h2 { margin: 3.25rem 0 .35rem; font-size: 1.3rem; line-height: 1.25; letter-spacing: -.01em; }
h2 + p { margin: 0 0 1.25rem; max-width: 46rem; color: var(--muted); }
h3 { margin: 2.25rem 0 .5rem; font-size: 1rem; line-height: 1.35; }

.ratios {
  display: grid; grid-template-columns: repeat(3, 1fr); margin: 1.75rem 0 0;
  padding: 0; border-top: 1px solid var(--grid);
  border-bottom: 1px solid var(--grid);
}
.ratios div { padding: .9rem .6rem .8rem 0; }
.ratios div + div { padding-left: .9rem; border-left: 1px solid var(--grid); }
.ratios dt { color: var(--muted); font-size: .8125rem; line-height: 1.3; }
.ratios dd { margin: .1rem 0 0; }
.ratios .ratio {
  font-size: clamp(1.35rem, 1rem + 1.8vw, 2rem); font-weight: 650;
  line-height: 1.25; font-variant-numeric: tabular-nums; letter-spacing: -.01em;
}
.ratios .from { color: var(--muted); font-size: .8125rem; line-height: 1.35; }

.caveats {
  margin: 1.5rem 0 0; padding: .1rem 0 .1rem 1rem;
  border-left: 3px solid var(--arm-5); max-width: 46rem; font-size: .9375rem;
  list-style: none;
}
.caveats li { margin: .35rem 0; }

.plots { display: grid; grid-template-columns: minmax(0, 1fr); gap: 2.25rem; margin-top: 1.25rem; }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 31rem; }
figure svg text { font-family: var(--sans) !important; }  /* over matplotlib's inline style */
figcaption {
  margin-top: .35rem; max-width: 31rem; color: var(--muted);
  font-size: .8125rem; line-height: 1.45;
}
@media (min-width: 47rem) {
  .plots { grid-template-columns: repeat(2, minmax(0, 1fr)); column-gap: 2.5rem; }
  header { padding-top: 4rem; }
  main, header, footer { padding-left: 24px; padding-right: 24px; }
}

.scroll { overflow-x: auto; margin: 0; -webkit-overflow-scrolling: touch; }
.scroll:focus-visible {
  outline: 2px solid var(--arm-1); outline-offset: 2px;
}
table {
  border-collapse: collapse; font-size: .875rem; line-height: 1.4;
  font-variant-numeric: tabular-nums;
}
th, td {
  padding: .42rem .75rem; text-align: right; white-space: nowrap;
  overflow-wrap: normal; vertical-align: baseline;
  border-bottom: 1px solid var(--grid);
}
thead th { color: var(--muted); font-weight: 500; border-bottom-color: var(--muted); }
tbody th { font-weight: 500; }
.label { text-align: left; }
th.label:first-child {
  position: sticky; left: 0; padding-left: 0; background: var(--paper);
  white-space: normal; min-width: 6.5rem; max-width: 14rem;
  overflow-wrap: anywhere;
}
.swatch {
  display: inline-block; width: .6rem; height: .6rem; margin-right: .45rem;
  border-radius: 2px;
}
dl.facts {
  display: grid; grid-template-columns: minmax(0, 1fr); gap: 0;
  margin: .5rem 0 0; font-size: .875rem;
}
dl.facts dt { color: var(--muted); }
dl.facts dd { margin: 0 0 .6rem; overflow-wrap: anywhere; white-space: pre-wrap; }
@media (min-width: 40rem) {
  dl.facts { grid-template-columns: 11rem minmax(0, 1fr); row-gap: .3rem; }
  dl.facts dd { margin: 0; }
}
footer {
  margin-top: 3rem; padding-top: 1rem; padding-bottom: 3rem;
  color: var(--muted); font-size: .8125rem;
}

@media print {
  @page { margin: 14mm 13mm; }
  html { font-size: 9.5pt; }
  body { font-size: 1rem; }
  main, header, footer { max-width: none; padding: 0; }
  header { padding-top: 0; }
  h1 { font-size: 20pt; }
  h2 { margin-top: 1.6rem; break-after: avoid; }
  h3 { margin-top: 1.2rem; break-after: avoid; }
  .plots { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.1rem 1.5rem; }
  figure, table, tr, .ratios { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; max-width: 100%; }
  th, td { padding: .25rem .4rem; white-space: normal; }
  .label { overflow-wrap: anywhere; }
  th.label:first-child { position: static; }
  .swatch { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""
)
