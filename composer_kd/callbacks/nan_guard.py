"""Stop a training whose loss is no number any more, before it is saved."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from composer_kd.errors import UserError
from composer_kd.models.batch import total_of

__all__ = ['NanGuard']


class NanGuard(Callback):
    """Stop with one line when the loss of a step, or what it made of the weights, is NaN or infinite, on any rank.

    The step is looked at before its checkpoint is written, so that the last checkpoint is a good one. The weights are
    looked at too, because a gradient can be NaN where the loss is not: the step that it spoils would be saved, and the
    last step of a training has no next one whose loss would show it.

    Args:
        checkpoints: The folder of the checkpoints, named in the line; ``None`` where none are kept.
    """

    def __init__(self, checkpoints: str | Path | None = None):
        self.checkpoints = checkpoints
        self._loss: torch.Tensor | None = None

    def batch_start(self, state: State, logger: Logger) -> None:
        self._loss = None

    def before_backward(self, state: State, logger: Logger) -> None:
        bad = ~torch.isfinite(total_of(state.loss).detach()).reshape(())
        self._loss = bad if self._loss is None else self._loss | bad

    def batch_end(self, state: State, logger: Logger) -> None:
        if self._loss is None:
            return
        bad = torch.stack([self._loss, _spoilt(state.model)]).to(torch.int32)
        if dist.get_world_size() > 1:
            dist.all_reduce(bad, reduce_operation='MAX')
        loss, weights = bad.tolist()
        if loss or weights:
            stamp = state.previous_timestamp or state.timestamp
            what = 'loss' if loss else 'weights'
            kept = f'; the last checkpoint in {self.checkpoints} is from before' if self.checkpoints else ''
            raise UserError(
                f'the {what} became NaN or infinite in epoch {int(stamp.epoch)}, batch {int(stamp.batch_in_epoch)} '
                f'(step {int(stamp.batch)}){kept}; lower optimizer.lr or kd_weight, add gradient_clipping, or use '
                f'precision: fp32'
            )


def _spoilt(model: torch.nn.Module) -> torch.Tensor:
    """Whether any parameter holds a NaN or an infinity: one pass of few kernels over all of them, nothing read back."""
    parameters = [p.detach() for p in model.parameters() if p.is_floating_point() and p.numel()]
    # The largest magnitude passes NaN on, and unlike a sum of squares it cannot overflow by itself.
    return ~torch.isfinite(torch.stack(torch._foreach_norm(parameters, math.inf))).all()
