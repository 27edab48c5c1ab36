"""What the predictions of the last evaluation say beside accuracy: calibration, and fidelity to each teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from composer_kd.report.load import Arm, Run, mapping, number
from composer_kd.report.render.text import MISSING, NATS, PERCENT, Table, with_spread
from composer_kd.report.sections import SECTIONS, ReportSection
from composer_kd.report.stats import Spread

__all__ = ['ArmFidelity', 'FidelityReport', 'ToTeacher']

_SPLIT = 'test'


@dataclass(frozen=True)
class ToTeacher:
    """How an arm stands to one teacher: samples with the same preferred class, and divergence from its outputs."""

    agreement: Spread | None
    kl: Spread | None


@dataclass(frozen=True)
class ArmFidelity:
    """What the runs of an arm said in their last evaluation on the test data; ``teachers`` goes by their names."""

    calibration_error: Spread | None
    teachers: dict[str, ToTeacher]


@SECTIONS.register('fidelity')
class FidelityReport(ReportSection):
    """Manifests tell teachers by run; seeds of one arm that teach the seeds of another are one teacher here."""

    order = 40
    method = (
        'Calibration and fidelity are of the last evaluation. The calibration error is the gap between the probability '
        'of the most probable class and its accuracy, in 15 bins of equal width, averaged over the samples (Guo et al, '
        '2017). Agreement is the share of the test samples for which an arm and its teacher prefer the same class. KL, '
        "in nats, is the divergence of the arm's probabilities from the teacher's at temperature 1."
    )

    def read(self) -> dict[str, ArmFidelity]:
        arms: dict[str, set[str]] = {}
        for run in self.summary.runs:
            arms.setdefault(run.name, set()).add(run.arm)
        self._arms = {name: min(found) for name, found in arms.items() if len(found) == 1}
        return {arm.name: self._of_arm(arm) for arm in self.summary.arms}

    def tables(self) -> Iterable[Table]:
        # A row a teacher: with a column each, a lineage of five would not fit on a page.
        rows = []
        for arm in self.summary.arms:
            found: ArmFidelity = self.values[arm.name]
            calibration = with_spread(found.calibration_error, PERCENT, arm.n)
            for name, to in (found.teachers or {MISSING: ToTeacher(None, None)}).items():
                cells = (calibration, with_spread(to.agreement, PERCENT, arm.n), with_spread(to.kl, NATS, arm.n))
                if {*cells} != {MISSING}:
                    rows.append((arm.marked(), name, str(arm.n), *cells))
        columns = ('arm', 'teacher', 'n', 'calibration error, %', 'agreement, %', 'KL to the teacher')
        yield Table('Calibration and fidelity on the test data', columns, tuple(rows), labels=2).filled()

    def _of_arm(self, arm: Arm) -> ArmFidelity:
        """Means over the runs of an arm that enter means."""
        found = [mapping(mapping(run.manifest.get('evaluation')).get(_SPLIT)) for run in arm.counted]
        taught = [self._by_teacher(run, one) for run, one in zip(arm.counted, found, strict=True)]
        names = list(dict.fromkeys(name for one in taught for name in one))
        return ArmFidelity(
            calibration_error=Spread.of(number(one.get('calibration_error')) for one in found),
            teachers={
                name: ToTeacher(*(Spread.of(one[name][place] for one in taught if name in one) for place in (0, 1)))
                for name in names
            },
        )

    def _by_teacher(self, run: Run, found: Mapping[str, Any]) -> dict[str, tuple[float | None, float | None]]:
        """Agreement and divergence by what the teacher is called in means over seeds."""
        agreements, divergences = mapping(found.get('agreement')), mapping(found.get('teacher_kl'))
        called = {name: self._arm_of(name, run) for name in {**agreements, **divergences}}
        shared = Counter(called.values())
        return {
            # Several runs of one arm that teach together stay apart.
            (name if shared[arm] > 1 else arm): (number(agreements.get(name)), number(divergences.get(name)))
            for name, arm in called.items()
        }

    def _arm_of(self, teacher: str, student: Run) -> str:
        """Of a run that is not in this report: its name without the seed that it has in common with its student."""
        seed = student.name.removeprefix(student.arm)
        return self._arms.get(teacher) or (teacher.removesuffix(seed) or teacher)
