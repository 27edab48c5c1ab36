"""The documentation cannot go stale: links, examples, YAML, commands, tables and recipe are held against the code."""

from __future__ import annotations

import argparse
import ast
import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from torch import nn

from composer_kd import (
    Distillation,
    cli,
)
from composer_kd.commands import add_commands
from composer_kd.core.options import instantiate
from composer_kd.core.schedule import FORMS
from composer_kd.data.drift import DRIFTS
from composer_kd.functional import LOSSES
from composer_kd.run import main as run_main
from composer_kd.runs.config import (
    RunConfig,
)
from composer_kd.runs.plan import make_plan
from composer_kd.runs.registries import ALGORITHMS
from composer_kd.runs.yaml_file import apply_overrides, find_yaml, read_yaml, shipped_yamls
from composer_kd.teachers import MIXES

ROOT = Path(__file__).parents[1]
DESIGN = ROOT / 'docs' / 'design.md'
DRIFT = ROOT / 'docs' / 'drift.md'
RECIPE = ROOT / 'docs' / 'adding-an-algorithm.md'
PAGES = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('composer_kd/algorithms/*/README.md')])


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what else stands behind it, its text, and the paragraph just above."""

    page: Path
    line: int
    language: str
    info: str
    text: str
    above: str

    @property
    def place(self) -> str:
        return f'{self.page.relative_to(ROOT)}:{self.line}'

    @property
    def file(self) -> str | None:
        """The file that the block is to be written to, where the paragraph above begins with one."""
        named = re.match(r'`([\w./-]+\.(?:py|json|toml|md))`', self.above)
        return named[1] if named else None


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    opened: tuple[int, str, str] | None = None
    held: list[str] = []
    paragraph: list[str] = []
    above = ''
    for number, line in enumerate(page.read_text(encoding='utf-8').splitlines(), 1):
        if line.startswith('```'):
            if opened is None:
                language, _, info = line[3:].partition(' ')
                opened, held, above = (number, language, info), [], ' '.join(paragraph)
            else:
                found.append(Block(page, *opened, '\n'.join(held) + '\n', above))
                opened, paragraph = None, []
        elif opened is not None:
            held.append(line)
        elif line.strip():
            paragraph = [*paragraph, line] if paragraph and paragraph[-1] else [line]
        elif paragraph and paragraph[-1]:
            paragraph.append('')  # A blank line between a paragraph and its block.
    assert opened is None, f'{page}: a block is not closed'
    return found


def of_language(*languages: str) -> list[Any]:
    every = [block for page in PAGES for block in blocks(page) if block.language in languages]
    return [pytest.param(block, id=block.place) for block in every]


# -- links ----------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    without_blocks = re.sub(r'^```.*?^```', '', page.read_text(encoding='utf-8'), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r'^#+ (.+)$', without_blocks, flags=re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).strip().replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r'^```.*?^```', '', page.read_text(encoding='utf-8'), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r'\]\(([^)\s]+)\)', text) + re.findall(r'(?:src|href|srcset)="([^"]+)"', text)
    for target in targets:
        if re.match(r'[a-z]+:', target):
            continue
        path, _, anchor = target.partition('#')
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f'{target} is not there'
        if anchor and other.suffix == '.md':
            assert anchor in anchors(other), f'{target}: known: {sorted(anchors(other))}'


# -- examples -------------------------------------------------------------------------------------------------------

TINY = """
name: docs
data: {synthetic: {train_size: 600, test_size: 200}}
model: {name: mlp, hidden: [32]}
optimizer: {name: SGD, lr: 0.05}
batch_size: 64
max_duration: 1ep
lineage:
  gen0:
    archive: {losses: true}
  gen1:
    algorithms:
      TeacherMixupKD: {teachers: [gen0]}
  gen2:
    algorithms:
      TeacherMixupKD: {teachers: [gen0, gen1]}
"""

# Trains three tiny runs, which examples may name, then runs every block with the names that a reader would have.
DRIVER = """
import json, traceback, warnings
from dataclasses import dataclass
import torch
from torch import Tensor, nn
from torch.nn import functional as F
warnings.simplefilter('ignore')
torch.set_num_threads(1)
from composer_kd.data import open_data
from composer_kd.models import classifier, mlp
from composer_kd.runs.command import run_file
from composer_kd.runs.config import ArchiveSection, LogitsSection
from composer_kd.runs.config import RunConfig
from composer_kd.runs.yaml_file import read_yaml
from pathlib import Path

