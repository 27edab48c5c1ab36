"""How long it takes to look up the recorded logits of a batch, and what they take on disk: 50,000 samples, 100 classes.

    python benchmarks/archive/archive.py

Tables of 1, 3 and 5 teachers are written as a harvest writes them, opened (hashed, mapped), and asked for random rows:
one gather in memory for all teachers, or one a teacher out of the files. All ways take turns in one process; medians
with quartiles. Written to archive.json and archive.md beside this file. Targets: 10 MB a view; 1,024 rows of one
teacher in 0.3 ms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from composer_kd import Archive
from composer_kd.archive import Manifest, Samples, atomic_write
from composer_kd.data.transform import Augmentation
from composer_kd.runs.execute import hardware, versions
from composer_kd.teachers.recorded import RecordedTeacher
from composer_kd.teachers.recordings import LogitTables

SAMPLES, CLASSES, ROWS, TEACHERS = 50_000, 100, 1024, (1, 3, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeats', type=int, default=200)
    parser.add_argument('--out', type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    chance = np.random.default_rng(0)
    content = chance.integers(0, 2**63, SAMPLES, dtype=np.uint64)
    samples = Samples(np.arange(SAMPLES), content, chance.integers(0, CLASSES, SAMPLES))
    dataset = SimpleNamespace(
        ids=samples.ids,
        content_hashes=samples.content,
        labels=samples.labels,
        num_classes=CLASSES,
        augmentation=Augmentation(),
    )
    with tempfile.TemporaryDirectory() as folder:
        seconds: dict[str, list[float]] = {'writing a view': [], 'opening a view': []}
        archives = [write(Path(folder) / str(number), samples, seconds) for number in range(max(TEACHERS))]
        sizes = archives[0].bytes()
        for archive in archives:
            with timed(seconds['opening a view']):
                Archive(archive.run.path).table('logits', 0)
        lookups = {}
        for count in TEACHERS:
            for place, budget in (('in memory', None), ('from files', 1)):
                teachers = [of(archive) for archive in archives[:count]]
                name = f'{ROWS} rows, {count} teacher{"s" if count > 1 else ""}, {place}'
                lookups[name] = LogitTables(teachers, dataset, torch.device('cpu'), budget)
                lookups[name].look_up(rows(chance))  # Opens the tables.
        for _ in range(options.repeats):
            for name, recordings in lookups.items():
                keys = rows(chance)
                with timed(seconds.setdefault(name, [])):
                    recordings.look_up(keys)
    result = {
        'what': f'{SAMPLES:,} samples, {CLASSES} classes, float16',
        'command': ' '.join(['python benchmarks/archive/archive.py', *sys.argv[1:]]),
        'date': date.today().isoformat(),
        'hardware': hardware(),
        'versions': versions(),
        'bytes': {'logits of a view': sizes['logits'], 'samples, once': sizes['samples']},
        'milliseconds': {name: quartiles(values) for name, values in seconds.items()},
        'repeats': {name: len(values) for name, values in seconds.items()},
    }
    page = table(result)
    atomic_write(options.out / 'archive.json', json.dumps(result, indent=1) + '\n')
    atomic_write(options.out / 'archive.md', page + '\n')
    print(page)


def table(result: dict) -> str:
    facts = result['hardware']
    lines = [f'# Looking up recorded logits: {result["what"]}', '']
    lines += [f'`{result["command"]}`, {result["date"]}, {facts["cpu"]}, {facts["threads"]} threads.']
    lines += ['', '| on disk | MB |', '|---|---:|']
    lines += [f'| {name} | {size / 1e6:.2f} |' for name, size in result['bytes'].items()]
    lines += ['', '| median and quartiles | ms | repeats |', '|---|---:|---:|']
    for name, (low, middle, high) in result['milliseconds'].items():
        lines.append(f'| {name} | {middle:.3g} ({low:.3g} to {high:.3g}) | {result["repeats"][name]} |')
    return '\n'.join(lines)


def write(folder: Path, samples: Samples, seconds: dict[str, list[float]]) -> Archive:
    archive = Archive(folder)
    (folder / 'archive').mkdir(parents=True)
    data = {
        'fingerprint': 'drawn', 'num_samples': SAMPLES, 'num_classes': CLASSES, 'shape': [3, 32, 32],
        'normalization': {'mean': [0.5] * 3, 'std': [0.25] * 3},
    }  # fmt: skip
    archive.begin(Manifest.model_validate({'run': folder.name, 'seed': 0, 'data': data, 'files': {}}))
    logits = torch.randn(SAMPLES, CLASSES).half()
    facts = {'classes': CLASSES, 'augmentation': Augmentation().as_mapping()}
    with timed(seconds['writing a view']):
        archive.put('logits', 0, samples, {'logits': logits}, facts)
    return archive


def of(archive: Archive) -> RecordedTeacher:
    """A recorded teacher without a trained run around it: these tables are drawn."""
    teacher = RecordedTeacher.__new__(RecordedTeacher)
    teacher.archive, teacher.name, teacher.fill = archive, archive.run.path.name, False
    teacher.path, teacher.manifest = str(archive.run.path), archive.manifest()
    return teacher


def rows(chance: np.random.Generator) -> torch.Tensor:
    """The keys of a batch of random samples."""
    return torch.stack([torch.from_numpy(chance.integers(0, SAMPLES, ROWS)), torch.zeros(ROWS, dtype=torch.int64)], 1)


@contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - begun)


def quartiles(seconds: list[float]) -> list[float]:
    """In milliseconds."""
    return [round(1000 * value, 4) for value in statistics.quantiles(seconds, n=4, method='inclusive')]


if __name__ == '__main__':
    main()
