"""Earlier iterations, small enough to carry: the next machine need not train them again.

    python -m benchmarks.h200.keep runs/retrain/h200 FOLDER        # a .tar of each finished run that others learn from
    python -m benchmarks.h200.keep --restore runs/retrain/h200 TAR...

What a live teacher or a warm start needs: configuration, measures, weights, manifest and predictions.
Recorded losses and logits, a hundred megabytes, stay behind: arms that use those need the run where it was trained.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from composer_kd.archive import Archive, RunDir
from composer_kd.core.errors import UserError

# The baseline's full runs, and those of scenarios whose earlier iterations knew other data.
EARLIER = ('*.baseline.*ep.s*', '*.earlier.*ep.s*')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--restore', action='store_true')
    parser.add_argument('runs', type=Path)
    parser.add_argument('paths', type=Path, nargs='+', metavar='FOLDER or TAR')
    options = parser.parse_args()
    try:
        done = restore(options.runs, options.paths) if options.restore else keep(options.runs, options.paths[0])
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print('\n'.join(done) or 'there was nothing to do')
    return 0


def keep(runs: Path, folder: Path) -> list[str]:
    done = []
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted({path for pattern in EARLIER for path in runs.glob(pattern)}):
        if not RunDir(path).finished:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            copy = Path(temporary) / path.name
            shutil.copytree(path, copy, ignore=shutil.ignore_patterns('checkpoints', '.lock', 'report*'))
            archive = Archive(copy)
            if archive.exists:
                for kind in ('loss', 'logits'):
                    archive.drop(kind, lambda number: False)
            tar = folder / f'{path.name}.tar'
            with tarfile.open(tar, 'w') as file:
                file.add(copy, arcname=path.name)
        done.append(f'{tar}: {tar.stat().st_size / 1e6:.1f} MB')
    return done


def restore(runs: Path, tars: list[Path]) -> list[str]:
    done = []
    runs.mkdir(parents=True, exist_ok=True)
    for tar in tars:
        name = tar.stem
        if (runs / name).exists():
            continue
        with tarfile.open(tar) as file:
            file.extractall(runs, filter='data')
        if not RunDir(runs / name).finished:
            raise UserError(f'{tar}: it holds no finished run called {name}')
        done.append(f'{runs / name}: restored')
    return done


if __name__ == '__main__':
    raise SystemExit(main())
