"""The ``robustness:`` section of a YAML file: which attacks a run's model is measured under."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from composer_kd.callbacks.robustness import make_attack
from composer_kd.section import BatchSize, Count, Section

__all__ = ['AttackSection', 'RobustnessSection']


class AttackSection(Section):
    """Projected gradient descent from a random start.

    Attributes:
        epsilon: The radius of the ball, in pixels from 0 to 255; null is 8 for ``linf`` and 128 for ``l2``.
        steps: How many.
        step_size: In pixels; null is a quarter of epsilon, 1.25 times epsilon for a single step.
        norm: ``linf`` or ``l2``.
        targeted: Towards another class instead of away from the label.
    """

    epsilon: float | None = None
    steps: int = 20
    step_size: float | None = None
    norm: Literal['linf', 'l2'] = 'linf'
    targeted: bool = False

    @model_validator(mode='after')
    def _possible(self) -> AttackSection:
        make_attack(self.model_dump())
        return self


class RobustnessSection(Section):
    """When a run is attacked, with what, and on how many samples.

    Attributes:
        attacks: One after the other.
        splits: Of which data; null: of validation, where there is such a part, and test.
        interval: Also at the end of every so many epochs; null: at the end of the training alone.
        interval_subset: Of each split then; null: as many as at the end.
        interval_attacks: How many of the attacks then, the first ones; null: all.
        subset: Of each split; null takes all.
        batch_size: Images that a rank attacks at a time.
    """

    attacks: Annotated[list[AttackSection], Field(min_length=1)] = Field(default_factory=lambda: [AttackSection()])
    splits: Annotated[list[Literal['val', 'test']], Field(min_length=1)] | None = None
    interval: Annotated[str, Field(pattern=r'^[1-9][0-9]{0,8}ep$')] | None = None
    interval_subset: Count | None = None
    interval_attacks: Count | None = None
    subset: Count | None = 1000
    batch_size: BatchSize = 250

    @model_validator(mode='after')
    def _of_an_interval(self) -> RobustnessSection:
        for name in ('interval_subset', 'interval_attacks'):
            if getattr(self, name) is not None and self.interval is None:
                raise ValueError(f'{name} is of what is measured on the way; give interval too, or leave it out')
        return self

    def splits_of(self, val_fraction: float) -> list[str]:
        """Those that are attacked of data of which so much validates."""
        return list(self.splits or (['val', 'test'] if val_fraction else ['test']))
