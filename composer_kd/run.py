"""Training what a YAML file says: behind ``composer run FILE``, ``composer -m composer_kd.run FILE`` and ``composer-kd run``."""

from __future__ import annotations

import argparse

__all__ = ['add_arguments', 'main', 'work']


def main(argv: list[str] | None = None) -> int:
    """Entry point of the ``run`` script and of ``python -m composer_kd.run``."""
    parser = argparse.ArgumentParser(
        prog='composer run',
        description='Train what a YAML file says: one run, or a lineage of runs that teach each other.',
    )
    add_arguments(parser)
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    arguments = parser.parse_args(argv)
    from composer_kd.cli import report_errors

    again = '; the last checkpoint is kept: repeat the same command to continue'
    return report_errors(lambda: work(arguments), arguments.debug, hint=again)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('file', help='a YAML file, or the name of one that comes with the package (kd.yaml)')
    parser.add_argument('changes', nargs='*', metavar='key=value', help='changes to the file, as data.val_fraction=0.2')
    parser.add_argument('--only', metavar='RUN', help='train this run of the lineage alone; its teachers are finished')
    parser.add_argument('--no-report', action='store_true', help='leave out the report at the end')
    parser.add_argument(
        '--progress',
        choices=('auto', 'bar', 'lines'),
        default='auto',
        help="Composer's bar, a line an epoch, or the bar where there is a terminal (default: auto)",
    )


def work(arguments: argparse.Namespace) -> int:
    from composer_kd.runs.command import run_file

    run_file(
        arguments.file,
        arguments.changes,
        only=arguments.only,
        report=not arguments.no_report,
        bar={'auto': None, 'bar': True, 'lines': False}[arguments.progress],
    )
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
