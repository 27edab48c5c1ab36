import pytest

from composer_kd.archive import Manifest

DATA = {
    'fingerprint': 'f00d',
    'num_samples': 100,
    'num_classes': 5,
    'shape': [3, 8, 8],
    'normalization': {'mean': [0.5, 0.5, 0], 'std': [0.25, 0.25, 1]},
}


def complete(files):
    """A manifest with every key that is required."""
    values = {
        'run': 'gen0',
        'arm': 'scratch',
        'seed': 17,
        'finished_epoch': 3,
        'data': DATA,
        'augmentation': {'name': 'crop-flip', 'version': 1, 'seed': 0, 'padding': 4, 'flip': True},
        'weights': {'hash': 'abc'},
        'precision': 'fp32',
        'files': files,
        'hardware': {'cpu': 'a', 'cores': 2},
        'versions': {'torch': '2.7.0'},
        'multiply_adds': 125_000_000,
        'parameters': 861_620,
    }
    return Manifest.model_validate(values)


@pytest.fixture(scope='session')
def manifest():
    return complete
