"""The commands of ``composer-kd``: what each takes, and who does the work, which is imported when it is asked for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from composer_kd.core.cli_errors import fail
from composer_kd.core.errors import UserError

__all__ = ['add_commands']


def add_commands(commands) -> None:
    """Make a parser for each command; ``work`` of its arguments does what was asked, and returns the exit status."""
    for add in (
        _add_init, _add_convert, _add_retrain, _add_import_weights, _add_drift, _add_record, _add_ensemble,
        _add_evaluate, _add_report, _add_verify, _add_list,
    ):  # fmt: skip
        add(commands)


def _add_init(commands) -> None:
    parser = commands.add_parser('init', help='write `run` and yamls/ into a folder, to start from')
    parser.add_argument('folder', nargs='?', default='.', type=Path)
    parser.set_defaults(work=_init)


def _init(arguments: argparse.Namespace) -> int:
    from composer_kd.archive import atomic_write
    from composer_kd.runs.yaml_file import shipped_yamls

    folder: Path = arguments.folder
    script = (
        '#!/usr/bin/env python3\n'
        'from composer_kd.run import main\n'
        'raise SystemExit(main())\n'
    )  # fmt: skip
    files = {'run': script} | {
        f'yamls/{name}': path.read_text(encoding='utf-8') for name, path in shipped_yamls().items()
    }
    kept = 0
    for name, text in files.items():
        target = folder / name
        if target.exists():
            kept += target.read_text(encoding='utf-8') != text
            continue
        atomic_write(target, text)
    (folder / 'run').chmod(0o755)
    own = f' ({kept} of them were there and are yours: left as they are)' if kept else ''
    print(f'{len(files)} files in {folder}{own}; next: cd {folder} && composer run yamls/kd.yaml')
    return 0


def _add_convert(commands) -> None:
    parser = commands.add_parser('convert', help='turn a data set into MDS shards')
    parser.add_argument(
        'source',
        help='an .npz (images, labels, split: 0 train, 1 test), an ImageFolder (train/CLASS/..., test/CLASS/...), or '
        'cifar10, cifar100, fashion_mnist, mnist (NAME:FOLDER)',
    )
    parser.add_argument('out', type=Path, help='the folder for the shards')
    parser.add_argument(
        '--encoding', choices=('png', 'ndarray'), default='png', help='how images are stored (default: png)'
    )
    parser.add_argument('--compression', default=None, help='compression of the shards, as zstd or zstd:7')
    parser.set_defaults(work=_convert)


def _convert(arguments: argparse.Namespace) -> int:
    from composer_kd.data.convert import convert

    made = convert(arguments.source, arguments.out, encoding=arguments.encoding, compression=arguments.compression)
    parts = ', '.join(f'{split["samples"]:,} {name}' for name, split in made.splits.items())
    print(f'{arguments.out}: {parts} images of {len(made.classes)} classes; use it with data.source={arguments.out}')
    return 0


def _add_retrain(commands) -> None:
    parser = commands.add_parser(
        'retrain',
        help='retrain the model of a finished run on new data, for a fraction of the work',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n'
        '  composer-kd retrain runs/week1 --data data/week2 --dry-run\n'
        '  composer-kd retrain runs/week1 --data data/week2 --compare',
    )
    parser.add_argument('run', metavar='RUN', help='the run directory of the earlier model')
    parser.add_argument('changes', nargs='*', metavar='key=value', help='settings of the new run, as model=resnet20')
    parser.add_argument(
        '--data', required=True, metavar='SHARDS', help='the new data, as composer-kd convert writes it'
    )
    parser.add_argument('--name', help="the new run's name, beside RUN (default: the data's name)")
    parser.add_argument(
        '--budget', type=float, help="the part of the full training's work (default: 0.2; 0.5 for another model)"
    )
    parser.add_argument('--compare', action='store_true', help='train anew as well, to measure what was saved')
    parser.add_argument('--dry-run', action='store_true', help='stop after the plan and its estimate')
    parser.add_argument('--yaml', type=Path, metavar='FILE', help='write the file that would be run, and stop')
    parser.add_argument('--device', choices=('auto', 'cpu', 'gpu'), default='auto')
    parser.set_defaults(work=_retrain)


def _retrain(arguments: argparse.Namespace) -> int:
    from composer_kd.runs.command import quieten, say
    from composer_kd.runs.retrain import retrain

    quieten()
    retrain(
        arguments.run,
        arguments.data,
        name=arguments.name,
        budget=arguments.budget,
        compare=arguments.compare,
        changes=arguments.changes,
        dry_run=arguments.dry_run,
        yaml_file=arguments.yaml,
        device=arguments.device,
        say=say,
    )
    return 0


def _add_import_weights(commands) -> None:
    parser = commands.add_parser('import-weights', help='turn a pickled checkpoint (.pt, .pth) into safetensors')
    parser.add_argument('file', type=Path, help='what torch.save wrote; a process of its own reads it')
    parser.add_argument('out', type=Path, metavar='OUT.safetensors')
    parser.set_defaults(work=_import_weights)


def _import_weights(arguments: argparse.Namespace) -> int:
    from composer_kd.storage.import_weights import import_weights

    import_weights(arguments.file, arguments.out)
    print(f'{arguments.out}: the weights of {arguments.file}, to be read as they are from now on')
    return 0


def _add_drift(commands) -> None:
    parser = commands.add_parser('drift', help='draw what drifts do to a data set, as a contact sheet')
    parser.add_argument('source', help='as data.source: synthetic100, a folder of shards, a remote')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE.png', help='the picture')
    parser.add_argument(
        '--kinds', nargs='+', default=(), metavar='KIND', help='rows: fog, long_tail, ... (default: all)'
    )
    parser.add_argument('--images', type=int, default=3, help='images in a cell (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the drifts (default: %(default)s)')
    parser.set_defaults(work=_drift)


def _drift(arguments: argparse.Namespace) -> int:
    from composer_kd.data.drift.sheet import contact_sheet

    rows = contact_sheet(arguments.source, arguments.out, arguments.kinds, arguments.images, arguments.seed)
    print(f'{arguments.out}: {len(rows)} drifts of {arguments.source}, at severities or steps 1 to 5')
    return 0


def _add_record(commands) -> None:
    parser = commands.add_parser('record', help='record the logits of finished runs, for students that look them up')
    parser.add_argument('runs', nargs='+', metavar='RUN', help='run directories; data.KEY=VALUE for other data')
    parser.add_argument('--views', type=int, help='augmentations of each image (default: 4)')
    parser.add_argument('--top-k', type=int, help='keep the k largest logits and one level for all others')
    parser.add_argument('--batch-size', type=int, default=1000, help='images in a forward pass (default: %(default)s)')
    parser.add_argument('--device', choices=('auto', 'cpu', 'gpu'), default='auto')
    parser.add_argument('--replace', action='store_true', help='forget the logits that are there')
    parser.set_defaults(work=_record)


def _record(arguments: argparse.Namespace) -> int:
    from composer_kd.runs.command import quieten, say
    from composer_kd.runs.config import DEFAULT_VIEWS
    from composer_kd.runs.record import record_run

    quieten()
    changes = [word for word in arguments.runs if '=' in word]
    for run in (word for word in arguments.runs if '=' not in word):
        record_run(
            run,
            DEFAULT_VIEWS if arguments.views is None else arguments.views,
            changes,
            top_k=arguments.top_k,
            batch_size=arguments.batch_size,
            device=arguments.device,
            replace=arguments.replace,
            say=say,
            bar=sys.stdout.isatty(),
        )
    return 0


def _add_ensemble(commands) -> None:
    parser = commands.add_parser('ensemble', help='evaluate finished runs as one, and count how many of them are right')
    parser.add_argument('runs', nargs='+', metavar='RUN', help='run directories of one data set')
    parser.add_argument('--split', choices=('test', 'val', 'train'), default='test', help='default: %(default)s')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers there as well')
    parser.add_argument('--batch-size', type=int, default=1000, help='where a model is asked (default: %(default)s)')
    parser.add_argument('--device', choices=('auto', 'cpu', 'gpu'), default='auto', help='likewise')
    parser.set_defaults(work=_ensemble)


def _ensemble(arguments: argparse.Namespace) -> int:
    from composer_kd.runs.command import quieten, say
    from composer_kd.runs.ensemble import show_ensemble

    quieten()
    show_ensemble(
        arguments.runs,
        arguments.split,
        batch_size=arguments.batch_size,
        device=arguments.device,
        file=arguments.json,
        say=say,
    )
    return 0


def _add_evaluate(commands) -> None:
    parser = commands.add_parser('evaluate', help='measure finished runs under drifts of their test data and attacks')
    parser.add_argument('runs', nargs='+', metavar='RUN', help='run directories')
    parser.add_argument(
        '--drifts', nargs='?', const='all', metavar='FILE.yaml|fog,snow|all', help='under the evaluate.drifts of a '
        'file, or under kinds of corruption (default: all)',
    )  # fmt: skip
    parser.add_argument('--severities', metavar='1,3,5', help='of each kind (default: 1,2,3,4,5)')
    parser.add_argument(
        '--attacks', nargs='?', const='own', choices=('own', 'foolbox', 'autoattack'), help='under adversarial attack, '
        'by this library (default: own, projected gradient descent)',
    )  # fmt: skip
    parser.add_argument('--epsilon', type=float, help='in pixels from 0 to 255 (default: 8, in l2 128)')
    parser.add_argument('--steps', type=int, help='of an attack (default: 20)')
    parser.add_argument(
        '--step-size', type=float, help='in pixels (default: a quarter of epsilon; 1.25 times for one step)'
    )
    parser.add_argument('--norm', choices=('linf', 'l2'), help='of an attack (default: linf)')
    parser.add_argument('--split', choices=('test', 'val'), help='what is attacked (default: test)')
    parser.add_argument('--subset', type=int, metavar='N', help='attack so many, always the same ones (default: all)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers of the attacks there as well')
    parser.add_argument('--batch-size', type=int, help='images at a time (default: 1000, under attack 250)')
    parser.add_argument('--device', choices=('auto', 'cpu', 'gpu'), default='auto')
    parser.set_defaults(work=_evaluate)


_OF_ATTACKS = ('epsilon', 'steps', 'step_size', 'norm', 'split', 'subset', 'json')


def _evaluate(arguments: argparse.Namespace) -> int:
    from composer_kd.report.api import numbers
    from composer_kd.runs.command import quieten, say
    from composer_kd.runs.evaluate_drifts import BATCH_SIZE, measure_robustness, read_scenarios
    from composer_kd.runs.process import join_ranks

    if arguments.drifts is None and arguments.attacks is None:
        raise UserError('evaluate: under what? give --drifts, --attacks or both')
    if arguments.drifts is None and arguments.severities is not None:
        raise UserError('--severities: these are of drifts; give --drifts too')
    given = [name for name in _OF_ATTACKS if getattr(arguments, name) is not None]
    if arguments.attacks is None and given:
        raise UserError(f'--{given[0].replace("_", "-")}: this is of attacks; give --attacks too')
    quieten()
    if arguments.drifts is not None:
        scenarios = read_scenarios(arguments.drifts, numbers('--severities', arguments.severities, float))
        join_ranks(arguments.device)
        batch_size = BATCH_SIZE if arguments.batch_size is None else arguments.batch_size
        for run in arguments.runs:
            measure_robustness(run, scenarios, batch_size=batch_size, device=arguments.device, say=say)
    if arguments.attacks is not None:
        _attack(arguments)
    return 0


def _attack(arguments: argparse.Namespace) -> None:
    from composer_kd.callbacks.evaluate_attacks import make_attack
    from composer_kd.runs.command import say
    from composer_kd.runs.evaluate_attacks import BATCH_SIZE, show_attacks

    options = {name: getattr(arguments, name) for name in ('epsilon', 'steps', 'step_size', 'norm')}
    options = {name: value for name, value in options.items() if value is not None}
    for name in ('steps', 'step_size'):
        if arguments.attacks == 'autoattack' and name in options:
            raise UserError(f'--{name.replace("_", "-")}: autoattack chooses its own; leave it out')
    show_attacks(
        arguments.runs,
        make_attack(options),
        arguments.attacks,
        arguments.split or 'test',
        subset=arguments.subset,
        batch_size=BATCH_SIZE if arguments.batch_size is None else arguments.batch_size,
        device=arguments.device,
        file=arguments.json,
        say=say,
    )


def _add_report(commands) -> None:
    from composer_kd.report.api import add_arguments, main

    parser = commands.add_parser('report', help='compare runs: accuracies, epochs, seconds, multiply-adds')
    add_arguments(parser)
    parser.set_defaults(work=main)


def _add_verify(commands) -> None:
    parser = commands.add_parser('verify', help='check the files of runs, and what they recorded against their models')
    parser.add_argument('runs', nargs='+', metavar='RUN')
    parser.add_argument('--no-spot-check', action='store_true', help='leave the models alone: sizes and hashes only')
    parser.add_argument('--seed', type=int, help='of the samples that are spot-checked (default: others every time)')
    parser.set_defaults(work=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from composer_kd.runs.command import quieten, say
    from composer_kd.runs.verify import verify_run

    quieten()
    faults = 0
    for run in arguments.runs:
        try:
            verify_run(run, not arguments.no_spot_check, arguments.seed, say)
        except UserError as error:  # The others are looked at too.
            if arguments.debug:
                raise
            faults += fail(str(error), 1)
    return min(faults, 1)


def _add_list(commands) -> None:
    parser = commands.add_parser('list', help='all names that a YAML file may use')
    parser.add_argument('kind', nargs='?', help='one kind alone: algorithms, losses, mixes, models, ...')
    parser.set_defaults(work=_list)


def _list(arguments: argparse.Namespace) -> int:
    from composer_kd.core.errors import nearest
    from composer_kd.runs.registries import vocabulary

    kinds = vocabulary()
    if arguments.kind is not None and arguments.kind not in kinds:
        raise UserError(f'{arguments.kind!r} is not a kind of names; {nearest(arguments.kind, kinds)}')
    for kind, names in kinds.items():
        if arguments.kind in (None, kind):
            print(f'{kind}:')
            for name, summary in names:
                print(f'  {name:<28} {summary}'.rstrip())
    return 0
