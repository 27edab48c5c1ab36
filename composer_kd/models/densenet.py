"""DenseNets for small images: three blocks, at 32x32, 16x16 and 8x8, in which every layer sees all earlier ones.

`Densely Connected Convolutional Networks <https://arxiv.org/abs/1608.06993>`_. DenseNet-BC-100-12 is depth 100 and
growth 12, with bottleneck layers and a compression of 0.5 (the defaults); DenseNet-40-12 has neither
(``bottleneck: false``, ``compression: 1``).

The born-again tables name DenseNet-112-33, 90-60, 80-80 and 80-120. Three equal blocks of bottleneck layers have no
depth of 90 or 80: rounded down they are 88 and 76, rounded up 94 and 82.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from composer_kd.models.registry import MODELS, refuse_smaller
from composer_kd.models.weights import he_initialise

__all__ = ['DenseLayer', 'DenseNet', 'densenet']


def _convolution(in_channels: int, channels: int, kernel: int, dropout: float) -> list[nn.Module]:
    """The paper's composite function: BatchNorm, ReLU, convolution, and drop-out after every one of them."""
    return [
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False),
        nn.Dropout(dropout),
    ]


class DenseLayer(nn.Sequential):
    """``[x, conv3x3(x)]``, which has ``growth`` channels more; a bottleneck's 3x3 sees ``4 growth`` channels only."""

    def __init__(self, in_channels: int, growth: int, bottleneck: bool, dropout: float):
        layers = []
        if bottleneck:
            layers = _convolution(in_channels, 4 * growth, 1, dropout)
            in_channels = 4 * growth
        super().__init__(*layers, *_convolution(in_channels, growth, 3, dropout))

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([input, super().forward(input)], dim=1)


class DenseNet(nn.Module):
    """A 3x3 stem, three dense blocks with transitions between them, global average pooling, one linear layer.

    A transition, a 1x1 convolution and average pooling, begins the second and the third stage.

    Args:
        depth: Number of weighted layers: ``6 n + 4`` for ``n`` bottleneck layers a block, ``3 n + 4`` for
            ``n`` layers without bottlenecks.
        growth: Channels that a layer adds.
        compression: The part of the channels that a transition keeps.
        bottleneck: Put a 1x1 convolution before each 3x3 one.
        dropout: Probability of dropping a value after each convolution but the stem.
        num_classes: Number of logits.
        in_channels: Channels of the images.
    """

    def __init__(
        self,
        depth: int,
        growth: int,
        compression: float = 0.5,
        bottleneck: bool = True,
        dropout: float = 0.0,
        num_classes: int = 100,
        in_channels: int = 3,
    ):
        super().__init__()
        step = 6 if bottleneck else 3
        layers, rest = divmod(depth - 4, step)
        if layers < 1 or rest:
            low = max(1, layers) * step + 4
            form = f'{step} n + 4 {"with" if bottleneck else "without"} bottlenecks'
            raise ValueError(f'depth must be {form}, such as {low} or {low + step}, got {depth}')
        self.num_classes = num_classes
        # Twice the growth in a DenseNet-BC, which is both.
        channels = 2 * growth if bottleneck and compression < 1 else 16
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.stages = nn.ModuleList()
        for index in range(3):
            stage = nn.Sequential()
            if index > 0:
                kept = int(compression * channels)
                if kept < 1:
                    raise ValueError(
                        f'compression {compression:g} leaves none of {channels} channels; use a larger one'
                    )
                stage.append(nn.Sequential(*_convolution(channels, kept, 1, dropout), nn.AvgPool2d(2)))
                channels = kept
            for _ in range(layers):
                stage.append(DenseLayer(channels, growth, bottleneck, dropout))
                channels += growth
            self.stages.append(stage)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        he_initialise(self)
        refuse_smaller(self, 4, 'densenet')

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in self.stages:
            x = stage(x)
        return self.fc(torch.relu_(self.bn(x)).mean(dim=(2, 3)))


@MODELS.register('densenet')
def densenet(
    depth: Annotated[int, Field(le=2000)],
    growth: Annotated[int, Field(gt=0, le=1000)],
    compression: Annotated[float, Field(gt=0, le=1)] = 0.5,
    bottleneck: bool = True,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    num_classes: int = 100,
    in_channels: int = 3,
) -> DenseNet:
    """CIFAR DenseNet of a depth and a growth; DenseNet-BC-100-12: 0.80M parameters, 288M multiply-adds."""
    return DenseNet(depth, growth, compression, bottleneck, dropout, num_classes, in_channels)
