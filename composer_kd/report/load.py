"""Find run directories and read what they say of themselves, whatever version wrote them."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash
import yaml

from composer_kd.core.errors import UserError

__all__ = [
    'Arm', 'Run', 'canonical', 'collect', 'group_arms', 'json_lines', 'labels', 'mapping', 'named_teachers', 'number',
    'plain_text',
]  # fmt: skip

_DEPTH = 2  # a folder of lineages, each a folder of runs
_CONTROL = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]')
_TEACHERS = 'teachers'
_RECYCLED_BY = {
    'losscurriculum': 'a curriculum',
    'warmstart': 'the weights of an earlier run to start from',
    'adversarialrecycling': 'adversarial examples',
}


@dataclass(frozen=True)
class Run:
    """One training, as its run directory tells it."""

    path: Path  # the run directory
    config: Mapping[str, Any]  # ``run.yaml``, resolved
    # One record for each finished epoch, in order; numbers that are not finite are ``None``
    epochs: tuple[Mapping[str, Any], ...]
    # ``archive/manifest.json``, or an empty mapping while there is none
    manifest: Mapping[str, Any] = field(default_factory=dict)
    altered: tuple[str, ...] = ()  # files that are not what the manifest says they are

    @property
    def name(self) -> str:
        return plain_text(self.config.get('name')) or self.path.name

    @property
    def arm(self) -> str:
        """What the runs that differ only in their seed have in common."""
        return plain_text(self.config.get('arm')) or self.name

    @property
    def seed(self) -> int | None:
        seed = self.config.get('seed')
        return seed if isinstance(seed, int) else None

    @property
    def lineage(self) -> str:
        return plain_text(self.config.get('lineage'))

    @property
    def num_classes(self) -> int | None:
        """Of the data, as the manifest tells; ``None`` while there is none."""
        number = mapping(self.manifest.get('data')).get('num_classes')
        return number if isinstance(number, int) and not isinstance(number, bool) else None

    @property
    def weights_hash(self) -> Any:
        """Of the trained weights, as the manifest tells; ``None`` before there are any."""
        return mapping(self.manifest.get('weights')).get('hash')

    @property
    def test_shift(self) -> str:
        """Which drifts have changed the test data that the run's accuracies are of, as JSON."""
        drifts = mapping(self.config.get('data')).get('drift')
        several = drifts if isinstance(drifts, list) else [] if drifts is None else [drifts]
        return canonical([one for one in several if _acts_on_tests(one)])

    @property
    def last_epoch(self) -> int:
        return self.epochs[-1]['epoch'] if self.epochs else 0

    @property
    def planned_epochs(self) -> int | None:
        """The length it was started for, where that was given in epochs."""
        match = re.fullmatch(r'\s*(\d+)\s*ep\s*', str(self.config.get('max_duration', '')))
        return int(match[1]) if match else None

    @property
    def finished(self) -> bool:
        if self.planned_epochs is not None:
            return self.last_epoch >= self.planned_epochs
        return bool(self.epochs) and self.manifest.get('weights') is not None

    @property
    def progress(self) -> str:
        """``'12 epochs'``, or ``'8 of 12 epochs'`` for a run that has not gone its full length."""
        if self.finished or self.planned_epochs is None:
            return f'{self.last_epoch} epochs'
        return f'{self.last_epoch} of {self.planned_epochs} epochs'

    @property
    def shared(self) -> bool:
        """Whether other runs used the machine meanwhile, so that its seconds are not its own."""
        return any((record.get('runs_beside') or 1) > 1 for record in self.epochs)

    @property
    def recycles(self) -> list[str]:
        """What the run took from earlier ones, in words: teachers' outputs, a curriculum, weights, examples."""
        algorithms = self.config.get('algorithms')
        distilled = any(record.get('loss_distill') is not None for record in self.epochs)
        found = [_TEACHERS] if distilled or any(named_teachers(algorithms)) else []
        named = {str(name).replace('_', '').lower() for name in mapping(algorithms)}
        return found + [what for name, what in _RECYCLED_BY.items() if name in named]


