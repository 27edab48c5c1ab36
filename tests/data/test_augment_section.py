"""``data.augment``: how a file writes it, what run.yaml and manifests keep of it, and which pixels it means."""

import json

import pytest
import torch

from composer_kd.core.errors import UserError
from composer_kd.core.options import parse_section
from composer_kd.data import open_data
from composer_kd.data.section import DataSection
from composer_kd.data.transform import Augmentation, ColourJitter, RandAugment
from composer_kd.functional import colour_jitter, normalise, rand_augment, resized_crop

STRONG = {'name': 'resized_crop', 'scale': [0.25, 1], 'colour_jitter': {'hue': 0.2}, 'rand_augment': {'magnitude': 5}}


def section_of(augment, **others) -> DataSection:
    return parse_section(DataSection, {'augment': augment, **others}, 'data')


JITTER = {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.1}
BOXES = {'scale': [0.08, 1.0], 'ratio': [0.75, 4 / 3]}
WRITTEN = {
    'true': (True, True),
    'crop_flip': ('crop_flip', True),
    'crop_flip with nothing': ({'name': 'crop_flip', 'rand_augment': False}, True),
    'false': (False, False),
    'none': ('none', False),
    'resized_crop': ('resized_crop', {'name': 'resized_crop', **BOXES}),
    'scale': ({'name': 'resized_crop', 'scale': [1, 1]}, {'name': 'resized_crop', **BOXES, 'scale': [1.0, 1.0]}),
    'jitter': ({'colour_jitter': True}, {'name': 'crop_flip', 'colour_jitter': JITTER}),
    'operations': (
        {'name': 'crop_flip', 'rand_augment': {'operations': 1}},
        {'name': 'crop_flip', 'rand_augment': {'operations': 1, 'magnitude': 9}},
    ),
}


@pytest.mark.parametrize(('written', 'kept'), WRITTEN.values(), ids=WRITTEN.keys())
def test_run_yaml_keeps_all_of_it_and_true_and_false_as_they_were(written, kept) -> None:
    """What a run began with before there were names is still the same."""
    section = section_of(written)
    assert section.model_dump(mode='json')['augment'] == kept
    assert section_of(kept) == section


WRONG = {
    'a name': ('resized_crops', r"data\.augment\.name: should be 'none', 'crop_flip' or 'resized_crop'"),
    'a number': (3, r'data\.augment: expected true, false, a name or a mapping'),
    'a key': ({'name': 'resized_crop', 'scal': [0.1, 1]}, r"data\.augment\.scal: unknown key; did you mean 'scale'"),
    'no area': ({'name': 'resized_crop', 'scale': [0, 1]}, r'data\.augment\.scale\.0: should be greater than 0'),
    'a larger area': ({'name': 'resized_crop', 'scale': [0.5, 2]}, r'data\.augment\.scale\.1: .*less than or equal'),
    'the wrong way': ({'name': 'resized_crop', 'scale': [1, 0.5]}, r'data\.augment\.scale: the smaller end'),
    'a single ratio': ({'name': 'resized_crop', 'ratio': [1]}, r'data\.augment\.ratio: .*at least 2'),
    'scale of a crop': ({'scale': [0.5, 1]}, r'data\.augment: scale belongs to resized_crop'),
    'none and more': ({'name': 'none', 'rand_augment': True}, r'data\.augment: none leaves .*use crop_flip with'),
    'a large magnitude': ({'rand_augment': {'magnitude': 31}}, r'data\.augment\.rand_augment\.magnitude: .*30'),
    'a large hue': ({'colour_jitter': {'hue': 0.6}}, r'data\.augment\.colour_jitter\.hue: .*0\.5'),
}  # fmt: skip


@pytest.mark.parametrize(('written', 'line'), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_one_line_that_names_the_key(written, line) -> None:
    with pytest.raises(UserError, match='^' + line) as refusal:
        section_of(written)
    assert '\n' not in str(refusal.value)


def test_manifests_say_of_crop_and_flip_what_they_always_said() -> None:
    said = {'name': 'crop_flip', 'version': 1, 'seed': 5, 'padding': 2, 'flip': True}
    assert Augmentation.of(section_of(True, augment_seed=5, padding=2)).as_mapping() == said
    assert list(Augmentation().as_mapping()) == list(said)
    nothing = {'name': 'none', 'version': 1, 'seed': 0, 'padding': 0, 'flip': False}
    assert Augmentation.of(section_of(False, augment_seed=5)).as_mapping() == nothing
    assert Augmentation.of(section_of(True, padding=0, flip=False)).as_mapping() == nothing


@pytest.mark.parametrize('written', [True, False, 'resized_crop', STRONG, {'colour_jitter': True}])
def test_a_manifest_names_an_augmentation_in_full(written) -> None:
    augmentation = Augmentation.of(section_of(written, augment_seed=7))
    read = json.loads(json.dumps(augmentation.as_mapping()))
    assert read == augmentation.as_mapping()
    assert Augmentation.from_mapping(read) == augmentation


STRANGE = {
    'another version': lambda said: {**said, 'version': 2},
    'another jitter': lambda said: {**said, 'colour_jitter': {**said['colour_jitter'], 'version': 2}},
    'a later option': lambda said: {**said, 'blur': 3},
    'a later option of a part': lambda said: {**said, 'rand_augment': {**said['rand_augment'], 'bins': 10}},
    'an unknown name': lambda said: {**said, 'name': 'crop-flip'},
    'nothing': lambda said: None,
}


@pytest.mark.parametrize('change', STRANGE.values(), ids=STRANGE.keys())
def test_what_cannot_be_made_again_is_refused(change) -> None:
    with pytest.raises(UserError, match='not of this version of composer_kd'):
        Augmentation.from_mapping(change(Augmentation.of(section_of(STRONG)).as_mapping()))


def test_operations_alone_leave_the_place_of_every_pixel() -> None:
    augmentation = Augmentation.of(section_of({'colour_jitter': True}, padding=0, flip=False))
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    key = torch.tensor([[3, 4]])
    assert torch.equal(augmentation(images, key), colour_jitter(images, key[:, 0], key[:, 1], 0))


def test_the_model_sees_the_parts_one_after_the_other(tiny) -> None:
    data = open_data(tiny(augment=STRONG, augment_seed=5, flip=False), 32, 0)
    data.train.dataloader.sampler.set_epoch(1)  # type: ignore[union-attr]
    batch = next(iter(data.train.dataloader))
    image, ids, views = batch[0], *batch[2].unbind(1)
    box = {'scale': (0.25, 1.0), 'flip': False}
    expected = colour_jitter(resized_crop(image, ids, views, 5, **box), ids, views, 5, hue=0.2)
    expected = rand_augment(expected, ids, views, 5, magnitude=5)
    got = data.train.microbatch_transforms(batch)[0]
    assert torch.equal(got, normalise(expected, *data.normalization))
    assert data.train_set.augmentation == Augmentation(
        'resized_crop', 1, 5, 0, False, (0.25, 1.0), (0.75, 4 / 3), ColourJitter(hue=0.2), RandAugment(magnitude=5)
    )
    # The validation images are as they are stored.
    assert data.val is not None
    batch = next(iter(data.val.dataloader))
    assert torch.equal(data.val.microbatch_transforms(batch)[0], normalise(batch[0], *data.normalization))
