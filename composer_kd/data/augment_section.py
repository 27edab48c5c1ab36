"""``data.augment`` in a YAML file: what happens to a training image, by the key that it comes with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from composer_kd.section import Section

__all__ = ['AUGMENTATIONS', 'AugmentSection', 'ColourJitterSection', 'RandAugmentSection']

AUGMENTATIONS = {
    'crop_flip': 'a crop out of a zero border, half of them mirrored: the default, or true',
    'resized_crop': 'a box of random size and shape, stretched to the size of the image, half of them mirrored',
    'none': 'the image as it is stored; or false',
    '..., colour_jitter': 'after either crop: brightness, contrast, saturation and hue',
    '..., rand_augment': 'last of all: some of fourteen operations, at one magnitude',
}
"""The families of views, and what may come after them."""

Reach = Annotated[float, Field(ge=0, le=10)]
Shares = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2)]
Stretches = Annotated[list[Annotated[float, Field(ge=0.01, le=100)]], Field(min_length=2, max_length=2)]


class ColourJitterSection(Section):
    """How far factors may be from 1, and hues from their place."""

    brightness: Reach = 0.4
    contrast: Reach = 0.4
    saturation: Reach = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1


class RandAugmentSection(Section):
    """How many operations each image goes through, and their magnitude."""

    operations: Annotated[int, Field(ge=1, le=14)] = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9


class AugmentSection(Section):
    """A family of views. ``true`` is ``crop_flip``, ``false`` is ``none``, a name alone has its defaults.

    Attributes:
        name: ``'crop_flip'``, a crop out of a zero border; ``'resized_crop'``, a box of any size stretched to the
            image's; ``'none'``, the image as it is stored. ``data.flip`` mirrors half of the views of the first two.
        scale: Of ``resized_crop``: the smallest and the largest area of a box, as a part of the image's.
        ratio: Of ``resized_crop``: the smallest and the largest width of a box, as a multiple of its height.
        colour_jitter: After that, brightness, contrast, saturation and hue; ``true`` is all defaults.
        rand_augment: At the end, some of fourteen operations; ``true`` is all defaults.
    """

    name: Literal['none', 'crop_flip', 'resized_crop'] = 'crop_flip'
    scale: Shares = Field(default_factory=lambda: [0.08, 1.0])
    ratio: Stretches = Field(default_factory=lambda: [3 / 4, 4 / 3])
    colour_jitter: ColourJitterSection | None = None
    rand_augment: RandAugmentSection | None = None

    @model_validator(mode='before')
    @classmethod
    def _shortened(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return {'name': 'crop_flip' if value else 'none'}
        if value in ('colour_jitter', 'rand_augment'):
            raise ValueError(f'{value} comes after a family of views; write {{{value}: true}}')
        if isinstance(value, str):
            return {'name': value}
        if not isinstance(value, (dict, cls)):
            raise ValueError('expected true, false, a name or a mapping with a name')
        return value

    @field_validator('colour_jitter', 'rand_augment', mode='before')
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @field_validator('scale', 'ratio')
    @classmethod
    def _in_order(cls, value: list[float]) -> list[float]:
        if value[0] > value[1]:
            raise ValueError('the smaller end comes first')
        return value

    @model_validator(mode='after')
    def _fitting(self) -> AugmentSection:
        if self.name == 'none' and (self.colour_jitter or self.rand_augment):
            raise ValueError(
                'none leaves images as they are stored; for other operations alone use crop_flip with data.padding: 0 '
                'and data.flip: false'
            )
        stray = sorted({'scale', 'ratio'} & self.model_fields_set)
        if self.name != 'resized_crop' and stray:
            raise ValueError(f'{stray[0]} belongs to resized_crop; leave it out, or use that name')
        return self

    @model_serializer
    def _as_written(self) -> bool | dict[str, Any]:
        """What was ``true`` or ``false`` stays so; a run that was begun before there were names goes on."""
        boxes = {'scale': self.scale, 'ratio': self.ratio} if self.name == 'resized_crop' else {}
        parts = {'colour_jitter': self.colour_jitter, 'rand_augment': self.rand_augment}
        given = {name: part.model_dump() for name, part in parts.items() if part is not None}
        if not boxes and not given:
            return self.name == 'crop_flip'
        return {'name': self.name, **boxes, **given}

    def __str__(self) -> str:
        return str(self.model_dump())
