"""Images a second that one core loads, crops, flips and normalises at 32x32: our loader against the usual way.

Ours: the memory-mapped cache, whole batches, augmentation on tensors (workers=0, on the host).
Usual: StreamingDataset on the same shards (PNG), torchvision's PIL transforms image by image, default collate.

    python benchmarks/loader/loader.py            # prints the table, writes loader.json and loader.md beside this file

Both read the same 10,000 drawn images in turn, round by round, on one thread; the figures are medians over the rounds.
On a busy machine the time that passes counts the other programs too (look at the load average): images per second of
processor time stand beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')

import torch

from composer_kd.archive import atomic_write
from composer_kd.data import DataSection, open_data
from composer_kd.data.section import SyntheticSection
from composer_kd.data.synthetic import COARSE, FINE_CLASSES, SUPERCLASSES, draw
from composer_kd.data.write import Images, write_dataset
from composer_kd.runs.execute import hardware, versions

BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=10_000)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--out', type=Path, default=Path(__file__).with_name('loader.json'))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards = write_png_shards(Path(folder) / 'shards', options.images)
        arms = {'composer_kd': ours(shards, Path(folder) / 'cache'), 'streaming + PIL': usual(shards)}
        rates: dict[str, list[float]] = {name: [] for name in arms}
        processor_rates: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(options.rounds + 1):
            for name, load in arms.items():
                start, processor_start = time.perf_counter(), time.process_time()
                count = load(number)
                if number > 0:  # the first round warms the page cache
                    rates[name].append(count / (time.perf_counter() - start))
                    processor_rates[name].append(count / (time.process_time() - processor_start))
    result = {
        'what': f'images/s, crop + flip + normalise at 32x32, batch {BATCH}, one thread',
        'images': options.images,
        'rounds': options.rounds,
        'command': ' '.join(['python benchmarks/loader/loader.py', *sys.argv[1:]]),
        'date': date.today().isoformat(),
        'hardware': hardware(),
        'versions': versions(),
        'load_average': round(os.getloadavg()[0], 2),
        'median': {name: round(statistics.median(values)) for name, values in rates.items()},
        'median_per_processor_second': {
            name: round(statistics.median(values)) for name, values in processor_rates.items()
        },
        'lowest': {name: round(min(values)) for name, values in rates.items()},
        'highest': {name: round(max(values)) for name, values in rates.items()},
    }
    result['times_faster'] = round(result['median']['composer_kd'] / result['median']['streaming + PIL'], 1)
    atomic_write(options.out, json.dumps(result, indent=1) + '\n')
    atomic_write(options.out.with_suffix('.md'), table(result) + '\n')
    print(table(result))


def table(result: dict[str, Any]) -> str:
    facts = result['hardware']
    rows = [
        f'# Loading: {result["what"]}',
        '',
        f'`{result["command"]}`, {result["date"]}, {facts["cpu"]}, one thread of {facts["cores"]} cores, load average '
        f'{result["load_average"]}, {result["rounds"]} rounds.',
        '',
        '| loader | images/s, median | lowest | highest | median per second of processor time |',
        '|---|---:|---:|---:|---:|',
    ]
    for name in result['median']:
        figures = ' | '.join(
            f'{result[which][name]:,}' for which in ('median', 'lowest', 'highest', 'median_per_processor_second')
        )
        rows.append(f'| {name} | {figures} |')
    rows += ['', f'{result["times_faster"]} times as fast; the target is at least 100,000 images/s.']
    return '\n'.join(rows)


def write_png_shards(folder: Path, count: int) -> Path:
    splits = {}
    for split, (name, size) in enumerate((('train', count), ('test', 100))):
        images, labels = draw(size, split, SyntheticSection())
        splits[name] = Images(zip(images, labels.tolist(), strict=True), size)
    write_dataset(folder, splits, 'synthetic100', FINE_CLASSES, SUPERCLASSES, COARSE)
    return folder


def ours(shards: Path, cache: Path) -> Callable[[int], int]:
    """One pass over the training part, through the DataLoader and the transform that a Trainer would call."""
    section = DataSection(source=str(shards), cache_dir=str(cache), val_fraction=0.0)
    spec = open_data(section, BATCH, 0).train
    loader: Any = spec.dataloader

    def load(epoch: int) -> int:
        loader.sampler.set_epoch(epoch)
        count = 0
        for batch in loader:
            images, _, _ = spec.microbatch_transforms(batch)
            count += len(images)
        return count

    return load


def usual(shards: Path) -> Callable[[int], int]:
    """A StreamingDataset with torchvision transforms, as tutorials write it; 2,000 images a round, as it is slow."""
    from streaming import StreamingDataset
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5, 0.5, 0.5], [0.2, 0.2, 0.2]),
        ]
    )

    class Transformed(StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            sample = super().__getitem__(at)
            return transform(sample['x']), sample['y']

    dataset = Transformed(local=str(shards), split='train', shuffle=True, batch_size=BATCH)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH)

    def load(_: int) -> int:
        count = 0
        for images, _ in loader:
            count += len(images)
            if count >= 2000:
                break
        return count

    return load


if __name__ == '__main__':
    main()
