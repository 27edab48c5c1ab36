"""What a training step costs: a loop by hand, our Trainer path, the same with teachers, recorders and attacks.

    python benchmarks/steps/steps.py [--model resnet20] [--rounds 15] [--steps 12] [--device gpu] [--out FOLDER]

All arms train the same model on the same batches in one process, in turn, round by round; a round's figure is its
median step, from the end of one step to the end of the next, loading included. Printed, and written to steps.json and
steps.md beside this file: medians, and for ratios of a round's figures a 95 % confidence interval of the median
(bootstrap over rounds). Targets: the Trainer at most 1.05 times the loop; K recorded teachers at most 1.03 times the
student's step; K live ones at most 1.05 times (student's step + K forward passes). In theory K live teachers of the
student's size cost K/3 of its step: a step is three forward passes. What looking up and recording take is also measured
directly, by a clock around our own code: small shares drown in a ratio's noise. Adversarial examples: `replay` shows an
earlier run's, to cost at most 1.1 times the Trainer; `recycle` attacks with one step from the kept ones, to cost at
most a quarter of the attacks of `pgd7`; `fgsm` attacks with one step anew. Attacks are timed by the algorithm's clock.
Peak memory is that of a process in which one arm alone trains.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import torch
from composer import Trainer
from composer.core import Algorithm, Callback
from torch.nn import functional as F

from composer_kd import AdversarialRecycling, RecordLosses, Teacher, TeacherMixupKD
from composer_kd.archive import atomic_write
from composer_kd.callbacks import Measures, NanGuard, SyncBuffers
from composer_kd.data import DataSection, open_data
from composer_kd.data.section import SyntheticSection
from composer_kd.models import build_model, classifier
from composer_kd.runs.execute import execute, hardware, versions
from composer_kd.runs.plan import make_plan
from composer_kd.runs.process import keep_freed_memory
from composer_kd.runs.progress import RunProgress

BATCH = 128
TEACHERS = (1, 3, 5)
ATTACKS = ('replay', 'recycle', 'fgsm', 'pgd7')
PEAKS = ('loop', 'trainer', '1 recorded', '5 recorded', '1 live', '5 live')


class Steps(Callback):
    """The moments at which steps end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def batch_end(self, state, logger) -> None:
        self.ends.append(time.perf_counter())


class Timed:
    """Notes the seconds of an object's own methods, each of which is called once a step."""

    def __init__(self, target: object, names: tuple[str, ...]):
        self._seconds: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            setattr(target, name, self._clocked(getattr(target, name), self._seconds[name]))

    def _clocked(self, method: Callable, seconds: list[float]) -> Callable:
        def call(*arguments, **options):
            begun = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                seconds.append(time.perf_counter() - begun)

        return call

    def take(self) -> float:
        """Of a typical step since the last time: a first one may open tables."""
        total = sum(statistics.median(seconds) for seconds in self._seconds.values() if seconds)
        for seconds in self._seconds.values():
            seconds.clear()
        return total


