"""Files that nobody meant: each is a plan or one error line, whatever is in it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from composer_kd.core.cli_errors import fail
from composer_kd.core.errors import UserError
from composer_kd.runs.command import _refuse_what_is_not_here
from composer_kd.runs.plan import make_plan
from composer_kd.runs.yaml_file import _Loader, apply_overrides, read_yaml, shipped_yamls
from tests.runs.common import run

ROOT = Path(__file__).parents[2]
LONGEST = 300
# Far more than any file takes, on a busy machine too: what ends here would not have ended.
HANGS = 60


def line_of(path: Path, changes: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """The line that a command prints before anything trains; ``None`` where there is a plan."""
    try:
        plan = make_plan(apply_overrides(read_yaml(path), changes), where=str(path))
        _refuse_what_is_not_here(plan)
    except UserError as error:
        fail(str(error), 1)
    else:
        return None
    line = capsys.readouterr().err
    assert line.endswith('\n')
    line = line[:-1]
    assert line.isprintable(), line
    assert line.startswith('composer-kd: ')
    assert len(line) <= LONGEST
    return line


# -- what was found by hand -----------------------------------------------------------------------------------------

BASE = 'model: {name: mlp, hidden: [8]}\nmax_duration: 1ep\n'


def bomb(levels: int = 30) -> str:
    """Lists of nine times the list before: 9 ** levels values out of a few lines."""
    lists = ['&a0 [x]', *(f'&a{n} [{", ".join([f"*a{n - 1}"] * 9)}]' for n in range(1, levels))]
    return f'[{", ".join(lists)}]'


def merges(levels: int = 30) -> str:
    mappings = ['&m0 {a: 1}', *(f'&m{n} {{<<: [{", ".join([f"*m{n - 1}"] * 9)}]}}' for n in range(1, levels))]
    return f'[{", ".join(mappings)}]'


def by_a(options: str) -> str:
    return f'lineage: {{a: null, b: {{algorithms: {{Distillation: {{teachers: [a], {options}}}}}}}}}'


FOUND: dict[str, tuple[str, str]] = {
    # Foreign exceptions.
    'an algorithm that is a word': (
        'lineage: {a: {algorithms: {Distillation: x}}}',
        r"lineage\.a\.algorithms: Distillation: expected a mapping of options, got 'x'",
    ),
    'an algorithm that is a word, for all': (
        'algorithms: {EMA: 3}\nlineage: {a: {algorithms: {EMA: {}}}}',
        r'EMA: expected a mapping of options, got 3',
    ),
    'a number of 5,000 digits': (f'seed: {"7" * 5000}', r'line 3: a number of more than 100 characters'),
    'a hexadecimal number': (f'seed: 0x{"f" * 90}', r'line 3: 0xf.* is too large a number'),
    'no hexadecimal number': ('seed: 0x_', r"line 3: '0x_' cannot be read"),
    'a long time of day': (f'seed: {":".join(["1"] * 5000)}', r'line 3: a number of more than 100'),
    'a complex key': ('? [a, b]\n: c', r'line 3: a sequence is a key that is no text'),
    'a number as a key': ('lineage: {1: null}', r'line 3: 1 is a key that is no text'),
    '20,000 levels': (f'data: {"[" * 20000}{"]" * 20000}', r'line 3: .* more than 50 levels deep'),
    'levels out of aliases': (
        'data:\n- &a0 [x]\n' + ''.join(f'- &a{n} [*a{n - 1}]\n' for n in range(1, 400)),
        r'more than 50 levels deep',
    ),
    'a part of itself': ('data: &a [*a]', r'line 3: an alias stands for something that it is itself a part of'),
    'a long source': (f'data: {{source: {"s" * 5000}}}', r'line 3: a text of more than 4,096 characters'),
    'a long part of a source': (f'data: {{source: {"s" * 256}}}', r'data\.source: is too long for a path'),
    'a long teacher': (by_a(f'mix: uniform, teachers: [{"t" * 300}]').replace('teachers: [a], ', ''), r'too long for'),
    'a long start': (f'algorithms: {{WarmStart: {{from: {"t" * 300}}}}}', r'WarmStart\.from: .*too long for a path'),
    'no date': ('save_folder: 2026-13-45\nseed: x', r"seed: .*got 'x'"),
    'a set': ('algorithms: !!set {a, b}', r'this is no YAML: could not determine a constructor'),
    'bytes': ('name: !!binary aGk=', r'this is no YAML: could not determine a constructor'),
    'a kind of corruption that is a list': ('evaluate: {drifts: {x: {kinds: [[fog]]}}}', r'x\.kinds: .*is not a kind'),
    'a schedule without end': (by_a(f'schedule: every {"9" * 400}ep'), r'no training has more than 1e\+09ep'),
    # Runs for ever.
    'repeated for ever': (f'repeat: {10**25}', r'line 3: 10+ is too large a number'),
    'repeated very often': ('repeat: 100000000', r'repeat: .*1000, got 100000000'),
    'a run repeated very often': ('lineage: {a: {repeat: 100000000}}', r'lineage\.a\.repeat: .*from 1 to 1000'),
    'too many runs': (
        f'repeat: 1000\nlineage: {{{", ".join(f"a{n}: null" for n in range(11))}}}',
        r'11,000 runs; a file has at most 10,000',
    ),
    'a bomb of lists': (f'algorithms: {bomb()}', r'line 3: these are more than 10,000 values, aliases written out'),
    'a bomb of mappings': (f'algorithms: {merges()}', r'line 3: these are more than 10,000 values'),
    'a bomb in a value': (f'batch_size: {bomb(4)}', r'batch_size: .*integer'),
    'a large file': (f'# {"x" * 1_000_001}', r'the file is larger than 1,000,000 bytes'),
    'many values': (f'algorithms: [{"a, " * 10001}]', r'line 3: these are more than 10,000 values'),
    'a model without end': ('lineage: {a: {model: {name: wrn, depth: 60000004, width: 1}}}', r'model\.depth: .*2000'),
    'a model too wide': ('lineage: {a: {model: {name: wrn, depth: 10, width: 2000000000}}}', r'model\.width: .*1000'),
    'a long key': (f'{"k" * 1000}: 1', r'line 3: a key of more than 255 characters'),
    # Nonsense.
    'lr': ('optimizer: {name: SGD, lr: 1e25}', r'optimizer\.lr: expected a number below 10000, got 1e\+25'),
    'lr as a text': ("optimizer: {name: SGD, lr: '0.1'}", r"optimizer\.lr: expected a number, got '0\.1'"),
    'lr as a switch': ('optimizer: {name: SGD, lr: true}', r'optimizer\.lr: expected a number, got True'),
    'momentum': ('optimizer: {name: SGD, lr: 0.1, momentum: 1.0}', r'optimizer\.momentum: .*below 1, got 1\.0'),
    'weight decay': ('optimizer: {name: SGD, weight_decay: 1e9}', r'optimizer\.weight_decay: .*got 1000000000\.0'),
    'temperature': (by_a('temperature: 2e9'), r'temperature is at most 1000, got 2000000000\.0'),
    'a temperature that changes': (by_a('temperature: 2000 to 1'), r"temperature is at most 1000, got '2000 to 1'"),
    'a learned temperature': (by_a('temperature: {learned: {high: 1e9}}'), r'learned: high: .* at most 1000, got'),
    'a weight': (by_a('kd_weight: 1e12'), r'kd_weight is at most 1e\+06'),
    'not a number': ('optimizer: {name: SGD, lr: .nan}', r'optimizer\.lr: expected a number below 10000, got nan'),
    'infinite': ('optimizer: {name: SGD, lr: 1e999}', r'optimizer\.lr: expected a number below 10000, got inf'),
    'an option that is not a number': ('algorithms: {MixUp: {alpha: .nan}}', r'MixUp\.alpha: expected a finite number'),
    'a long training': (f'max_duration: {"9" * 30}ep', r'max_duration: is longer than any training'),
    'a large batch': ('batch_size: 4000000000', r'batch_size: .*1048576, got 4000000000'),
    'many workers': ('data: {workers: 100000}', r'data\.workers: .*1024, got 100000'),
    'many steps': ('evaluate: {attacks: [{steps: 1000000000}]}', r'steps: expected at most 100,000'),
    'a large ball': ('evaluate: {attacks: [{norm: l2, epsilon: 1e9}]}', r'epsilon: .* at most 1e\+06, got'),
    'a large budget': (
        f'algorithms: {{AdversarialRecycling: {{budget: {"9" * 400}MB}}}}',
        r'budget: expected a number of samples',
    ),
    'a folder with a zero': (r'save_folder: "\0"', r"line 3: '\\x00' has a character that no terminal shows"),
    'a name that colours': (r'name: "a\e[31m"', r'line 3: .*has a character that no terminal shows'),
    'a name that turns': (r'name: "a\u202Eb"', r'line 3: .*has a character that no terminal shows'),
    'a name of two lines': (r'name: "a\nb"', r'name: has a character that no terminal shows'),
    'a run of two lines': (r'lineage: {"a\nb": null}', r"lineage\.a\\nb: 'a\\nb' has a character|lineage\.a b"),
    'a long name': (f'name: {"n" * 101}', r'name: is too long for a name; use at most 100 characters'),
    'a long name in few characters': (f'name: {"鳥" * 90}', r'name: is too long for a name'),
    'a long run': (f'lineage: {{{"n" * 101}: null}}', r'is too long for a name'),
    'an ensemble of two lines': (r'ensembles: {"a\tb": [run]}', r'has a character that no terminal shows'),
    'a teacher that is called in colours': (
        by_a(r'mix: uniform, teachers: [{live: a, name: "x\ty"}]').replace('teachers: [a], ', ''),
        r'live\.name: has a character that no terminal shows',
    ),
}  # fmt: skip


@pytest.mark.timeout(HANGS)
@pytest.mark.parametrize(('text', 'line'), FOUND.values(), ids=FOUND.keys())
def test_what_was_found_is_one_line(text: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'file.yaml'
    keys = set(re.findall(r'^(\w+):', text, flags=re.MULTILINE))
    base = ['#' if row.partition(':')[0] in keys else row for row in BASE.splitlines()]
    path.write_text('\n'.join([*base, text, '']))
    said = line_of(path, [], capsys)
    assert said is not None, 'it was accepted'
    assert re.search(line, said), said


@pytest.mark.parametrize(
    ('change', 'line'),
    [
        (f'seed={"7" * 5000}', r'seed=\.\.\.: line 1: a number of more than 100 characters'),
        ('optimizer.lr=1e25', r'optimizer\.lr: expected a number below 10000'),
        ('optimizer.lr=.inf', r'optimizer\.lr: expected a number below 10000, got inf'),
        ('save_folder="\\0"', r'save_folder=\.\.\.: line 1: .*no terminal shows'),
        ('name=a\x1b[31m', r'the value is no YAML'),
        ('na\x1b[31mme=a', r'na\\x1b\[31mme: unknown key'),
        (f'data={"[" * 60}{"]" * 60}', r'more than 50 levels deep'),
        (f'{"a." * 3000}b=1', r'more than 50 levels deep'),
        (f'batch_size={bomb()}', r'more than 10,000 values'),
        ('x={? [a] : b}', r'a sequence is a key that is no text'),
        ('repeat=1000000', r'repeat: .*1000'),
    ],
)  # fmt: skip
def test_changes_go_through_the_same_checks(
    change: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'file.yaml'
    path.write_text(f'{BASE}optimizer: {{name: SGD, lr: 0.1}}\n')
    said = line_of(path, [change], capsys)
    assert said is not None, 'it was accepted'
    assert re.search(line, said), said


def test_bounds_leave_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'file.yaml'
    path.write_text(f"""
