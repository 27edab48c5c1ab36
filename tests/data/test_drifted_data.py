"""open_data under drift: who is where, what is kept, what a recording still serves, and what a practitioner expects."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from composer_kd.archive.samples import Samples
from composer_kd.core.errors import UserError
from composer_kd.core.options import parse_section
from composer_kd.data import open_data
from composer_kd.data.convert import convert
from composer_kd.data.drift.corruption import Corruption
from composer_kd.data.section import DataSection
from composer_kd.functional.corruptions import CORRUPTIONS, corrupt

FOG = {'name': 'corruption', 'kind': 'fog', 'severity': 3.0}
NOISE = {'name': 'corruption', 'kind': 'gaussian_noise', 'severity': 5.0}
HALF = {'name': 'corruption', 'kind': 'pixelate', 'severity': 5.0}


@pytest.fixture
def opened(cache):
    """Opens the small drawn set under drifts: ``opened(FOG, val_fraction=0.2)``."""

    def make(*drifts, batch_size=10, device=None, **options):
        values = {'synthetic': {'train_size': 300, 'test_size': 100}, 'cache_dir': str(cache), **options}
        section = parse_section(DataSection, {**values, 'drift': list(drifts)}, 'data')
        return open_data(section, batch_size, 0, device=device)

    return make


def part(data, name):
    return getattr(data, name).dataloader.dataset


def everything(dataset):
    return dataset.images(torch.arange(len(dataset)))


PARTS = ('train', 'train_clean', 'val', 'test')


# -- pixels -----------------------------------------------------------------------------------------------------------


def test_every_part_shows_the_corruption_of_its_own_samples(opened):
    plain, foggy = opened(), opened(FOG)
    for name in PARTS:
        before, after = part(plain, name), part(foggy, name)
        assert np.array_equal(before.ids, after.ids)
        assert np.array_equal(before.labels, after.labels)
        # Test ids begin at 0 as training ids do: the other split has the next seed.
        expected = corrupt(everything(before), torch.from_numpy(before.ids), 'fog', 3.0, int(name == 'test'))
        assert torch.equal(everything(after), expected)
        assert not set(before.content_hashes) & set(after.content_hashes)
        assert before.fingerprint != after.fingerprint


def test_drifts_act_one_after_the_other(opened):
    both = part(opened(FOG, NOISE), 'test')
    stored = everything(part(opened(), 'test'))
    ids = torch.from_numpy(both.ids)
    foggy = corrupt(stored, ids, 'fog', 3.0, 1)
    assert torch.equal(everything(both), corrupt(foggy, ids, 'gaussian_noise', 5.0, 1))
    assert not torch.equal(everything(both), everything(part(opened(NOISE, FOG), 'test')))


def test_parts_that_it_leaves_alone_are_the_same_in_everything(opened):
    plain, tested = opened(), opened({**FOG, 'parts': ['test']})
    for name in ('train', 'train_clean', 'val'):
        before, after = part(plain, name), part(tested, name)
        assert before.fingerprint == after.fingerprint
        assert np.array_equal(before.content_hashes, after.content_hashes)
        assert torch.equal(everything(before), everything(after))
    assert part(plain, 'test').fingerprint != part(tested, 'test').fingerprint


@pytest.mark.parametrize('mode', ['cache', 'device'])
def test_grey_and_resized_images(gray_npz, tmp_path, mode):
    convert(str(gray_npz()), tmp_path / 'out')
    values = {'source': str(tmp_path / 'out'), 'cache_dir': str(tmp_path / 'cache'), 'image_size': 12, 'mode': mode}
    plain = open_data(parse_section(DataSection, values, 'data'), 4, 0)
    foggy = open_data(parse_section(DataSection, {**values, 'drift': FOG}, 'data'), 4, 0)
    before, after = part(plain, 'train'), part(foggy, 'train')
    assert foggy.shape == (1, 12, 12)
    ids = torch.from_numpy(before.ids)
    assert torch.equal(everything(after), corrupt(everything(before), ids, 'fog', 3.0, 0))
    assert not set(before.content_hashes) & set(after.content_hashes)


def test_pixels_are_painted_once(opened, cache, monkeypatch):
    first = part(opened(FOG, subset=110), 'train')
    monkeypatch.setattr('composer_kd.data.drift.corruption.corrupt', None)  # Whoever calls it now fails.
    again = part(opened(FOG, subset=110), 'train')
    assert torch.equal(everything(first), everything(again))
    with pytest.raises(TypeError):
        opened({**FOG, 'seed': 1}, subset=110)


def test_a_damaged_byte_is_found_and_painted_again(opened, cache, flip_byte, caplog):
    drift = {**FOG, 'parts': ['test'], 'seed': 9}
    before = set(cache.glob('drift-*'))
    expected = everything(part(opened(drift), 'test')).clone()
    (folder,) = set(cache.glob('drift-*')) - before
    flip_byte(folder / 'images.u8')
    assert torch.equal(everything(part(opened(drift), 'test')), expected)
    assert 'its content is not what was written' in caplog.text


WAY = {'name': 'path', 'steps': 3, 'step': 2, 'from': FOG, 'to': HALF}


@pytest.mark.parametrize('drifts', [[FOG], [WAY], [WAY, NOISE], [{'name': 'label_noise', 'rate': 0.3}, FOG]])
def test_a_stream_is_painted_as_it_is_decoded(opened, drifts):
    cached, streamed = opened(*drifts), opened(*drifts, mode='stream')
    for name in PARTS:
        one, other = part(cached, name), part(streamed, name)
        assert torch.equal(everything(one), everything(other))
        # In any company, and what was recorded in one mode is known in the other.
        some = torch.tensor([7, 3, 5])
        assert torch.equal(one.images(some), other.images(some))
        assert np.array_equal(one.content_hashes, other.content_hashes)
        assert np.array_equal(one.labels, other.labels)
        assert one.fingerprint == other.fingerprint


def test_a_resized_stream_is_painted_too(gray_npz, tmp_path):
    convert(str(gray_npz()), tmp_path / 'out')
    values = {'source': str(tmp_path / 'out'), 'cache_dir': str(tmp_path / 'cache'), 'image_size': 12, 'drift': FOG}
    cached, streamed = (
        open_data(parse_section(DataSection, {**values, 'mode': mode}, 'data'), 4, 0) for mode in ('cache', 'stream')
    )
    assert torch.equal(everything(part(cached, 'train')), everything(part(streamed, 'train')))
    assert np.array_equal(part(cached, 'train').content_hashes, part(streamed, 'train').content_hashes)


def test_content_hashes_are_equal_where_pixels_are(opened):
    """Over many drifts of the same samples: nobody is taken for another, and nobody is lost who has not changed."""

    def blur(severity):
        return {'name': 'corruption', 'kind': 'defocus_blur', 'severity': severity}

    ways = [{**WAY, 'step': step} for step in range(4)]
    several = [[], [FOG], [HALF], [FOG, HALF], [HALF, FOG], [{**FOG, 'severity': 2.5}], [NOISE], [{**NOISE, 'seed': 1}]]
    several += [[way] for way in ways] + [[blur(severity)] for severity in (4, 4.3, 4.7, 5)]
    for name in ('train', 'test'):
        images, hashes = [], []
        for drifts in several:
            dataset = part(opened(*drifts), name)
            images.append(everything(dataset))
            hashes.append(dataset.content_hashes)
        compared = 0
        for first in range(len(several)):
            for second in range(first):
                same = (images[first] == images[second]).flatten(1).all(1).numpy()
                assert np.array_equal(same, hashes[first] == hashes[second]), (several[first], several[second])
                compared += int(same.any() and not same.all())
        assert compared >= 6, 'pairs of which some samples are the same'


@pytest.mark.parametrize('kind', CORRUPTIONS)
def test_kinds_that_draw_nothing_are_known_by_content_alone(kind):
    """So that data that was renumbered keeps what was recorded; all others are of their ids, split and seed."""
    images = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images, hashes = images.repeat(2, 1, 1, 1), np.array([7, 7], np.uint64)
    drift = Corruption(kind=kind, severity=3.0)
    shown = drift.paint(images, torch.tensor([4, 900]), 'train')
    marks = drift.mark(hashes, torch.tensor([4, 900]), 'train')
    assert torch.equal(shown[0], shown[1]) == (marks[0] == marks[1]) == (not CORRUPTIONS[kind].draws)
    for other, part in ((drift, 'test'), (Corruption(kind=kind, severity=3.0, seed=1), 'train')):
        again = other.paint(images[:1], torch.tensor([4]), part)
        assert torch.equal(again, shown[:1]) == (other.mark(hashes[:1], torch.tensor([4]), part)[0] == marks[0])


PROGRAM = """
import sys, json, xxhash, torch
from composer_kd.data import open_data
from composer_kd.data.section import DataSection
from composer_kd.core.options import parse_section
data = open_data(parse_section(DataSection, json.loads(sys.argv[1]), 'data'), 10, 0)
images = data.train_set.images(torch.arange(len(data.train_set)))
print('HASH', xxhash.xxh3_64_hexdigest(images.numpy().tobytes()), data.fingerprint)
"""


@pytest.mark.slow
def test_another_process_with_a_cache_of_its_own_paints_the_same(opened, tmp_path):
    import json

    import xxhash

    data = opened(NOISE, FOG)
    values = {'synthetic': {'train_size': 300, 'test_size': 100}, 'drift': [NOISE, FOG], 'cache_dir': str(tmp_path)}
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, json.dumps(values)], capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, 'PYTHONPATH': str(Path.cwd()), 'OMP_NUM_THREADS': '1'},
    )  # fmt: skip
    named = xxhash.xxh3_64_hexdigest(everything(data.train_set).numpy().tobytes())
    assert f'HASH {named} {data.fingerprint}' in done.stdout


# -- samples ----------------------------------------------------------------------------------------------------------

SHIFTS = [
    {'name': 'long_tail', 'factor': 3.0},
    {'name': 'dirichlet', 'alpha': 1.0},
    {'name': 'growing', 'share': 0.5},
    {'name': 'label_noise', 'rate': 0.5},
    {'name': 'subpopulation', 'side': 'target'},
    NOISE,
]


@pytest.mark.parametrize('drift', SHIFTS, ids=lambda drift: drift['name'])
def test_nobody_changes_sides(opened, drift):
    plain, moved = opened(val_fraction=0.3), opened(drift, val_fraction=0.3)
    for name in PARTS[:1] + PARTS[2:]:
        before, after = part(plain, name), part(moved, name)
        assert set(after.ids) <= set(before.ids)
        assert len(set(after.ids)) == len(after.ids)
    assert set(part(moved, 'train_clean').ids) <= set(part(moved, 'train').ids)


def test_what_judges_stays_where_the_training_part_alone_moves(opened):
    plain = opened(val_fraction=0.3)
    for drift in ({'name': 'growing', 'share': 0.5}, {'name': 'label_noise', 'rate': 0.5}):
        moved = opened(drift, val_fraction=0.3)
        for name in ('val', 'test'):
            before, after = part(plain, name), part(moved, name)
            assert np.array_equal(before.ids, after.ids)
            assert np.array_equal(before.labels, after.labels)
            assert before.fingerprint == after.fingerprint
        assert moved.fingerprint != plain.fingerprint


def test_noise_is_on_the_labels_that_train(opened):
    plain, noisy = opened(), opened({'name': 'label_noise', 'rate': 0.5})
    before, after = part(plain, 'train'), part(noisy, 'train')
    wrong = before.labels != after.labels
    assert wrong.mean() == pytest.approx(0.5, abs=0.12)
    assert torch.equal(everything(before), everything(after))
    _, labels, keys = next(iter(noisy.train.dataloader))
    at = {int(sample): row for row, sample in enumerate(after.ids)}
    assert labels.tolist() == [after.labels[at[sample]] for sample in keys[:, 0].tolist()]


@pytest.mark.parametrize('mode', ['cache', 'device', 'stream'])
def test_samples_and_labels_drift_in_every_mode(opened, mode):
    drifts = [{'name': 'subpopulation', 'side': 'source'}, {'name': 'label_noise', 'rate': 0.3}]
    cached, other = opened(*drifts), opened(*drifts, mode=mode)
    assert (other.num_classes, len(other.classes), other.superclasses) == (20, 20, None)
    for name in PARTS:
        before, after = part(cached, name), part(other, name)
        assert np.array_equal(before.ids, after.ids)
        assert np.array_equal(before.labels, after.labels)
        assert torch.equal(everything(before)[:9], everything(after)[:9])
    sides = [opened({'name': 'subpopulation', 'side': side}) for side in ('source', 'target')]
    fine = [{part(opened(), 'test').labels[sample] for sample in part(one, 'test').ids} for one in sides]
    assert fine[0].isdisjoint(fine[1])


def test_new_classes_leave_room_for_those_to_come(opened):
    data = opened({'name': 'new_classes', 'classes': 40})
    assert data.num_classes == 100
    for name in PARTS:
        assert part(data, name).labels.max() == 39


def test_normalisation_is_that_of_the_undrifted_training_part(opened):
    plain = opened(subset=150)
    for drifts in ([FOG], [{'name': 'growing', 'share': 0.5}], [{'name': 'subpopulation', 'side': 'source'}, NOISE]):
        assert opened(*drifts, subset=150).normalization == plain.normalization


def test_the_ends_of_a_path_are_the_plain_drifts(opened, cache):
    way = {'name': 'path', 'steps': 4, 'to': FOG}
    plain, foggy = opened(), opened(FOG)
    kept = set(cache.glob('drift-*'))
    start, end = opened({**way, 'step': 0}), opened({**way, 'step': 4})
    assert (start.fingerprint, end.fingerprint) == (plain.fingerprint, foggy.fingerprint)
    assert torch.equal(everything(start.train_set), everything(plain.train_set))
    assert torch.equal(everything(end.train_set), everything(foggy.train_set))
    assert set(cache.glob('drift-*')) == kept


# -- recordings -------------------------------------------------------------------------------------------------------


def test_a_recording_serves_what_has_not_drifted(opened):
    plain = opened().train_set
    recorded = Samples.of(plain)
    half = opened({'name': 'path', 'steps': 10, 'step': 1, 'to': HALF}).train_set  # severity 0.5: half of the samples
    changed = (everything(half) != everything(plain)).flatten(1).any(1).numpy()
    assert 0.3 < changed.mean() < 0.7
    rows = recorded.rows_by_key(Samples.of(half))
    assert np.array_equal(rows, np.where(changed, -1, np.arange(len(plain))))

    noisy = opened({'name': 'label_noise', 'rate': 0.5}).train_set
    assert np.array_equal(recorded.rows_by_key(Samples.of(noisy)), np.arange(len(plain)))  # A logit knows no label,
    wrong = noisy.labels != plain.labels
    assert np.array_equal(recorded.rows_by_content(Samples.of(noisy)) < 0, wrong)  # a loss does.

    grown = opened({'name': 'growing', 'share': 0.5}).train_set
    assert np.array_equal(plain.ids[recorded.rows_by_key(Samples.of(grown))], grown.ids)


# -- published files --------------------------------------------------------------------------------------------------


@pytest.fixture
def published(opened, tmp_path):
    """A folder as CIFAR-C comes: severity s of image i is the value 40 s, and i in the first pixel."""
    labels = part(opened(), 'test').labels
    images = np.repeat(np.arange(1, 6, dtype=np.uint8) * 40, 100)[:, None, None, None] * np.ones(
        (1, 32, 32, 3), np.uint8
    )
    images[:, 0, 0, 0] = np.tile(np.arange(100), 5)
    np.save(tmp_path / 'fog.npy', images)
    np.save(tmp_path / 'labels.npy', np.tile(labels, 5).astype(np.uint8))
    return tmp_path


def test_published_files_stand_for_the_test_part(opened, published):
    plain, data = opened(), opened({**FOG, 'files': str(published)})
    for name in PARTS[:3]:
        assert part(data, name).fingerprint == part(plain, name).fingerprint
    test = part(data, 'test')
    images = everything(test)
    assert images[:, 0, 0, 0].tolist() == test.ids.tolist() == list(range(100))
    assert set(images[:, 1].unique().tolist()) == {120}  # severity 3
    between = everything(part(opened({**FOG, 'severity': 1.5, 'files': str(published)}), 'test'))
    assert set(between[:, 1, 0, 0].tolist()) == {40, 80}
    np.save(published / 'fog.npy', 255 - np.load(published / 'fog.npy'))
    other = part(opened({**FOG, 'files': str(published)}), 'test')
    assert other.fingerprint != test.fingerprint
    assert set(everything(other)[:, 1].unique().tolist()) == {135}


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda folder: (folder / 'fog.npy').unlink(), r'fog\.npy: no such file; files names a folder'),
        (lambda folder: (folder / 'labels.npy').unlink(), r'labels\.npy: no such file; files names a folder'),
        (lambda folder: (folder / 'fog.npy').write_bytes(b'no'), r'fog\.npy: not an \.npy file that can be read'),
        (
            lambda folder: np.save(folder / 'fog.npy', np.zeros((400, 32, 32, 3), np.uint8)),
            r'fog\.npy: it holds uint8 \[400, 32, 32, 3\]; uint8 \[500, 32, 32, 3\] is needed',
        ),
        (
            lambda folder: np.save(folder / 'fog.npy', np.zeros((500, 32, 32, 3), np.float32)),
            r'fog\.npy: it holds float32 \[500, 32, 32, 3\]; uint8',
        ),
        (
            lambda folder: np.save(folder / 'labels.npy', np.zeros(100, np.uint8)),
            r'labels\.npy: it holds \[100\] labels; 500 are needed',
        ),
        (
            lambda folder: np.save(folder / 'labels.npy', np.load(folder / 'labels.npy')[::-1]),
            r'labels\.npy: these are not the labels of the test split',
        ),
    ],
)
def test_files_of_something_else_are_one_line(opened, published, spoil, message):
    spoil(published)
    with pytest.raises(UserError, match=rf'^data\.drift: corruption: .*{message}') as caught:
        opened({**FOG, 'files': str(published)})
    assert '\n' not in str(caught.value)


def test_missing_files_are_found_before_anything_trains(tmp_path):
    way = {'name': 'path', 'steps': 2, 'step': 1, 'to': {**FOG, 'files': str(tmp_path / 'nowhere')}}
    for drift in (way, way['to']):
        section = parse_section(DataSection, {'drift': drift}, 'data')
        with pytest.raises(UserError, match=r'^gen1: data\.drift: .*nowhere/fog\.npy: no such file'):
            section.check_source('gen1: data')


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_data_that_a_drift_cannot_act_on_is_one_line(opened, gray_npz, tmp_path):
    with pytest.raises(UserError, match=r'^data\.drift: new_classes: 101 classes, and the data has 100'):
        opened({'name': 'new_classes', 'classes': 101})
    narrow = {'name': 'path', 'steps': 1, 'step': 1, 'parts': ['train', 'val']}
    with pytest.raises(UserError, match=r'^data\.drift: the train part has 20 classes then and the test part 100; let'):
        opened({**narrow, 'to': {'name': 'subpopulation', 'side': 'source'}})
    with pytest.raises(UserError, match=r'^data: a batch of 100 is larger than the training part of 40 samples'):
        opened({'name': 'new_classes', 'classes': 20}, batch_size=100)
    convert(str(gray_npz()), tmp_path / 'out')
    gray = {'source': str(tmp_path / 'out'), 'cache_dir': str(tmp_path / 'cache')}
    section = parse_section(DataSection, {**gray, 'drift': {'name': 'subpopulation', 'side': 'source'}}, 'data')
    with pytest.raises(UserError, match=r'^data\.drift: subpopulation: this data has no superclasses; synthetic100'):
        open_data(section, 8, 0)


def test_a_part_that_is_left_without_samples(gray_npz, tmp_path):
    labels = np.array([0, 1, 2] * 10 + [0, 1] * 4 + [0])  # class 2 is not in the test split
    convert(str(gray_npz(labels=labels)), tmp_path / 'out')
    drift = {'name': 'new_classes', 'classes': 1, 'order': 'reversed'}
    values = {'source': str(tmp_path / 'out'), 'cache_dir': str(tmp_path / 'cache'), 'drift': drift}
    with pytest.raises(UserError, match=r'^data\.drift: new_classes: it leaves no sample in the test part$'):
        open_data(parse_section(DataSection, values, 'data'), 2, 0)


def test_the_split_is_decided_on_what_is_stored(tiny):
    """Were it decided on drifted pixels, a sample would change sides when the weather does."""
    plain, foggy = (open_data(tiny(val_fraction=0.3, drift=drift), 10, 0) for drift in (None, [FOG]))
    assert np.array_equal(part(plain, 'val').ids, part(foggy, 'val').ids)
    assert np.array_equal(part(plain, 'train_clean').ids, part(foggy, 'train_clean').ids)
    assert replace(plain.info, fingerprint='') == replace(foggy.info, fingerprint='')
