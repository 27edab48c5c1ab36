"""Nets whose pooling leaves nothing of a small image say so in one line, in the first batch."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from composer_kd.errors import UserError

__all__ = ['refuse_smaller']


def refuse_smaller(net: nn.Module, side: int, name: str) -> None:
    """Let ``net`` refuse images that are narrower or lower than ``side``, by its ``name``, before it computes."""
    net.register_forward_pre_hook(partial(_refuse, side, name))


def _refuse(side: int, name: str, net: nn.Module, inputs: tuple[Any, ...]) -> None:
    height, width = inputs[0].shape[-2:]
    if min(height, width) < side:
        raise UserError(
            f'model: {name} needs images of at least {side}x{side}, got {height}x{width}; '
            'set data.image_size, or take another model'
        )
