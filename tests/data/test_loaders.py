"""open_data end to end, on real shards: what batches hold, what is reproducible, what is refused."""

import numpy as np
import pytest
import torch

from composer_kd.core.errors import UserError
from composer_kd.core.options import parse_section
from composer_kd.data import open_data
from composer_kd.data.convert import convert
from composer_kd.data.section import DataSection
from composer_kd.data.transform import Augmentation
from composer_kd.functional.augment import augment, normalise


def batches(spec, epoch=0):
    spec.dataloader.sampler.set_epoch(epoch)
    return list(spec.dataloader)


def prepared(spec, batch):
    return spec.microbatch_transforms(batch)


def test_batches_are_uint8_images_labels_and_keys(tiny):
    data = open_data(tiny(), 32, 0)
    assert (data.num_classes, len(data.classes), len(data.superclasses), data.shape) == (100, 100, 20, (3, 32, 32))
    got = batches(data.train, epoch=4)
    assert len(got) == len(data.train_set) // 32
    image, label, key = got[0]
    assert (image.dtype, image.shape, image.is_contiguous()) == (torch.uint8, (32, 3, 32, 32), True)
    assert (label.dtype, key.dtype, key.shape) == (torch.int64, torch.int64, (32, 2))
    assert set(key[:, 1].tolist()) == {4}
    first = {int(row): number for number, row in enumerate(data.train_set.ids)}
    for sample_id, expected in zip(key[:, 0].tolist(), label.tolist(), strict=True):
        assert data.train_set.labels[first[sample_id]] == expected


