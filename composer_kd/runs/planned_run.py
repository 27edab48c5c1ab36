"""One run of a plan: its configuration, its directory, and the runs that it uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer_kd.algorithms.roles import NeedKind
from composer_kd.runs.config import RunConfig

__all__ = ['PlannedRun', 'Use']


@dataclass(frozen=True)
class Use:
    """Something of an earlier run of the same file that a run uses.

    Attributes:
        run: The earlier run's name.
        kind: What of it.
        where: The path of the option in the file.
    """

    run: str
    kind: NeedKind
    where: str


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan.

    Args:
        name: The run's name and that of its directory.
        arm: The name that runs share which differ in their seed alone.
        config: What it does.
        folder: Its run directory.
        uses: What it uses of earlier runs of the plan.
        makes_examples: Whether it makes adversarial examples that can be recorded.
        lineage: The name of the lineage that it belongs to.
    """

    name: str
    arm: str
    config: RunConfig
    folder: Path
    uses: tuple[Use, ...] = ()
    makes_examples: bool = False
    lineage: str | None = None

    @property
    def after(self) -> tuple[str, ...]:
        """The runs of the plan that must be finished before."""
        return tuple(dict.fromkeys(use.run for use in self.uses))

    @property
    def teachers(self) -> tuple[str, ...]:
        """The runs of the plan that teach it."""
        return self.used('model', 'logits', 'features')

    def used(self, *kinds: NeedKind) -> tuple[str, ...]:
        """The runs of the plan that it uses for one of these."""
        return tuple(dict.fromkeys(use.run for use in self.uses if use.kind in kinds))

    @property
    def some_epochs_alone(self) -> bool:
        """Whether its teachers are queried in some epochs only: which views those have is seen when it starts."""
        schedules = [options.get('schedule', 'always') for options in self.config.algorithms.values()]
        return not all(str(schedule).startswith('always') for schedule in schedules)

    def resolved(self) -> dict[str, Any]:
        """Return what ``run.yaml`` holds: everything that decides the result, as plain values."""
        return {'name': self.name, 'arm': self.arm, 'lineage': self.lineage, **self.config.model_dump(mode='json')}
