"""torchvision's AlexNet, VGGs, ResNets and MobileNets by name, for small images unless ``stem: imagenet`` is said.

In torchvision's form they shrink an image 32 times: of 32x32 pixels one is left. With ``stem: cifar`` all begin with a
3x3 convolution of stride 1, and:

- AlexNet averages the last map to 2x2 instead of 6x6, and has hidden layers of 1024 instead of 4096.
- VGGs have no max-pool after the last block, whose 2x2 are averaged, and hidden layers of 512 instead of 4096.
- ResNets have no max-pool after the stem; the four stages work at 32x32, 16x16, 8x8 and 4x4.
- MobileNets have no stride in the first block that has one; the last blocks work at 4x4.

``stem: imagenet`` is torchvision's net as it is, for large images; only where they have another number of channels than
three is its first convolution another one. Weights are never downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from composer_kd.models.registry import MODELS, refuse_smaller
from composer_kd.models.weights import he_initialise

__all__ = [
    'alexnet',
    'mobilenet_v2',
    'mobilenet_v3_large',
    'mobilenet_v3_small',
    'resnet18',
    'resnet34',
    'resnet50',
    'vgg11',
    'vgg11_bn',
    'vgg13',
    'vgg13_bn',
    'vgg16',
    'vgg16_bn',
    'vgg19',
    'vgg19_bn',
]

Stem = Literal['cifar', 'imagenet']


@dataclass(frozen=True)
class _Family:
    """What becomes of torchvision's nets of one kind."""

    shrink: Callable[[Any], None]  # What ``stem: cifar`` changes beside the first convolution.
    cifar_side: int = 1  # The smallest image of which pooling leaves something.
    imagenet_side: int = 1


def _shrink_alexnet(net: Any) -> None:
    net.avgpool = nn.AdaptiveAvgPool2d(2)
    net.classifier[1] = nn.Linear(256 * 2 * 2, 1024)
    net.classifier[4] = nn.Linear(1024, 1024)
    net.classifier[6] = nn.Linear(1024, net.classifier[6].out_features)


def _shrink_vgg(net: Any) -> None:
    net.features = net.features[:-1]
    net.avgpool = nn.AdaptiveAvgPool2d(1)
    net.classifier[0] = nn.Linear(512, 512)
    net.classifier[3] = nn.Linear(512, 512)
    net.classifier[6] = nn.Linear(512, net.classifier[6].out_features)


def _shrink_resnet(net: Any) -> None:
    net.maxpool = nn.Identity()


def _shrink_mobilenet(net: Any) -> None:
    strided = next(part for part in net.modules() if isinstance(part, nn.Conv2d) and part.stride == (2, 2))
    strided.stride = (1, 1)


_ALEXNET = _Family(_shrink_alexnet, cifar_side=15, imagenet_side=63)
_VGG = _Family(_shrink_vgg, cifar_side=16, imagenet_side=32)
_RESNET = _Family(_shrink_resnet)
_MOBILENET = _Family(_shrink_mobilenet)


def _build(name: str, family: _Family, num_classes: int, in_channels: int, stem: Stem) -> nn.Module:
    from torchvision import models

    if stem not in get_args(Stem):
        raise ValueError(f"stem must be 'cifar' or 'imagenet', got {stem!r}")
    factory = getattr(models, name)
    if stem == 'imagenet':
        net = factory(num_classes=num_classes)
        if in_channels != 3:
            he_initialise(_replace_first_convolution(net, in_channels))
        refuse_smaller(net, family.imagenet_side, f'{name} with stem: imagenet')
        return net
    # Changed before it has memory: a VGG's own hidden layers are 120 million numbers, drawn to be thrown away.
    device = torch.empty(0).device
    with torch.device('meta'):
        net = factory(num_classes=num_classes)
        _replace_first_convolution(net, in_channels, kernel_size=3, stride=1, padding=1)
        family.shrink(net)
    net.to_empty(device=device)
    for part in net.modules():
        if hasattr(part, 'reset_parameters'):
            part.reset_parameters()
    he_initialise(net)
    # torch's own start of a linear layer more than halves what passes; a VGG without BatchNorm would hardly learn.
    *hidden, _ = (part for part in net.modules() if isinstance(part, nn.Linear))
    for layer in hidden:
        nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')
        nn.init.zeros_(layer.bias)
    refuse_smaller(net, family.cifar_side, name)
    return net