run_file('docs.yaml', [], report=False)
values = read_yaml(Path('docs.yaml'))
data = open_data(RunConfig(data=values['data'], model=values['model'], max_duration='1ep').data, 64, 1)
net = lambda: mlp(100, 3072, [32])
failed = []
for page, examples in json.loads(Path('examples.json').read_text()).items():
    names = dict(
        torch=torch, nn=nn, F=F, Tensor=Tensor, dataclass=dataclass, make_model=net,
        train_dataloader=data.train, eval_dataloader=data.val,
        earlier_model=net(), other_model=net(), gen0=net(), gen1=net(),
        images=torch.randn(8, 3, 32, 32), labels=torch.arange(8),
    )
    names['logits'] = names['earlier_model'](names['images'])
    for place, text in examples:
        names['model'] = names['student'] = classifier(net(), 100)
        try:
            exec(compile(text, place, 'exec'), names)
        except Exception:
            failed.append(f'{place}\\n{traceback.format_exc()}')
Path('failed.txt').write_text('\\n'.join(failed))
"""


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``runs/gen0`` to ``runs/gen2`` in which the examples were run."""
    folder = tmp_path_factory.mktemp('docs')
    examples = {
        str(page): [
            (block.place, '\n' * block.line + block.text)
            for block in blocks(page)
            if block.language == 'python' and block.file is None and 'no-run' not in block.info
        ]
        for page in PAGES
    }
    (folder / 'examples.json').write_text(json.dumps(examples))
    (folder / 'docs.yaml').write_text(TINY)
    (folder / 'driver.py').write_text(DRIVER)
    done = in_process('driver.py', folder=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def in_process(*arguments: str, folder: Path, path: Path = ROOT) -> subprocess.CompletedProcess:
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join([str(folder), str(path)])}
    command = [sys.executable, '-W', 'ignore', *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250, check=False
    )


@pytest.mark.parametrize('block', of_language('python'))
def test_python_compiles(block: Block) -> None:
    text = dedent(block.text)
    if text.startswith("'"):  # a row of a dict or of a list
        compile('{' + text + '}', block.place, 'eval')
    elif text.startswith('elif'):
        compile(f'if 0:\n    pass\n{text}', block.place, 'exec')
    else:
        compile(text, block.place, 'exec')


def test_python_runs(trained: Path) -> None:
    assert (trained / 'failed.txt').read_text() == ''


@pytest.mark.parametrize('block', of_language('yaml'))
def test_yaml_is_a_plan(block: Block, tmp_path: Path) -> None:
    file = tmp_path / 'example.yaml'
    file.write_text(block.text)
    values = read_yaml(file)
    if {'model', 'max_duration'} <= values.keys():
        for run in make_plan(values).runs:
            check_algorithms(run.config)


def check_algorithms(config: RunConfig) -> None:
    for name, options in config.algorithms.items():
        factory = ALGORITHMS.get(name)
        if issubclass(factory, Distillation):
            own = {key: value for key, value in options.items() if key != 'teachers'}
            instantiate(factory, own, name, teachers=[nn.Identity() for _ in options['teachers']])
        else:
            instantiate(factory, options, name)


# -- commands -------------------------------------------------------------------------------------------------------


def commands() -> list[Any]:
    """Every command of ours in a shell block, as words."""
    found = []
    for parameter in of_language('bash', 'sh', 'shell', 'console'):
        block = parameter.values[0]
        for line in block.text.splitlines():
            for part in line.removeprefix('$ ').split('&&'):
                words = shlex.split(part, comments=True)
                ours = words[:1] in (['composer-kd'], ['composer']) or words[:3] == ['python', '-m', 'composer_kd.run']
                if ours:
                    found.append(pytest.param(words, id=' '.join(words)))
    return found


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 10


