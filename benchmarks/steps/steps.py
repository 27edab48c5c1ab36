"""What a training step costs: a hand-written PyTorch loop, our Trainer path, and the same with live teachers.

    python benchmarks/steps/steps.py [--model resnet20] [--rounds 9] [--steps 12]

All arms train the same model on the same batches in one process, in turn, round by round; a round's figure is its
median step, from the end of one step to the end of the next, loading included. Printed, and written to steps.json and
steps.md beside this file: medians of the rounds' ratios with their quartiles. Targets: the Trainer at most 1.05 times
the loop; K live teachers at most 1.05 times (student step + K teacher forward passes).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from composer import Trainer
from composer.core import Callback
from torch.nn import functional as F

from composer_kd import TeacherMixupKD
from composer_kd.archive import atomic_write
from composer_kd.callbacks import Measures, NanGuard, SameBuffers
from composer_kd.data import DataSection, open_data
from composer_kd.data.section import SyntheticSection
from composer_kd.models import build_model, classifier
from composer_kd.runs.execute import hardware, versions
from composer_kd.runs.memory import keep_freed_memory

BATCH = 128
TEACHERS = (1, 3)


class Steps(Callback):
    """The moments at which steps end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def batch_end(self, state, logger) -> None:
        self.ends.append(time.perf_counter())


class Bench:
    def __init__(self, model: str, steps: int):
        self.model, self.steps = model, steps
        section = DataSection(synthetic=SyntheticSection(train_size=4000, test_size=100))
        self.data = open_data(section, batch_size=BATCH, seed=1)

    def net(self, seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return build_model({'name': self.model}, self.data.num_classes, self.data.shape)

    def loop(self) -> Callable[[], float]:
        """A hand-written loop: the same loader, precision and layout; the loss is looked at in every step."""
        model = self.net(1).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        spec = self.data.train

        def run() -> float:
            ends = []
            for batch in spec.dataloader:
                images, labels, _ = spec.microbatch_transforms(batch)
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast('cpu', dtype=torch.bfloat16):
                    logits = model(images.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits.float(), labels)
                loss.backward()
                optimizer.step()
                loss.item()
                ends.append(time.perf_counter())
                if len(ends) == self.steps:
                    break
            return median_step(ends)

        return run

    def trainer(self, teachers: int) -> Callable[[], float]:
        """Our path: what a YAML's run has, without evaluators and checkpoints."""
        model = classifier(self.net(1), cpu_autocast=True, channels_last=True)
        steps = Steps()
        taught = [TeacherMixupKD([self.net(10 + number) for number in range(teachers)])] if teachers else []
        trainer = Trainer(
            model=model,
            train_dataloader=self.data.train,
            max_duration='1ba',
            optimizers=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
            algorithms=taught,
            callbacks=[SameBuffers(), NanGuard(), Measures(lambda line: None), steps],
            progress_bar=False,
            device='cpu',
            seed=1,
        )

        def run() -> float:
            steps.ends.clear()
            trainer.fit(duration=f'{self.steps}ba')
            return median_step(steps.ends)

        return run

    def forward(self) -> Callable[[], float]:
        """One teacher's forward pass on a batch."""
        model = self.net(10).to(memory_format=torch.channels_last).eval()
        images = self.data.train.microbatch_transforms(next(iter(self.data.train.dataloader)))[0]
        images = images.contiguous(memory_format=torch.channels_last)

        def run() -> float:
            ends = []
            for _ in range(self.steps):
                with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
                    model(images).float()
                ends.append(time.perf_counter())
            return median_step(ends)

        return run


def median_step(ends: list[float]) -> float:
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(ends[1:]))


def quartiles(values: list[float]) -> list[float]:
    return [round(value, 4) for value in statistics.quantiles(values, n=4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='resnet20')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--steps', type=int, default=12)
    parser.add_argument('--out', type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    warnings.simplefilter('ignore')
    keep_freed_memory()  # As `composer run` does on the CPU; for all arms alike.
    bench = Bench(options.model, options.steps)
    arms = {'loop': bench.loop(), 'forward': bench.forward(), 'trainer': bench.trainer(0)}
    arms |= {f'{count} live': bench.trainer(count) for count in TEACHERS}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(options.rounds + 1):
        for name, run in arms.items():
            figure = run()
            if number:  # The first round warms up.
                seconds[name].append(figure)
    rounds = [dict(zip(seconds, figures, strict=True)) for figures in zip(*seconds.values(), strict=True)]
    ratios = {'trainer / loop': [r['trainer'] / r['loop'] for r in rounds]}
    for count in TEACHERS:
        name = f'{count} live / (trainer + {count} forward)'
        ratios[name] = [r[f'{count} live'] / (r['trainer'] + count * r['forward']) for r in rounds]
    result = {
        'what': f'{options.model}, batch {BATCH}, bf16, channels_last',
        'command': ' '.join(['python benchmarks/steps/steps.py', *sys.argv[1:]]),
        'date': date.today().isoformat(),
        'hardware': hardware(),
        'versions': versions(),
        'milliseconds': {name: quartiles([1000 * value for value in values]) for name, values in seconds.items()},
        'ratios': {name: quartiles(values) for name, values in ratios.items()},
    }
    lines = [f'# Step costs: {result["what"]}', '']
    facts = result['hardware']
    lines += [f'`{result["command"]}`, {result["date"]}, {facts["cpu"]}, {facts["threads"]} threads.', '']
    lines += ['| | median | quartiles |', '|---|---:|---:|']
    lines += [f'| {name}, ms | {q[1]:.1f} | {q[0]:.1f} to {q[2]:.1f} |' for name, q in result['milliseconds'].items()]
    lines += [f'| {name} | {q[1]:.3f} | {q[0]:.3f} to {q[2]:.3f} |' for name, q in result['ratios'].items()]
    atomic_write(options.out / 'steps.json', json.dumps(result, indent=1) + '\n')
    atomic_write(options.out / 'steps.md', '\n'.join(lines) + '\n')
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
