"""The interface of a teacher: a source of target outputs for a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from composer_kd.core.errors import UserError

if TYPE_CHECKING:
    from composer_kd.archive.run_dir import RunDir

__all__ = ['BaseTeacher', 'Outputs']


@dataclass(frozen=True)
class Outputs:
    """What a teacher answers to a batch.

    Attributes:
        logits: float32 ``[B, C]``.
        features: float32 outputs of the modules that :meth:`BaseTeacher.tap` named, by name.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


class BaseTeacher:
    """A source of target outputs for the very batch that the student saw.

    A teacher is a plain attribute of its algorithm: Composer neither saves, nor moves, nor trains it.
    """

    name: str
    """Names the teacher in lines and metrics."""

    def place(self, state: Any) -> None:
        """Get ready on the trainer's device, in its precision; called once, at the trainer's INIT."""

    def start(self, state: Any) -> None:
        """Get ready for the training data; called at FIT_START."""

    def outputs(self, batch: Any, state: Any) -> Outputs:
        """Answer a batch on the device, just as the student's forward received it."""
        raise NotImplementedError

    def tap(self, modules: Sequence[str]) -> None:
        """Answer with the features of these modules from now on; called at INIT, after :meth:`place`.

        Args:
            modules: Names as in ``named_modules()`` of the teacher's model.
        """
        raise UserError(f'teacher {self.name!r} has no features; use a live teacher')

    def release(self) -> None:
        """Remove what :meth:`tap` has put into the model; called at FIT_END."""

    def compile(self, **options: Any) -> None:
        """Run the model through ``torch.compile`` from now on."""

    @property
    def live_teachers(self) -> Sequence[BaseTeacher]:
        """The teachers that compute: a live one itself, or the model that a recorded one keeps for unknown samples."""
        return ()

    @property
    def run(self) -> RunDir | None:
        """The run directory that it comes from."""
        return None

    @property
    def weights_hash(self) -> str | None:
        """The hash of its weights, where it has any."""
        return None

    @property
    def only_looks_up(self) -> bool:
        """Whether it knows recorded samples alone, and so no evaluation data."""
        return False

    @property
    def stored_accuracy(self) -> float | None:
        """The validation accuracy at the end of its own training, where that is known."""
        return None

    def multiply_adds(self, shape: Sequence[int]) -> int:
        """The cost of one sample of that shape; 0 for a teacher that does not compute."""
        return 0
