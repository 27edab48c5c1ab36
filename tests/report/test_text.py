"""Numbers as people read them, on axes too."""

from __future__ import annotations

import re

import pytest

from composer_kd.report import report
from composer_kd.report.render.text import times
from tests.report.runs_on_disk import accuracies, write_run


@pytest.mark.parametrize(
    ('ratio', 'text'),
    [(1.333, '1.33×'), (0.85, '0.85×'), (0.1, '0.10×'), (0.047, '0.047×'), (0.0006, '0.0006×'), (0.000637, '0.00064×')],
)
def test_a_ratio_never_reads_as_nothing(ratio, text):
    assert times(ratio) == text


@pytest.mark.parametrize('epochs', [1, 2, 3, 24])
def test_axes_of_epochs_have_whole_numbers_alone(tmp_path, epochs):
    for seed in range(2):
        write_run(tmp_path / f's{seed}', accuracies([0.1 + 0.01 * epoch for epoch in range(epochs)]), seed=seed)
    for figure in report(tmp_path, thresholds=[0.1]).figures:
        ticks = re.findall(r'>\s*([−-]?\d+(?:\.\d+)?)\s*</text>', figure.svg)
        assert ticks, figure.name
        assert all('.' not in tick for tick in ticks), (figure.name, ticks)
