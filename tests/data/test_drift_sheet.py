"""The contact sheet: what its cells show, and that grey data and data without superclasses have one too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from composer_kd.cli import main
from composer_kd.core.errors import UserError
from composer_kd.data.cache import open_cache
from composer_kd.data.convert import convert
from composer_kd.data.drift.base import split_seed
from composer_kd.data.drift.sheet import contact_sheet, sheet_rows
from composer_kd.data.section import DataSection
from composer_kd.data.shards import open_shards
from composer_kd.functional.corruptions import CORRUPTIONS, corrupt

LABELS, HEAD, SIDE, GAP = 150, 24, 64, 8


def cell(sheet: Image.Image, row: int, column: int, images: int) -> np.ndarray:
    width = images * SIDE
    left, top = LABELS + column * (width + GAP), HEAD + row * (SIDE + GAP)
    return np.asarray(sheet.crop((left, top, left + width, top + SIDE)))


@pytest.fixture
def gray(gray_npz, tmp_path, monkeypatch):
    monkeypatch.setenv('COMPOSER_KD_CACHE', str(tmp_path / 'cache'))
    convert(str(gray_npz(train=60, test=9)), tmp_path / 'out')
    return tmp_path / 'out'


def test_cells_are_the_first_test_images_at_every_severity(gray, tmp_path, capsys):
    arguments = ['drift', str(gray), '--out', str(tmp_path / 'sheet.png'), '--images', '2', '--seed', '3']
    assert main([*arguments, '--kinds', 'contrast', 'fog']) == 0
    assert 'sheet.png: 2 drifts of' in capsys.readouterr().out
    sheet = Image.open(tmp_path / 'sheet.png')
    assert sheet.size == (LABELS + 6 * (2 * SIDE + GAP), HEAD + 2 * (SIDE + GAP))
    section = DataSection(source=str(gray))
    _, test = open_cache(open_shards(str(gray), section.cache), None, section.cache)
    ids = torch.from_numpy(np.sort(test.table.ids)[:2])
    images = test.images[np.argsort(test.table.ids)[:2]]
    for column in range(6):
        # The very pixels of a run on that data: data.drift: {name: corruption, kind: fog, severity: ..., seed: 3}.
        shown = images if column == 0 else corrupt(images, ids, 'fog', column, split_seed(3, 'test'))
        expected = np.concatenate([image[0].numpy().repeat(8, 0).repeat(8, 1) for image in shown], 1)
        assert np.array_equal(cell(sheet, 1, column, 2), np.repeat(expected[..., None], 3, 2))


def test_bars_count_samples(gray, tmp_path):
    rows = contact_sheet(str(gray), tmp_path / 'sheet.png', ['growing', 'new_classes', 'label_noise'], count=3)
    assert rows == ['growing', 'new_classes', 'label_noise']
    sheet = Image.open(tmp_path / 'sheet.png')
    blank = (cell(sheet, 0, 1, 3) == 244).all(2)
    assert blank.mean() == pytest.approx(1 - 0.28, abs=0.06)  # from a tenth to all in five steps
    assert not (cell(sheet, 0, 5, 3) == 244).all(2).any()
    classes = [(cell(sheet, 1, step, 3)[-1] != 244).all(1).mean() for step in (1, 5)]
    assert classes == pytest.approx([1 / 3, 1], abs=0.02)
    red = [(cell(sheet, 2, step, 3) == (214, 80, 70)).all(2).mean() for step in range(6)]
    assert red[0] == 0
    assert red[1] < red[3] < red[5] < 0.75


def test_all_rows_that_the_data_can_show(gray, tmp_path):
    rows = contact_sheet(str(gray), tmp_path / 'sheet.png', count=1)
    assert rows == [row for row in sheet_rows() if row != 'subpopulation']
    assert set(CORRUPTIONS) < set(rows)


def test_an_unknown_row_is_one_line(gray, tmp_path):
    with pytest.raises(UserError, match=r"^'frog' is not a row of the sheet; did you mean 'fog'\?"):
        contact_sheet(str(gray), tmp_path / 'sheet.png', ['frog'])
    with pytest.raises(UserError, match=r'^subpopulation: this data has no superclasses'):
        contact_sheet(str(gray), tmp_path / 'sheet.png', ['subpopulation'])
    assert not (tmp_path / 'sheet.png').exists()
