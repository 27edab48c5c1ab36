"""Freed memory stays with the process, so that the next step need not map it anew."""

from __future__ import annotations

import gc
import io
import platform
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from torch.optim import Optimizer

from composer_kd.data.dataset import KeyedImages
from composer_kd.runs.execute import execute
from composer_kd.runs.plan import make_plan
from composer_kd.runs.progress import RunProgress
from tests.runs.common import TINY

# Asks for 40 times 4 MB and frees them, as a training step does with activations; prints how much stayed mapped.
KEPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
if sys.argv[1] == 'keep':
    from composer_kd.runs.process import keep_freed_memory
    assert keep_freed_memory()
def resident():
    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096
before = resident()
held = [torch.ones(1_000_000) for _ in range(40)]
during = resident() - before
del held
print((resident() - before) / during)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='another C library')
def test_what_a_step_frees_stays_for_the_next() -> None:
    kept = {}
    for what in ('keep', 'default'):
        done = subprocess.run(
            [sys.executable, '-c', KEPT, what], capture_output=True, text=True, check=True, timeout=120
        )
        kept[what] = float(done.stdout)
    assert kept['keep'] > 0.9
    assert kept['default'] < 0.5, 'otherwise the setting were for nothing'


def test_nothing_of_a_run_stays_in_memory_for_the_next_one(tmp_path: Path) -> None:
    def alive() -> tuple[int, int]:
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # To look at some objects of torch is to use what is deprecated.
            everything = gc.get_objects()
            return tuple(sum(isinstance(one, kind) for one in everything) for kind in (KeyedImages, Optimizer))

    before = alive()
    plan = make_plan({**TINY, 'save_folder': str(tmp_path), 'max_duration': '1ep', 'lineage': {'one': {}, 'two': {}}})
    execute(plan, RunProgress(False, stream=io.StringIO()))
    assert alive() == before
