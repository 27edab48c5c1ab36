"""The roles of an algorithm: what the rest of the package may ask of it.

`runs/` and `callbacks/` know algorithms by these alone. An algorithm of another package that has them gets what ours
get: it trains after the runs that it names, its cost stands in the report, its modules in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from composer.core import Algorithm, State
from torch import Tensor, nn

from composer_kd.archive import Samples
from composer_kd.core.errors import UserError
from composer_kd.core.schedule import Progress
from composer_kd.data.transform import Augmentation
from composer_kd.models.auxiliary import attach_auxiliary
from composer_kd.teachers.base import BaseTeacher

__all__ = [
    'BringsModules',
    'ChecksTraining',
    'Cost',
    'HasTeachers',
    'MakesExamples',
    'Need',
    'NeedKind',
    'ReportsCost',
    'Training',
    'UsesRuns',
    'attach_modules',
    'needs_of',
    'refuse_second',
    'unused_modules',
]

NeedKind = Literal['model', 'weights', 'losses', 'logits', 'features', 'examples']


@dataclass(frozen=True)
class Need:
    """What an option asks of the earlier run that it names.

    Attributes:
        kind: ``'model'``, ``'weights'`` (to begin at, so of the same architecture), ``'losses'``, ``'logits'``,
            ``'features'`` (of the model) or ``'examples'``. Losses, logits and examples are recorded: a run of the
            same file records by itself what a later one needs.
        many: Whether the option lists teachers: runs, ``{live: RUN}`` or ``{recorded: RUN, fill: true}``.
    """

    kind: NeedKind
    many: bool = False


@runtime_checkable
class UsesRuns(Protocol):
    """Names earlier runs: the planner puts run directories in the place of names, and trains in that order."""

    needs: ClassVar[Mapping[str, Need]]
    """By the name of the constructor's argument; ``from_`` is written ``from`` in a YAML."""


def needs_of(method: type[Algorithm]) -> Mapping[str, Need]:
    """List what an algorithm's options ask of earlier runs, by the names of its arguments."""
    return method.needs if isinstance(method, UsesRuns) else {}


@runtime_checkable
class HasTeachers(Protocol):
    """Has teachers, which are compiled with the student, named in the manifest and compared with it in the report."""

    @property
    def teachers(self) -> Sequence[BaseTeacher]: ...


@dataclass(frozen=True)
class Cost:
    """What an algorithm has computed beside the student's own training so far in this process, on this rank.

    Attributes:
        kind: ``'teacher'`` for answers of earlier models, ``'attack'`` for adversarial examples, ``'other'``.
        images: How many were passed forward.
        reused: How many were looked up or replayed instead.
        passes: Forward passes that each image counts as; a gradient counts as two.
        multiply_adds: Of one forward pass of one sample of a shape; ``None``: of the student.
    """

    kind: Literal['teacher', 'attack', 'other']
    images: int
    reused: int = 0
    passes: float = 1.0
    multiply_adds: Callable[[Sequence[int]], int] | None = None


@runtime_checkable
class ReportsCost(Protocol):
    """Reports its cost, which stands in ``metrics.jsonl`` and in the report."""

    last_step: Mapping[str, float]
    """The metrics that the last step logged."""

    def costs(self) -> Sequence[Cost]:
        """Counters so far, the same entries in the same order at every call."""
        ...

    def seconds(self) -> Mapping[str, tuple[float, float]]:
        """Seconds so far by kind of cost: inside steps, and between them. On a GPU this waits for the work."""
        ...


@runtime_checkable
class BringsModules(Protocol):
    """Brings modules of its own that are trained with the student, as regressors between features are."""

    def modules(self) -> Mapping[str, nn.Module]:
        """By name, the same objects at every call."""
        ...


