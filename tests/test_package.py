"""The walls of the house, what an import costs, what every algorithm's folder holds, and what a wheel carries."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest

import composer_kd
from composer_kd.algorithms import ALGORITHMS
from composer_kd.data.drift import DRIFTS
from composer_kd.functional import LOSSES
from composer_kd.models import MODELS
from composer_kd.runs.registries import CALLBACKS, LOGGERS, OPTIMIZERS, SCHEDULERS
from composer_kd.teachers import MIXES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'composer_kd'
ALGORITHM_FOLDERS = sorted(path.parent for path in PACKAGE.glob('algorithms/*/__init__.py'))

# A room may import rooms of its own floor and of those above it in this list, never of those below.
FLOORS = (
    ('core',),
    ('functional', 'storage'),
    ('models', 'archive'),
    ('data',),
    ('teachers',),
    ('algorithms',),
    ('callbacks',),
    ('runs',),
    ('cli', 'commands', 'run'),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
BESIDE = (
    'report'  # reads run directories only: whoever stands above may ask it, and it asks nobody but core/ and storage/
)
HEAVY = ('streaming', 'matplotlib', 'optuna', 'foolbox', 'submitit')
# A class of Streaming's is extended here; the module itself is imported where data is streamed.
HEAVY_BY_NATURE = {'composer_kd.data.stream'}


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, the package's own __init__ (names looked up late) apart."""
    found = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        parts = path.relative_to(ROOT).with_suffix('').parts
        name = '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)
        if name != 'composer_kd':
            found[name] = path
    return found


def room_of(module: str) -> str:
    return module.split('.')[1]


def imports(path: Path, when_loaded: bool) -> Iterator[str]:
    """What a file imports: all of it, or (``when_loaded``) only what is imported with the module itself."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            late = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            typing = isinstance(child, ast.If) and 'TYPE_CHECKING' in ast.dump(child.test)
            if when_loaded and (late or typing):
                continue
            yield child
            yield from walk(child)

    for node in walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: imports are absolute'
            yield node.module or ''
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def rooms_imported(path: Path, when_loaded: bool) -> set[str]:
    ours = (name for name in imports(path, when_loaded) if name.startswith('composer_kd.'))
    return {room_of(name) for name in ours} & {*FLOOR, BESIDE}


# -- floors ---------------------------------------------------------------------------------------------------------


def test_every_module_has_a_floor() -> None:
    assert {room_of(name) for name in modules()} == {*FLOOR, BESIDE}


@pytest.mark.parametrize('module', modules())
def test_nothing_is_imported_from_a_higher_floor(module: str) -> None:
    room = room_of(module)
    for other in rooms_imported(modules()[module], when_loaded=False) - {room}:
        if room == BESIDE:
            assert other in ('core', 'storage'), f'{module} imports {other}: the report reads run directories only'
        elif other == BESIDE:
            assert FLOOR[room] >= FLOOR['runs'], f'{module} imports the report'
        else:
            assert FLOOR[other] <= FLOOR[room], f'{module} imports {other}, which is above it'


@pytest.mark.parametrize('when_loaded', [True, False], ids=['when-loaded', 'at-all'])
def test_no_modules_import_each_other_in_a_circle(when_loaded: bool) -> None:
    graph = {
        module: {name for name in imports(path, when_loaded) if name in modules() and name != module}
        for module, path in modules().items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize('module', modules())
def test_heavy_packages_are_imported_where_they_are_used(module: str) -> None:
    loaded = set(imports(modules()[module], when_loaded=True))
    heavy = {name for name in loaded if name.partition('.')[0] in HEAVY}
    assert not heavy or module in HEAVY_BY_NATURE
    if module not in HEAVY_BY_NATURE:
        assert not loaded & HEAVY_BY_NATURE, 'it brings a heavy package along'


def loaded_after(code: str) -> set[str]:
    """The top-level packages that are loaded after ``code`` in a fresh process."""
    ending = "\nimport sys; print('LOADED', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, '-c', code + ending], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.rpartition('LOADED')[2].split())


@pytest.mark.parametrize(
    'code',
    [
        'import composer_kd; dir(composer_kd)',
        'from composer_kd import UserError, Schedule',
        "from composer_kd.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        'import composer_kd.data',
    ],
    ids=['package', 'light-names', 'help', 'data'],
)
def test_what_needs_no_torch_does_not_load_it(code: str) -> None:
    assert not loaded_after(code) & {'torch', 'composer', 'torchvision', *HEAVY}


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('module', [name for name in ['composer_kd', *modules()] if name not in HEAVY_BY_NATURE])
def test_public_names_exist(module: str) -> None:
    loaded = importlib.import_module(module)
    for name in getattr(loaded, '__all__', ()):
        assert hasattr(loaded, name), f'{module}.__all__ promises {name}'


def test_the_package_tells_its_names_and_version() -> None:
    assert set(dir(composer_kd)) == set(composer_kd.__all__)
    assert composer_kd.__version__ == metadata.version('composer_kd')
    with pytest.raises(AttributeError, match='no attribute'):
        _ = composer_kd.NoSuchName  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    'registry',
    [ALGORITHMS, LOSSES, MIXES, MODELS, DRIFTS, OPTIMIZERS, SCHEDULERS, CALLBACKS, LOGGERS],
    ids=lambda registry: registry.kind,
)
def test_registry_entries_have_a_summary_and_load(registry) -> None:
    summaries = dict(registry.summaries())
    assert summaries
    for name, summary in summaries.items():
        assert re.search(r'\w{3}', summary), f'{registry.kind}: {name} has no summary'
        assert '\n' not in summary
        assert callable(registry.get(name))


# -- algorithms' folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('folder', ALGORITHM_FOLDERS, ids=lambda folder: folder.name)
def test_an_algorithms_folder_has_its_four_files(folder: Path) -> None:
    for name in ('__init__.py', f'{folder.name}.py', 'README.md', 'metadata.json'):
        assert (folder / name).is_file(), f'{name} is missing'
    text = (folder / 'README.md').read_text(encoding='utf-8')
    for heading in ('How to Use', 'Suggested Hyperparameters', 'Technical Details', 'Attribution'):
        assert re.search(rf'^## {heading}$', text, flags=re.MULTILINE), heading
    for language in ('python', 'yaml'):
        assert f'```{language}\n' in text
    assert 'https://arxiv.org/abs/' in text


@pytest.mark.parametrize('folder', ALGORITHM_FOLDERS, ids=lambda folder: folder.name)
def test_an_algorithms_metadata_is_in_composers_form(folder: Path) -> None:
    import composer.algorithms

    theirs = Path(composer.algorithms.__file__).parent / 'label_smoothing' / 'metadata.json'
    (form,) = json.loads(theirs.read_text()).values()
    held = json.loads((folder / 'metadata.json').read_text(encoding='utf-8'))
    assert list(held) == [folder.name]
    values = held[folder.name]
    assert list(values) == list(form)
    assert all(values.values())
    assert values['link'].startswith('https://')
    assert set(values['domains']) <= {'cv', 'nlp'}
    assert ALGORITHMS.get(values['class_name']).__module__.startswith(f'composer_kd.algorithms.{folder.name}')
    import composer_kd.functional

    assert values['functional'] in composer_kd.functional.__all__


# -- wheel and sdist --------------------------------------------------------------------------------------------------


def expected_in_a_wheel() -> set[str]:
    wanted = {str(path.relative_to(ROOT)) for path in modules().values()} | {'composer_kd/__init__.py'}
    wanted |= {'composer_kd/py.typed', 'composer_kd/report/render/page.css'}
    wanted |= {f'composer_kd/yamls/{path.relative_to(ROOT / "yamls")}' for path in (ROOT / 'yamls').rglob('*.yaml')}
    for folder in ALGORITHM_FOLDERS:
        wanted |= {f'composer_kd/algorithms/{folder.name}/{name}' for name in ('README.md', 'metadata.json')}
    return wanted


@pytest.fixture(scope='module')
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built from: building leaves folders behind, and not in the user's checkout."""
    copy = tmp_path_factory.mktemp('build') / 'checkout'
    packaging = ['setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'composer_kd', 'yamls']
    copy.mkdir()
    for name in packaging + [name for name in ('MANIFEST.in', 'setup.cfg') if (ROOT / name).exists()]:
        if (ROOT / name).is_dir():
            without_caches = shutil.ignore_patterns('__pycache__')
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=without_caches)
        else:
            shutil.copy(ROOT / name, copy)
    return copy


