"""A finished run directory, as a training leaves it, around any weights."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from composer_kd.archive import Manifest, RunDir, file_records, write_manifest
from composer_kd.models import build_model, multiply_adds, parameters, save_weights, weights_hash

SHAPE = (3, 8, 8)
CLASSES = 10
MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.5, 2.0]
MODEL = {'name': 'mlp', 'hidden': [16]}


def finished_run(path: Path, mean: list[float] = MEAN, std: list[float] = STD, classes: int = CLASSES) -> nn.Module:
    """Write a run directory; the net that it ended with."""
    run = RunDir(path)
    path.mkdir(parents=True)
    module = build_model(MODEL, classes, SHAPE)
    run.write_config({'model': MODEL, 'max_duration': '1ep'})
    save_weights(module, run.weights_file)
    manifest = {
        'run': path.name,
        'seed': 1,
        'finished_epoch': 1,
        'data': {
            'fingerprint': 'f00d',
            'num_samples': 192,
            'num_classes': classes,
            'shape': list(SHAPE),
            'normalization': {'mean': mean, 'std': std},
        },
        'weights': {'hash': weights_hash(module)},
        'precision': 'fp32',
        'files': file_records(path, ['run.yaml', 'weights.safetensors']),
        'parameters': parameters(module),
        'multiply_adds': multiply_adds(module, SHAPE),
    }
    write_manifest(path, Manifest.model_validate(manifest))
    return module.eval()
