"""Sections are found, not named: one more is in every format without an edit elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import composer_kd.report
from composer_kd.report import report
from composer_kd.report.render.charts import heat_map
from composer_kd.report.render.text import Table
from composer_kd.report.sections import SECTIONS, ReportSection
from tests.report.runs_on_disk import accuracies, rows, values, write_run

FOLDER = Path(composer_kd.report.__file__).parent


class Lengths(ReportSection):
    order = 45
    heading = 'How long <they> took'
    lead = 'A sentence of its own.'
    method = 'Epochs are counted.'

    def read(self):
        return {arm.name: arm.counted[0].last_epoch for arm in self.summary.arms}

    def tables(self):
        columns = {'arm': lambda arm: arm.marked(), 'epochs': lambda arm: str(self.values[arm.name])}
        yield Table.of('Lengths of trainings', zip(self.summary.arms, strict=True), columns)
        yield Table('Nothing to say', ('arm',), ())

    def figures(self):
        yield heat_map('lengths', 'Lengths', 'How to read it.', ['epochs'], ['scratch'], [[0.5]], (0.0, 1.0))

    def caveats(self):
        yield 'Lengths are short.'


@pytest.fixture
def one_more():
    SECTIONS.add('lengths', Lengths)
    yield
    del SECTIONS._entries['lengths']


def test_one_more_section_is_in_every_format(tmp_path, one_more):
    write_run(tmp_path / 'scratch', accuracies([0.1, 0.4]), arm='scratch')
    made = report(tmp_path)
    assert rows(made, 'lengths') == [{'arm': 'scratch', 'epochs': '2'}]
    assert values(made, 'lengths') == {'scratch': 2}
    assert [figure.name for figure in made.figures if figure.name == 'lengths'] == ['lengths']
    for text in (made.text(), made.markdown(), made.html()):
        assert 'Lengths of trainings' in text
        assert 'Lengths are short.' in text
        assert 'Nothing to say' not in text
    for text in (made.markdown(), made.html()):
        assert 'Epochs are counted.' in text
    page = made.html()
    assert '<h2>How long &lt;they&gt; took</h2>\n<p>A sentence of its own.</p>' in page
    assert '<figure id="lengths">' in page
    # In its place: behind the accuracies, before the costs.
    assert page.index('Test accuracy, %') < page.index('Lengths of trainings') < page.index('The whole training')


def test_sections_stand_in_an_order_of_their_own(tmp_path):
    write_run(tmp_path / 'scratch', accuracies([0.1, 0.4]), arm='scratch')
    made = report(tmp_path)
    orders = [section.order for section in made.sections.values()]
    assert len(set(orders)) == len(orders)
    assert orders == sorted(orders)
    assert next(iter(made.sections)) == 'accuracy'
    assert list(made.sections)[-1] == 'runs'
    assert json.loads(made.json())['sections'].keys() <= made.sections.keys()


def test_nothing_else_names_a_section():
    names = {path.stem for path in (FOLDER / 'sections').glob('*.py')} - {'__init__'}
    assert names >= {'accuracy', 'archive', 'costs', 'drift'}
    for path in FOLDER.rglob('*.py'):
        named = re.findall(r'(?:from|import) composer_kd\.report\.sections\.(\w+)', path.read_text(encoding='utf-8'))
        assert not named, f'{path} names the section {named}'


def test_what_other_algorithms_cost_has_a_column_where_a_run_has_some(tmp_path):
    costs = {'multiply_adds_student_total': 6e12, 'multiply_adds_teacher_total': 0.0, 'seconds_train_total': 100.0}
    other = {'multiply_adds_other_total': 2e12, 'seconds_other_total': 7.0}
    write_run(tmp_path / 'plain', accuracies([0.4], **costs, **dict.fromkeys(other, 0.0)), arm='plain')
    assert not any('in it' in name for name in rows(report(tmp_path), 'costs')[0])
    write_run(tmp_path / 'hinted', accuracies([0.4], **costs, **other), arm='hinted')
    found = {row['arm']: row for row in rows(report(tmp_path), 'costs')}
    assert found['hinted']['other algorithms in it, s'] == '7.0'
    assert found['hinted']['other algorithms in it, T'] == '2.00'
    assert found['hinted']['multiply-adds, T'] == '8.00'
    assert found['plain']['other algorithms in it, T'] == '0.00'
    assert 'teachers in it, T' not in found['plain']
