"""How a command ends: its exit status, and one line on standard error where it failed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from composer_kd.core.errors import UserError, one_line

__all__ = ['fail', 'report_errors']

INTERRUPTED = 130
TERMINATED = 143
BROKEN_PIPE = 141


def report_errors(work: Callable[[], int], debug: bool, hint: str = '') -> int:
    """Do ``work``; what goes wrong is one line on standard error, from rank 0 alone, and a non-zero exit status.

    Args:
        work: Returns the exit status.
        debug: Whether errors keep their traceback.
        hint: Added to the line after Ctrl-C.
    """
    try:
        return work()
    except UserError as error:
        if debug:
            raise
        return fail(str(error), 1)
    except KeyboardInterrupt:
        return fail(f'interrupted{hint}', INTERRUPTED)
    except SystemExit as stop:
        # Composer's Trainer turns SIGINT and SIGTERM into this.
        if stop.code not in (INTERRUPTED, TERMINATED):
            raise
        # The launcher may send another one while the process ends: it has been heard.
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        return fail(f'{"interrupted" if stop.code == INTERRUPTED else "terminated"}{hint}', int(stop.code))
    except BrokenPipeError:
        # The reader of our output, head or less, has seen enough. Not 0: other ranks must not wait for this one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        if debug:
            raise
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if isinstance(cause, UserError):
            return fail(str(cause), 1)
        if isinstance(cause, OSError) and cause.strerror:
            place = f'{cause.filename}: ' if cause.filename else ''
            return fail(f'{place}{cause.strerror}; see to it and repeat the command', 1)
        first = str(error).strip().splitlines()[0] if str(error).strip() else 'no message'
        return fail(f'{type(error).__name__}: {first} (--debug shows where)', 2)


def fail(line: str, status: int) -> int:
    """Say what went wrong, from rank 0 alone; the status comes back."""
    if os.environ.get('RANK', '0') == '0':
        print(one_line(f'composer-kd: {line}'), file=sys.stderr, flush=True)
    return status
