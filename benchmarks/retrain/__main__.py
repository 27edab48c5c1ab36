"""How much cheaper is retraining? The arms of a scale, trained and compared.

    python -m benchmarks.retrain smoke                      a minute on synthetic100
    python -m benchmarks.retrain cpu --workers 2            ResNet-20 on 10,000 images of CIFAR-100
    python -m benchmarks.retrain h200 --workers 8           ResNet-56 on all of CIFAR-100, on a GPU
    python -m benchmarks.retrain cpu --overlap              what students have of teachers' answers; the tables
    python -m benchmarks.retrain cpu --table                the tables and pictures, from the results alone

The command goes on where it was: cells with a line in results/SCALE.jsonl are not trained again, begun ones continue.
Several copies share the work. On another machine, cells that others learn from are trained again when they are needed.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Before torch is loaded: a cell is computed by one thread, and its neighbour by another.
os.environ.setdefault('OMP_NUM_THREADS', '1')


def main() -> int:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.retrain',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('scale', help='smoke, cpu, h200, or a YAML file like theirs')
    parser.add_argument('changes', nargs='*', metavar='key=value', help='changes to the scale, as run.data.source=...')
    parser.add_argument('--phase', action='append', default=[], help='these phases alone; may be given several times')
    parser.add_argument('--workers', type=int, default=1, help='how many cells are trained side by side')
    parser.add_argument('--minutes', type=float, help='stop after this time; the same command goes on')
    parser.add_argument('--most', type=int, help='train at most so many cells')
    parser.add_argument('--alone', action='store_true', help='time the arms, one at a time; leave the machine idle')
    parser.add_argument('--list', action='store_true', help='say which cells are done and which are open')
    parser.add_argument('--table', action='store_true', help='train nothing; make the tables and pictures')
    parser.add_argument('--overlap', action='store_true', help='count what runs on this disk have of their teachers')
    parser.add_argument('--results', type=Path, help='the folder of the results (default: beside this program)')
    options = parser.parse_intermixed_args()
    if options.alone and options.workers > 1:
        parser.error('--alone times one run at a time; leave --workers out')
    from composer_kd.core.errors import UserError

    try:
        return run(options)
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('interrupted; the same command goes on', file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    from benchmarks.retrain.cells import Scale
    from benchmarks.retrain.results import Results
    from composer_kd.runs.yaml_file import apply_overrides

    scale = Scale(options.scale, apply_overrides({}, options.changes))
    results = Results(scale.name, *([options.results] if options.results else []))
    scale.accuracy = results.accuracy
    scale.phases(options.phase)  # Refuses an unknown one.
    if options.list:
        return list_cells(scale, results, options.phase)
    if options.overlap:
        from benchmarks.retrain.overlap import write_overlaps

        write_overlaps(scale, results)
    elif not options.table:
        if options.workers > 1:
            from benchmarks.retrain.work import spawn

            arguments = [options.scale, *options.changes, *(f'--phase={name}' for name in options.phase)]
            arguments += [f'--results={options.results}'] if options.results else []
            arguments += [f'--most={options.most}'] if options.most else []
            if status := spawn(arguments, options.workers, options.minutes):
                return status
        else:
            train_here(scale, results, options)
    if options.table or options.overlap or options.workers > 1:
        from benchmarks.retrain.tables import write_tables

        write_tables(scale, results)
    return 0


def train_here(scale, results, options: argparse.Namespace) -> None:
    from benchmarks.retrain.work import worker
    from composer_kd.runs.command import quieten

    quieten()
    here = worker(scale, results, options.minutes)
    if not options.alone:
        here.run(options.phase, options.most)
        return
    budget = min(scale.yaml['budgets'])
    # Seed by seed: a machine that slows down does so for all arms.
    names = [(arm, number) for number in range(scale.yaml['seeds']) for arm in scale.yaml['alone']]
    cells = {(arm, number): scale.cell('same', arm, budget, number) for arm, number in names}
    if waiting := sorted({arm for (arm, _), cell in cells.items() if cell is None}):
        print(f'not timed, for the grid of their rates is open: {", ".join(waiting)}')
    here.alone([cell for cell in cells.values() if cell is not None][: options.most])


def list_cells(scale, results, phases: list[str]) -> int:
    known = results.by_name()
    cells = list(scale.cells(phases))
    for cell in cells:
        print(f'{"done" if cell.name in known else "open":5}{cell.name}')
    print(f'{sum(cell.name in known for cell in cells)} of {len(cells)} cells are done; ', end='')
    print(f'{scale.waiting(phases)} wait for the grid')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