@pytest.mark.parametrize('words', commands())
def test_commands_parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str], str | None]] = []
    monkeypatch.setattr(
        'composer_kd.runs.command.run_file', lambda file, changes, only, **rest: asked.append((file, changes, only))
    )
    arguments = run_arguments(words)
    if arguments is None:
        monkeypatch.setattr(cli, 'report_errors', lambda work, *rest, **options: 0)
        assert exit_status(words[words.index('composer_kd.cli') + 1 if words[0] == 'composer' else 1 :]) == 0
        return
    assert run_main(arguments) == 0
    file, changes, only = asked[0]
    if file.removeprefix('yamls/') in shipped_yamls() or file.startswith('yamls/'):
        plan = make_plan(apply_overrides(read_yaml(find_yaml(file)), changes))
        if only is not None:
            plan.only(only)


def run_arguments(words: list[str]) -> list[str] | None:
    """What a command gives to ``composer_kd.run``; ``None`` for one that is not a training."""
    if words[0] == 'python':
        return words[3:]
    if words[0] == 'composer-kd':
        return words[2:] if words[1] == 'run' else None
    from composer.cli.launcher import _get_parser

    launched = _get_parser().parse_args(words[1:])
    if launched.module_mode and launched.training_script == 'composer_kd.cli':
        return None
    if launched.module_mode:
        assert launched.training_script == 'composer_kd.run'
    else:
        assert launched.training_script == 'run'
        assert (ROOT / 'run').is_file()
    return launched.training_script_args


def exit_status(words: list[str]) -> int:
    try:
        return cli.main(words)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_commands_in_the_text_exist() -> None:
    for page in PAGES:
        for command in re.findall(r'`composer-kd ([a-z][a-z-]*)', page.read_text(encoding='utf-8')):
            assert exit_status([command, '--help']) == 0, f'{page}: composer-kd {command}'


def test_the_readme_lists_every_command() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_commands(commands)
    rows = [row[0] for row in tables(ROOT / 'README.md')['Commands'][0][1:]]
    listed = re.findall(r'composer-kd ([a-z][a-z-]*)', ' '.join(rows))
    assert sorted(listed) == sorted(commands.choices)


# -- tables ---------------------------------------------------------------------------------------------------------


def tables(page: Path) -> dict[str, list[list[list[str]]]]:
    """Heading -> the tables below it, each a list of rows of cells, the head included."""
    found: dict[str, list[list[list[str]]]] = {}
    heading, inside = '', False
    for line in page.read_text(encoding='utf-8').splitlines():
        if title := re.match(r'#+ (.+)', line):
            heading = title[1].replace('`', '')
        if line.startswith('|'):
            cells = [cell.strip() for cell in line.strip('|').split('|')]
            if not inside:
                found.setdefault(heading, []).append([])
            if not all(re.fullmatch(r':?-+:?', cell) for cell in cells):
                found[heading][-1].append(cells)
        inside = line.startswith('|')
    return found


def stated(heading: str, column: int = 1) -> dict[str, str]:
    return {row[0].strip('`'): row[column] for row in tables(DESIGN)[heading][0][1:]}


def default_as_stated(cell: str) -> Any:
    if cell == 'required' or cell.startswith('[below]'):
        return cell
    text = cell.strip('`')
    return yaml.safe_load(text.replace('5e-4', '5.0e-4'))


def section_defaults(section: type[BaseModel]) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        value = 'required' if field.is_required() else field.get_default(call_default_factory=True)
        defaults[field.alias or name] = value
    return defaults


@pytest.mark.parametrize('name', DRIFTS.names())
def test_every_key_of_a_drift_stands_on_its_page_with_its_default(name: str) -> None:
    rows = tables(DRIFT)[name][0][1:]
    real = section_defaults(DRIFTS.get(name))
    del real['name']
    assert {row[0].strip('`'): default_as_stated(row[1]) for row in rows} == real


def test_the_corruptions_of_the_drift_page_are_all() -> None:
    from composer_kd.functional.corruptions import CORRUPTIONS

    (row,) = (row for row in tables(DRIFT)['corruption'][0] if row[0] == '`kind`')
    assert re.findall(r'`(\w+)`', row[2]) == list(CORRUPTIONS)
    listed = [row[0].strip('`') for row in tables(DRIFT)['Corruptions and the published ones'][0][1:]]
    assert listed == list(CORRUPTIONS)


