"""Training what a YAML file says: ``composer run``, ``composer -m composer_kd.run``, ``composer-kd run``."""

from __future__ import annotations

import argparse

__all__ = ['main']


def main(argv: list[str] | None = None, prog: str = 'composer run') -> int:
    """Entry point of the ``run`` script, of ``python -m composer_kd.run`` and of ``composer-kd run``."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description='Train what a YAML file says: one run, or a lineage of runs that teach each other.',
    )
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
    parser.add_argument(
        '--trust-pickle',
        action='store_true',
        help='open a file of weights that a run starts from where it is a pickle (.pt); a process of its own reads it',
    )
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    # Changes and options in any order: file --only gen1 data.source=x.
    arguments = parser.parse_intermixed_args(argv)
    from composer_kd.core.cli_errors import report_errors

    again = '; repeat the same command to continue from the last checkpoint'
    return report_errors(lambda: _work(arguments), arguments.debug, hint=again)


def _work(arguments: argparse.Namespace) -> int:
    from composer_kd.runs.command import run_file

    run_file(
        arguments.file,
        [*arguments.changes, *(['trust_pickle=true'] if arguments.trust_pickle else [])],
        only=arguments.only,
        report=not arguments.no_report,
        bar={'auto': None, 'bar': True, 'lines': False}[arguments.progress],
    )
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
