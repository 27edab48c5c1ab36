"""A study of several arms on several seeds: train what a YAML says, then compare its arms, seed by seed.

    composer-kd convert cifar100 data/cifar100
    python -m benchmarks.study benchmarks/views/views.yaml
    python -m benchmarks.study benchmarks/curriculum/curriculum.yaml --baseline uniform

Trains what is not finished (``--table-only`` trains nothing), then writes NAME.json and NAME.md beside the YAML, or
into ``--out FOLDER``, from the run directories. An interrupted study continues where it was. What NAME.json has of runs
that are not on this disk is kept: on another machine, ``--only RUN`` trains a run that is missing (after those that
teach it), and ``--minutes 8.5`` for so long all that are. Several copies of the command with ``--only`` train different
runs at the same time: accuracies and multiply-adds do not depend on that, and no seconds are compared here but those of
runs that had the machine for themselves.
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

from benchmarks.aged import aged_table, ageing, steps_tables, takeovers_of, with_more_seeds
from benchmarks.aged_picture import aged_picture
from benchmarks.attacked import attacked_table, by_others, first_attack, gains_under_attack, under_attack
from benchmarks.damaged import damaged, damaged_picture, damaged_table
from benchmarks.paired import Paired, pairs, repetition, spread
from benchmarks.pieces import train_for
from benchmarks.sizes import size_of, sizes_table
from benchmarks.together import ensembles_of, ensembles_table
from composer_kd.archive import Archive, RunDir, atomic_write
from composer_kd.core.errors import UserError, nearest
from composer_kd.runs.plan import Plan, PlannedRun, make_plan
from composer_kd.runs.yaml_file import apply_overrides, read_yaml

# What the studies that ours repeat have published, by the arms of ours: test accuracies in percent.
PUBLISHED = {'hinton': {'teacher': 99.33, 'alone': 98.54, 'distilled': 99.26}}
_ENSEMBLES = {
    'kd_of_1': ['kd_of_3', 'kd_of_5', 'oracle_of_1'],
    'kd_of_3': ['oracle_of_3'],
    'kd_of_5': ['oracle_of_5'],
}
# What a study is about beside what its arms gain over the baseline: an arm, and those that are held against it.
AGAINST = {
    'methods': {
        'kd': ['kd_sum', 'kd_standardized', 'kd_falling_temperature', 'kd_learned_temperature', 'mse', 'dkd', 'dist',
               'hard', 'ban', 'takd', 'kd_of_3'],
        'ban': ['ban2', 'ban_with_labels', 'cwtm', 'dkpp'],
        'kd_of_3': ['oracle_of_3', 'confidence_of_3', 'random_one_of_3', 'dirichlet_of_3'],
    },
    'adversarial': {
        'pgd7': ['pgd7_every4', 'pgd2', 'fgsm', 'recycled', 'recycled_every4', 'refreshed', 'warm_refreshed'],
        'fgsm': ['recycled'],
        'recycled': ['recycled_every4', 'refreshed'],
        'recycled_every4': ['pgd7_every4', 'refreshed'],
        'warm': ['warm_replayed', 'warm_refreshed'],
    },
    'oracle': _ENSEMBLES,
    'oracle_fashion': _ENSEMBLES,
}  # fmt: skip
# What is drawn of a study that has it: by whom, after which part of the file's name, and what one sees.
PICTURES = (
    (aged_picture, '', 'Test accuracy of each way at each step, by epochs and by work'),
    (damaged_picture, '-damaged', 'Test accuracy of each arm on images damaged in fifteen ways, as a heat map'),
)
NOTHING = '–'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('yaml', type=Path)
    parser.add_argument('changes', nargs='*', metavar='key=value')
    parser.add_argument('--baseline', help='the arm that others are compared with (default: the first)')
    parser.add_argument('--only', metavar='RUN', help='train this run alone, and write no table')
    parser.add_argument('--table-only', action='store_true')
    parser.add_argument(
        '--minutes', type=float, help='train for so long what the results lack; the same command goes on'
    )
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='of the results (default: that of the YAML)')
    options = parser.parse_intermixed_args()
    try:
        plan = make_plan(apply_overrides(read_yaml(options.yaml), options.changes), where=str(options.yaml))
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    arms = list(dict.fromkeys(run.arm for run in plan.runs))
    if options.baseline is not None and options.baseline not in arms:
        parser.error(f'--baseline {options.baseline}: there is no such arm; {nearest(options.baseline, arms)}')
    page = (options.out or options.yaml.parent) / options.yaml.name
    status = 0 if options.table_only else _train(options, plan, _before(page)['arms'])
    if options.only is not None or (status and options.minutes is None):
        return status
    # What has ended until a run failed is worth its tables, too.
    try:
        return _write(options, plan, page, arms[0]) or status
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1


def _train(options: argparse.Namespace, plan: Plan, there: dict[str, Any]) -> int:
    """All of the study, one run of it, or what its results lack, for so long."""
    if options.minutes is not None:
        return train_for(options.minutes, options.yaml, options.changes, plan, there)
    command = [sys.executable, '-m', 'composer_kd.run', str(options.yaml), *options.changes, '--no-report']
    command += ['--only', options.only] if options.only else []
    return subprocess.run(command, check=False).returncode


def _write(options: argparse.Namespace, plan: Plan, page: Path, first: str) -> int:
    """The results and their page; 1 where nothing has finished that should have."""
    before = _before(page)
    result = collect(list(plan.runs), options.yaml, before)
    if not result['arms']:
        print(f'{options.yaml}: nothing of it has finished yet; the same command goes on', file=sys.stderr)
        return 0 if options.minutes is not None else 1
    by_others(result, page.parent)
    if takeovers := with_more_seeds(before.get('takeovers', {}), takeovers_of(plan.runs)):
        result['takeovers'] = takeovers
    if plan.ensembles:
        result['ensembles'] = ensembles_of(plan.folder) or before.get('ensembles', {})
    for picture, suffix, alt in PICTURES:
        if drawn := picture(result):
            file = page.with_name(f'{page.stem}{suffix}.png')
            atomic_write(file, drawn)
            result.setdefault('pictures', {})[file.name] = alt
    if options.changes:
        result['command'] += f' {" ".join(options.changes)}'
    if options.baseline:
        result['command'] += f' --baseline {options.baseline}'
    result['baseline'] = options.baseline or first
    atomic_write(page.with_suffix('.json'), json.dumps(result, indent=1) + '\n')
    atomic_write(page.with_suffix('.md'), table(result) + '\n')
    print(table(result))
    return 0


def collect(runs: list[PlannedRun], yaml: Path, before: dict[str, Any]) -> dict[str, Any]:
    """The study so far: the runs that are finished here, and those of NAME.json that are not here."""
    arms: dict[str, list[dict[str, Any]]] = {}
    facts = {key: before[key] for key in ('hardware', 'versions', 'date') if key in before}
    for run in runs:
        number = repetition(run.name, run.arm)
        earlier = [
            {'cpu': before['hardware']['cpu'], **one, 'repetition': number}
            for one in before['arms'].get(run.arm, [])
            if one['seed'] == run.config.seed
        ]
        if RunDir(run.folder).finished:
            manifest = RunDir(run.folder).manifest()
            finished = str((manifest.model_extra or {}).get('finished_at'))[:10]
            facts = {'hardware': manifest.hardware, 'versions': manifest.versions, 'date': finished}
            processor = manifest.hardware.get('gpu', manifest.hardware['cpu'])
            weights = manifest.weights.hash if manifest.weights else None
            earlier = [{**figures(run), 'repetition': number, 'cpu': processor, 'weights': weights}]
        arms.setdefault(run.arm, []).extend(earlier)
    planned = {arm: sum(run.arm == arm for run in runs) for arm in arms}
    what = yaml.read_text().splitlines()[0].lstrip('# ')
    command = f'python -m benchmarks.study benchmarks/{yaml.stem}/{yaml.name}'
    return {
        'what': what,
        'yaml': yaml.name,
        'command': command,
        'planned': planned,
        **facts,
        'arms': {a: r for a, r in arms.items() if r},
    }


def _before(yaml: Path) -> dict[str, Any]:
    file = yaml.with_suffix('.json')
    return json.loads(file.read_text()) if file.is_file() else {'arms': {}}


def figures(run: PlannedRun) -> dict[str, Any]:
    """What a run reached, in percent, and what it cost, in multiply-adds."""
    lines = RunDir(run.folder).metrics()
    tested = [
        [line['epoch'], round(100 * line['test_accuracy'], 2)]
        for line in lines
        if line.get('test_accuracy') is not None
    ]
    last = lines[-1]
    return {
        'seed': run.config.seed,
        'test': tested[-1][1],
        'best': max(accuracy for _, accuracy in tested),
        'samples': sum(line['samples'] for line in lines),
        'student': last['multiply_adds_student_total'],
        'teacher': last['multiply_adds_teacher_total'],
        **looked_up(run, lines),
        **left_to_labels(lines),
        **under_attack(run, last),
        **damaged(run),
        **size_of(run, last),
        'curve': tested,
        **ageing(run, lines),
    }


def looked_up(run: PlannedRun, lines: list[dict[str, Any]]) -> dict[str, float]:
    """What looking up saved, and what recording those views costs, all of it on this run's account."""
    last = lines[-1]
    taught = sum(line['samples'] for line in lines if line.get('loss_distill') is not None)
    # Runs of a version that did not count it looked everything up, or nothing.
    recorded = last.get('images_recorded_total', 0 if last['multiply_adds_teacher_total'] else taught)
    saved, harvest = last.get('multiply_adds_teacher_saved_total'), 0.0
    teachers = [one for options in run.config.algorithms.values() for one in options.get('teachers', [])]
    for teacher in teachers if recorded else []:
        archive = Archive(teacher if isinstance(teacher, str) else teacher['recorded'])
        views = [view for view in archive.views if view < (run.config.data.views or math.inf)]
        harvest += sum(archive.metadata('logits', view)['multiply_adds'] for view in views)
        if saved is None:
            saved = recorded * (archive.manifest().multiply_adds or 0)
    return {'saved': saved or 0.0, 'harvest': harvest}


