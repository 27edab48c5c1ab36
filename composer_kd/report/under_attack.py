"""What is left of arms' accuracy under attack, out of the ``attacks.jsonl`` of their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer_kd.report.collect import Arm, Run, json_lines, plain_text
from composer_kd.report.measures import Spread

__all__ = ['ArmUnderAttack', 'UnderAttack', 'attack_in_words', 'by_attack', 'lines_at_the_end', 'under_attack']

_FILE = 'attacks.jsonl'


@dataclass(frozen=True)
class ArmUnderAttack:
    """Means over the runs of an arm, of the end of their training; ``robust`` goes by the attacks."""

    accuracy: Spread | None = None
    robust: dict[str, Spread | None] = field(default_factory=dict)


@dataclass(frozen=True)
class UnderAttack:
    """Arms by name, those that were attacked.

    Attributes:
        split: The part of the data that the samples are of.
        samples: How many they are in each run; ``None`` where runs differ.
        attacks: Short descriptions, in the order in which runs were measured under them.
        arms: In the order of the report.
    """

    split: str
    samples: int | None
    attacks: tuple[str, ...]
    arms: dict[str, ArmUnderAttack]


def under_attack(arms: Sequence[Arm]) -> UnderAttack | None:
    """Of the runs that enter means; ``None`` where none was attacked when its training had ended."""
    ends = {arm.name: [_at_the_end(run) for run in arm.counted] for arm in arms}
    lines = [line for runs in ends.values() for run in runs for line in run]
    if not lines:
        return None
    split = 'test' if any(line['split'] == 'test' for line in lines) else plain_text(lines[0]['split'])
    measured = {name: [by_attack(run, split) for run in runs] for name, runs in ends.items()}
    chosen = [line for runs in measured.values() for one in runs for line in one.values()]
    attacks = tuple(dict.fromkeys(map(attack_in_words, chosen)))
    sizes = {line['samples'] for line in chosen}
    found = {}
    for name, runs in measured.items():
        if any(runs):
            found[name] = ArmUnderAttack(
                Spread.of(next((line['accuracy'] for line in one.values()), None) for one in runs),
                {each: Spread.of(one[each]['robust_accuracy'] if each in one else None for one in runs)
                 for each in attacks},
            )  # fmt: skip
    return UnderAttack(split, sizes.pop() if len(sizes) == 1 else None, attacks, found)


def _at_the_end(run: Run) -> list[Mapping[str, Any]]:
    return lines_at_the_end(run.path, run.epochs[-1].get('batch') if run.epochs else None)


def lines_at_the_end(run: Path, end: int | None) -> list[Mapping[str, Any]]:
    """The lines of a run directory that are about the weights after so many batches."""

    def is_one(line: Any) -> bool:
        shares = all(0 <= line[key] <= 1 for key in ('accuracy', 'robust_accuracy'))
        return shares and line['samples'] >= 1 and bool(plain_text(line['split']) and attack_in_words(line))

    lines = json_lines(run / _FILE, is_one, 'what a measurement under attack writes')
    return [line for line in lines if end is None or line.get('batch') == end]


def by_attack(lines: Sequence[Mapping[str, Any]], split: str) -> dict[str, Mapping[str, Any]]:
    """Of the lines about a split, one for each attack: that of the most samples, the latest of several."""
    found: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        before = found.get(attack_in_words(line))
        if line['split'] == split and (before is None or line['samples'] >= before['samples']):
            found[attack_in_words(line)] = line
    return found


def attack_in_words(line: Mapping[str, Any]) -> str:
    """An attack in a few words: ``PGD-20, linf 8``; with its steps' size where that is not the usual quarter."""
    epsilon, steps, size = float(line['epsilon']), int(line['steps']), float(line['step_size'])
    usual = epsilon / 4 if steps > 1 else 1.25 * epsilon
    sized = '' if size == usual else f' by {size:g}'
    return f'PGD-{steps}, {plain_text(line["norm"])} {epsilon:g}{sized}{", targeted" if line.get("targeted") else ""}'