def python(*arguments: str, folder: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


# setuptools builds wheels by itself since 70.1. Without it, pip would have to fetch one: then the test is a slow one.
_BUILDS_WHEELS = importlib.util.find_spec('wheel') is not None or (
    importlib.util.find_spec('setuptools') is not None
    and tuple(map(int, metadata.version('setuptools').split('.')[:2])) >= (70, 1)
)


@pytest.mark.parametrize(
    'isolation', [pytest.param((), marks=pytest.mark.slow) if not _BUILDS_WHEELS else ('--no-build-isolation',)]
)
def test_a_wheel_carries_everything(isolation: tuple[str, ...], checkout: Path, tmp_path: Path) -> None:
    python('-m', 'pip', 'wheel', '--quiet', '--no-deps', *isolation, '--wheel-dir', str(tmp_path), '.', folder=checkout)
    (wheel,) = tmp_path.glob('composer_kd-*.whl')
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith('entry_points.txt'))
        script = archive.read(entry_points).decode()
        text = archive.read('composer_kd/yamls/kd.yaml')
    assert expected_in_a_wheel() <= names
    assert not [name for name in names if not name.startswith(('composer_kd/', 'composer_kd-'))]
    assert 'composer-kd = composer_kd.cli:main' in script.replace('=', ' = ').replace('  ', ' ')
    assert text == (ROOT / 'yamls' / 'kd.yaml').read_bytes()


@pytest.mark.skipif(importlib.util.find_spec('setuptools') is None, reason='setuptools is not installed')
def test_an_sdist_carries_everything(checkout: Path, tmp_path: Path) -> None:
    python('setup.py', '-q', 'sdist', '--dist-dir', str(tmp_path), folder=checkout)
    (source,) = tmp_path.glob('composer_kd-*.tar.gz')
    with tarfile.open(source) as archive:
        names = {member.name.partition('/')[2] for member in archive.getmembers() if member.isfile()}
    # The sdist's setup.py reads the README; its symlinked YAMLs are files of their own.
    assert {'README.md', 'LICENSE', 'setup.py', 'pyproject.toml'} | expected_in_a_wheel() <= names
