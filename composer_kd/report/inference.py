"""What a model costs where it is used: its size, the operations of an image, and how many images it takes a second."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from composer_kd.report.collect import Arm
from composer_kd.report.measures import Spread

__all__ = ['BATCHES', 'Inference', 'Relative', 'differ_in_model', 'inference_of_arm', 'relative']

BATCHES = (1, 256)


@dataclass(frozen=True)
class Inference:
    """Means over the runs of an arm; ``images_per_second`` goes by the size of the batch."""

    parameters: Spread | None = None
    multiply_adds: Spread | None = None
    images_per_second: dict[int, Spread | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Relative:
    """How many times smaller and faster than another model; ``faster`` goes by the size of the batch."""

    smaller: float | None
    faster: dict[int, float | None]


def inference_of_arm(arm: Arm) -> Inference:
    """What the manifests of the runs that enter means say."""
    manifests = [run.manifest for run in arm.counted]
    measured = [one.get('inference') for one in manifests]
    found = [one if isinstance(one, Mapping) else {} for one in measured]
    return Inference(
        parameters=Spread.of(_positive(one.get('parameters')) for one in manifests),
        multiply_adds=Spread.of(_positive(one.get('multiply_adds')) for one in manifests),
        images_per_second={
            batch: Spread.of(
                None if (seconds := _positive(one.get(str(batch)))) is None else batch / seconds for one in found
            )
            for batch in BATCHES
        },
    )


def differ_in_model(arms: Iterable[Arm]) -> bool:
    """Whether there is more than one model, with its options, among the arms."""
    models = (arm.runs[0].config.get('model') for arm in arms)
    return len({json.dumps(model, sort_keys=True, default=str) for model in models}) > 1


def relative(models: Sequence[Inference]) -> list[Relative]:
    """Each against the largest of them: the first with the most parameters."""
    known = [one for one in models if one.parameters is not None]
    largest = max(known, key=lambda one: one.parameters.mean if one.parameters else 0.0, default=Inference())
    return [
        Relative(
            smaller=_ratio(largest.parameters, one.parameters),
            faster={
                batch: _ratio(one.images_per_second.get(batch), largest.images_per_second.get(batch))
                for batch in BATCHES
            },
        )
        for one in models
    ]


def _ratio(over: Spread | None, under: Spread | None) -> float | None:
    return over.mean / under.mean if over and under else None


def _positive(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        return None
    return float(value)
