"""Independent runs of a lineage next to each other, one a device: each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

import torch

from composer_kd.core.errors import UserError
from composer_kd.runs.plan import Plan
from composer_kd.runs.planned_run import PlannedRun
from composer_kd.runs.progress import RunProgress

__all__ = ['devices_to_use', 'execute_side_by_side']


def devices_to_use(plan: Plan) -> int:
    """How many runs go next to each other: ``side_by_side``, else one a GPU; 1 within a launch of several ranks."""
    if int(os.environ.get('WORLD_SIZE', '1')) > 1 or len(plan.runs) == 1:
        return 1
    on_cpu = any(run.config.device == 'cpu' for run in plan.runs)
    gpus = 0 if on_cpu else torch.cuda.device_count()
    return min(plan.side_by_side or max(gpus, 1), len(plan.runs))


def execute_side_by_side(plan: Plan, devices: int, file: str, changes: Sequence[str], progress: RunProgress) -> None:
    """Start every run when its teachers are finished and a device is free; the first failure stops the others."""
    waiting = {run.name: run for run in plan.runs}
    names = set(waiting)
    finished: set[str] = set()
    free = list(range(devices))
    running: dict[str, tuple[subprocess.Popen[str], int, threading.Thread]] = {}
    progress.say(f'{plan.name}: {len(plan.runs)} runs in {plan.folder}, {devices} side by side')
    ended = threading.Condition()
    try:
        while waiting or running:
            ready = [run for run in waiting.values() if set(run.after) & names <= finished]
            while ready and free:
                run, device = ready.pop(0), free.pop(0)
                del waiting[run.name]
                running[run.name] = _start(run, device, devices, file, changes, progress, ended, plan.name)
            with ended:
                ended.wait_for(
                    lambda: any(process.poll() is not None for process, _, _ in running.values()), timeout=1.0
                )
            for name, (process, device, reader) in list(running.items()):
                if process.poll() is None:
                    continue
                reader.join()
                del running[name]
                free.append(device)
                if process.returncode != 0:
                    raise UserError(
                        f'run {name!r} failed (its line is above); the others were stopped: repeat the command to go on'
                    )
                finished.add(name)
                progress.say(f'{plan.name}: {len(finished)} of {len(plan.runs)} runs finished')
    finally:
        for process, _, _ in running.values():
            process.send_signal(signal.SIGINT)
        for process, _, reader in running.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
            reader.join()


def _start(
    run: PlannedRun,
    device: int,
    devices: int,
    file: str,
    changes: Sequence[str],
    progress: RunProgress,
    ended: threading.Condition,
    title: str,
) -> tuple[subprocess.Popen[str], int, threading.Thread]:
    environment = dict(os.environ)
    # A child is a launch of its own: nothing of a launcher around us is its business.
    for name in (
        'RANK',
        'WORLD_SIZE',
        'LOCAL_RANK',
        'LOCAL_WORLD_SIZE',
        'NODE_RANK',
        'MASTER_ADDR',
        'MASTER_PORT',
        'PYTHONHASHSEED',
    ):
        environment.pop(name, None)
    gpus = torch.cuda.device_count() if run.config.device != 'cpu' else 0
    if gpus:
        visible = os.environ.get('CUDA_VISIBLE_DEVICES')
        environment['CUDA_VISIBLE_DEVICES'] = visible.split(',')[device % gpus] if visible else str(device % gpus)
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        environment['OMP_NUM_THREADS'] = str(max(cores // devices, 1))
    command = [
        sys.executable,
        '-m',
        'composer_kd.run',
        file,
        *changes,
        '--only',
        run.name,
        '--no-report',
        '--progress',
        'lines',
    ]
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Ctrl-C reaches the parent alone, which then stops its children one by one.
        start_new_session=True,
    )

    def pass_on() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.rstrip()
            if text.startswith('[1/1] '):
                text = text.removeprefix('[1/1] ')
            elif text.startswith(f'{title}: ') or not text:
                continue
            progress.say(text)
        process.wait()
        with ended:
            ended.notify()

    reader = threading.Thread(target=pass_on, daemon=True)
    reader.start()
    return process, device, reader