def _replace_first_convolution(net: nn.Module, in_channels: int, **changed: Any) -> nn.Conv2d:
    path, first = next((path, part) for path, part in net.named_modules() if isinstance(part, nn.Conv2d))
    shape = {'kernel_size': first.kernel_size, 'stride': first.stride, 'padding': first.padding, **changed}
    new = nn.Conv2d(in_channels, first.out_channels, bias=first.bias is not None, **shape)
    parent, _, name = path.rpartition('.')
    setattr(net.get_submodule(parent), name, new)
    return new


@MODELS.register('alexnet')
def alexnet(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """AlexNet: 4.65M parameters, 178M multiply-adds."""
    return _build('alexnet', _ALEXNET, num_classes, in_channels, stem)


@MODELS.register('vgg11')
def vgg11(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """VGG-11: 9.80M parameters, 153M multiply-adds."""
    return _build('vgg11', _VGG, num_classes, in_channels, stem)


@MODELS.register('vgg11_bn')
def vgg11_bn(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """VGG-11 with BatchNorm: 9.80M parameters, 153M multiply-adds."""
    return _build('vgg11_bn', _VGG, num_classes, in_channels, stem)


@MODELS.register('vgg13')
def vgg13(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """VGG-13: 9.98M parameters, 229M multiply-adds."""
    return _build('vgg13', _VGG, num_classes, in_channels, stem)


@MODELS.register('vgg13_bn')
def vgg13_bn(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """VGG-13 with BatchNorm: 9.99M parameters, 229M multiply-adds."""
    return _build('vgg13_bn', _VGG, num_classes, in_channels, stem)


@MODELS.register('vgg16')
def vgg16(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """VGG-16: 15.3M parameters, 314M multiply-adds."""
    return _build('vgg16', _VGG, num_classes, in_channels, stem)


@MODELS.register('vgg16_bn')
def vgg16_bn(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """VGG-16 with BatchNorm: 15.3M parameters, 314M multiply-adds."""
    return _build('vgg16_bn', _VGG, num_classes, in_channels, stem)


@MODELS.register('vgg19')
def vgg19(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """VGG-19: 20.6M parameters, 399M multiply-adds."""
    return _build('vgg19', _VGG, num_classes, in_channels, stem)


@MODELS.register('vgg19_bn')
def vgg19_bn(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """VGG-19 with BatchNorm: 20.6M parameters, 399M multiply-adds."""
    return _build('vgg19_bn', _VGG, num_classes, in_channels, stem)


@MODELS.register('resnet18')
def resnet18(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """ResNet-18 of the wide kind (64 to 512 channels): 11.2M parameters, 555M multiply-adds."""
    return _build('resnet18', _RESNET, num_classes, in_channels, stem)


@MODELS.register('resnet34')
def resnet34(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """ResNet-34 of the wide kind (64 to 512 channels): 21.3M parameters, 1159M multiply-adds."""
    return _build('resnet34', _RESNET, num_classes, in_channels, stem)


@MODELS.register('resnet50')
def resnet50(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """ResNet-50 of the wide kind (64 to 2048 channels): 23.7M parameters, 1298M multiply-adds."""
    return _build('resnet50', _RESNET, num_classes, in_channels, stem)


@MODELS.register('mobilenet_v2')
def mobilenet_v2(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """MobileNetV2: 2.35M parameters, 88M multiply-adds."""
    return _build('mobilenet_v2', _MOBILENET, num_classes, in_channels, stem)


@MODELS.register('mobilenet_v3_small')
def mobilenet_v3_small(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """MobileNetV3 (small): 1.62M parameters, 18M multiply-adds."""
    return _build('mobilenet_v3_small', _MOBILENET, num_classes, in_channels, stem)


@MODELS.register('mobilenet_v3_large')
def mobilenet_v3_large(num_classes: int = 100, in_channels: int = 3, stem: Stem = 'cifar') -> nn.Module:
    """MobileNetV3 (large): 4.33M parameters, 67M multiply-adds."""
    return _build('mobilenet_v3_large', _MOBILENET, num_classes, in_channels, stem)