def test_the_page_on_choosing_names_every_loss_mix_and_schedule() -> None:
    page = (ROOT / 'docs' / 'choosing.md').read_text()
    sections = dict(re.findall(r'^## (\w+)\n(.*?)(?=^## |\Z)', page, flags=re.MULTILINE | re.DOTALL))
    for title, names in (('Losses', LOSSES.names()), ('Mixes', set(MIXES.names()) - {'weights'}), ('Schedules', FORMS)):
        rows = set(re.findall(r'^\| `([^`]+)` \|', sections[title], flags=re.MULTILINE))
        assert rows == {name for name in names if not name.startswith('...')}


def accuracies_of(study: str) -> dict[str, str]:
    """Arms to their last test accuracies, as the study's page has them."""
    ((first, *_),) = tables(ROOT / 'benchmarks' / study / f'{study}.md').values()
    head, *rows = first
    return {row[0]: row[head.index('test, last, %')] for row in rows}


# What stands on the pages for the arms of the study.
QUOTED = {
    'labels alone': 'alone', 'squared distance (`TeacherMixupKD`)': 'mse', '`dkd`': 'dkd', '`dist`': 'dist',
    '`kl`, temperature 4': 'kd', 'the same, standardized': 'kd_standardized',
    "the teacher's first choice, `hard`": 'hard',
    'no label, BAN': 'ban', 'with label, BAN+L': 'ban_with_labels', "the teacher's confidence alone, CWTM": 'cwtm',
    'its probabilities shuffled, DKPP': 'dkpp', 'through an assistant, TAKD': 'takd',
    'three teachers, their average': 'kd_of_3', 'three teachers, those that are right (oracle)': 'oracle_of_3',
    '`kl`': 'kd', '`mse`': 'mse', '`hard`': 'hard', '`cwtm`': 'cwtm', '`soft_ce`': None,
    'the same, `standardize`, temperature 2': 'kd_standardized', '`dkd`, `beta` 2': 'dkd',
    '`kl` by an assistant, ResNet-32': 'takd', '`kl` by the average of three teachers': 'kd_of_3', '`ban`': 'ban',
    '`ban+l`': 'ban_with_labels', '`dkpp`': 'dkpp', '`ban`, the generation after the first': 'ban2',
}  # fmt: skip


@pytest.mark.parametrize(
    ('page', 'heading', 'columns'),
    [
        ('README.md', 'Which loss, which teachers', (1, 3)),
        ('docs/choosing.md', 'Losses', (3,)),
        ('composer_kd/algorithms/distillation/README.md', 'Measured', (2,)),
        ('composer_kd/algorithms/born_again/README.md', 'Measured', (1,)),
    ],
)
def test_what_methods_reached_is_quoted_from_the_results(page: str, heading: str, columns: tuple[int, ...]) -> None:
    found, compared = accuracies_of('methods'), 0
    for row in tables(ROOT / page)[heading][0][1:]:
        for column in columns:
            name = row[column - 1] if len(columns) > 1 else row[0]
            if name == 'the two generations as one, logits averaged':
                continue
            arm = QUOTED[name]
            assert row[column].strip('*') == ('' if arm is None else found[arm]), name
            compared += arm is not None
    assert compared >= 5


def test_what_oracles_reached_is_quoted_from_the_results() -> None:
    studies = {name: accuracies_of(name) for name in ('methods', 'oracle', 'oracle_fashion')}
    rows = tables(ROOT / 'composer_kd' / 'algorithms' / 'oracle_kd' / 'README.md')['Measured'][0][1:]
    arms = [('methods', 3), ('oracle', 3), ('oracle', 5), ('oracle_fashion', 3), ('oracle_fashion', 5)]
    for row, (study, count) in zip(rows, arms, strict=True):
        of = studies[study]
        assert row[2:4] == [of[f'kd_of_{count}'], of[f'oracle_of_{count}']], row[0]
        page = (ROOT / 'benchmarks' / study / f'{study}.md').read_text()
        # Its share of samples, and the difference with its interval.
        assert f'oracle_of_{count} {row[1]}' in page
        mean, low, _, high = row[4].replace(',', '').split()
        assert f'| oracle_of_{count} | kd_of_{count} | {mean} ({low} to {high}), p ' in page


