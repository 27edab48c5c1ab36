import numpy as np
import pytest
import torch

from composer_kd.archive import Samples
from composer_kd.archive.table import write_table
from composer_kd.core.errors import UserError
from tests.archive.common import samples

HIGH = 2**64 - 3


def test_a_key_is_id_and_content():
    mine = samples((5, 100, 0), (6, 101, 1), (7, HIGH, 2))
    others = samples((7, HIGH, 2), (5, 101, 0), (6, 101, 9), (8, 100, 0), (5, 100, 0))
    assert mine.rows_by_key(others).tolist() == [2, -1, 1, -1, 0]
    assert mine.rows_by_key(samples()).tolist() == []
    assert samples().rows_by_key(others).tolist() == [-1] * 5


def test_by_content_the_label_decides_and_then_the_id():
    mine = samples((1, 100, 0), (2, 100, 1), (3, 100, 1), (4, 200, 5))
    others = samples((3, 100, 1), (9, 100, 1), (1, 100, 1), (77, 200, 5), (4, 200, 6), (4, 201, 5))
    assert mine.rows_by_content(others).tolist() == [2, 1, 1, 3, -1, -1]


def test_rows_are_only_ever_added():
    mine = samples((5, 100, 0), (6, 101, 1))
    grown = mine.extended(samples((9, 9, 9), (6, 101, 1), (9, 9, 9), (5, 7, 0)))
    assert grown.ids.tolist() == [5, 6, 9, 5], 'known ones stay, new ones come once, in their order'
    assert grown.content.tolist() == [100, 101, 9, 7]
    assert grown.extended(mine).ids.tolist() == grown.ids.tolist()
    assert samples().extended(mine).ids.tolist() == [5, 6]


def test_against_a_dictionary():
    random = np.random.default_rng(0)
    rows = [tuple(map(int, row)) for row in random.integers(0, 6, (300, 3))]
    mine, others = samples(*rows[:150]), samples(*rows[150:])
    first = {}
    for number, (one, content, _) in enumerate(rows[:150]):
        first.setdefault((one, content), number)
    assert mine.rows_by_key(others).tolist() == [first.get(row[:2], -1) for row in rows[150:]]
    by_content = {}
    for number, (one, content, label) in enumerate(rows[:150]):
        by_content.setdefault((content, label), number)
        by_content.setdefault((content, label, one), number)
    expected = [by_content.get((c, y, i), by_content.get((c, y), -1)) for i, c, y in rows[150:]]
    assert mine.rows_by_content(others).tolist() == expected


def test_on_disk_and_back(tmp_path):
    mine = samples((5, HIGH, 0), (-6, 0, 1))
    mine.save(tmp_path / 'samples.safetensors')
    back = Samples.load(tmp_path / 'samples.safetensors')
    assert [back.ids.tolist(), back.content.tolist(), back.labels.tolist()] == [[5, -6], [HIGH, 0], [0, 1]]


@pytest.mark.parametrize('change', [{'id': None}, {'content': torch.zeros(2)}, {'label': torch.zeros(2, 1).long()}])
def test_what_is_no_table_of_samples(tmp_path, change):
    columns = {**samples((5, 1, 0), (6, 0, 1)).columns(), **change}
    write_table(tmp_path / 'a', {name: column for name, column in columns.items() if column is not None})
    with pytest.raises(UserError, match=f'a: not a table of samples, it has no column {next(iter(change))}'):
        Samples.load(tmp_path / 'a')


def test_of_data_without_keys():
    with pytest.raises(UserError, match=r'\(list\) has no ids: what is recorded, .* needs ids and content hashes'):
        Samples.of([1, 2])
