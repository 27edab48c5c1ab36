"""Stop a training whose loss is no number any more, before it is saved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from composer_kd.core.errors import UserError
from composer_kd.models.batch import total_loss

__all__ = ['NanGuard']

# Steps between two looks. A look makes the host wait for a GPU, and reads every weight.
_LOOK_EVERY = 20


class NanGuard(Callback):
    """Stop with one line when the loss of a step, or what it made of the weights, is NaN or infinite, on any rank.

    Steps are looked at before anything is saved of them: whenever a checkpoint is written, at an epoch's end, and at
    least every 20 steps, so that a training that is lost does not go on. The line names the first bad step. The weights
    are looked at too, because a gradient can be NaN where the loss is not, and the last step of a training has no next
    one whose loss would show it.

    Args:
        checkpoints: The folder of the checkpoints, named in the line; ``None`` where none are kept.
    """

    def __init__(self, checkpoints: str | Path | None = None):
        self.checkpoints = checkpoints
        self._loss: torch.Tensor | None = None
        self._model: torch.nn.Module | None = None
        self._steps: list[tuple[str, torch.Tensor]] = []  # Those that were not looked at: their place, and whether bad.

    def batch_start(self, state: State, logger: Logger) -> None:
        self._loss = None

    def before_backward(self, state: State, logger: Logger) -> None:
        bad = ~torch.isfinite(total_loss(state.loss).detach()).reshape(())
        self._loss = bad if self._loss is None else self._loss | bad

    def batch_end(self, state: State, logger: Logger) -> None:
        if self._loss is None:
            return
        stamp = state.previous_timestamp or state.timestamp
        place = f'epoch {int(stamp.epoch)}, batch {int(stamp.batch_in_epoch)} (step {int(stamp.batch)})'
        self._steps.append((place, self._loss))
        self._model = state.model
        if len(self._steps) == _LOOK_EVERY:
            self._look()

    def epoch_end(self, state: State, logger: Logger) -> None:
        self._look()  # Before recorders write what the epoch showed.

    def fit_end(self, state: State, logger: Logger) -> None:
        self._look()

    def state_dict(self) -> dict[str, Any]:
        self._look()  # A checkpoint is being made.
        return {}

    def _look(self) -> None:
        """Refuse what was bad in the steps since the last look; all ranks come here together."""
        if not self._steps or self._model is None:
            return
        places, losses = zip(*self._steps, strict=True)
        self._steps = []
        bad = torch.stack([*losses, _spoilt(self._model)]).to(torch.int32)
        if dist.get_world_size() > 1:
            dist.all_reduce(bad, reduce_operation='MAX')
        *of_losses, of_weights = bad.tolist()
        if not any(of_losses) and not of_weights:
            return
        what, place = ('loss', places[of_losses.index(1)]) if any(of_losses) else ('weights', places[-1])
        kept = f'; the last checkpoint in {self.checkpoints} is from before' if self.checkpoints else ''
        raise UserError(
            f'the {what} became NaN or infinite in {place}{kept}; lower optimizer.lr or kd_weight, add '
            f'gradient_clipping, or use precision: fp32'
        )


def _spoilt(model: torch.nn.Module) -> torch.Tensor:
    """Whether any parameter holds a NaN or an infinity: one pass of few kernels over all of them, nothing read back."""
    parameters = [p.detach() for p in model.parameters() if p.is_floating_point() and p.numel()]
    # The largest magnitude passes NaN on, and unlike a sum of squares it cannot overflow by itself.
    return ~torch.isfinite(torch.stack(torch._foreach_norm(parameters, math.inf))).all()
