"""All ranks evaluate rank 0's buffers: those that are saved."""

from __future__ import annotations

from composer.core import Callback, State
from composer.loggers import Logger

from composer_kd.models.weights import share_buffers

__all__ = ['SyncBuffers']


class SyncBuffers(Callback):
    """Broadcast rank 0's buffers before every evaluation.

    BatchNorm's running statistics are each rank's own after a training step: without this, the ranks would evaluate
    different models, and none of them the one in the checkpoint. Training is not changed: DistributedDataParallel
    broadcasts the same buffers before the next forward pass.
    """

    def eval_start(self, state: State, logger: Logger) -> None:
        share_buffers(state.model)
