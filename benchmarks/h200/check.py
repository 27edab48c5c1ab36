"""Does everything work on this machine? A tiny lineage in every mode, each in a line; also in check.json.

    python -m benchmarks.h200.check [--minutes 8.5]

A teacher with recorded logits and a student taught by it are trained for two epochs with each way to feed data, each
precision, each way to compile, and with the recorded logits in each place that they can lie in. One that fails is
named with its error, and the others go on; the exit status is the number of failures. What has worked with these
versions on this hardware is not tried again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.h200.runs import TOY, results_file, run_values, train, write
from composer_kd.models.finished_run import FinishedRun
from composer_kd.models.weights import tensors_hash
from composer_kd.runs.execute import hardware, versions
from composer_kd.teachers import recordings

# What each check changes. At toy size, without a GPU, those that need one are left out.
CHECKS: dict[str, dict[str, Any]] = {
    'cache': {'data': {'mode': 'cache'}},
    'device': {},
    'stream': {'data': {'mode': 'stream'}},
    'fp32': {'precision': 'fp32'},
    'live teacher': {'lineage': {'student': {'algorithms': {'TeacherMixupKD': {'teachers': [{'live': 'teacher'}]}}}}},
    'microbatches': {'microbatch_size': 32},
}
ON_GPU: dict[str, dict[str, Any]] = {
    'fp16': {'precision': 'fp16'},
    'compile': {'compile': True},
    'compile, live teacher': {**CHECKS['live teacher'], 'compile': True},
    'cuda graphs': {'compile': {'mode': 'reduce-overhead'}},
    'cuda graphs, live teacher': {**CHECKS['live teacher'], 'compile': {'mode': 'reduce-overhead'}},
    'pinned recordings': {},
    'recordings in files': {},
}
LINEAGE = {
    'teacher': {'archive': {'losses': True, 'logits': {'views': 2}}},
    'student': {'data': {'views': 2}, 'algorithms': {'TeacherMixupKD': {'teachers': [{'recorded': 'teacher'}]}}},
}
SHARES = {'pinned recordings': (0.0, 0.25), 'recordings in files': (0.0, 0.0)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=8.5, help='begin no check later than this')
    deadline = time.monotonic() + 60 * parser.parse_args().minutes
    warnings.simplefilter('ignore')
    outcomes = worked_before()
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in {**CHECKS, **(ON_GPU if torch.cuda.is_available() else {})}.items():
            if name in outcomes:
                continue
            if time.monotonic() > deadline:
                print('the time is over; the same command goes on')
                break
            outcomes[name] = check(Path(folder) / name.replace(' ', '-'), name, changes)
            print(f'{name}: {outcomes[name].get("error", "works")}', flush=True)
            write('check.json', 'a tiny lineage in every mode', checks=outcomes)
    weights = [outcomes.get(name, {}).get('weights') for name in ('cache', 'device')]
    failures = sum('error' in outcome for outcome in outcomes.values())
    same = 'the same' if weights[0] == weights[1] else 'different'
    print(f'{len(outcomes) - failures} of {len(outcomes)} work; cache and device end in {same} weights')
    return failures


def worked_before() -> dict[str, dict[str, Any]]:
    file = results_file('check.json')
    page = json.loads(file.read_text()) if file.is_file() else {}
    if (page.get('versions'), page.get('hardware')) != (versions(), hardware()):
        return {}
    return {name: outcome for name, outcome in page['checks'].items() if 'error' not in outcome}


def check(folder: Path, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    begun = time.perf_counter()
    own = dict(changes)
    lineage = {run: {**LINEAGE[run], **own.get('lineage', {}).get(run, {})} for run in LINEAGE}
    values = run_values(folder, **{**own, 'lineage': lineage, 'max_duration': '2ep', 'threads': 1})
    if not TOY:  # Small and drawn: nothing has to be there. A net with BatchNorm and convolutions all the same.
        drawn = {'source': 'synthetic100', 'synthetic': {'train_size': 2000, 'test_size': 500}}
        values['data'] = {**values['data'], **drawn}
        values['model'] = {'name': 'resnet20'}
    try:
        with shares_of_memory(*SHARES.get(name, (recordings._DEVICE_SHARE, recordings._HOST_SHARE))):
            *_, student = train(values)
    except Exception as error:  # Whatever it is, the other modes are to be tried.
        return {'error': f'{type(error).__name__}: {str(error).strip().splitlines()[0]}'}
    return {
        'seconds': round(time.perf_counter() - begun, 1),
        'weights': tensors_hash(FinishedRun.open(student).weights()),
        'test_accuracy': student.metrics()[-1]['test_accuracy'],
    }


@contextmanager
def shares_of_memory(device: float, host: float) -> Iterator[None]:
    """Recorded logits lie on the device, in pinned memory or in their files, by what these shares leave room for."""
    before = recordings._DEVICE_SHARE, recordings._HOST_SHARE
    recordings._DEVICE_SHARE, recordings._HOST_SHARE = device, host
    try:
        yield
    finally:
        recordings._DEVICE_SHARE, recordings._HOST_SHARE = before


if __name__ == '__main__':
    sys.exit(main())
