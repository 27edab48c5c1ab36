"""A study in pieces: the runs that are missing, trained for so many minutes; the same command goes on.

    python -m benchmarks.study FILE --minutes 8.5

trains in a process of its own, which it interrupts when the time is over:

    python -m benchmarks.pieces FILE [key=value ...] --runs RUN...
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.damaged import names_in_grids
from composer_kd.archive import RunDir
from composer_kd.core.cli_errors import report_errors
from composer_kd.runs.command import quieten
from composer_kd.runs.evaluate_drifts import refuse_misfits
from composer_kd.runs.execute import execute
from composer_kd.runs.plan import Plan, PlannedRun, make_plan
from composer_kd.runs.process import join_ranks
from composer_kd.runs.progress import RunProgress
from composer_kd.runs.yaml_file import apply_overrides, read_yaml

__all__ = ['missing', 'train_for']

# What a run that is interrupted may take to write its last checkpoint.
_PATIENCE = 20


def missing(plan: Plan, arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The runs that are still to be trained, and what they need of others that is not on this disk, in their order.

    Args:
        plan: Of the study.
        arms: Its results so far, which may be of another machine.
    """
    by_name = {run.name: run for run in plan.runs}
    wanted: set[str] = set()

    def want(run: PlannedRun) -> None:
        if run.name not in wanted and not RunDir(run.folder).finished:
            wanted.add(run.name)
            for name in run.after:
                want(by_name[name])

    for run in plan.runs:
        if not any(_is_whole(one, run) for one in arms.get(run.arm, ())):
            want(run)
    return [run.name for run in plan.runs if run.name in wanted]


def _is_whole(result: Mapping[str, Any], run: PlannedRun) -> bool:
    """Whether a result is of this run, and holds what is measured after the training as well."""
    measured = (
        run.config.evaluate.attacks is None or 'under_attack' in result,
        not run.config.evaluate.drifts or 'drifts' in result,
        not names_in_grids(run) or 'damaged' in result,
    )
    return result['seed'] == run.config.seed and all(measured)


def train_for(minutes: float, yaml: Path, changes: Sequence[str], plan: Plan, arms: Mapping[str, Any]) -> int:
    """Train what is missing until the time is over; the exit status, 0 for an interruption."""
    # What has ended here may still lack a measurement that a kill has cut off: it is looked at, too.
    ended = {run.name for run in plan.runs if RunDir(run.folder).finished}
    wanted = {*missing(plan, arms), *ended}
    if not wanted:
        return 0
    names = [run.name for run in plan.runs if run.name in wanted]
    command = [sys.executable, '-m', 'benchmarks.pieces', str(yaml), *changes, '--runs', *names]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(60 * minutes)
    except subprocess.TimeoutExpired:
        return 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('yaml', type=Path)
    parser.add_argument('changes', nargs='*', metavar='key=value')
    parser.add_argument('--runs', nargs='+', required=True, metavar='RUN')
    options = parser.parse_args()
    return report_errors(lambda: _train(options), debug=False, hint='; the same command goes on')


def _train(options: argparse.Namespace) -> int:
    quieten()
    plan = make_plan(apply_overrides(read_yaml(options.yaml), options.changes), where=str(options.yaml))
    plan = replace(plan, runs=tuple(run for run in plan.runs if run.name in options.runs), ensembles=())
    join_ranks(plan.runs[0].config.device)
    refuse_misfits(plan)
    execute(plan, RunProgress(False))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
