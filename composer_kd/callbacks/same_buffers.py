"""All ranks evaluate rank 0's buffers: those that are saved."""

from __future__ import annotations

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from torch import nn

__all__ = ['SameBuffers', 'share_buffers']


class SameBuffers(Callback):
    """Broadcast rank 0's buffers before every evaluation.

    BatchNorm's running statistics are each rank's own after a training step: without this, the ranks would evaluate
    different models, and none of them the one in the checkpoint. Training is not changed: DistributedDataParallel
    broadcasts the same buffers before the next forward pass.
    """

    def eval_start(self, state: State, logger: Logger) -> None:
        share_buffers(state.model)


def share_buffers(model: nn.Module) -> None:
    """Give rank 0's buffers to all ranks."""
    if dist.get_world_size() == 1:
        return
    # One message a type of number instead of one a buffer: ResNet-56 has 171 of them.
    buffers = [buffer for buffer in model.buffers() if buffer.numel()]
    for dtype in sorted({buffer.dtype for buffer in buffers}, key=str):
        group = [buffer for buffer in buffers if buffer.dtype == dtype]
        flat = torch.cat([buffer.detach().reshape(-1) for buffer in group])
        dist.broadcast(flat, src=0)
        for buffer, values in zip(group, flat.split([buffer.numel() for buffer in group]), strict=True):
            buffer.copy_(values.view_as(buffer))
