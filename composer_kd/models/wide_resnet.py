"""Wide residual networks for small images, in their pre-activation form.

`Wide Residual Networks <https://arxiv.org/abs/1605.07146>`_: three stages of 16, 32 and 64 channels times a width, at
32x32, 16x16 and 8x8. WRN-40-2 is depth 40 and width 2.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from composer_kd.models.registry import MODELS
from composer_kd.models.weights import he_initialise

__all__ = ['PreActivationBlock', 'WideResNet', 'wrn', 'wrn_16_2', 'wrn_40_1', 'wrn_40_2']


class PreActivationBlock(nn.Module):
    """``conv(dropout(relu(bn(conv(a))))) + x`` with ``a = relu(bn(x))``; ``+ conv1x1(a)`` where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = torch.relu_(self.bn1(x))
        out = torch.relu_(self.bn2(self.conv1(activated)))
        out = self.conv2(self.dropout(out))
        return out + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """A 3x3 stem, three stages of pre-activation blocks, BatchNorm and ReLU, global average pooling, one linear layer.

    Args:
        depth: Number of convolutions, one shortcut a stage included: ``6 n + 4`` for ``n`` blocks a stage.
        width: What the stages' 16, 32 and 64 channels are multiplied by.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        dropout: Probability of dropping a value between the two convolutions of a block.
    """

    def __init__(self, depth: int, width: int, num_classes: int = 100, in_channels: int = 3, dropout: float = 0.0):
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f'depth must be 6 n + 4 (10, 16, 22, 28, 34, 40, ...), got {depth}')
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.stages = nn.ModuleList()
        channels = 16
        for index in range(3):
            stage = nn.Sequential()
            for block in range((depth - 4) // 6):
                stride = 2 if index > 0 and block == 0 else 1
                stage.append(PreActivationBlock(channels, 16 * 2**index * width, stride, dropout))
                channels = 16 * 2**index * width
            self.stages.append(stage)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in self.stages:
            x = stage(x)
        return self.fc(torch.relu_(self.bn(x)).mean(dim=(2, 3)))


@MODELS.register('wrn')
def wrn(
    depth: Annotated[int, Field(le=2000)],
    width: Annotated[int, Field(gt=0, le=1000)],
    num_classes: int = 100,
    in_channels: int = 3,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> WideResNet:
    """WRN of a depth and a width; WRN-28-10: 36.5M parameters, 5243M multiply-adds."""
    return WideResNet(depth, width, num_classes, in_channels, dropout)


@MODELS.register('wrn_16_2')
def wrn_16_2(num_classes: int = 100, in_channels: int = 3) -> WideResNet:
    """WRN-16-2: 0.70M parameters, 101M multiply-adds."""
    return WideResNet(16, 2, num_classes, in_channels)


@MODELS.register('wrn_40_1')
def wrn_40_1(num_classes: int = 100, in_channels: int = 3) -> WideResNet:
    """WRN-40-1: 0.57M parameters, 83M multiply-adds."""
    return WideResNet(40, 1, num_classes, in_channels)


@MODELS.register('wrn_40_2')
def wrn_40_2(num_classes: int = 100, in_channels: int = 3) -> WideResNet:
    """WRN-40-2: 2.26M parameters, 328M multiply-adds."""
    return WideResNet(40, 2, num_classes, in_channels)