@runtime_checkable
class MakesExamples(Protocol):
    """Makes adversarial examples that a recorder may keep for later runs."""

    @property
    def makes_examples(self) -> bool: ...

    def keep_examples(self) -> None:
        """Keep the examples whatever the mode. To be called before FIT_START."""
        ...

    def between_steps(self) -> AbstractContextManager[None]:
        """A block of work on examples outside of a step, whose seconds count as the algorithm's."""
        ...

    def gather_examples(self) -> None:
        """Tell all ranks each other's examples; all ranks come here together."""
        ...

    def kept_examples(self) -> tuple[Samples, Tensor, dict[str, Any]]:
        """The samples, their deltas, and what the attack was."""
        ...


@runtime_checkable
class ChecksTraining(Protocol):
    """Refuses what it cannot work with."""

    def check(self, training: Training) -> None:
        """Raise a :class:`.UserError` of one line; called by the planner and when a training starts."""
        ...


@dataclass(frozen=True)
class Training:
    """A training before its first step, as a YAML's configuration or Composer's state describes it.

    Attributes:
        algorithms: All of them, the asking one among them.
        progress: At the start, with the training's length; ``None`` where it is not known.
        sizes: ``batch_size`` and ``microbatch_size``, where they are known.
        validates: Whether the training is evaluated.
        augmentation: Of the training data, where it is known.
        place: The path of the run in the file; ``None`` for a Trainer's state.
        where: The path of the algorithm in the file.
    """

    algorithms: Sequence[Any]
    progress: Progress | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    validates: bool = True
    augmentation: Augmentation | None = None
    place: str | None = None
    where: str = ''

    @classmethod
    def of(cls, state: State) -> Training:
        """Describe a Trainer's state at FIT_START."""
        dataset = getattr(state.train_dataloader, 'dataset', None)
        return cls(
            algorithms=state.algorithms,
            progress=Progress.of(state),
            validates=bool(state.evaluators),
            augmentation=getattr(dataset, 'augmentation', None),
        )

    @property
    def planned(self) -> bool:
        """Whether a file describes it, and not a Trainer's state."""
        return self.place is not None

    def owner(self, algorithm: object) -> str:
        """How an error line calls an algorithm."""
        return self.where or type(algorithm).__name__

    def prefix(self, algorithm: object) -> str:
        """What stands before the name of an algorithm's option in an error line."""
        return f'{self.where}.' if self.where else f'{type(algorithm).__name__}: '

    def option(self, algorithm: object, name: str) -> str:
        """How an error line calls an option of an algorithm."""
        return f'{self.prefix(algorithm)}{name}'

    def key(self, name: str) -> str:
        """How an error line calls a key of the run."""
        return f'{self.place}.{name}' if self.place else name

    def others(self, algorithm: object) -> list[Any]:
        """The algorithms beside this one."""
        return [one for one in self.algorithms if one is not algorithm]


def refuse_second(algorithm: Algorithm, kind: type[Algorithm], training: Training, remedy: str) -> None:
    """Refuse a second algorithm of a kind.

    Args:
        algorithm: The asking one.
        kind: The class of which a training has one.
        training: All that is trained with.
        remedy: What to do instead.
    """
    others = [one for one in training.others(algorithm) if isinstance(one, kind)]
    if others:
        what = 'run' if training.planned else 'Trainer'
        raise UserError(
            f'{training.owner(algorithm)}: the {what} has {type(others[0]).__name__} already; {remedy} (checkpoints '
            f'could not tell two apart)'
        )


def attach_modules(algorithm: Algorithm, state: State) -> None:
    """Train the modules that an algorithm brings with the student; called at INIT.

    They become a part of Composer's model and a group of its first optimizer: so they lie in checkpoints, are averaged
    over ranks, and follow the learning rate. They are no part of the net inside, whose weights are saved.
    """
    assert isinstance(algorithm, BringsModules)
    attach_auxiliary(state, type(algorithm).__name__, algorithm.modules())


def unused_modules(algorithm: Algorithm) -> Tensor:
    """Make a zero that depends on every parameter of the modules: added to the loss of a step that does not use them.

    DistributedDataParallel waits for a gradient of every parameter.
    """
    assert isinstance(algorithm, BringsModules)
    parameters = [parameter for module in algorithm.modules().values() for parameter in module.parameters()]
    return torch.stack([0.0 * parameter.float().sum() for parameter in parameters]).sum()
