"""What each arm's model costs where it is used: its size, the operations of an image, and images a second."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from composer_kd.report.load import Arm, Run, mapping, number
from composer_kd.report.render.text import (
    MISSING,
    PERCENT,
    SHARED,
    Table,
    Unit,
    and_join,
    mean_text,
    times,
    unit_for,
    with_spread,
)
from composer_kd.report.sections import SECTIONS, Section
from composer_kd.report.stats import Spread
from composer_kd.report.summary import Summary

__all__ = ['ModelCost', 'Models']

_BATCHES = (1, 256)
_PARAMETERS = Unit('M', 1e6, 3)
_SPEED = Unit('images/s', digits=0)


@dataclass(frozen=True)
class ModelCost:
    """Means over the runs of an arm, and how many times better than the largest model; by batch where batches count."""

    parameters: Spread | None = None
    multiply_adds: Spread | None = None
    images_per_second: dict[int, Spread | None] = field(default_factory=dict)
    times_smaller_than_the_largest: float | None = None
    times_faster_than_the_largest: dict[int, float | None] = field(default_factory=dict)


@SECTIONS.register('models')
class Models(Section):
    """Size, operations and speed, where the arms differ in their model."""

    order = 30
    method = (
        'Images a second are of forward passes in evaluation mode at batches of 1 and of 256: the median of several, '
        "in the run's own precision and layout, without compilation, measured after the run had ended."
    )

    def __init__(self, summary: Summary):
        super().__init__(summary)
        costs = [_cost(arm.arm) for arm in summary.arms]
        known = [one for one in costs if one.parameters is not None]
        largest = max(known, key=lambda one: one.parameters.mean if one.parameters else 0.0, default=ModelCost())
        self.values = {arm.name: _against(largest, one) for arm, one in zip(summary.arms, costs, strict=True)}
        models = (arm.arm.runs[0].config.get('model') for arm in summary.arms)
        self._differ = len({json.dumps(model, sort_keys=True, default=str) for model in models}) > 1

    def tables(self) -> Iterable[Table]:
        arms, values = self.summary.arms, self.values
        if not self._differ or not any(one.parameters for one in values.values()):
            return
        adds = unit_for('multiply_adds', (one.multiply_adds.mean for one in values.values() if one.multiply_adds))
        primary = self.summary.primary

        def mean(spread: Spread | None, unit: Unit) -> str:
            """The seeds of an arm have one model, so a deviation would say nothing."""
            return MISSING if spread is None else mean_text(spread, unit)

        def ratio(value: float | None) -> str:
            return MISSING if value is None else times(value)

        rows = []
        for arm in arms:
            model = values[arm.name]
            rows.append(
                (
                    arm.marked(seconds=_timed(model)),
                    mean(model.parameters, _PARAMETERS),
                    mean(model.multiply_adds, adds),
                    *(with_spread(speed, _SPEED, arm.n) for speed in model.images_per_second.values()),
                    with_spread(arm.accuracy[primary.name].last, PERCENT, arm.n),
                    ratio(model.times_smaller_than_the_largest),
                    *map(ratio, model.times_faster_than_the_largest.values()),
                )
            )
        columns = (
            'arm',
            f'parameters, {_PARAMETERS.name}',
            f'multiply-adds, {adds.name}'.rstrip(', '),
            *(f'images/s at {batch}' for batch in _BATCHES),
            f'{primary.title}, %',
            'smaller',
            *(f'faster at {batch}' for batch in _BATCHES),
        )
        yield Table('Size, operations and speed of each model, against the largest', columns, tuple(rows)).filled()

    def caveats(self) -> Iterable[str]:
        arms = [arm for arm in self.summary.arms if _timed(self.values[arm.name])]
        if not arms or not self._differ:
            return
        shared = [arm.name for arm in arms if arm.arm.shared]
        if shared:
            yield f'{SHARED} The images a second of {and_join(shared)} were measured on a machine that other runs used.'
        runs = [run for arm in arms for run in arm.arm.counted if mapping(run.manifest.get('inference'))]
        kinds: dict[str, Callable[[Run], object]] = {
            'devices': lambda run: run.manifest['inference'].get('device'),
            'numbers of threads': lambda run: run.manifest['inference'].get('threads'),
            'precisions': lambda run: run.manifest['inference'].get('precision'),
            'machines': lambda run: run.manifest.get('hardware'),
        }
        differing = [
            what
            for what, of in kinds.items()
            if len({json.dumps(of(run), sort_keys=True, default=str) for run in runs}) > 1
        ]
        if differing:
            yield f'Images a second were measured on different {and_join(differing)}: they cannot be compared.'


def _timed(found: ModelCost) -> bool:
    return any(found.images_per_second.values())


def _cost(arm: Arm) -> ModelCost:
    """What the manifests of the runs that enter means say."""

    def positive(value: object) -> float | None:
        return number(value, least=0) or None

    manifests = [run.manifest for run in arm.counted]
    timed = [mapping(one.get('inference')) for one in manifests]
    return ModelCost(
        parameters=Spread.of(positive(one.get('parameters')) for one in manifests),
        multiply_adds=Spread.of(positive(one.get('multiply_adds')) for one in manifests),
        images_per_second={
            batch: Spread.of(batch / seconds if (seconds := positive(one.get(str(batch)))) else None for one in timed)
            for batch in _BATCHES
        },
    )


def _against(largest: ModelCost, one: ModelCost) -> ModelCost:
    def ratio(over: Spread | None, under: Spread | None) -> float | None:
        return over.mean / under.mean if over and under else None

    speeds = one.images_per_second
    return replace(
        one,
        times_smaller_than_the_largest=ratio(largest.parameters, one.parameters),
        times_faster_than_the_largest={
            batch: ratio(speeds[batch], largest.images_per_second.get(batch)) for batch in _BATCHES
        },
    )