def _acts_on_tests(drift: Any) -> bool:
    """Of a drift as ``run.yaml`` has it, with its ``parts``; a path acts where one of its ends does."""
    if not isinstance(drift, Mapping):
        return drift is not None
    ends = [drift.get(end) for end in ('from', 'to')] if drift.get('name') == 'path' else []
    return 'test' in (drift.get('parts') or ['test']) and (not ends or any(map(_acts_on_tests, ends)))


def named_teachers(section: Any) -> Iterator[Any]:
    """What stands under ``teachers`` anywhere in the ``algorithms`` section."""
    if isinstance(section, list):
        for value in section:
            yield from named_teachers(value)
    elif isinstance(section, Mapping):
        yield section.get('teachers')
        yield from named_teachers([value for key, value in section.items() if key != 'teachers'])


@dataclass(frozen=True)
class Arm:
    """The runs of one kind: the same settings, different seeds."""

    name: str
    runs: tuple[Run, ...]

    @property
    def counted(self) -> tuple[Run, ...]:
        """The runs that enter means: the finished ones, or all that have begun while none has finished."""
        return tuple(run for run in self.runs if run.finished) or tuple(run for run in self.runs if run.epochs)

    @property
    def test_shift(self) -> str:
        return (self.counted or self.runs)[0].test_shift

    @property
    def repeats(self) -> dict[int, tuple[Run, ...]]:
        """The counted runs that have their seed in common with another one, by that seed."""
        by_seed: dict[int, list[Run]] = {}
        for run in self.counted:
            if run.seed is not None:
                by_seed.setdefault(run.seed, []).append(run)
        return {seed: tuple(runs) for seed, runs in by_seed.items() if len(runs) > 1}

    @property
    def finished(self) -> bool:
        return any(run.finished for run in self.runs)

    @property
    def shared(self) -> bool:
        return any(run.shared for run in self.counted)

    @property
    def recycles(self) -> list[str]:
        """What any of its runs took from earlier ones, in words."""
        return list(dict.fromkeys(what for run in self.runs for what in run.recycles))


def collect(paths: str | Path | Iterable[str | Path]) -> list[Run]:
    """Read the runs at ``paths``.

    Args:
        paths: Run directories, or folders that hold run directories up to two levels below.

    Returns:
        list[Run]: In the order given, by name inside a folder; a run named twice appears once.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not given:
        raise UserError('report: no run is named; give run directories or a folder that holds some')
    runs: dict[Path, Run] = {}
    for path in map(Path, given):
        if not path.is_dir():
            raise UserError(f'{path}: there is no such folder; give a run directory or a folder that holds some')
        found = list(_run_directories(path, _DEPTH))
        if not found:
            raise UserError(f'{path}: no run in this folder (no run.yaml here or up to {_DEPTH} levels below)')
        for directory in found:
            key = directory.resolve()
            if key not in runs:
                runs[key] = _read_run(directory)
    if not any(run.epochs for run in runs.values()):
        raise UserError(f'{given[0]}: none of the {len(runs)} runs has finished an epoch yet; nothing to report')
    return list(runs.values())


def group_arms(runs: Iterable[Run]) -> list[Arm]:
    """Arms in the order of their first run; an arm without a single finished epoch is left out."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.arm, []).append(run)
    arms = [Arm(name, tuple(members)) for name, members in groups.items()]
    return [arm for arm in arms if arm.counted]


def labels(runs: Sequence[Run]) -> dict[Path, str]:
    """A name for each run, by its path: the folder stands behind those names that several runs have.

    Folders are told from the one that all of these runs are in, so that a report says the same wherever they lie.
    """
    times = Counter(run.name for run in runs)
    resolved = [run.path.resolve() for run in runs if times[run.name] > 1]
    root = os.path.commonpath(resolved) if resolved else ''

    def label(run: Run) -> str:
        if times[run.name] == 1:
            return run.name
        folder = Path(os.path.relpath(run.path.resolve(), root))
        return f'{run.name} in {plain_text(folder.parent if folder.name == run.name else folder)}'

    return {run.path: label(run) for run in runs}