name: 2026-03-01 {'n' * 80}
save_folder: {tmp_path}/画像　集 {'s' * 200}
model: {{name: mlp, hidden: {[8] * 100}}}
optimizer: {{name: SGD, lr: 100, momentum: 0.9999, weight_decay: 1}}
max_duration: 100000000ba
batch_size: 1048576
repeat: 100
lineage:
  a: &a {{data: {{views: 100000}}}}
  b: *a
  c: {{algorithms: {{Distillation: {{teachers: [a], temperature: 1000}}}}}}
""")
    assert line_of(path, [], capsys) is None


def test_a_command_prints_the_line_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / 'bad.yaml'
    path.write_text(f'{BASE}lineage: {{a: {{algorithms: {{Distillation: x}}, "b\\e[31m{"c" * 1000}": null}}}}\n')
    done = run(path, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, '')
    assert done.stderr.count('\n') == 1
    assert done.stderr.startswith(f'composer-kd: {path}: line 3: ')
    assert done.stderr[:-1].isprintable()
    assert len(done.stderr) <= LONGEST + 1


# -- what nobody thought of -----------------------------------------------------------------------------------------


def originals() -> dict[str, str]:
    """The files that come with the package, and the examples of the pages, each with what a run needs."""
    texts = {name: path.read_text() for name, path in shipped_yamls().items()}
    for page in sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('composer_kd/algorithms/*/README.md')]):
        for number, text in enumerate(
            re.findall(r'^```yaml.*?\n(.*?)^```', page.read_text(), re.DOTALL | re.MULTILINE)
        ):
            values = yaml.safe_load(text)
            if isinstance(values, dict):
                base = [row for row in BASE.splitlines() if row.partition(':')[0] not in values]
                texts[f'{page.name}-{number}'] = '\n'.join([text, *base])
    return texts


ORIGINALS = originals()
DIGITS, NESTED, BOMB, MERGES, ITSELF = '@digits', '@nested', '@bomb', '@merges', '@itself'
# What no mapping in Python can hold is put into the text in the place of these words.
WRITTEN = {
    DIGITS: '-' + '9' * 4400,
    NESTED: '[' * 3000 + ']' * 3000,
    BOMB: bomb(20),
    MERGES: merges(20),
    ITSELF: '&itself {a: *itself}',
}
STRANGE: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.5, 10**9, 10**12, 2**63, -(10**25), 1e25, -1e25, 1e-300,
    float('inf'), float('-inf'), float('nan'), '', ' ', 'x', 'name', 'none', 'gen0', '..', '/', '.', '~', 'a/b', 'a:b',
    '\0', '\x1b[31m', '\u202eabc', 'a\nb', '\ud800', 'é', '鳥' * 300, 'x' * 300, 'y' * 5000, '1e5', '10ep', '5ba',
    '0.1dur', '9' * 400 + 'ep', f'every {"9" * 400}ep', f'8 to {"9" * 400}', '8 to 1', '1 to 0 until 99999999999ep',
    'file:///nowhere/at/all', 'learned', [], {}, [[]], [None], [{}], ['x'], ['gen0', 'gen0'], [1, 2], [[['x']]],
    {'a': 1}, {'name': 'x'}, {'name': 'mlp'}, {'name': ['x']}, {'live': 'gen0'}, {'recorded': None}, {'from': 'gen0'},
    {'x': {'y': {'z': []}}}, {'EMA': 'x'}, {'Distillation': None}, {'Distillation': {'teachers': ['gen0']}},
    DIGITS, NESTED, BOMB, MERGES, ITSELF,
]  # fmt: skip
KEYS = [
    'name', 'seed', 'from', 'model', 'lineage', 'repeat', 'data', 'source', 'teachers', 'x', 'a.b', '', '\x1b',
    'k' * 900, 'archive', 'algorithms', 'drifts', 'ensembles', 'search', 'side_by_side', 'optimizer', 'lr',
    '<<', '\u202e', '1',
]  # fmt: skip
Place = tuple[Any, Any]  # A mapping or list, and the key or number in it.


def places(values: Any) -> Iterator[Place]:
    items: Any = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield values, key
        yield from places(value)


def replaced(draw: random.Random, values: dict[str, Any]) -> None:
    parent, key = draw.choice(list(places(values)))
    parent[key] = draw.choice(STRANGE)


def deleted(draw: random.Random, values: dict[str, Any]) -> None:
    parent, key = draw.choice(list(places(values)))
    del parent[key]


def renamed(draw: random.Random, values: dict[str, Any]) -> None:
    parent, key = draw.choice([place for place in places(values) if isinstance(place[0], dict)])
    spelt = ''.join(draw.sample(str(key), len(str(key))))
    parent[draw.choice([spelt, *KEYS])] = parent.pop(key)


def added(draw: random.Random, values: dict[str, Any]) -> None:
    mappings = [values, *(parent[key] for parent, key in places(values) if isinstance(parent[key], dict))]
    draw.choice(mappings)[draw.choice(KEYS)] = draw.choice(STRANGE)


def swapped(draw: random.Random, values: dict[str, Any]) -> None:
    (one, a), (other, b) = (draw.choice(list(places(values))) for _ in range(2))
    # Copies: one may be inside the other.
    one[a], other[b] = (yaml.safe_load(yaml.safe_dump(value)) for value in (other[b], one[a]))


def wrapped(draw: random.Random, values: dict[str, Any]) -> None:
    parent, key = draw.choice(list(places(values)))
    value = parent[key]
    parent[key] = draw.choice([[value], [value, value], {'x': value}, {'name': value}, str(value)])


def scaled(draw: random.Random, values: dict[str, Any]) -> None:
    numbers = [(parent, key) for parent, key in places(values) if type(parent[key]) in (int, float)]
    for parent, key in draw.sample(numbers, min(1, len(numbers))):
        parent[key] *= draw.choice([-1, 0, 1000, 10**6, 10**9, 10**15, 1e-9, 1e9, 1e300])


def misreferred(draw: random.Random, values: dict[str, Any]) -> None:
    """Name other runs, in circles too, where runs are named."""
    runs = [*(values.get('lineage') or {'run': None}), 'gen9', 'run', 'gen0-s0']
    for parent, key in list(places(values)):
        if key in ('teachers', 'from', 'live', 'recorded', 'replaces') and draw.random() < 0.7:
            named = draw.choices(runs, k=draw.randint(1, 3))
            parent[key] = named if key == 'teachers' else named[0]


def doubled(draw: random.Random, text: str) -> str:
    lines = text.splitlines()
    at = draw.randrange(len(lines))
    return '\n'.join([*lines[:at], lines[at], *lines[at:]])


def spoilt(draw: random.Random, text: str) -> str:
    """Characters that are gone, doubled or others."""
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(text))
        text = (
            text[:at]
            + draw.choice(['', text[at] * 2, *'\t\0:-[]{}&*!|>\'"%@`#,?é\x1b\u202e\x85\u2028'])
            + text[at + 1 :]
        )
    return text


def with_a_complex_key(draw: random.Random, text: str) -> str:
    return f'{text}\n{draw.choice(["? [a, b]", "? {a: b}", "? ? a", "1.5", "null", "!!set {a}", "2026-01-01"])}\n: c\n'


OF_VALUES: list[Callable[[random.Random, dict[str, Any]], None]] = [
    replaced, replaced, replaced, deleted, renamed, added, added, swapped, wrapped, scaled, scaled, misreferred,
]  # fmt: skip
OF_TEXTS: list[Callable[[random.Random, str], str]] = [doubled, spoilt, spoilt, with_a_complex_key]


def mutant(seed: int) -> tuple[str, str]:
    """Which file it was, and what has become of it."""
    draw = random.Random(seed)
    name = draw.choice(sorted(ORIGINALS))
    values = yaml.load(ORIGINALS[name], Loader=_Loader)  # Which reads 5e-4 as a number.
    if draw.random() < 0.25:
        return name, draw.choice(OF_TEXTS)(draw, ORIGINALS[name])
    for _ in range(draw.randint(1, 3)):
        if list(places(values)):
            draw.choice(OF_VALUES)(draw, values)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=draw.random() < 0.5)
    for word, written in WRITTEN.items():
        text = text.replace(f"'{word}'", written, 1)
    return name, text


@pytest.mark.timeout(HANGS)
@pytest.mark.parametrize('seed', [*range(100), *(pytest.param(n, marks=pytest.mark.slow) for n in range(100, 1100))])
def test_a_mutant_is_a_plan_or_one_line(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'mutant.yaml'
    name, text = mutant(seed)
    path.write_text(text, encoding='utf-8', errors='surrogatepass')
    print(name)
    line_of(path, [], capsys)
