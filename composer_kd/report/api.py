"""The report as one object that can be asked for every format, and ``composer-kd report RUNS...``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from composer_kd.core.errors import UserError
from composer_kd.report.caveats import caveats
from composer_kd.report.headline import Headline, headline
from composer_kd.report.load import collect
from composer_kd.report.render.figures import Figure
from composer_kd.report.render.html import page
from composer_kd.report.render.text import Table, capital, markdown_escape, wrapped
from composer_kd.report.sections import ReportSection, make_sections
from composer_kd.report.stats import COSTS
from composer_kd.report.summary import ArmSummary, Summary, summarize
from composer_kd.storage.atomic import atomic_write, make_folder

__all__ = ['Report', 'add_arguments', 'main', 'numbers', 'report']

VERSION = 2  # of report.json

N = TypeVar('N', int, float)


@dataclass(frozen=True)
class Report:
    """What the runs say, ready to be shown. Figures are drawn when they are first asked for."""

    summary: Summary  # what all sections are made from
    sections: dict[str, ReportSection]  # by name, in their order

    @cached_property
    def headline(self) -> Headline:
        return headline(self.summary)

    @cached_property
    def caveats(self) -> list[str]:
        return caveats(self.summary, self.sections.values())

    @cached_property
    def shown(self) -> dict[str, list[Table]]:
        """The tables of each section, by its name; sections without one are left out."""
        tables = {name: [table for table in one.tables() if table.rows] for name, one in self.sections.items()}
        return {name: found for name, found in tables.items() if found}

    @cached_property
    def tables(self) -> list[Table]:
        return [table for found in self.shown.values() for table in found]

    @cached_property
    def figures(self) -> list[Figure]:
        return [figure for section in self.sections.values() for figure in section.figures()]

    @property
    def method(self) -> list[str]:
        """How the numbers came about, a paragraph each: of those alone that are shown."""
        return [self.sections[name].method for name in self.shown if self.sections[name].method]

    def text(self) -> str:
        """For a terminal of 100 columns."""
        notes = '\n'.join(wrapped(f'- {line}', indent='  ') for line in self.caveats)
        parts = [wrapped(self.headline.sentence), notes, *(table.text() for table in self.tables)]
        return '\n\n'.join(part for part in parts if part) + '\n'

    def brief(self) -> str:
        """The answer and the tables behind it, for the end of a training; all of it is in :meth:`text`."""
        parts = [wrapped(self.headline.sentence), *(table.text() for table in self.tables if table.brief)]
        return '\n\n'.join(parts) + '\n'

    def markdown(self, pictures: str | None = None) -> str:
        """Tables in GitHub's dialect.

        Args:
            pictures: The folder of the PNGs, relative to the file, for links to them. Default: no pictures.
        """
        parts = [
            f'# {markdown_escape(self.headline.short)}',
            markdown_escape(capital(self.headline.detail)),
            '\n'.join(f'- {markdown_escape(line)}' for line in self.caveats),
        ]
        if pictures is not None:
            parts += [f'![{markdown_escape(figure.alt)}]({pictures}/{figure.name}.png)' for figure in self.figures]
        parts += [*(table.markdown() for table in self.tables), *map(markdown_escape, self.method)]
        return '\n\n'.join(part for part in parts if part) + '\n'

    def json(self) -> str:
        """For programs: accuracies are fractions, seconds seconds; what is not known is ``null``.

        Spreads are ``{mean, sd, n}``; ``arms`` holds what the headline rests on, ``sections`` the values of each.
        """
        document = {
            'format': 'composer_kd.report',
            'version': VERSION,
            'headline': self.headline.sentence,
            'caveats': self.caveats,
            'baseline': self.summary.baseline.name,
            'primary_measure': self.summary.primary.name,
            'epochs': self.summary.epochs,
            'thresholds': self.summary.thresholds,
            'arms': [_arm(self.summary, arm) for arm in self.summary.arms],
            'sections': {name: one.values for name, one in self.sections.items() if one.values is not None},
        }
        return json.dumps(_plain(document), indent=1, ensure_ascii=False, allow_nan=False) + '\n'

    def html(self) -> str:
        shown = [(self.sections[name], tables) for name, tables in self.shown.items()]
        return page(self.summary, self.headline, self.caveats, shown, self.method, self.figures)

    def write(self, folder: str | Path) -> list[Path]:
        """Write ``report.html``, ``report.md``, ``report.json`` and ``report/*.png``, each as a whole or not at all.

        Returns:
            list[Path]: The files, the page first.
        """
        folder = Path(folder)
        if (folder / 'report').is_symlink():
            raise UserError(f'{folder / "report"}: a symbolic link, and nothing is written through it; remove it')
        files: dict[Path, bytes] = {
            folder / 'report.html': self.html().encode(),
            folder / 'report.md': self.markdown(pictures='report').encode(),
            folder / 'report.json': self.json().encode(),
        }
        files |= {folder / 'report' / f'{figure.name}.png': figure.png for figure in self.figures}
        make_folder(folder / 'report')
        for path, content in files.items():
            atomic_write(path, content)
        return list(files)


def report(
    paths: str | Path | Iterable[str | Path],
    out: str | Path | None = None,
    baseline: str | None = None,
    thresholds: Sequence[float] | None = None,
    epochs: Sequence[int] | None = None,
) -> Report:
    """Report on runs.

    Args:
        paths: Run directories, or folders that hold some.
        out: Where to write the files at once. Default: nowhere.
        baseline: The arm to compare with. Default: the first one without teachers.
        thresholds: Accuracies to reach, as fractions. Default: round ones that every baseline run ended above.
        epochs: Where to compare accuracies. Default: quarters of the shortest run.

    Example:
        >>> print(report('runs/kd', baseline='scratch').text())  # doctest: +SKIP
    """
    summary = summarize(collect(paths), baseline, thresholds, epochs)
    made = Report(summary, make_sections(summary))
    if out is not None:
        made.write(out)
    return made


def _arm(summary: Summary, arm: ArmSummary) -> dict[str, Any]:
    def level(measure: str, index: int) -> dict[str, Any]:
        found = {cost: summary.compare(arm, measure, index, cost) for cost in COSTS}
        compared = found if arm is not summary.baseline else dict.fromkeys(found)
        return {**_plain(arm.reach[measure][index]), 'speed_up': compared}

    return {
        'name': arm.name,
        'runs': [run.name for run in arm.counted],
        'finished': arm.finished,
        'recycles': arm.recycles,
        'shared': arm.shared,
        'accuracy': arm.accuracy,
        'to_reach': {name: [level(name, index) for index in range(len(levels))] for name, levels in arm.reach.items()},
    }


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, all keys as text: what JSON can hold."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {f'{key:g}' if isinstance(key, float) else str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('runs', nargs='+', metavar='RUNS', help='run directories, or folders that hold some')
    parser.add_argument('--baseline', metavar='ARM', help='compare with this arm (default: the first without teachers)')
    parser.add_argument(
        '--thresholds', metavar='0.3,0.4', help='accuracies to reach (default: chosen from the baseline)'
    )
    parser.add_argument('--epochs', metavar='5,10', help='where accuracies are compared (default: quarters of the run)')
    parser.add_argument(
        '--out',
        metavar='FOLDER',
        help='where report.html, .md, .json and pictures are written (default: in the run, or beside several)',
    )
    parser.add_argument('--format', choices=('text', 'markdown', 'json'), default='text', help='what to print')


def main(args: argparse.Namespace) -> int:
    """Print the report, write its files, and say where."""
    thresholds = numbers('--thresholds', args.thresholds, float)
    epochs = numbers('--epochs', args.epochs, int)
    made = report(args.runs, baseline=args.baseline, thresholds=thresholds, epochs=epochs)
    print({'text': made.text, 'markdown': made.markdown, 'json': made.json}[args.format](), end='')
    files = made.write(args.out or _default_folder([run.path for run in made.summary.runs]))
    # On stderr, so that a pipe gets the report alone.
    print(f'written, with {len(files) - 1} files beside it:\n{_openable(files[0])}', file=sys.stderr)
    return 0


def _openable(file: Path) -> str:
    """Relative to the current folder where it is below, else from the root."""
    whole = file.resolve()
    return str(whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole)


def _default_folder(runs: list[Path]) -> Path:
    """In the one run's directory; beside several of one folder; else here."""
    if len(runs) == 1:
        return runs[0]
    parents = {run.resolve().parent for run in runs}
    return runs[0].parent if len(parents) == 1 else Path()


def numbers(option: str, text: str | None, kind: Callable[[str], N]) -> list[N] | None:
    """What an option lists, parted by commas; ``None`` where it is not given."""
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(',')]
    except ValueError:
        example = '5,10' if kind is int else '0.3,0.4'
        raise UserError(f'{option}: {text!r} is not a list of numbers; give them as {example}') from None
