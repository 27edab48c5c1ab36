"""The ResNets of the CIFAR distillation tables: three stages of basic blocks at 32x32, 16x16 and 8x8.

`Deep Residual Learning for Image Recognition <https://arxiv.org/abs/1512.03385>`_, section 4.2, in the form that the
published CIFAR-100 distillation results use: where a block changes the shape its shortcut is a 1x1 convolution with
BatchNorm (the paper's option B), not zero padding, so ResNet-56 with 100 classes has 861,620 parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from composer_kd.models.registry import MODELS
from composer_kd.models.weights import he_initialise

__all__ = [
    'BasicBlock',
    'CifarResNet',
    'resnet8',
    'resnet8x4',
    'resnet14',
    'resnet20',
    'resnet32',
    'resnet32x4',
    'resnet44',
    'resnet56',
    'resnet62',
    'resnet68',
    'resnet110',
]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut: ``relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))``."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu_(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu_(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """A residual network for small images: a 3x3 stem, three stages, global average pooling, one linear layer.

    Args:
        depth: Number of weighted layers, ``6 n + 2`` for ``n`` blocks a stage.
        widths: Channels of the stem and of the three stages.
        num_classes: Number of logits.
        in_channels: Channels of the images; 1 for MNIST.
    """

    def __init__(self, depth: int, widths: Sequence[int], num_classes: int = 100, in_channels: int = 3):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f'depth must be 6 n + 2 (8, 14, 20, ...), got {depth}')
        self.num_classes = num_classes
        blocks = (depth - 2) // 6
        stem, *stages = widths
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.stages = nn.ModuleList()
        channels = stem
        for index, width in enumerate(stages):
            stage = nn.Sequential()
            for block in range(blocks):
                stride = 2 if index > 0 and block == 0 else 1
                stage.append(BasicBlock(channels, width, stride))
                channels = width
            self.stages.append(stage)
        self.fc = nn.Linear(channels, num_classes)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = stage(x)
        return self.fc(x.mean(dim=(2, 3)))


_NARROW = (16, 16, 32, 64)
_WIDE = (32, 64, 128, 256)


@MODELS.register('resnet8')
def resnet8(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """CIFAR ResNet-8: 0.08M parameters, 13M multiply-adds."""
    return CifarResNet(8, _NARROW, num_classes, in_channels)


@MODELS.register('resnet14')
def resnet14(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """CIFAR ResNet-14: 0.18M parameters, 27M multiply-adds."""
    return CifarResNet(14, _NARROW, num_classes, in_channels)


@MODELS.register('resnet20')
def resnet20(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """CIFAR ResNet-20: 0.28M parameters, 41M multiply-adds."""
    return CifarResNet(20, _NARROW, num_classes, in_channels)


@MODELS.register('resnet32')
def resnet32(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """CIFAR ResNet-32: 0.47M parameters, 69M multiply-adds."""
    return CifarResNet(32, _NARROW, num_classes, in_channels)


@MODELS.register('resnet44')
def resnet44(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """CIFAR ResNet-44: 0.67M parameters, 97M multiply-adds."""
    return CifarResNet(44, _NARROW, num_classes, in_channels)


@MODELS.register('resnet56')
def resnet56(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """CIFAR ResNet-56: 0.86M parameters, 126M multiply-adds."""
    return CifarResNet(56, _NARROW, num_classes, in_channels)


@MODELS.register('resnet62')
def resnet62(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """CIFAR ResNet-62: 0.96M parameters, 140M multiply-adds."""
    return CifarResNet(62, _NARROW, num_classes, in_channels)


@MODELS.register('resnet68')
def resnet68(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """CIFAR ResNet-68: 1.06M parameters, 154M multiply-adds."""
    return CifarResNet(68, _NARROW, num_classes, in_channels)


@MODELS.register('resnet110')
def resnet110(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """CIFAR ResNet-110: 1.74M parameters, 253M multiply-adds."""
    return CifarResNet(110, _NARROW, num_classes, in_channels)


@MODELS.register('resnet8x4')
def resnet8x4(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """CIFAR ResNet-8, four times as wide: 1.23M parameters, 177M multiply-adds."""
    return CifarResNet(8, _WIDE, num_classes, in_channels)


@MODELS.register('resnet32x4')
def resnet32x4(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """CIFAR ResNet-32, four times as wide: 7.43M parameters, 1083M multiply-adds."""
    return CifarResNet(32, _WIDE, num_classes, in_channels)
