"""One set of buffers on all ranks: BatchNorm's running statistics are each rank's own after a training step."""

from __future__ import annotations

import torch
from composer.utils import dist
from torch import nn

__all__ = ['share_buffers']


def share_buffers(model: nn.Module) -> None:
    """Give rank 0's buffers to all ranks, which come here together."""
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