def test_the_model_sees_the_augmented_and_normalised_image(tiny):
    data = open_data(tiny(augment_seed=5, padding=2, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]), 32, 0)
    image, label, key = batches(data.train, epoch=1)[0]
    x, y, k = prepared(data.train, (image, label, key))
    expected = augment(image, key[:, 0], key[:, 1], 5, 2, True)
    assert torch.equal(x, normalise(expected, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    assert torch.equal(y, label)
    assert torch.equal(k, key)
    assert data.train_set.augmentation == Augmentation(seed=5, padding=2)


def test_evaluation_is_never_augmented(tiny):
    data = open_data(tiny(eval_batch_size=40), 32, 0)
    for name in ('train_clean', 'val', 'test'):
        spec = getattr(data, name)
        seen = []
        for batch in batches(spec, epoch=77):
            assert set(batch[2][:, 1].tolist()) == {-1}
            assert torch.equal(prepared(spec, batch)[0], normalise(batch[0], *data.normalization))
            seen += batch[2][:, 0].tolist()
        assert seen == spec.dataloader.dataset.ids.tolist()


def test_the_parts_are_disjoint_and_whole(tiny):
    data = open_data(tiny(val_fraction=1 / 3, clean_subset=100), 10, 0)
    train, val = (set(spec.dataloader.dataset.ids.tolist()) for spec in (data.train, data.val))
    assert train | val == set(range(300))
    assert not train & val
    assert np.bincount(data.val.dataloader.dataset.labels).tolist() == [1] * 100
    assert set(data.train_clean.dataloader.dataset.ids.tolist()) < train
    assert np.bincount(data.train_clean.dataloader.dataset.labels).tolist() == [1] * 100
    assert open_data(tiny(val_fraction=0.0), 10, 0).val is None


def test_a_subset_leaves_validation_and_test_alone(tiny):
    whole = open_data(tiny(val_fraction=0.3), 10, 0)
    part = open_data(tiny(val_fraction=0.3, subset=100), 10, 0)
    assert len(part.train_set) == 100
    assert set(part.train_set.ids) < set(whole.train_set.ids)
    for name in ('val', 'test'):
        ids = [getattr(data, name).dataloader.dataset.ids for data in (whole, part)]
        assert np.array_equal(*ids)


def test_a_subset_seed_chooses_other_samples(tiny):
    ids = [
        set(open_data(tiny(val_fraction=0.3, subset=100, subset_seed=seed), 10, 0).train_set.ids) for seed in (0, 1, 1)
    ]
    assert ids[0] != ids[1] == ids[2]
    assert {len(one) for one in ids} == {100}


def test_mean_and_std_are_those_of_the_training_part(tiny):
    data = open_data(tiny(), 32, 0)
    pixels = data.train_set.images(torch.arange(len(data.train_set))).double() / 255
    torch.testing.assert_close(torch.tensor(data.info.mean).double(), pixels.mean((0, 2, 3)), rtol=0, atol=1e-7)
    std = pixels.std((0, 2, 3), correction=0)
    torch.testing.assert_close(torch.tensor(data.info.std).double(), std, rtol=0, atol=1e-7)


@pytest.mark.parametrize('augment', [True, {'name': 'resized_crop', 'colour_jitter': True, 'rand_augment': True}])
def test_host_and_device_augmentation_give_the_same_pixels(tiny, augment):
    device = open_data(tiny(augment=augment), 32, 0)
    host = open_data(tiny(augment=augment, augment_on='host', workers=1), 32, 0)
    for there, here in zip(batches(device.train, 2)[:3], batches(host.train, 2)[:3], strict=True):
        x, _, keys = prepared(device.train, there)
        assert torch.equal(prepared(host.train, here)[0], x)
        assert torch.equal(here[2], keys)


def test_a_folder_with_a_name_like_the_drawn_datas(gray_npz, tmp_path, monkeypatch):
    convert(str(gray_npz()), tmp_path / 'synthetic10')
    monkeypatch.chdir(tmp_path)
    assert open_data(DataSection(source='synthetic10', cache_dir=str(tmp_path / 'cache')), 8, 0).num_classes == 3


def test_without_augmentation_there_is_one_view(tiny):
    data = open_data(tiny(augment=False), 32, 0)
    batch = batches(data.train, 9)[0]
    assert set(batch[2][:, 1].tolist()) == {0}
    assert data.train_set.views == 1
    assert data.train_set.augmentation == Augmentation.none()
    assert torch.equal(prepared(data.train, batch)[0], normalise(batch[0], *data.normalization))


def test_looking_at_the_data_leaves_the_global_generator_alone(tiny):
    data = open_data(tiny(), 32, 0)
    before = torch.get_rng_state()
    batches(data.train)
    batches(data.test)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_writer_to_a_batch_does_not_reach_the_cache(tiny):
    data = open_data(tiny(), 32, 0)
    first = batches(data.train)[0][0]
    kept = first.clone()
    first.zero_()
    assert torch.equal(batches(data.train)[0][0], kept)


def test_resizing_changes_pixels_fingerprint_and_content_hashes(tiny):
    plain, small = open_data(tiny(), 32, 0), open_data(tiny(image_size=16), 32, 0)
    assert small.shape == (3, 16, 16)
    assert small.fingerprint != plain.fingerprint
    assert not set(small.train_set.content_hashes) & set(plain.train_set.content_hashes)
    assert batches(small.train)[0][0].shape == (32, 3, 16, 16)


def test_gray_images_keep_one_channel(gray_npz, tmp_path):
    convert(str(gray_npz()), tmp_path / 'out')
    data = open_data(DataSection(source=str(tmp_path / 'out'), cache_dir=str(tmp_path / 'cache')), 8, 0)
    assert data.shape == (1, 8, 8)
    with np.load(gray_npz()) as arrays:
        stored = arrays['images'][data.train_set.ids]
    assert np.array_equal(data.train_set.images(torch.arange(len(data.train_set)))[:, 0].numpy(), stored)


REFUSED = [
    ({'source': 'synthetc100'}, 32, r"^data.source: 'synthetc100' is not known; did you mean 'synthetic100'\?"),
    ({'source': '/nowhere/at/all'}, 32, r'^data.source: /nowhere/at/all: no such folder'),
    ({'source': 'nosuchscheme://a/b'}, 32, r'^nosuchscheme://a/b: Streaming cannot read this remote'),
    ({}, 512, r'^data: a batch of 512 is larger than the training part of 200 samples; lower'),
    ({'subset': 50}, 32, r'^data: the training part of 50 samples has no sample of class .*; raise data.subset$'),
    ({'mean': [0.5]}, 32, r'^data.mean: 1 values, and the images have 3 channels$'),
]


@pytest.mark.parametrize(('options', 'batch_size', 'message'), REFUSED)
def test_refusals_are_one_line(tiny, options, batch_size, message):
    with pytest.raises(UserError, match=message) as caught:
        open_data(tiny(**options), batch_size, 0)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'val_fraction': 0.6}, r'^data.val_fraction: '),
        ({'val_fraction': -0.1}, r'^data.val_fraction: '),
        ({'val_fracton': 0.1}, r'^data.val_fracton: unknown key; did you mean .val_fraction'),
        ({'mode': 'steam'}, r'^data.mode: '),
        ({'std': [0.1, 0.0, 0.1]}, r'^data.std: every standard deviation must be greater than 0'),
        ({'synthetic': {'train_size': 10}}, r'^data.synthetic.train_size: '),
    ],
)
def test_the_section_refuses(values, message):
    with pytest.raises(UserError, match=message):
        parse_section(DataSection, values, 'data')


def test_a_class_without_enough_samples_to_divide(gray_npz, tmp_path):
    labels = np.array([0] * 20 + [1] * 9 + [2] * 1 + [0, 1, 2] * 3)
    convert(str(gray_npz(labels=labels)), tmp_path / 'out')
    with pytest.raises(UserError, match=r"^data: the training part has no sample of class 'cat'; every class"):
        open_data(DataSection(source=str(tmp_path / 'out'), cache_dir=str(tmp_path / 'cache')), 8, 0)