def test_what_a_teacher_costs_is_quoted_from_the_results() -> None:
    """Cells of the page on choosing against those of the page of results; what is not measured is left empty."""
    rows = tables(ROOT / 'docs' / 'choosing.md')['What a teacher costs'][0][1:]
    found = tables(ROOT / 'benchmarks' / 'RESULTS.md')
    measured = found['Step costs: resnet20, batch 128, bf16, channels_last']
    step, memory = ({row[0]: row for row in of} for of in (measured[0], measured[-1]))
    assert measured[-1][0][-1] == "of the plain step's"
    plain = float(step['trainer'][1])
    for name, taken, share, peak in rows:
        name = 'trainer' if name == 'none' else name
        assert taken == step[name][1]
        assert share == f'{float(taken) / plain:.2f}'
        assert peak == (memory[name][-1] if name in memory else '')
    assert {row[0] for row in rows} == {'none', *(name for name in step if re.match(r'\d+ (recorded|live)', name))}
    page, results = ((ROOT / name).read_text() for name in ('docs/choosing.md', 'benchmarks/RESULTS.md'))
    (command,) = re.findall(r'`(python benchmarks/steps/steps\.py[^`]*)`', page)
    assert f'`{command}`' in results


# What the ways of ageing are called on the front page.
WAYS = {
    'the old model, untouched': 'kept', 'trained anew, 24 epochs a step': 'full',
    'begun at the weights (`WarmStart`)': 'warm', 'the same, with a teacher in the first half': 'warm_half',
    'trained anew, a teacher in the first half': 'half', 'trained anew': 'scratch',
}  # fmt: skip


def test_what_drift_cost_is_quoted_from_the_results() -> None:
    study = [table for of in tables(ROOT / 'benchmarks' / 'drift' / 'drift.md').values() for table in of]
    _, reached, against, costs, *_ = study
    reached, costs = (
        {row[0]: dict(zip(table[0], row, strict=True)) for row in table[1:]} for table in (reached, costs)
    )

    def gain(way: str) -> str:
        return reached[way]['gain over full'].partition(', p ')[0]

    page = (ROOT / 'docs' / 'choosing.md').read_text()
    rows = {row[0].strip('`'): row[1:] for row in tables(ROOT / 'docs' / 'choosing.md')['After a drift'][0][1:]}
    assert set(rows) == set(reached)
    for way, cells in rows.items():
        steps = [reached[way][f'step {step}'] for step in (1, 2, 3)]
        assert cells == [*steps, gain(way), costs[way]['all steps: epochs'], costs[way]['all steps: work']], way
    quoted = page.partition('## After a drift')[2].partition('\n## ')[0]
    for way, other, difference in against[1:]:
        found = difference.partition(', p ')[0].replace('(', '').replace(')', '')
        mean, interval = found.split(' ', 1)
        assert (other == 'scratch' and way != 'curriculum') or f'({mean}, {interval})' in quoted, (way, other)
    front = [
        table for table in tables(ROOT / 'README.md')['How much cheaper'] if 'all three steps' in ' '.join(table[0])
    ]
    for name, *cells in front[0][1:]:
        way = WAYS[name]
        last, mean, epochs, work = (cell.strip('*') for cell in cells)
        assert (last, mean) == (reached[way]['step 3'], gain(way)), name
        there = costs[way]['all steps: epochs']
        assert epochs == ('never' if way == 'kept' else 'not in 24' if there.startswith('≥') else there)
        assert work == (costs[way]['all steps: work'] if epochs == there else '')


