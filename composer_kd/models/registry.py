"""The table of models that a YAML file can name.

A factory returns a plain ``nn.Module`` from images to logits. It takes ``num_classes`` and, where it depends on the
shape of the data, ``in_channels`` (C) or ``in_features`` (C x H x W); those are filled in from the data. Every other
parameter has a type annotation and is an option of the model's YAML section, a required one where it has no default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

from pydantic import ConfigDict, model_validator
from torch import nn

from composer_kd.core.errors import UserError, nearest
from composer_kd.core.options import Section, option_error, parse_section, schema_of
from composer_kd.core.registry import Registry

__all__ = ['MODELS', 'ModelSection', 'build_model', 'refuse_smaller', 'same_model']

MODELS: Registry[Callable[..., nn.Module]] = Registry('models')


_FROM_THE_DATA = {'num_classes', 'in_channels', 'in_features'}


class ModelSection(Section):
    """``name`` of a model in :data:`~composer_kd.models.MODELS`; every other key is an option of its factory.

    The options are checked against the factory's signature: names, types, and that none is missing.
    """

    model_config = ConfigDict(extra='allow')

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @model_validator(mode='after')
    def _check_options(self) -> ModelSection:
        try:
            factory = MODELS.get(self.name)
        except UserError as error:
            raise option_error('name', str(error), self.name) from None
        schema = schema_of(factory, without=_FROM_THE_DATA)
        for key, value in self.options.items():
            if key not in schema.model_fields:
                raise option_error(key, f'unknown key; {nearest(key, schema.model_fields)}', value)
        schema.model_validate(self.options)
        return self


def build_model(
    section: ModelSection | Mapping[str, Any], num_classes: int, shape: Sequence[int], where: str = 'model'
) -> nn.Module:
    """The net that a model section describes, newly initialised.

    Args:
        section: A checked section, or the mapping as it stands in a YAML file or in a run's ``run.yaml``.
        num_classes: Number of classes of the data.
        shape: ``(C, H, W)`` of the data.
        where: The section's path, for error lines.
    """
    if not isinstance(section, ModelSection):
        section = parse_section(ModelSection, dict(section) if isinstance(section, Mapping) else section, where)
    factory = MODELS.get(section.name, where)
    from_the_data = {'num_classes': num_classes, 'in_channels': shape[0], 'in_features': prod(shape)}
    taken = inspect.signature(factory).parameters
    arguments = {key: value for key, value in from_the_data.items() if key in taken}
    try:
        return factory(**arguments, **section.options)
    except (ValueError, OverflowError, RuntimeError) as error:
        raise UserError(f'{where}: {error}') from error


def same_model(one: ModelSection, other: ModelSection) -> bool:
    """Whether two sections describe the same model: one factory, however it is spelt, with equal options."""
    return MODELS.get(one.name) is MODELS.get(other.name) and one.options == other.options


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
