"""What the benchmarks' pages say is what their results give."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.results import LEDGER, README, SCALES, results_page, with_ledger

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / 'benchmarks' / 'RESULTS.md'


def test_the_committed_pages_are_what_the_committed_results_give():
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.results', '--check'], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_has_not_run_is_said_to_wait(tmp_path: Path):
    page = results_page(tmp_path)
    assert page.count('Not run yet') == 2 + 18
    assert page.count('it waits for a GPU') == 1 + 4
    assert 'Not run yet: `python -m benchmarks.study benchmarks/oracle/oracle.yaml --baseline' in page
    assert '±' not in page


def test_the_ledger_takes_the_place_of_the_one_before():
    page = with_ledger(f'above\n{LEDGER}\nstale figures\n{LEDGER}\nbelow\n')
    assert page.startswith('above\n')
    assert page.endswith('\nbelow\n')
    assert 'stale' not in page
    assert page.count(LEDGER) == 2
    assert with_ledger(page) == page
    for scale in SCALES:
        assert f'The scale `{scale}`, phase by phase' in page


def test_the_ledger_counts_what_a_run_costs():
    # ResNet-20: 40.81 M multiply-adds; 78 batches of 128 in an epoch, three passes, 40 epochs: 48.9 T. A teacher that
    # runs adds a pass to three; in every tenth epoch of 16 it does so in two of them.
    cpu = README.read_text().partition('The scale `cpu`, arm by arm')[2].partition('The scale `h200`')[0]
    rows = {line.split(' | ')[0]: line for line in cpu.splitlines() if line.startswith('| `same` ')}
    one_epoch = 40.81e6 * 78 * 128 / 1e12
    assert rows['| `same` `baseline`'].count(f'{120 * one_epoch:.1f}') == 1
    numbers = [float(cell) for cell in re.findall(r'\d+\.\d', rows['| `same` `kd`'])]
    assert numbers[:3] == pytest.approx([4 * 4 * one_epoch, 4 * 8 * one_epoch, 4 * 16 * one_epoch], abs=0.06)
    (every10,) = re.findall(r'\d+\.\d', rows['| `same` `kd_every10`'])[:1]
    assert float(every10) == pytest.approx((3 * 16 + 2) * one_epoch, abs=0.06)


@pytest.mark.parametrize('picture', ['cpu-same.png'])
def test_pictures_that_the_page_shows_are_there(picture: str):
    if picture in RESULTS.read_text():
        assert (ROOT / 'benchmarks' / 'retrain' / 'results' / picture).is_file()
