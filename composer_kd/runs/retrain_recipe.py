"""What a retraining does: from an earlier run, new data and a budget to the runs of a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from composer_kd.algorithms.roles import needs_of
from composer_kd.core.errors import UserError
from composer_kd.data.comparison import DataComparison
from composer_kd.models import build_model, multiply_adds
from composer_kd.models.finished_run import FinishedRun
from composer_kd.runs.objects import algorithm_class

__all__ = ['FullTraining', 'Retraining', 'plan_retraining']

# A training step is a forward and a backward pass, and the latter counts as two.
_PASSES_OF_A_STEP = 3

# What the measurements on docs/choosing.md say: a model that begins at its weights is as good as one that is trained
# anew after a fifth of the work; a student that begins anew and is taught needs half of it.
_WARM_BUDGET, _TAUGHT_BUDGET = 0.2, 0.5

# A warm-up, so that the earlier run's rate does not shake the weights, and a decay to zero. Both as measured there.
_SCHEDULER = {'name': 'cosine_annealing_with_warmup', 't_warmup': '0.1dur'}

# A teacher passes on its mistakes: where data has moved, it stops halfway.
_MOVED = 0.05
_VIEWS = 4

# Keys of a run that a retraining takes over from the earlier one. What it recorded, replaced or was measured under was
# its own affair.
_INHERITED = (
    'model', 'optimizer', 'scheduler', 'batch_size', 'microbatch_size', 'precision', 'channels_last', 'device',
    'compile', 'callbacks', 'predictions', 'eval_interval', 'save_interval', 'keep_checkpoints', 'threads',
)  # fmt: skip


@dataclass(frozen=True)
class FullTraining:
    """The training at the beginning of a chain of retrainings: a budget is a part of it, `--compare` repeats it.

    Attributes:
        run: Its run directory.
        epochs: How many it had.
        samples: How many it was trained on in an epoch.
        multiply_adds: Of a forward pass of its model.
        settings: Its optimizer, its scheduler and its duration.
    """

    run: str
    epochs: int
    samples: int
    multiply_adds: int
    settings: Mapping[str, Any]

    @property
    def work(self) -> float:
        """Multiply-adds of its steps."""
        return float(_PASSES_OF_A_STEP * self.epochs * self.samples * self.multiply_adds)

    @classmethod
    def of(cls, run: FinishedRun) -> FullTraining:
        manifest = run.manifest
        settings = {key: run.config.get(key) for key in ('optimizer', 'scheduler', 'max_duration')}
        return cls(
            str(run), manifest.finished_epoch or 1, manifest.data.num_samples, manifest.multiply_adds or 0, settings
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Retraining:
    """A retraining that has been laid out.

    Attributes:
        values: What a YAML file would say.
        way: How it recycles the earlier run, in words.
        duration: ``max_duration`` of the retraining.
        work: Its multiply-adds, teacher inside, as a part of the full training's.
    """

    values: dict[str, Any]
    way: str
    duration: str
    work: float


def plan_retraining(
    earlier: FinishedRun,
    full: FullTraining,
    comparison: DataComparison,
    data: Mapping[str, Any],
    *,
    name: str,
    folder: str,
    budget: float | None,
    model: Mapping[str, Any] | None,
    seed: int,
    compare: bool,
) -> Retraining:
    """Lay out a retraining.

    Args:
        earlier: The run whose model is retrained.
        full: The training that the budget is a part of.
        comparison: How the new data differs from that of ``earlier``.
        data: The section of the new data.
        name: Of the new run.
        folder: Where run directories lie.
        budget: The part of the full training's work; ``None``: 0.2, and 0.5 where the student begins anew.
        model: Another model than the earlier run's, which that one teaches; ``None`` for the same.
        seed: Of the new run.
        compare: Whether a run that trains anew at the full length stands beside it.
    """
    if model is not None and comparison.new_classes:
        known = earlier.manifest.data.num_classes
        raise UserError(
            f'model: {earlier} knows {known} classes and cannot teach the {len(comparison.new_classes)} new ones '
            f'({comparison.new_classes[0]}, ...); leave out model, and its own model is given outputs for them'
        )
    base = {key: earlier.config[key] for key in _INHERITED if key in earlier.config}
    kept = _without_recycling(earlier.config.get('algorithms') or {})
    base |= {'seed': seed, 'data': dict(data), 'replaces': str(earlier)}
    if model is not None:
        base['model'] = dict(model)
    part = (_WARM_BUDGET if model is None else _TAUGHT_BUDGET) if budget is None else budget
    cost = full.multiply_adds if model is None else _cost_of(model, earlier)
    recycle = _warm(earlier, comparison) if model is None else _taught(earlier, comparison)
    costs = _Costs(_PASSES_OF_A_STEP * cost, recycle.taught * (earlier.manifest.multiply_adds or 0))
    epochs = costs.epochs_for(part * full.work / comparison.samples)
    duration = _duration(epochs, comparison.samples, int(base['batch_size']))
    own = {'max_duration': duration, **recycle.settings, 'algorithms': {**kept, **recycle.algorithms}}
    lineage: dict[str, Any] = {name: own}
    if compare:
        lineage[f'{name}-anew'] = {**full.settings, **({'algorithms': kept} if kept else {})}
    values = {'name': name, 'save_folder': folder, **base, 'max_duration': duration, 'lineage': lineage}
    done = _epochs_of(duration, comparison.samples, int(base['batch_size']))
    work = comparison.samples * costs.of(done)
    return Retraining(values, recycle.way, duration, work / full.work if full.work else 0.0)


@dataclass(frozen=True)
class _Recycle:
    """How an earlier run is recycled.

    Attributes:
        algorithms: Names to options.
        settings: Other keys of the run.
        way: The same in words.
        taught: The part of the epochs in which the earlier model teaches.
    """

    algorithms: dict[str, Any]
    settings: dict[str, Any]
    way: str
    taught: float = 0.0


@dataclass(frozen=True)
class _Costs:
    """What a sample costs in multiply-adds.

    Attributes:
        step: An epoch of training.
        teacher: An epoch of teaching, which costs nothing once all views are recorded.
    """

    step: float
    teacher: float

    def of(self, epochs: float) -> float:
        return self.step * epochs + self.teacher * min(epochs, _VIEWS)

    def epochs_for(self, work: float) -> float:
        """Return how many epochs a sample may have for so much work."""
        return max(work / (self.step + self.teacher), (work - _VIEWS * self.teacher) / self.step)


def _warm(earlier: FinishedRun, comparison: DataComparison) -> _Recycle:
    """Begin at the weights: measured, the way that costs least on the same, on grown and on drifted data."""
    options: dict[str, Any] = {'from': str(earlier)}
    way = f'begins at the weights of {earlier}'
    if comparison.new_classes:
        options['more_classes'] = True
        way += f', with {len(comparison.new_classes)} more outputs'
    return _Recycle({'WarmStart': options}, {'scheduler': dict(_SCHEDULER)}, way)


def _taught(earlier: FinishedRun, comparison: DataComparison) -> _Recycle:
    """Let the earlier model teach another one; each image is shown to it once a view, and looked up from then on."""
    options: dict[str, Any] = {'teachers': [{'recorded': str(earlier), 'fill': True}]}
    moved = comparison.unseen_share is None or comparison.unseen_share > _MOVED
    if moved:
        options['schedule'] = 'first 0.5dur'
    way = f'taught by {earlier}, recorded in {_VIEWS} views' + (', in its first half' if moved else '')
    settings = {'data': {'views': _VIEWS}, 'scheduler': dict(_SCHEDULER)}
    return _Recycle({'TeacherMixupKD': options}, settings, way, 0.5 if moved else 1.0)


def _without_recycling(algorithms: Mapping[str, Any]) -> dict[str, Any]:
    """The algorithms that name no earlier run: those of the earlier training are no longer what is to be recycled."""
    return {name: options for name, options in algorithms.items() if not needs_of(algorithm_class(name))}


def _cost_of(model: Mapping[str, Any], earlier: FinishedRun) -> int:
    data = earlier.manifest.data
    return multiply_adds(build_model(dict(model), data.num_classes, data.shape, where='model'), data.shape)


def _duration(epochs: float, samples: int, batch_size: int) -> str:
    """Whole epochs, or batches where the budget is less than one."""
    if epochs >= 1:
        return f'{int(epochs + 1e-9)}ep'
    batches = int(epochs * (samples // batch_size))
    if batches < 1:
        raise UserError('budget: it is less than one batch of the new data; give more')
    return f'{batches}ba'


def _epochs_of(duration: str, samples: int, batch_size: int) -> float:
    number = int(duration[:-2])
    return number if duration.endswith('ep') else number / max(1, samples // batch_size)
