"""``composer-kd report RUNS...``: show the report in the terminal, and write its files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from composer_kd.core.errors import UserError

__all__ = ['add_arguments', 'main', 'numbers']

N = TypeVar('N', int, float)


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
    from composer_kd.report.document import report

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
