"""The table of models that a YAML file can name.

A factory returns a plain ``nn.Module`` from images to logits. It takes ``num_classes`` and, where it depends on the
shape of the data, ``in_channels`` (C) or ``in_features`` (C x H x W); those are filled in from the data. Every other
parameter has a type annotation and is an option of the model's YAML section, a required one where it has no default.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from composer_kd.registry import Registry

__all__ = ['MODELS']

MODELS: Registry[Callable[..., nn.Module]] = Registry('models')
