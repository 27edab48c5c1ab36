"""The tables of keys and arguments on the pages are made from the code, and are up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer_kd.algorithms import ALGORITHMS
from composer_kd.core.errors import UserError
from composer_kd.core.options import MAY_CHANGE, Section
from composer_kd.data.section import SyntheticSection
from composer_kd.runs.config import RunConfig
from composer_kd.runs.reference import arguments_table, filled, keys_table, main

DESIGN = Path(__file__).parents[2] / 'docs' / 'design.md'


def test_the_design_page_is_up_to_date() -> None:
    assert main([str(DESIGN), '--check']) == 0


def test_a_page_that_is_not_is_refused_and_filled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / 'page.md'
    page.write_text('before\n<!-- keys: SyntheticSection -->\n| old |\n<!-- end -->\nafter\n')
    assert main([str(page), '--check']) == 1
    assert 'its tables are not up to date; run `python -m composer_kd.runs.reference' in capsys.readouterr().err
    assert main([str(page)]) == 0
    text = page.read_text()
    assert '| `train_size` | `5000` | How many training images, validation included. |' in text
    assert text.startswith('before\n')
    assert text.endswith('<!-- end -->\nafter\n')
    assert main([str(page), '--check']) == 0


def test_every_key_has_a_row_with_its_default_and_whether_it_may_change() -> None:
    rows = {row.split('`')[1]: row for row in keys_table(RunConfig).splitlines()[2:]}
    assert list(rows) == list(RunConfig.model_fields)
    assert rows['model'].startswith('| `model` | required | |')
    assert rows['device'].startswith('| `device` | `auto` | yes |')
    free = {name for name, field in RunConfig.model_fields.items() if MAY_CHANGE in field.metadata}
    assert {name for name, row in rows.items() if '| yes |' in row} == free
    assert 'may change' not in keys_table(SyntheticSection)


def test_a_key_without_a_meaning_is_refused() -> None:
    class Silent(Section):
        rate: float = 0.1

    with pytest.raises(UserError, match=r'Silent\.rate: it has no meaning; write it in a string below the field'):
        keys_table(Silent)


@pytest.mark.parametrize('name', ['LossCurriculum', 'WarmStart', 'AdversarialRecycling'])
def test_every_argument_has_a_row(name: str) -> None:
    algorithm = ALGORITHMS.get(name)
    rows = [row.split('`')[1] for row in arguments_table([algorithm]).splitlines()[2:]]
    assert 'from' in rows
    assert len(rows) == len(set(rows)) == algorithm.__init__.__code__.co_argcount - 1


def test_presets_stand_side_by_side() -> None:
    table = arguments_table([ALGORITHMS.get('TeacherMixupKD'), ALGORITHMS.get('BornAgain')])
    assert '| `teachers` | required | required |' in table
    assert '| `method` | | `ban` |' in table


def test_an_unknown_section_is_one_line() -> None:
    with pytest.raises(UserError, match=r"keys\.RunConfg: unknown key; did you mean 'RunConfig'"):
        filled('<!-- keys: RunConfg -->\n<!-- end -->')