class Bench:
    def __init__(self, model: str, steps: int, folder: Path, device: str = 'cpu'):
        self.model, self.steps, self.folder, self.device = model, steps, folder, device
        self.place = torch.device('cpu' if device == 'cpu' else 'cuda:0')
        self.synthetic = {'train_size': 4000, 'test_size': 100}
        section = DataSection(synthetic=SyntheticSection(**self.synthetic), views=1, mode=self.mode)
        self.data = open_data(section, batch_size=BATCH, seed=1, device=self.place)
        self.microseconds: dict[str, list[float]] = {}
        self.attacks: dict[str, list[float]] = {}
        """Seconds of a step's examples by the algorithm's own clock, round by round."""

    @property
    def mode(self) -> str:
        return 'cache' if self.device == 'cpu' else 'device'

    def net(self, seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return build_model({'name': self.model}, self.data.num_classes, self.data.shape).to(self.place)

    def images_and_labels(self, batch: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        on_place = [part.to(self.place, non_blocking=True) for part in batch]
        images, labels, _ = self.data.train.microbatch_transforms(on_place)
        return images.contiguous(memory_format=torch.channels_last), labels

    def loop(self) -> Callable[[], float]:
        """A hand-written loop: the same loader, precision and layout; the loss is looked at in every step."""
        model = self.net(1).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

        def run() -> float:
            ends = []
            for batch in self.data.train.dataloader:
                images, labels = self.images_and_labels(batch)
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(self.place.type, dtype=torch.bfloat16):
                    logits = model(images)
                loss = F.cross_entropy(logits.float(), labels)
                loss.backward()
                optimizer.step()
                loss.item()
                ends.append(time.perf_counter())
                if len(ends) == self.steps:
                    break
            return median_step(ends)

        return run

    def recorded_runs(self, count: int) -> list[Path]:
        """Finished runs of a step each: their outputs are as good to look up as any."""
        return self.finished_runs(name='teacher', repeat=count, max_duration='1ba')

    def finished_runs(self, **options: object) -> list[Path]:
        values = {
            'save_folder': str(self.folder), 'device': self.device,
            'data': {'synthetic': self.synthetic, 'clean_subset': 100, 'mode': self.mode},
            'model': {'name': self.model}, 'precision': 'bf16', 'batch_size': BATCH, **options,
        }  # fmt: skip
        plan = make_plan(values)
        execute(plan, RunProgress(False, stream=sys.stderr))
        return [run.folder for run in plan.runs]

    def live(self, count: int) -> Callable[[], float]:
        return self.trainer(TeacherMixupKD([self.net(10 + number) for number in range(count)]))

    def recorded(self, runs: list[Path]) -> Callable[[], float]:
        """The warming round fills the archives; afterwards no teacher runs."""
        algorithm = TeacherMixupKD([Teacher.recorded(run, fill=True) for run in runs])
        own = Timed(algorithm, ('_begin_step', '_ask_teachers', '_add_to_loss', '_batch_end'))
        looked = Timed(algorithm.pool, ('look_up', 'outputs'))
        run = self.trainer(algorithm)
        name = f'{len(runs)} recorded'

        def timed() -> float:
            taught = sum(algorithm.pool.images_computed)
            figure, whole, lookup = run(), own.take(), looked.take()
            if sum(algorithm.pool.images_computed) == taught:
                self.note(f'looking up, {name}', lookup)
                self.note(f'the whole distillation, {name}', whole)
            return figure

        return timed

    def recording(self) -> Callable[[], float]:
        recorder = RecordLosses(self.folder / 'losses')
        events = ('before_train_batch', 'before_forward', 'after_forward', 'after_train_batch', 'batch_end')
        own = Timed(recorder, events)
        run = self.trainer(callback=recorder)

        def timed() -> float:
            figure = run()
            self.note('RecordLosses', own.take())
            return figure

        return timed

    def attacked(self, name: str) -> Callable[[], float]:
        """Training on adversarial examples; those that are replayed are of a run of one epoch."""
        if name == 'replay':
            examples = {'adversarial': {'mode': 'recycle'}, 'archive': {'adversarial': True}}
            (earlier,) = self.finished_runs(name='examples', max_duration='1ep', **examples)
            algorithm = AdversarialRecycling('replay', source=earlier)
        elif name == 'recycle':
            algorithm = AdversarialRecycling('recycle')
        else:
            algorithm = AdversarialRecycling('fresh', steps={'fgsm': 1, 'pgd7': 7}[name])
        run = self.trainer(algorithm)

        def timed() -> float:
            before, _ = algorithm.seconds()['attack']
            figure = run()
            after, _ = algorithm.seconds()['attack']
            self.attacks.setdefault(name, []).append((after - before) / self.steps)
            return figure

        return timed

    def note(self, name: str, seconds: float) -> None:
        self.microseconds.setdefault(name, []).append(1e6 * seconds)

    def trainer(self, algorithm: Algorithm | None = None, callback: Callback | None = None) -> Callable[[], float]:
        """Our path: what a YAML's run has, without evaluators and checkpoints."""
        model = classifier(self.net(1), cpu_autocast=self.device == 'cpu', channels_last=True)
        steps = Steps()
        trainer = Trainer(
            model=model,
            train_dataloader=self.data.train,
            max_duration='1ba',
            optimizers=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
            algorithms=[algorithm] if algorithm else [],
            callbacks=[
                SyncBuffers(),
                NanGuard(),
                Measures(lambda line: None),
                *([callback] if callback else []),
                steps,
            ],
            progress_bar=False,
            device=self.device,
            precision='fp32' if self.device == 'cpu' else 'amp_bf16',
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
        images, _ = self.images_and_labels(next(iter(self.data.train.dataloader)))

        def run() -> float:
            ends = []
            for _ in range(self.steps):
                with torch.no_grad(), torch.autocast(self.place.type, dtype=torch.bfloat16):
                    model(images).float()
                if self.device == 'gpu':
                    torch.cuda.synchronize()
                ends.append(time.perf_counter())
            return median_step(ends)

        return run


def median_step(ends: list[float]) -> float:
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(ends[1:]))


def quartiles(values: list[float]) -> list[float]:
    return [round(value, 4) for value in statistics.quantiles(values, n=4)]


def interval(values: list[float], draws: int = 2000) -> list[float]:
    """The median, and the bounds of its 95 % confidence interval (bootstrap)."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(draws))
    low, high = medians[int(0.025 * draws)], medians[int(0.975 * draws)]
    return [round(value, 4) for value in (statistics.median(values), low, high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='resnet20')
    parser.add_argument('--device', choices=('cpu', 'gpu'), default='cpu')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--steps', type=int, default=12)
    parser.add_argument('--out', type=Path, default=Path(__file__).parent)
    parser.add_argument(
        '--peak', metavar='ARM', help='train this arm alone on the archives in --out; print the peak of bytes'
    )
    options = parser.parse_args()
    warnings.simplefilter('ignore')
    keep_freed_memory()  # As `composer run` does on the CPU; for all arms alike.
    if options.peak:
        print(peak_of(Bench(options.model, options.steps, options.out, options.device), options.peak))
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.model, options.steps, Path(folder), options.device)
        seconds, microseconds = measure(bench, options.rounds)
        peaks = {arm: peak_megabytes(arm, bench) for arm in PEAKS}
    rounds = [dict(zip(seconds, figures, strict=True)) for figures in zip(*seconds.values(), strict=True)]
    ratios = {'trainer / loop': [r['trainer'] / r['loop'] for r in rounds]}
    for count in TEACHERS:
        ratios[f'{count} recorded / trainer'] = [r[f'{count} recorded'] / r['trainer'] for r in rounds]
    for count in TEACHERS:
        name = f'{count} live / (trainer + {count} forward)'
        ratios[name] = [r[f'{count} live'] / (r['trainer'] + count * r['forward']) for r in rounds]
    for count in TEACHERS:
        name = f'{count} live / (trainer x (1 + {count}/3)), in theory'
        ratios[name] = [r[f'{count} live'] / (r['trainer'] * (1 + count / 3)) for r in rounds]
    ratios['recording losses / trainer'] = [r['recording losses'] / r['trainer'] for r in rounds]
    for name in ATTACKS:
        ratios[f'{name} / trainer'] = [r[name] / r['trainer'] for r in rounds]
    for name in ('recycle', 'fgsm'):
        both = zip(bench.attacks['pgd7'], bench.attacks[name], strict=True)
        ratios[f'attacks of pgd7 / attacks of {name}'] = [theirs / own for theirs, own in both]
    step = 1e6 * statistics.median(seconds['trainer'])
    result = {
        'what': f'{options.model}, batch {BATCH}, bf16, channels_last',
        'command': ' '.join(['python benchmarks/steps/steps.py', *sys.argv[1:]]),
        'date': date.today().isoformat(),
        'rounds': options.rounds,
        'hardware': hardware(),
        'versions': versions(),
        'milliseconds': {name: quartiles([1000 * value for value in values]) for name, values in seconds.items()},
        'attack milliseconds': {name: quartiles([1000 * value for value in of]) for name, of in bench.attacks.items()},
        'ratios': {name: interval(values) for name, values in ratios.items()},
        'own microseconds a step': {name: quartiles(values) for name, values in microseconds.items()},
        'own share of the plain step': {n: round(statistics.median(v) / step, 5) for n, v in microseconds.items()},
        'peak megabytes': peaks,
    }
    text = table(result)
    atomic_write(options.out / 'steps.json', json.dumps(result, indent=1) + '\n')
    atomic_write(options.out / 'steps.md', text + '\n')
    print(text)


def measure(bench: Bench, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of a step of each arm, round by round, and microseconds of our own code in it."""
    arms = {name: make() for name, make in makers(bench).items()}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, run in arms.items():
            figure = run()
            if number:  # The first round warms up.
                seconds[name].append(figure)
        if not number:
            bench.microseconds.clear()
            bench.attacks.clear()
    return seconds, bench.microseconds


def makers(bench: Bench) -> dict[str, Callable[[], Callable[[], float]]]:
    """How each arm is made."""
    runs: list[Path] = []

    def recorded(count: int) -> Callable[[], float]:
        runs.extend([] if runs else bench.recorded_runs(max(TEACHERS)))
        return bench.recorded(runs[:count])

    return {
        'loop': bench.loop,
        'forward': bench.forward,
        'trainer': bench.trainer,
        **{f'{count} recorded': partial(recorded, count) for count in TEACHERS},
        **{f'{count} live': partial(bench.live, count) for count in TEACHERS},
        'recording losses': bench.recording,
        **{name: partial(bench.attacked, name) for name in ATTACKS},
    }


def peak_megabytes(arm: str, bench: Bench) -> float:
    """Of a process of its own, with archives that are filled: peaks of one process cannot be told apart."""
    command = [sys.executable, __file__, '--peak', arm, '--model', bench.model, '--steps', '4']
    command += ['--device', bench.device, '--out', str(bench.folder)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return round(int(told.split()[-1]) / 1e6, 1)


def peak_of(bench: Bench, arm: str) -> int:
    run = makers(bench)[arm]()
    run()  # What is made once is made now.
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated()
    # Linux forgets the peak so far, which drawing the data had reached.
    Path('/proc/self/clear_refs').write_text('5')
    run()
    (peak,) = (line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('VmHWM'))
    return 1024 * int(peak.split()[1])


def table(result: dict) -> str:
    facts = result['hardware']
    lines = [f'# Step costs: {result["what"]}', '']
    lines += [f'`{result["command"]}`, {result["date"]}, {facts.get("gpu", facts["cpu"])}, {facts["threads"]} threads,']
    lines += [f'{result["rounds"]} rounds.', '', '| milliseconds | median | quartiles |', '|---|---:|---:|']
    lines += [f'| {name} | {q[1]:.1f} | {q[0]:.1f} to {q[2]:.1f} |' for name, q in result['milliseconds'].items()]
    if attacks := result.get('attack milliseconds'):
        lines += ['', "| a step's adversarial examples, milliseconds | median | quartiles |", '|---|---:|---:|']
        lines += [f'| {name} | {q[1]:.1f} | {q[0]:.1f} to {q[2]:.1f} |' for name, q in attacks.items()]
    lines += ['', '| ratio | median | 95 % confidence |', '|---|---:|---:|']
    lines += [f'| {name} | {m:.3f} | {low:.3f} to {high:.3f} |' for name, (m, low, high) in result['ratios'].items()]
    lines += [
        '',
        '| our own code in a step, microseconds | median | quartiles | of the plain step |',
        '|---|---:|---:|---:|',
    ]
    shares = result['own share of the plain step']
    lines += [
        f'| {name} | {q[1]:.0f} | {q[0]:.0f} to {q[2]:.0f} | {100 * shares[name]:.2f} % |'
        for name, q in result['own microseconds a step'].items()
    ]
    if peaks := result.get('peak megabytes'):
        lines += [
            '',
            "| peak memory of a process that trains this alone | MB | of the plain step's |",
            '|---|---:|---:|',
        ]
        lines += [f'| {arm} | {peak:,.0f} | {peak / peaks["trainer"]:.3f} |' for arm, peak in peaks.items()]
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