def test_what_attacks_left_is_quoted_from_the_results() -> None:
    study = [table for of in tables(ROOT / 'benchmarks' / 'adversarial' / 'adversarial.md').values() for table in of]
    _, against, left, *_ = ([dict(zip(table[0], row, strict=True)) for row in table[1:]] for table in study)
    arms = {row['arm']: row for row in left}
    attack = next(name for name in left[0] if name.startswith('PGD-20')).removesuffix(', %')
    foolbox = [name for name in left[0] if 'foolbox' in name]

    def gain(arm: str, of: str) -> str:
        found = [row[of] for row in against if (row['arm'], row['against']) == (arm, 'pgd7')]
        return found[0].partition(', p ')[0] if found else ''

    rows = {row[0].strip('`'): row[1:] for row in tables(ROOT / 'docs' / 'choosing.md')['Under attack'][0][1:]}
    assert set(rows) == set(arms)
    for arm, (as_is, robust, by_foolbox, work, over, over_under_attack) in rows.items():
        assert (as_is, robust) == (arms[arm]['as they are, %'], arms[arm][f'{attack}, %']), arm
        assert by_foolbox in [arms[arm][name].replace('–', '') for name in foolbox], arm
        assert work == arms[arm]['attacks in training']
        assert (over, over_under_attack) == (gain(arm, 'gain'), gain(arm, f'under {attack}')), arm
    page = ROOT / 'composer_kd' / 'algorithms' / 'adversarial_recycling' / 'README.md'
    for name, *cells in tables(page)['Measured'][0][1:]:
        assert cells == [rows[name.strip('`')][place] for place in (0, 1, 3)], name


def test_lines_and_files_of_a_run_are_those_of_the_design_page(trained: Path) -> None:
    run = trained / 'runs' / 'gen1'
    line = json.loads((run / 'metrics.jsonl').read_text().splitlines()[-1])
    rows = tables(DESIGN)['A run directory'][0][1:]
    keys = [key for row in rows for key in re.findall(r'`(\w+)`', row[0])]
    assert sorted(keys) == sorted(line)
    (tree,) = (block for block in blocks(DESIGN) if block.text.startswith('runs/gen1/'))
    names = [row.split()[0] for row in tree.text.splitlines()[1:]]
    assert all((run / name).exists() for name in names)
    assert (run / 'checkpoints' / 'latest-rank0.pt').exists()
    assert {entry.name for entry in run.iterdir()} == {name.split('/')[0] for name in names}


def test_the_models_of_the_design_page_are_all() -> None:
    from composer_kd.models import MODELS

    (row,) = tables(DESIGN)['model'][0][1:]
    assert sorted(re.findall(r'`(\w+)`', row[2])) == sorted(MODELS.names())


# -- the recipe -----------------------------------------------------------------------------------------------------


OF_RECIPES = ('composer_kd/', 'tests/', 'docs/')
# The tests that the recipes write, the common ones that they enrol something in, and those of pages: how many are about
# what was added, at least.
OF_THE_TESTS = {
    'tests/algorithms/test_soft_targets.py': 2,
    'tests/algorithms/test_common.py': 6,
    'tests/functional/test_losses.py': 4,
    'tests/teachers/test_mix.py': 2,
    'tests/core/test_schedule.py': 1,
    'tests/models/test_every_model.py': 3,
    'tests/models/test_linear.py': 1,
    'tests/test_docs.py': 2,
    'tests/report/test_learning_rates.py': 1,
    'tests/report/test_sections.py': 2,
}
KEYWORDS = (
    'SoftTargets or soft_targets or cosine or every_registered_loss or median or all_other_mixes or last or linear or '
    'page_on_choosing or models_of_the_design_page or last_rate or sections_stand or names_a_section'
)


def follow(block: Block, folder: Path) -> None:
    """Do with a block what the paragraph above it says: a file, or lines that are put into one."""
    assert block.file is not None
    path = folder / block.file
    place, text = block.above.partition('`, ')[2], block.text
    if not place:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return
    lines = path.read_text().splitlines(keepends=True)
    if place.startswith('at the end'):
        lines += ['\n\n', text]
    elif place.startswith('a row at the end'):
        lines += [text]
    elif found := re.match(r'above `(.+?)`(?: in `(\w+)`)?', place):
        within = line_with(lines, f'def {found[2]}(') if found[2] else 0
        apart = '\n\n' if text.startswith('def ') else ''
        lines.insert(line_with(lines, found[1], within), text + apart)
    elif found := re.match(r'a row in `(\w+)`', place):
        lines.insert(line_with(lines, '}', line_with(lines, found[1])), text)
    elif found := re.match(r'below the row of `(.+?)`', place):
        lines.insert(line_with(lines, f'| `{found[1]}` |') + 1, text)
    else:
        found = re.match(r'behind `(\w+)` in the row of names', place)
        assert found, f'{block.place}: {place}'
        row = line_with(lines, '| `name` | required | `resnet')
        lines[row] = lines[row].replace(f'`{found[1]}`,', f'`{found[1]}`, {text.strip()}', 1)
    if imported := re.search(r'import `(\w+)` from `([\w.]+)`', place):
        (*_, last) = [
            node for node in ast.parse(path.read_text()).body if 'composer_kd' in (getattr(node, 'module', '') or '')
        ]
        lines.insert(last.end_lineno, f'from {imported[2]} import {imported[1]}\n')
    path.write_text(''.join(lines))


