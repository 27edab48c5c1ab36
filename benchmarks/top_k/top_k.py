"""What is lost when of a sample's logits only the k largest are stored, with one level for the others.

    python benchmarks/top_k/top_k.py runs/gen0 runs/gen1 [--data SOURCE] [--k 1 5 10 20 50 100]

The first run's logits on its training images in view 0 are stored as `composer-kd record --top-k K` would store them
and compared with what they were; the second run is the student whose gradients they change. Printed, and written to
top_k.json and top_k.md beside this file.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn

from composer_kd import Teacher
from composer_kd.archive import RunDir, atomic_write
from composer_kd.core.options import parse_section
from composer_kd.data import DataSection, open_data
from composer_kd.data.transform import Prepare
from composer_kd.functional import keep_top, kl, mse, spread_rest, to_half
from composer_kd.runs.execute import hardware, versions
from composer_kd.teachers.live import LiveTeacher

HERE = Path(__file__).parent


def stored(logits: Tensor, k: int | None) -> tuple[Tensor, int]:
    """The logits as they come back, and the bytes that a sample takes; ``None`` stores all, as float16."""
    if k is None:
        half = to_half(logits)[0]
        return half.float(), half[0].nbytes
    kept = keep_top(logits, k)
    return spread_rest(*kept, logits.shape[1]), sum(part[0].nbytes for part in kept)


def gradient(loss, student: Tensor, target: Tensor) -> Tensor:
    """Of the loss, by the student's logits."""
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, target), student)[0]


def relative(error: Tensor, whole: Tensor) -> float:
    return float(error.norm() / whole.norm())


def compare(teacher: Tensor, student: Tensor, k: int | None) -> dict[str, float | int | str]:
    target, size = stored(teacher, k)
    row: dict[str, float | int | str] = {'k': 'all' if k is None else k, 'bytes': size}
    for temperature in (1, 4):
        # The library's loss is T^2 KL; what is compared here are the distributions.
        row[f'kl_t{temperature}'] = float(kl(target, teacher, temperature)) / temperature**2
    row['rms_logits'] = float((target - teacher).square().mean().sqrt())
    for name, loss in (('kl', kl), ('mse', mse)):
        whole = gradient(loss, student, teacher)
        row[f'gradient_{name}'] = relative(gradient(loss, student, target) - whole, whole)
    return row


def all_logits(net: nn.Module, images: list[Tensor]) -> Tensor:
    net.eval()
    with torch.no_grad():
        return torch.cat([net(batch).float() for batch in images])


def net_of(run: str) -> nn.Module:
    teacher = Teacher.from_run(run)
    assert isinstance(teacher, LiveTeacher)
    return teacher.module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('teacher', help='a finished run directory')
    parser.add_argument('student', help='another one, of the same data')
    parser.add_argument('--data', help="where the data lies; the teacher's own data.source by default")
    parser.add_argument('--k', type=int, nargs='+', default=[1, 5, 10, 20, 50, 100])
    arguments = parser.parse_args()

    config = RunDir(arguments.teacher).read_config()
    section = {**config['data'], **({'source': arguments.data} if arguments.data else {})}
    data = open_data(parse_section(DataSection, section, 'data'), batch_size=100, seed=0)
    dataset = data.train_set
    prepare = Prepare(dataset.augmentation, *dataset.normalization)
    chunks = torch.arange(len(dataset)).split(500)
    images = [prepare(dataset.__getitems__(rows.tolist()))[0] for rows in chunks]
    teacher, student = (all_logits(net_of(run), images) for run in (arguments.teacher, arguments.student))

    labels = torch.from_numpy(dataset.labels)
    result = {
        'date': date.today().isoformat(),
        'hardware': hardware(),
        'versions': versions(),
        'model': config['model']['name'],
        'images': len(dataset),
        'classes': teacher.shape[1],
        'teacher_accuracy': float((teacher.argmax(1) == labels).float().mean()),
        'student_accuracy': float((student.argmax(1) == labels).float().mean()),
        'logits_std': float(teacher.std()),
        'rows': [compare(teacher, student, k) for k in [*arguments.k, None]],
    }
    atomic_write(HERE / 'top_k.json', json.dumps(result, indent=1) + '\n')
    page = table(result)
    atomic_write(HERE / 'top_k.md', page)
    print(page)


def table(result: dict) -> str:
    right = [f'{100 * result[name]:.0f} %' for name in ('teacher_accuracy', 'student_accuracy')]
    lines = [
        '# What top-k storage loses',
        '',
        f'`python benchmarks/top_k/top_k.py RUN RUN`, {result["date"]}, {result["hardware"]["cpu"]}. Teacher and',
        f'student are {result["model"]} of two seeds, on {result["images"]:,} training images in view 0, '
        f'{result["classes"]} classes;',
        f'they are right about {right[0]} and {right[1]} of them, the logits have a standard deviation of '
        f'{result["logits_std"]:.1f}. The last row is all logits as float16.',
        '',
        '| k | bytes a sample | KL, T = 1 | KL, T = 4 | rms error, logit | gradient of kl, T = 4 | gradient of mse |',
        '|---:|---:|---:|---:|---:|---:|---:|',
    ]
    for row in result['rows']:
        gradients = (f'{100 * row[f"gradient_{name}"]:.3g} %' for name in ('kl', 'mse'))
        errors = (f'{row[name]:.2g}' for name in ('kl_t1', 'kl_t4', 'rms_logits'))
        lines.append('| ' + ' | '.join([str(row['k']), str(row['bytes']), *errors, *gradients]) + ' |')
    lines += [
        '',
        "KL: of the stored target from the whole one, in nats. Gradients: by the student's logits, the length of their",
        'error in parts of their length.',
        '',
    ]
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
