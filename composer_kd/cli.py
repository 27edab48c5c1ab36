"""The command ``composer-kd``: everything beside the training itself."""

from __future__ import annotations

import argparse
import sys

from composer_kd.commands import add_commands
from composer_kd.core.cli_errors import report_errors

__all__ = ['main']


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ['run']:
        from composer_kd.run import main as run

        return run(words[1:], prog='composer-kd run')
    parser = argparse.ArgumentParser(prog='composer-kd', description='Retraining for a fraction of training.')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    commands.add_parser(
        'run', help='train what a YAML file says, in one process (`composer run FILE` launches several)'
    )
    add_commands(commands)
    arguments, rest = parser.parse_known_args(words)
    # Changes and options in any order, which argparse cannot do for one command among several.
    more = {'record': 'runs', 'retrain': 'changes'}.get(arguments.command)
    if more is not None and not any(word.startswith('-') for word in rest):
        setattr(arguments, more, getattr(arguments, more) + rest)
    elif rest:
        parser.error(f'unrecognized arguments: {" ".join(rest)}')
    again = '; repeat the same command to continue' if arguments.command in ('record', 'retrain') else ''
    return report_errors(lambda: arguments.work(arguments), arguments.debug, hint=again)


if __name__ == '__main__':
    raise SystemExit(main())