def left_to_labels(lines: list[dict[str, Any]]) -> dict[str, float]:
    """The share of the samples that had no target, over the epochs with teachers; nothing where all had one."""
    shares = [line['label_only'] for line in lines if line.get('label_only') is not None]
    return {'label_only': round(100 * statistics.fmean(shares), 2)} if any(shares) else {}


def gains(arm: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> list[float]:
    """Differences to the baseline, repetition by repetition: arms may have other seeds, and lack some."""
    return [round(own['test'] - other['test'], 2) for own, other in pairs(arm, baseline)]


def table(result: dict[str, Any], folder: str = '') -> str:
    """The page of a study.

    Args:
        result: As its JSON has it.
        folder: Where its pictures lie, as the page says it, with a slash at the end.
    """
    arms, baseline = result['arms'], result['baseline']
    published = PUBLISHED.get(Path(result['yaml']).stem, {})
    digits = 2 if published else 1
    compared = arms.get(baseline, [])
    student = statistics.mean(one['student'] for one in compared) if compared else None
    # Runs that take over are tested on other data than the first model: a difference to it says nothing.
    ages = any('spent' in one for runs in arms.values() for one in runs)
    lines = [f'# {result["what"]}', '']
    processors = sorted({one['cpu'] for runs in arms.values() for one in runs})
    lines += [
        f'`{result["command"]}`, last run {result["date"]}, {" and ".join(processors)}, '
        f'torch {result["versions"]["torch"]}.'
    ]
    gains_are = 'gains are' if ages else f'gains are over {baseline},'
    lines += [f"Costs are multiply-adds as shares of {baseline}'s training; {gains_are} paired, with a"]
    lines += [
        '95 % interval of the mean and the probability of as much by chance (t). Harvest: recording the views that',
        'were looked up, charged to each run.',
        '',
    ]
    gain = [] if ages else ['gain']
    heads = ['arm', 'seeds', 'test, last, %', 'best, %', *gain, 'samples', 'student', 'teachers', 'harvest', 'saved']
    heads[4:4] = ['published, %'] if published else []
    lines += [f'| {" | ".join(heads)} |', '|---|' + '---:|' * (len(heads) - 1)]
    for arm, runs in arms.items():
        costs = [statistics.mean(one[name] for one in runs) for name in ('student', 'teacher', 'harvest', 'saved')]
        cells = [
            arm,
            f'{len(runs)} of {result["planned"][arm]}',
            spread([one['test'] for one in runs], digits),
            spread([one['best'] for one in runs], digits),
            *([f'{published[arm]:.2f}' if arm in published else NOTHING] if published else []),
            *([] if ages else ['' if arm == baseline else _gain(gains(runs, compared), digits)]),
            f'{statistics.mean(one["samples"] for one in runs):,.0f}',
            *(f'{100 * cost / student:.1f} %' if student else NOTHING for cost in costs),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(
        lines
        + _against(result, digits)
        + _left_to_labels(result)
        + sizes_table(result)
        + (attacked_table(result, student) if student else [])
        + damaged_table(result)
        + steps_tables(result)
        + _pictures(result, folder)
        + aged_table(result.get('takeovers', {}))
        + ensembles_table(result.get('ensembles', {}))
    )


def _against(result: dict[str, Any], digits: int) -> list[str]:
    """Arms against arms that are not the baseline, as far as both have run."""
    arms = result['arms']
    both = [
        (arm, other)
        for other, held in AGAINST.get(Path(result['yaml']).stem, {}).items()
        for arm in held
        if arm in arms and other in arms
    ]
    rows = [[arm, other, _gain(gains(arms[arm], arms[other]), digits)] for arm, other in both]
    heads = ['arm', 'against', 'gain']
    if attack := first_attack(result):
        heads.append(f'under {attack}')
        rows = [
            [*row, _gain(gains_under_attack(arms[arm], arms[other], attack), digits)]
            for row, (arm, other) in zip(rows, both, strict=True)
        ]
    title = '**Arm against arm** (paired by seed, points of test accuracy)'
    table = [f'| {" | ".join(row)} |' for row in (heads, *rows)]
    return ['', title, '', table[0], '|---|---|' + '---:|' * (len(heads) - 2), *table[1:]] if rows else []


def _left_to_labels(result: dict[str, Any]) -> list[str]:
    shares = [
        f'{arm} {spread([one["label_only"] for one in runs])} %'
        for arm, runs in result['arms'].items()
        if all('label_only' in one for one in runs)
    ]
    return (
        ['', f'Samples that no teacher was right about, which their labels taught: {", ".join(shares)}.']
        if shares
        else []
    )


def _gain(differences: list[float], digits: int) -> str:
    return Paired.of(differences).text(digits) if differences else NOTHING


def _pictures(result: dict[str, Any], folder: str) -> list[str]:
    return [line for name, alt in result.get('pictures', {}).items() for line in ('', f'![{alt}]({folder}{name})')]


if __name__ == '__main__':
    raise SystemExit(main())
