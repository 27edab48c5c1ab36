"""A study of several arms on several seeds: train what a YAML says, then compare its arms, seed by seed.

    composer-kd convert cifar100 data/cifar100
    python benchmarks/study.py benchmarks/views/views.yaml
    python benchmarks/study.py benchmarks/curriculum/curriculum.yaml

Trains what is not finished (``--table-only`` trains nothing), then writes NAME.json and NAME.md beside the YAML, from
the run directories alone. An interrupted study continues. Several copies of the command with ``--only`` train
different runs at the same time: accuracies and multiply-adds do not depend on that, and no seconds are compared here.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from composer_kd.archive import RunDir, atomic_write
from composer_kd.runs.plan import PlannedRun, make_plan
from composer_kd.runs.yaml_file import apply_overrides, read_yaml

# Two-sided 95 % quantiles of Student's t by degrees of freedom: of few seeds a mean says little.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('yaml', type=Path)
    parser.add_argument('changes', nargs='*', metavar='key=value')
    parser.add_argument(
        '--baseline', help='the arm that others are compared with (default: named in the YAML, or the first)'
    )
    parser.add_argument('--only', metavar='RUN', help='train this run alone')
    parser.add_argument('--table-only', action='store_true')
    options = parser.parse_intermixed_args()
    if not options.table_only:
        command = [sys.executable, '-m', 'composer_kd.run', str(options.yaml), *options.changes, '--no-report']
        if status := subprocess.run([*command, *(['--only', options.only] if options.only else [])]).returncode:
            return status
    if options.only:
        return 0
    plan = make_plan(apply_overrides(read_yaml(options.yaml), options.changes), where=str(options.yaml))
    arms: dict[str, list[PlannedRun]] = {}
    for run in plan.runs:
        if RunDir(run.folder).finished:
            arms.setdefault(run.arm, []).append(run)
    baseline = options.baseline or next(iter(arms))
    rows = {arm: figures(runs) for arm, runs in arms.items()}
    for row in rows.values():
        compare(row, rows[baseline])
    first = RunDir(plan.runs[0].folder).manifest()
    result = {
        'what': comment(options.yaml),
        'yaml': options.yaml.name,
        'baseline': baseline,
        'planned': {arm: sum(run.arm == arm for run in plan.runs) for arm in dict.fromkeys(r.arm for r in plan.runs)},
        'hardware': first.hardware,
        'versions': first.versions,
        'arms': rows,
    }
    atomic_write(options.yaml.with_suffix('.json'), json.dumps(result, indent=1) + '\n')
    atomic_write(options.yaml.with_suffix('.md'), table(result) + '\n')
    print(table(result))
    return 0


def figures(runs: list[PlannedRun]) -> dict[str, Any]:
    """What the runs of an arm reached and cost; one entry a seed."""
    row: dict[str, Any] = {
        name: [] for name in ('seed', 'test', 'best', 'samples', 'student', 'teacher', 'saved', 'harvest')
    }
    row['curves'] = []
    for run in runs:
        lines = RunDir(run.folder).metrics()
        tested = [line for line in lines if line.get('test_accuracy') is not None]
        row['seed'].append(run.config.seed)
        row['test'].append(round(100 * tested[-1]['test_accuracy'], 2))
        row['best'].append(round(100 * max(line['test_accuracy'] for line in tested), 2))
        row['samples'].append(sum(line['samples'] for line in lines))
        for name, key in (('student', 'student'), ('teacher', 'teacher'), ('saved', 'teacher_saved')):
            row[name].append(lines[-1].get(f'multiply_adds_{key}_total', 0.0))
        row['harvest'].append(harvested(run))
        row['curves'].append([[line['epoch'], round(100 * line['test_accuracy'], 2)] for line in tested])
    return row


def harvested(run: PlannedRun) -> float:
    """Multiply-adds of recording the views that this run looked up, all of them on its own account."""
    if not RunDir(run.folder).metrics()[-1].get('images_recorded_total'):
        return 0.0
    cost = 0.0
    for options in run.config.algorithms.values():
        for teacher in options.get('teachers', []):
            folder = teacher if isinstance(teacher, str) else teacher.get('recorded')
            record = RunDir(folder).manifest().archive if folder else None
            for view, entry in (record.logits if record else {}).items():
                if view < (run.config.data.views or math.inf):
                    cost += (entry.model_extra or {}).get('multiply_adds', 0)
    return cost


def compare(row: dict[str, Any], baseline: dict[str, Any]) -> None:
    """The difference to the baseline: of equal seeds where both have them, else of the means."""
    pairs = dict(zip(baseline['seed'], baseline['test'], strict=True))
    if len(pairs) == len(row['seed']) and set(pairs) != set(row['seed']):  # Taught by the run of the same place.
        pairs = dict(zip(row['seed'], baseline['test'], strict=True))
    gains = [value - pairs[seed] for seed, value in zip(row['seed'], row['test'], strict=True) if seed in pairs]
    row['gain'] = [round(gain, 2) for gain in gains]


def comment(yaml: Path) -> str:
    return yaml.read_text().splitlines()[0].lstrip('# ')


def spread(values: list[float]) -> str:
    if len(values) < 2:
        return f'{values[0]:.1f}'
    return f'{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}'


def confidence(gains: list[float]) -> str:
    if len(gains) < 2 or len(gains) - 1 not in T95:
        return ''
    half = T95[len(gains) - 1] * statistics.stdev(gains) / math.sqrt(len(gains))
    return (
        f'{statistics.mean(gains):+.1f} ({statistics.mean(gains) - half:+.1f} to {statistics.mean(gains) + half:+.1f})'
    )


def table(result: dict[str, Any]) -> str:
    arms, baseline = result['arms'], result['baseline']
    student = statistics.mean(arms[baseline]['student'])
    facts = result['hardware']
    lines = [f'# {result["what"]}', '']
    lines += [f'[{result["yaml"]}]({result["yaml"]}), {facts["cpu"]}, torch {result["versions"]["torch"]}.']
    lines += [f"Costs are multiply-adds as shares of {baseline}'s training; gains are over {baseline}, paired, with a"]
    lines += [
        '95 % interval of the mean (t). Harvest: recording the views that were looked up, charged to each run.',
        '',
    ]
    heads = 'arm', 'seeds', 'test, last, %', 'best, %', 'gain', 'samples', 'student', 'teachers', 'harvest', 'saved'
    lines += [f'| {" | ".join(heads)} |', '|---|' + '---:|' * (len(heads) - 1)]
    for arm, row in arms.items():
        costs = [statistics.mean(row[name]) / student for name in ('student', 'teacher', 'harvest', 'saved')]
        shown = ' | '.join(f'{100 * cost:.1f} %' for cost in costs)
        gain = '' if arm == baseline else confidence(row['gain'])
        lines.append(
            f'| {arm} | {len(row["seed"])} of {result["planned"][arm]} | {spread(row["test"])} | '
            f'{spread(row["best"])} | {gain} | {statistics.mean(row["samples"]):,.0f} | {shown} |'
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    raise SystemExit(main())
