"""What the predictions of the last evaluation say beside accuracy: calibration, and fidelity to each teacher."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from composer_kd.report.collect import Arm, Run
from composer_kd.report.measures import Spread

__all__ = ['Fidelities', 'Fidelity', 'ToTeacher']

_SPLIT = 'test'


@dataclass(frozen=True)
class ToTeacher:
    """How an arm stands to one teacher: samples with the same preferred class, and divergence from its outputs."""

    agreement: Spread | None
    kl: Spread | None


@dataclass(frozen=True)
class Fidelity:
    """What the runs of an arm said in their last evaluation on the test data; ``teachers`` goes by their names."""

    calibration_error: Spread | None
    teachers: dict[str, ToTeacher]


class Fidelities:
    """Manifests tell teachers by run; seeds of one arm that teach the seeds of another are one teacher here.

    Args:
        runs: All that a report is about.
    """

    def __init__(self, runs: Sequence[Run]):
        arms: dict[str, set[str]] = {}
        for run in runs:
            arms.setdefault(run.name, set()).add(run.arm)
        self._arms = {name: min(found) for name, found in arms.items() if len(found) == 1}

    def of_arm(self, arm: Arm) -> Fidelity:
        """Means over the runs of an arm that enter means."""
        found = [_mapping(_mapping(run.manifest.get('evaluation')).get(_SPLIT)) for run in arm.counted]
        taught = [self._by_teacher(run, one) for run, one in zip(arm.counted, found, strict=True)]
        names = list(dict.fromkeys(name for one in taught for name in one))
        return Fidelity(
            calibration_error=Spread.of(_number(one.get('calibration_error')) for one in found),
            teachers={
                name: ToTeacher(
                    agreement=Spread.of(one[name][0] for one in taught if name in one),
                    kl=Spread.of(one[name][1] for one in taught if name in one),
                )
                for name in names
            },
        )

    def _by_teacher(self, run: Run, found: Mapping[str, Any]) -> dict[str, tuple[float | None, float | None]]:
        """Agreement and divergence by what the teacher is called in means over seeds."""
        agreements, divergences = _mapping(found.get('agreement')), _mapping(found.get('teacher_kl'))
        called = {name: self._arm_of(name, run) for name in {**agreements, **divergences}}
        shared = Counter(called.values())
        return {
            # Several runs of one arm that teach together stay apart.
            (name if shared[arm] > 1 else arm): (_number(agreements.get(name)), _number(divergences.get(name)))
            for name, arm in called.items()
        }

    def _arm_of(self, teacher: str, student: Run) -> str:
        """Of a run that is not in this report: its name without the seed that it has in common with its student."""
        seed = student.name.removeprefix(student.arm)
        return self._arms.get(teacher) or (teacher.removesuffix(seed) or teacher)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