def line_with(lines: list[str], start: str, after: int = 0) -> int:
    """The first line that begins so, wherever it is indented to."""
    return next(number for number, line in enumerate(lines) if number >= after and line.lstrip().startswith(start))


def test_the_recipes_work_as_written(tmp_path: Path) -> None:
    for name in ('composer_kd', 'tests', 'docs'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))
    for file in [*ROOT.glob('*.md'), ROOT / 'pyproject.toml']:
        shutil.copy(file, tmp_path)
    recipes = [block for block in blocks(RECIPE) if block.file and block.file.startswith(OF_RECIPES)]
    assert len(recipes) >= 20
    for block in recipes:
        follow(block, tmp_path)
    python = [str(tmp_path / name) for name in sorted({block.file for block in recipes if block.file.endswith('.py')})]
    for check in (['check', '--no-cache'], ['format', '--check', '--no-cache']):
        done = in_process('-m', 'ruff', *check, *python, folder=tmp_path, path=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    both = f"""if True:
        import pytest
        from composer_kd import cli
        cli.main(['list'])
        files = {list(OF_THE_TESTS)!r}
        raise SystemExit(pytest.main(['-q', '-p', 'no:cacheprovider', '-rA', *files, '-k', {KEYWORDS!r}]))
    """
    done = in_process('-c', both, folder=tmp_path, path=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    for summary in ('(1 - alpha) CE', 'one minus the cosine', 'the median of all', 'last 0.1dur', 'One linear'):
        assert summary in done.stdout
    passed = Counter(re.findall(r'^PASSED (\S+?)::', done.stdout, flags=re.MULTILINE))
    assert not [file for file, least in OF_THE_TESTS.items() if passed[file] < least], passed


def test_names_from_another_package_work_as_written(tmp_path: Path) -> None:
    files = {block.file: block.text for block in blocks(RECIPE) if block.file in ('pyproject.toml', 'my_distillers.py')}
    (tmp_path / 'my_distillers.py').write_text(files['my_distillers.py'])
    # What an installation leaves of the pyproject.toml: its entry points.
    project = configparser.ConfigParser()
    project.optionxform = str  # type: ignore[assignment, method-assign]
    project.read_string(files['pyproject.toml'])
    lines = []
    for section in project.sections():
        if group := re.fullmatch(r'project\.entry-points\."(.+)"', section):
            lines += [f'[{group[1]}]', *(f'{key} = {value.strip(chr(34))}' for key, value in project[section].items())]
    installed = tmp_path / 'my_distillers-0.1.dist-info'
    installed.mkdir()
    (installed / 'METADATA').write_text('Metadata-Version: 2.1\nName: my-distillers\nVersion: 0.1\n')
    (installed / 'entry_points.txt').write_text('\n'.join(lines) + '\n')
    (tmp_path / 'docs.yaml').write_text(TINY.replace('name: mlp, hidden: [32]', 'name: linear, bias: false'))
    change = 'lineage.gen1.algorithms={MedianKD: {teachers: [gen0], kd_weight: 0.5}}'
    both = f"""if True:
        from composer_kd import cli, run
        cli.main(['list', 'mixes'])
        for name in ('gen0', 'gen1'):
            assert run.main(['docs.yaml', {change!r}, '--only', name]) == 0
    """
    done = in_process('-c', both, folder=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    line = json.loads((tmp_path / 'runs' / 'gen1' / 'metrics.jsonl').read_text())
    assert 0 < line['loss_distill'] <= 1  # half of one minus a cosine
    assert re.search(r'median +from my-distillers', done.stdout)
