"""What each arm's model costs where it is used: its size, the operations of an image, and images a second."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from composer_kd.report.load import Arm, canonical, mapping, number
from composer_kd.report.render.text import (
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
from composer_kd.report.sections import SECTIONS, ReportSection
from composer_kd.report.stats import Spread

__all__ = ['ModelCost', 'ModelsReport']

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
class ModelsReport(ReportSection):
    """Size, operations and speed, where the arms differ in their model."""

    order = 30
    method = (
        'Images a second are of forward passes in evaluation mode at batches of 1 and of 256: the median of several, '
        "in the run's own precision and layout, without compilation, measured after the run had ended."
    )

    def read(self) -> dict[str, ModelCost]:
        costs = {arm.name: _cost(arm) for arm in self.summary.arms}
        known = [one for one in costs.values() if one.parameters is not None]
        largest = max(known, key=lambda one: one.parameters.mean if one.parameters else 0.0, default=ModelCost())
        return {name: _against(largest, one) for name, one in costs.items()}

    @property
    def _differ(self) -> bool:
        return len({canonical(arm.runs[0].config.get('model')) for arm in self.summary.arms}) > 1

    def tables(self) -> Iterable[Table]:
        values: dict[str, ModelCost] = self.values
        if not self._differ or not any(one.parameters for one in values.values()):
            return
        adds = unit_for('multiply_adds', (one.multiply_adds for one in values.values()))
        primary = self.summary.primary

        def speed(batch: int) -> Callable[..., str]:
            return lambda arm, model: with_spread(model.images_per_second[batch], _SPEED, arm.n)

        def faster(batch: int) -> Callable[..., str]:
            return lambda arm, model: times(model.times_faster_than_the_largest[batch])

        columns: dict[str, Callable[..., str]] = {
            'arm': lambda arm, model: arm.marked(seconds=_timed(model)),
            # The seeds of an arm have one model, so a deviation would say nothing.
            f'parameters, {_PARAMETERS.name}': lambda arm, model: mean_text(model.parameters, _PARAMETERS),
            f'multiply-adds, {adds.name}'.rstrip(', '): lambda arm, model: mean_text(model.multiply_adds, adds),
            **{f'images/s at {batch}': speed(batch) for batch in _BATCHES},
            f'{primary.title}, %': lambda arm, model: with_spread(arm.accuracy[primary.name].last, PERCENT, arm.n),
            'smaller': lambda arm, model: times(model.times_smaller_than_the_largest),
            **{f'faster at {batch}': faster(batch) for batch in _BATCHES},
        }
        rows = [(arm, values[arm.name]) for arm in self.summary.arms]
        yield Table.of('Size, operations and speed of each model, against the largest', rows, columns).filled()

    def caveats(self) -> Iterable[str]:
        arms = [arm for arm in self.summary.arms if _timed(self.values[arm.name])]
        if not arms or not self._differ:
            return
        shared = [arm.name for arm in arms if arm.shared]
        if shared:
            yield f'{SHARED} The images a second of {and_join(shared)} were measured on a machine that other runs used.'
        runs = [run for arm in arms for run in arm.counted if mapping(run.manifest.get('inference'))]
        keys = {'device': 'devices', 'threads': 'numbers of threads', 'precision': 'precisions'}
        found = {what: [run.manifest['inference'].get(key) for run in runs] for key, what in keys.items()}
        found['machines'] = [run.manifest.get('hardware') for run in runs]
        differing = [what for what, values in found.items() if len(set(map(canonical, values))) > 1]
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
