"""What the ensembles of a study reach: their first 1, 2, ... members as one, and how many of them are right."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.paired import spread

__all__ = ['ensembles_of', 'ensembles_table']


def ensembles_of(folder: Path) -> dict[str, Any]:
    """In percent, a list of seeds each; nothing where the study's ensembles have not been evaluated here."""
    file = folder / 'ensembles.json'
    if not file.is_file():
        return {}
    return {
        name: {
            'members': entry['members'],
            'logits': [[_percent(one['logits']['accuracy']) for one in seed['first']] for seed in entry['seeds']],
            'probabilities': [
                [_percent(one['probabilities']['accuracy']) for one in seed['first']] for seed in entry['seeds']
            ],
            'right': [[_percent(count / seed['samples']) for count in seed['right']] for seed in entry['seeds']],
        }
        for name, entry in json.loads(file.read_text())['ensembles'].items()
    }


def ensembles_table(ensembles: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = []
    for name, entry in ensembles.items():
        count, seeds = len(entry['members']), len(entry['logits'])
        lines += ['', f'**The first members of `{name}` as one** ({seeds} seeds; test accuracy, %)', '']
        lines += [f'| members | {" | ".join(str(k) for k in range(1, count + 1))} |', '|---|' + '---:|' * count]
        for how in ('logits', 'probabilities'):
            cells = [spread([seed[k] for seed in entry[how]]) for k in range(count)]
            lines.append(f'| {how} averaged | {" | ".join(cells)} |')
        reach = [100 - seed[0] for seed in entry['right']]
        lines += [
            '',
            f'Of how many test samples so many of the {count} are right, % (at least one: {spread(reach)}):',
            '',
        ]
        lines += [f'| {" | ".join(str(k) for k in range(count + 1))} |', '|' + '---:|' * (count + 1)]
        shares = [f'{statistics.fmean(seed[k] for seed in entry["right"]):.1f}' for k in range(count + 1)]
        lines.append(f'| {" | ".join(shares)} |')
    return lines


def _percent(share: float) -> float:
    return round(100 * share, 2)
