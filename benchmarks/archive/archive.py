"""How long it takes to look up the recorded logits of a batch, and what they take on disk: 50,000 samples, 100 classes.

    python benchmarks/archive/archive.py

Tables of 1, 3 and 5 teachers are written as a harvest writes them, opened (hashed, mapped), and asked for random rows:
one gather in memory for all teachers, or one a teacher out of the files. Written to archive.json and archive.md beside
this file. Targets: 10 MB a view; 1,024 rows of one teacher in 0.3 ms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
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
from composer_kd.teachers.recordings import Recordings

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
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        archives = [write(Path(folder) / str(number), samples, figures) for number in range(max(TEACHERS))]
        sizes = archives[0].bytes()
        begun = time.perf_counter()
        Archive(archives[0].run.path).table('logits', 0)
        figures['opening a view, ms'] = 1000 * (time.perf_counter() - begun)
        for count in TEACHERS:
            for place, budget in (('in memory', None), ('from files', 1)):
                recordings = Recordings(
                    [of(archive) for archive in archives[:count]], dataset, torch.device('cpu'), budget
                )
                name = f'{ROWS} rows, {count} teacher{"s" if count > 1 else ""}, {place}, ms'
                figures[name] = 1000 * median(lookup(recordings, chance), options.repeats)
    result = {
        'what': f'{SAMPLES:,} samples, {CLASSES} classes, float16',
        'command': ' '.join(['python benchmarks/archive/archive.py', *sys.argv[1:]]),
        'date': date.today().isoformat(),
        'hardware': hardware(),
        'versions': versions(),
        'bytes': {'logits of a view': sizes['logits'], 'samples, once': sizes['samples']},
        'figures': {name: round(value, 4) for name, value in figures.items()},
    }
    page = table(result)
    atomic_write(options.out / 'archive.json', json.dumps(result, indent=1) + '\n')
    atomic_write(options.out / 'archive.md', page + '\n')
    print(page)


def table(result: dict) -> str:
    facts = result['hardware']
    lines = [f'# Looking up recorded logits: {result["what"]}', '']
    lines += [f'`{result["command"]}`, {result["date"]}, {facts["cpu"]}, {facts["threads"]} threads.']
    lines += ['', '| | |', '|---|---:|']
    lines += [f'| {name}, MB | {size / 1e6:.2f} |' for name, size in result['bytes'].items()]
    lines += [f'| {name} | {value:.3f} |' for name, value in result['figures'].items()]
    return '\n'.join(lines)


def write(folder: Path, samples: Samples, figures: dict[str, float]) -> Archive:
    archive = Archive(folder)
    (folder / 'archive').mkdir(parents=True)
    data = {
        'fingerprint': 'drawn', 'num_samples': SAMPLES, 'num_classes': CLASSES, 'shape': [3, 32, 32],
        'normalization': {'mean': [0.5] * 3, 'std': [0.25] * 3},
    }  # fmt: skip
    archive.begin(Manifest.model_validate({'run': folder.name, 'seed': 0, 'data': data, 'files': {}}))
    logits = torch.randn(SAMPLES, CLASSES).half()
    begun = time.perf_counter()
    archive.put(
        'logits', 0, samples, {'logits': logits}, {'classes': CLASSES, 'augmentation': Augmentation().as_mapping()}
    )
    figures['writing a view, ms'] = 1000 * (time.perf_counter() - begun)
    return archive


def of(archive: Archive) -> RecordedTeacher:
    """A recorded teacher without a trained run around it: these tables are drawn."""
    teacher = RecordedTeacher.__new__(RecordedTeacher)
    teacher.archive, teacher.name, teacher.fill = archive, archive.run.path.name, False
    teacher.path, teacher.manifest = str(archive.run.path), archive.manifest()
    return teacher


def lookup(recordings: Recordings, chance: np.random.Generator) -> Callable[[], object]:
    batches = [
        torch.stack([torch.from_numpy(chance.integers(0, SAMPLES, ROWS)), torch.zeros(ROWS, dtype=torch.int64)], 1)
        for _ in range(20)
    ]
    turn = iter(batches * 1000)
    recordings.look_up(batches[0])  # Opens the tables.
    return lambda: recordings.look_up(next(turn))


def median(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


if __name__ == '__main__':
    main()
