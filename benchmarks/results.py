"""benchmarks/RESULTS.md, from the results of all benchmarks alone, and the ledger in benchmarks/README.md.

    python -m benchmarks.results            # writes both
    python -m benchmarks.results --check    # says whether they are what the results give

Every section is the page that a benchmark makes of its JSON: what was run, when, on what, how often, and the figures.
What has no results yet has a line that says so. The ledger says what each scale costs, whether it has run or not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.retrain.cells import Scale
from benchmarks.retrain.ledger import ledger
from benchmarks.retrain.measures import Study
from benchmarks.retrain.pairs import pairs
from benchmarks.retrain.results import Results
from benchmarks.retrain.tables import markdown
from composer_kd.archive import atomic_write

HERE = Path(__file__).parent
OUT, README = HERE / 'RESULTS.md', HERE / 'README.md'
SCALES = ('cpu', 'h200')
STUDIES = ('views', 'curriculum', 'methods', 'oracle', 'oracle_fashion', 'hinton', 'adversarial', 'drift')
LEDGER = '<!-- ledger -->'

INTRODUCTION = """# Results

Made by `python -m benchmarks.results` from the JSON beside each benchmark; nothing here is written by hand. Each
section names its command, date, hardware and number of runs. How to run them, and what it costs:
[README.md](README.md)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing; fail if RESULTS.md is not up to date')
    options = parser.parse_args()
    pages = {OUT: results_page(), README: with_ledger(README.read_text())}
    stale = [file for file, page in pages.items() if not file.is_file() or file.read_text() != page]
    if options.check:
        names = ' and '.join(file.name for file in stale)
        print(f'not what the results give: {names}; python -m benchmarks.results' if stale else 'up to date')
        return 1 if stale else 0
    for file in stale:
        atomic_write(file, pages[file])
        print(f'written: {file}')
    return 0


def results_page(folder: Path = HERE) -> str:
    return '\n\n'.join([INTRODUCTION, *(section.strip() for section in _sections(folder))]) + '\n'


def with_ledger(readme: str) -> str:
    """The page with what stands between its two marks made anew."""
    before, _, rest = readme.partition(LEDGER)
    _, _, after = rest.partition(LEDGER)
    tables = [ledger(Scale(name), Results(name).by_name()) for name in SCALES]
    return f'{before}{LEDGER}\n\n' + '\n\n'.join(tables) + f'\n\n{LEDGER}{after}'


def _sections(folder: Path) -> Iterator[str]:
    for scale in SCALES:
        yield _retrain(scale, folder)
    for name, table in _tables().items():
        file = folder / name
        if file.is_file():
            yield _deeper(table(json.loads(file.read_text())))
        else:
            waits = 'it waits for a GPU' if name.startswith('h200/') else f'`{_command(name)}`'
            yield f'## {name}\n\nNot run yet: {waits}.'


def _retrain(name: str, folder: Path) -> str:
    results = Results(name, folder / 'retrain' / 'results')
    if not results.file.is_file():
        what = 'a GPU' if name == 'h200' else 'its turn'
        waiting = f'## Retraining: the scale `{name}`\n\nNot run yet: it waits for {what}.'
        return '\n\n'.join(filter(None, [waiting, _deeper(pairs(Study(Scale(name), {})))]))
    scale = Scale(name, accuracy=results.accuracy)
    study = Study(scale, results.by_name(), results.by_name(alone=True))
    pictures = {
        scenario: f'retrain/results/{name}-{scenario}.png'
        for scenario in scale.scenarios
        if (results.file.parent / f'{name}-{scenario}.png').is_file()
    }
    return _deeper(markdown(study, pictures).replace('(../arms.yaml)', '(retrain/arms.yaml)'))


def _tables() -> dict[str, Callable[[dict[str, Any]], str]]:
    """Result files, and what makes a page of each."""
    from benchmarks.study import table as study_table

    of_its_own = {f'{name}/{name}.json': _program(HERE / name / f'{name}.py').table
                  for name in ('main_job', 'one_command', 'steps', 'loader', 'archive', 'top_k')}  # fmt: skip
    on_a_gpu = {
        'h200/epoch.json': _program(HERE / 'h200' / 'epoch.py').table,
        'h200/steps.json': of_its_own['steps/steps.json'],
        **{f'h200/{name}.json': partial(study_table, folder='h200/') for name in ('adversarial', 'drift')},
    }
    studies = {f'{name}/{name}.json': partial(study_table, folder=f'{name}/') for name in STUDIES}
    return {**of_its_own, **studies, **on_a_gpu}


def _command(name: str) -> str:
    folder = Path(name).parent
    study = HERE / folder / f'{folder}.yaml'
    if not study.is_file():
        return f'python benchmarks/{folder}/{folder}.py'
    return next(line for line in study.read_text().splitlines() if 'benchmarks.study' in line).strip('# ').strip()


def _program(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f'benchmark_{file.stem}', file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _deeper(page: str) -> str:
    """The same page as a section of a longer one."""
    return '\n'.join(f'#{line}' if line.startswith('#') else line for line in page.splitlines())


if __name__ == '__main__':
    raise SystemExit(main())
