"""Stop a training whose loss is no number any more, before it is saved."""

from __future__ import annotations

from pathlib import Path

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from composer_kd.errors import UserError
from composer_kd.teachers.batch import total_of

__all__ = ['NanGuard']


class NanGuard(Callback):
    """Stop with one line when the loss of a step is NaN or infinite, on any rank.

    The step is looked at before its checkpoint is written, so that the last checkpoint is a good one.

    Args:
        checkpoints: The folder of the checkpoints, named in the line; ``None`` where none are kept.
    """

    def __init__(self, checkpoints: str | Path | None = None):
        self.checkpoints = checkpoints
        self._bad: torch.Tensor | None = None

    def batch_start(self, state: State, logger: Logger) -> None:
        self._bad = None

    def before_backward(self, state: State, logger: Logger) -> None:
        bad = ~torch.isfinite(total_of(state.loss).detach())
        self._bad = bad if self._bad is None else self._bad | bad

    def batch_end(self, state: State, logger: Logger) -> None:
        if self._bad is None:
            return
        bad = self._bad.to(torch.int32).reshape(1)
        if dist.get_world_size() > 1:
            dist.all_reduce(bad, reduce_operation='MAX')
        if bad.item():
            stamp = state.previous_timestamp or state.timestamp
            kept = f'; the last checkpoint in {self.checkpoints} is from before' if self.checkpoints else ''
            raise UserError(
                f'the loss became NaN or infinite in epoch {int(stamp.epoch)}, batch {int(stamp.batch_in_epoch)} '
                f'(step {int(stamp.batch)}){kept}; lower optimizer.lr or kd_weight, add gradient_clipping, or use '
                f'precision: fp32'
            )
