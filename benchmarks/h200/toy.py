"""The GPU side at toy size: the same phases and arms, small nets and drawn images on a CPU, epochs that are seconds.

python -m benchmarks.h200.toy FILE              # writes a scale for `python -m benchmarks.retrain FILE`
python -m benchmarks.h200.toy FILE drift        # writes that study for `python -m benchmarks.study FILE`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from composer_kd.runs.plan import merge
from composer_kd.runs.yaml_file import read_yaml

HERE = Path(__file__).parents[1]
H200 = HERE / 'retrain' / 'h200.yaml'

RUN = {
    'data': {
        'source': 'synthetic100', 'synthetic': {'train_size': 400, 'test_size': 100},
        'val_fraction': 0.25, 'clean_subset': 100, 'mode': 'device',
    },
    'model': {'name': 'mlp', 'hidden': [16]},
    'batch_size': 64,
    'device': 'cpu',
}  # fmt: skip
EPOCHS = {10: 1, 20: 1, 40: 1, 80: 1, 200: 2, 240: 1}

STUDY = {
    'data': {
        'source': 'synthetic100', 'synthetic': {'train_size': 500, 'test_size': 200},
        'subset': None, 'clean_subset': 50,
    },
    'model': {'name': 'mlp', 'hidden': [16]},
    'batch_size': 16,
    'device': 'cpu',
}  # fmt: skip
LENGTHS = {'5ep': '1ep', '8ep': '1ep', '16ep': '2ep', '24ep': '2ep'}
ROBUSTNESS = {'attacks': [{'steps': 2}, {'steps': 3}], 'interval': '1ep', 'interval_subset': 20, 'subset': None}


def toy(scale: dict[str, Any], save_folder: str) -> dict[str, Any]:
    """The same scale with everything that costs time made small."""
    small = {**scale, 'save_folder': save_folder, 'full': EPOCHS[scale['full']], 'earlier': 2, 'seeds': 1}
    small['budgets'] = sorted({EPOCHS[budget] for budget in scale['budgets']})
    small['run'] = merge(scale['run'], RUN)
    small['grid'] = {key: values[:1] for key, values in scale['grid'].items()}
    small['tune'] = {arm: sorted({EPOCHS[budget] for budget in budgets}) for arm, budgets in scale['tune'].items()}
    small['scenarios'] = {name: _scenario(scenario) for name, scenario in scale['scenarios'].items()}
    small['phases'] = [_phase(phase) for phase in scale['phases']]
    return small


def _scenario(scenario: dict[str, Any]) -> dict[str, Any]:
    """Without what asks for a size or a net that toys have not."""
    small = {}
    for part, patch in scenario.items():
        large = ('model', 'batch_size', 'data', 'max_duration')
        small[part] = {key: value for key, value in patch.items() if key not in large}
        if 'data' in patch:
            small[part]['data'] = {**patch['data'], **({'subset': 200} if 'subset' in patch['data'] else {})}
        if 'model' in patch:
            small[part]['model'] = {'name': 'mlp', 'hidden': [24 if part == 'earlier' else 8]}
    return small


def _phase(phase: dict[str, Any]) -> dict[str, Any]:
    small = {**phase, **({'seeds': 1} if 'seeds' in phase else {})}
    if isinstance(phase.get('budgets'), list):
        small['budgets'] = sorted({EPOCHS[budget] for budget in phase['budgets']})
    return small


def toy_study(values: dict[str, Any], save_folder: str) -> dict[str, Any]:
    """The same lineage, a repetition of it, with everything that costs time made small."""
    small = {**merge(values, STUDY), 'save_folder': save_folder, 'repeat': 1}
    small['max_duration'] = LENGTHS[values['max_duration']]
    if 'robustness' in values:
        small['robustness'] = {**values['robustness'], **ROBUSTNESS}
    small['optimizer'] = {'name': 'SGD', 'lr': 0.01}
    small['lineage'] = {name: _run(own or {}) for name, own in values['lineage'].items()}
    return small


def _run(own: dict[str, Any]) -> dict[str, Any]:
    """Without a rate that is for another net."""
    small = {key: value for key, value in own.items() if key != 'optimizer'}
    return {**small, 'max_duration': LENGTHS[own['max_duration']]} if 'max_duration' in own else small


def main() -> int:
    file, *study = Path(sys.argv[1]), *sys.argv[2:]
    file.parent.mkdir(parents=True, exist_ok=True)
    if study:
        small = toy_study(read_yaml(HERE / study[0] / f'{study[0]}.yaml'), str(file.parent / 'runs' / study[0]))
        text = f'# {study[0]} at toy size on a CPU: says nothing\n'
    else:
        small, text = toy(yaml.safe_load(H200.read_text()), str(file.parent / 'runs')), ''
    file.write_text(text + yaml.safe_dump(small, sort_keys=False))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
