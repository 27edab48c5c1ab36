"""What ``composer run FILE`` does: read, plan, train, evaluate ensembles, report."""

from __future__ import annotations

import logging
import sys
import warnings

import torch
from composer.utils import dist

from composer_kd.archive import RunDir
from composer_kd.core.errors import UserError, one_line
from composer_kd.data.drift.scenarios import check_scenario_files, scenarios_of
from composer_kd.runs.ensembles_section import ENSEMBLES, write_ensembles
from composer_kd.runs.evaluate_drifts import refuse_misfits
from composer_kd.runs.execute import execute
from composer_kd.runs.plan import Plan, make_plan
from composer_kd.runs.process import join_ranks
from composer_kd.runs.progress import RunProgress
from composer_kd.runs.side_by_side import devices_to_use, execute_side_by_side
from composer_kd.runs.yaml_file import apply_overrides, find_yaml, read_yaml
from composer_kd.storage.distributed import on_rank_zero

__all__ = ['quieten', 'run_file', 'say']


def run_file(
    file: str, changes: list[str], only: str | None = None, report: bool = True, bar: bool | None = None
) -> None:
    """Train what ``file`` with ``changes`` says, and report on it.

    Args:
        file: A YAML file, or the name of one that comes with the package.
        changes: ``key=value`` texts.
        only: The one run of the lineage to train.
        report: Whether a table is printed and report.html written in the end.
        bar: Whether Composer's bar is shown; ``None`` shows it on a terminal.
    """
    quieten()
    path = find_yaml(file)
    plan = make_plan(apply_overrides(read_yaml(path), changes), where=str(path))
    if only is not None:
        plan = plan.only(only)
    _refuse_what_is_not_here(plan)
    progress = RunProgress(bar)
    for line in plan.notes:
        progress.say(line)
    devices = devices_to_use(plan)
    if devices > 1 and only is None:
        refuse_misfits(plan)
        execute_side_by_side(plan, devices, file, changes, progress)
    else:
        join_ranks(plan.runs[0].config.device)
        refuse_misfits(plan)
        execute(plan, progress)
    try:
        if only is None and (plan.ensembles or (plan.folder / ENSEMBLES).is_file()):  # Those of before may be gone.
            device = plan.runs[0].config.device
            on_rank_zero(lambda: write_ensembles(plan.folder, plan.name, plan.ensembles, device, progress.say))
    finally:
        if report and only is None:
            on_rank_zero(lambda: _report(plan, progress))


def _refuse_what_is_not_here(plan: Plan) -> None:
    """Find a missing device or data folder of any run before the first one trains."""
    for run in plan.runs:
        if not RunDir(run.folder).finished:
            run.config.data.check_source(f'{run.name}: data')
            check_scenario_files(scenarios_of(run.config.evaluate.drifts), f'{run.name}: evaluate.drifts')
        if run.config.device == 'gpu' and not torch.cuda.is_available():
            raise UserError(f'{run.name}: device: there is no GPU here; use device=cpu or device=auto')
        if run.config.precision == 'fp16' and (run.config.device == 'cpu' or not torch.cuda.is_available()):
            raise UserError(f'{run.name}: precision: fp16 needs a GPU; use bf16 or fp32')


def _report(plan: Plan, progress: RunProgress) -> None:
    from composer_kd.report import report

    made = report([run.folder for run in plan.runs])
    # One run has its report in its own directory; a lineage's compares several, and lies beside them.
    folder = plan.runs[0].folder if len(plan.runs) == 1 else plan.folder
    made.write(folder)
    progress.say(f'\n{made.brief()}\nreport: {folder / "report.html"}')


def say(line: str) -> None:
    """A line for the person who waits, from rank 0 alone."""
    if dist.get_global_rank() == 0:
        print(line, flush=True)


def quieten() -> None:
    """Leave the screen to lines that tell the person something: libraries' advice to their developers is none."""
    if not sys.warnoptions:
        for module in ('torch', 'composer', 'torchmetrics', 'streaming', 'pydantic', 'torchvision'):
            warnings.filterwarnings('ignore', module=rf'{module}(\..*)?$')
    warnings.showwarning = _one_line_warning
    logging.getLogger('composer').setLevel(logging.ERROR)
    ours = logging.getLogger('composer_kd')
    if not ours.handlers:
        ours.addHandler(_OneLine(logging.WARNING))
    torch.set_warn_always(False)


class _OneLine(logging.Handler):
    """Show what our modules log as a warning, as warnings are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        _one_line_warning(record.getMessage(), None, '', 0)


def _one_line_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if dist.get_global_rank() == 0:
        print(one_line(f'warning: {message}'), file=file or sys.stderr, flush=True)
