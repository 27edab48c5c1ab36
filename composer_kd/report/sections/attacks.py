"""What is left of arms' accuracy under attack, out of the ``attacks.jsonl`` of their runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from composer_kd.report.load import Run, plain_text
from composer_kd.report.measured import attack_name, by_attack, lines_at_the_end
from composer_kd.report.render.text import PERCENT, Table, with_spread
from composer_kd.report.sections import SECTIONS, ReportSection
from composer_kd.report.stats import Spread
from composer_kd.report.summary import Summary

__all__ = ['ArmUnderAttack', 'AttackResults', 'AttacksReport']


@dataclass(frozen=True)
class ArmUnderAttack:
    """Means over the runs of an arm, of the end of their training; ``robust`` goes by the attacks."""

    accuracy: Spread | None
    robust: dict[str, Spread | None]


@dataclass(frozen=True)
class AttackResults:
    """Arms by name, those that were attacked."""

    split: str  # the part of the data that the samples are of
    samples: int | None  # how many they are in each run; ``None`` where runs differ
    attacks: tuple[str, ...]  # short descriptions, in the order in which runs were measured under them
    arms: dict[str, ArmUnderAttack]  # in the order of the report


@SECTIONS.register('attacks')
class AttacksReport(ReportSection):
    """A row for each arm that was attacked."""

    order = 60
    method = (
        'PGD-N: projected gradient descent of N steps from a random start, in a ball of the given norm and radius (in '
        'pixels from 0 to 255), made against the trained model in evaluation mode. A sample counts as robust that the '
        'model gets right both as it is and under the attack.'
    )

    def read(self) -> AttackResults | None:
        return _compare(self.summary)

    def tables(self) -> Iterable[Table]:
        found: AttackResults | None = self.values
        if found is None:
            return
        rows = tuple(
            (
                arm.marked(),
                str(arm.n),
                with_spread(own.accuracy, PERCENT, arm.n),
                *(with_spread(own.robust[attack], PERCENT, arm.n) for attack in found.attacks),
            )
            for arm in self.summary.arms
            if (own := found.arms.get(arm.name)) is not None
        )
        of = found.split if found.samples is None else f'{found.samples:,} {found.split}'
        title = f'Under attack: accuracy on {of} samples, %'
        yield Table(title, ('arm', 'n', 'as they are', *found.attacks), rows, labels=2)


def _compare(summary: Summary) -> AttackResults | None:
    """Of the runs that enter means; ``None`` where none was attacked when its training had ended."""
    ends = {arm.name: [_lines(run) for run in arm.counted] for arm in summary.arms}
    lines = [line for runs in ends.values() for run in runs for line in run]
    if not lines:
        return None
    split = 'test' if any(line['split'] == 'test' for line in lines) else plain_text(lines[0]['split'])
    measured = {name: [by_attack(run, split) for run in runs] for name, runs in ends.items()}
    chosen = [line for runs in measured.values() for one in runs for line in one.values()]
    attacks = tuple(dict.fromkeys(map(attack_name, chosen)))
    sizes = {line['samples'] for line in chosen}
    arms = {
        name: ArmUnderAttack(
            accuracy=Spread.of(next((line['accuracy'] for line in one.values()), None) for one in runs),
            robust={
                attack: Spread.of(one[attack]['robust_accuracy'] if attack in one else None for one in runs)
                for attack in attacks
            },
        )
        for name, runs in measured.items()
        if any(runs)
    }
    return AttackResults(split, sizes.pop() if len(sizes) == 1 else None, attacks, arms)


def _lines(run: Run) -> list[Mapping[str, Any]]:
    return lines_at_the_end(run.path, run.epochs[-1].get('batch') if run.epochs else None)