def _run_directories(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / 'run.yaml').is_file():
        yield folder
    elif depth > 0:
        for child in sorted(folder.iterdir(), key=_natural):
            if child.is_dir() and not child.name.startswith('.'):
                yield from _run_directories(child, depth - 1)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts ``gen10`` behind ``gen9``."""
    parts = re.split(r'(\d+)', path.name)
    return [(0, int(part), '') if part.isdecimal() else (1, 0, part) for part in parts if part]


def _read_run(directory: Path) -> Run:
    file = directory / 'run.yaml'
    try:
        config = yaml.safe_load(file.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'{file}: cannot be read as YAML ({reason}); mend it or leave this run out') from None
    if not isinstance(config, dict):
        raise UserError(f'{file}: expected the settings of a run, got {type(config).__name__}; leave this run out')
    manifest = _read_manifest(directory)
    return Run(directory, config, _read_epochs(directory / 'metrics.jsonl'), manifest, _altered(directory, manifest))


def _altered(directory: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the files whose size or hash is not what the manifest says, but for tables, which no report reads."""
    altered = []
    for name, record in mapping(manifest.get('files')).items():
        if name.startswith('archive/'):
            continue
        try:
            content = (directory / name).read_bytes()
            same = len(content) == record['bytes'] and xxhash.xxh3_128_hexdigest(content) == record['xxh3']
        except (OSError, ValueError, TypeError, KeyError):
            same = False
        if not same:
            altered.append(plain_text(name))
    return tuple(altered)


def _read_epochs(file: Path) -> tuple[dict[str, Any], ...]:
    def is_epoch(record: Any) -> bool:
        epoch = record['epoch']
        return isinstance(epoch, int) and not isinstance(epoch, bool) and epoch >= 1

    # An epoch that was repeated after a resume stands in the file twice; the later one led to the weights.
    found = {record['epoch']: record for record in json_lines(file, is_epoch, 'the record of an epoch')}
    return tuple(found[epoch] for epoch in sorted(found))


def json_lines(file: Path, is_one: Callable[[Any], bool], what: str) -> Iterator[dict[str, Any]]:
    """The lines of a file that grows by them; none where it is not there, and without a last one that is cut off.

    Args:
        file: Of a run directory.
        is_one: Whether a line is what is looked for; may raise what a wrong line brings about.
        what: That in words, for the error line.
    """
    lines = file.read_text(encoding='utf-8', errors='replace').splitlines() if file.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_constant=lambda _: None)  # NaN and infinities
            if not is_one(record):
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            if number == len(lines):
                return  # A run that was killed, or one that is writing right now.
            raise UserError(f'{file}: line {number} is not {what}; remove it or leave the run out') from None
        yield record


def _read_manifest(directory: Path) -> dict[str, Any]:
    file = directory / 'archive' / 'manifest.json'
    if not file.is_file():
        return {}
    try:
        manifest = json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        raise UserError(f'{file}: cannot be read as JSON; restore it or leave this run out') from None
    return manifest if isinstance(manifest, dict) else {}


def plain_text(value: Any) -> str:
    """A name fit for a terminal and a page: one line, without control characters."""
    return '' if value is None else _CONTROL.sub('�', str(value)).strip()


def mapping(value: Any) -> Mapping[str, Any]:
    """``value``, or an empty mapping where it is none: files of any version may hold anything."""
    return value if isinstance(value, Mapping) else {}


def number(value: Any, least: float = -math.inf) -> float | None:
    """``value`` as a finite number that is at least ``least``; ``None`` for whatever is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) and found >= least else None


def canonical(value: Any) -> str:
    """Write settings or facts so that equal ones are equal text."""
    return json.dumps(value, sort_keys=True, default=str)
