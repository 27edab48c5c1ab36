"""Every public function computes where its input lies, and what it computes there is what it computes on the CPU."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from composer_kd import functional
from composer_kd.functional import LOSSES, attacks, colour, corruptions
from composer_kd.functional.augment import Crop, coefficients, crop_of, cropped
from composer_kd.functional.corruptions import CORRUPTIONS
from composer_kd.functional.rand_augment import OPERATIONS, chosen_operations
from composer_kd.functional.resample import PLACE_BITS, resample, warp
from composer_kd.functional.resized_crop import crop_boxes
from composer_kd.functional.top_k import level_of_rest
from tests.fake_gpu import FakeGpu, OnGpu

SIDE, MEAN, STD = 12, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


class Inputs(NamedTuple):
    """What the rows are made of: five samples, four classes, three teachers."""

    images: Tensor
    grey: Tensor
    ids: Tensor
    views: Tensor
    labels: Tensor
    logits: Tensor
    outputs: Tensor
    values: Tensor
    factors: Tensor
    deltas: Tensor
    net: Tensor

    @classmethod
    def drawn(cls) -> Inputs:
        drawn = torch.Generator().manual_seed(5)
        shape = (5, 3, SIDE, SIDE)
        return cls(
            images=torch.randint(0, 256, shape, generator=drawn, dtype=torch.uint8),
            grey=torch.randint(0, 256, (5, 1, SIDE, SIDE), generator=drawn, dtype=torch.uint8),
            ids=torch.tensor([7, 1, 30, 2, 9]),
            views=torch.tensor([0, 3, -1, 1, 2]),
            labels=torch.tensor([0, 3, 1, 1, 2]),
            logits=torch.randn(5, 4, generator=drawn),
            outputs=torch.randn(3, 5, 4, generator=drawn),
            values=torch.tensor([0.5, torch.nan, 0.2, 0.9, 0.2], dtype=torch.float64),
            factors=torch.tensor([0.2, 1.0, 0.7, 0.0, 1.4], dtype=torch.float64),
            deltas=torch.randn(shape, generator=drawn) * 8,
            net=torch.randn(4, 3 * SIDE * SIDE, generator=drawn) / SIDE,
        )

    def model(self, images: Tensor) -> Tensor:
        return F.linear(images.flatten(1), self.net)

    @property
    def pixels(self) -> Tensor:
        return self.images.float()

    @property
    def crop(self) -> Crop:
        return crop_of(self.ids, self.views, 1, 4, True)

    @property
    def places(self) -> Tensor:
        return (self.ids[:, None] * 300 + self.labels * 100) % ((SIDE - 1) << PLACE_BITS)

    @property
    def matrices(self) -> Tensor:
        return self.factors.view(-1, 1, 1) * self.values.new_ones(2, 3)


Row = Callable[[Inputs], Any]

# By name: a new public function needs a row here.
ROWS: dict[str, Row] = {
    'LOSSES': lambda i: [_lost(loss, i) for loss in map(LOSSES.get, LOSSES.names())],
    'adjust_brightness': lambda i: colour.adjust_brightness(i.images, i.factors),
    'adjust_contrast': lambda i: colour.adjust_contrast(i.images, i.factors),
    'adjust_hue': lambda i: colour.adjust_hue(i.images, i.factors - 0.7),
    'adjust_saturation': lambda i: colour.adjust_saturation(i.images, i.factors),
    'agreement': lambda i: functional.agreement(i.logits, i.outputs[0]),
    'augment': lambda i: [functional.augment(i.images, i.ids, view, 1) for view in (i.views, 2)],
    'average_logits': lambda i: functional.average_logits(i.outputs),
    'average_probabilities': lambda i: functional.average_probabilities(i.outputs),
    'blend': lambda i: colour.blend(i.images, i.grey.int(), i.factors),
    'chosen_operations': lambda i: chosen_operations(i.ids, i.views, 1, 2),
    'coefficients': lambda i: coefficients(MEAN, STD, i.images.device),
    'colour_jitter': lambda i: [functional.colour_jitter(images, i.ids, i.views, 1) for images in (i.images, i.grey)],
    'confidence_weights': lambda i: functional.confidence_weights(i.outputs),
    'corrupt': lambda i: corruptions.corrupt(i.images, i.ids, 'fog', 2),  # All of them below.
    'counter_hash': lambda i: functional.counter_hash(1, i.ids, 2, i.views),
    'crop_boxes': lambda i: crop_boxes(i.ids, i.views, 1, SIDE, SIDE),
    'crop_of': lambda i: [crop_of(i.ids, i.views, 1, 4, flip) for flip in (True, False)],
    'cropped': lambda i: cropped(i.images, i.crop, 4),
    'cwtm': lambda i: functional.cwtm(i.logits, i.outputs[0], i.labels),
    'dirichlet_weights': lambda i: [functional.dirichlet_weights(3, alpha, 1, 2, i.ids) for alpha in (0.3, 2.0)],
    'dist': lambda i: functional.dist(i.logits, i.outputs[0]),
    'dkd': lambda i: functional.dkd(i.logits, i.outputs[0], i.labels),
    'expected_calibration_error': lambda i: functional.expected_calibration_error(i.logits, i.labels),
    'fgsm': lambda i: functional.fgsm(i.model, i.pixels, i.labels, 8, normalization=(MEAN, STD)),
    'hard': lambda i: functional.hard(i.logits, i.outputs[0]),
    'keep_top': lambda i: [functional.keep_top(i.logits, k) for k in (2, 4)],
    'kl': lambda i: functional.kl(i.logits, i.outputs[0]),
    'level_of_rest': lambda i: level_of_rest(i.logits, i.labels[:, None]),
    'mix_outputs': lambda i: [functional.mix_outputs(i.outputs, w) for w in (i.outputs[:, 0, 0], i.outputs[:, :, 0])],
    'mse': lambda i: functional.mse(i.logits, i.outputs[0]),
    'normalise': lambda i: functional.normalise(i.images, MEAN, STD),
    'normalised': lambda i: attacks.normalised(i.pixels, (MEAN, STD)),
    'oracle_mix': lambda i: functional.oracle_mix(i.outputs, i.labels, i.outputs[:, :, 0] > 0),
    'other_labels': lambda i: attacks.other_labels(i.labels, i.ids, 1, 4),
    'permute_dark_knowledge': lambda i: [functional.permute_dark_knowledge(i.logits, ids) for ids in (i.ids, None)],
    'pgd': lambda i: [
        functional.pgd(i.model, i.pixels, i.labels, 8, 3, 2, norm, strongest=True, start=start)
        for norm, start in (('linf', None), ('l2', i.deltas))
    ],
    'pixels_of': lambda i: attacks.pixels_of(functional.normalise(i.images, MEAN, STD), MEAN, STD),
    'places': lambda i: [functional.places(i.values, i.ids, groups) for groups in (None, i.labels)],
    'project': lambda i: [functional.project(i.deltas, 8, norm) for norm in ('linf', 'l2')],
    'prune': lambda i: functional.prune(i.values, i.ids, 0.5, 1, 2),
    'rand_augment': lambda i: functional.rand_augment(i.images, i.ids, i.views, 1),
    'random_start': lambda i: [functional.random_start(i.images.shape, i.ids, 1, 2, 8, n) for n in ('linf', 'l2')],
    'resample': lambda i: resample(i.images, i.places, i.places),
    'resized_crop': lambda i: [functional.resized_crop(i.images, i.ids, views, 1) for views in (i.views, 2)],
    'right_counts': lambda i: functional.right_counts(i.outputs, i.labels),
    'round_at_random': lambda i: functional.round_at_random(i.deltas, i.ids, 1, 2),
    'severities_of': lambda i: corruptions.severities_of(i.ids, 2.5, 1),
    'share_weights': lambda i: functional.share_weights(functional.places(i.values, i.ids), 0.5),
    'shrink_perturb': lambda i: functional.shrink_perturb(i.logits, i.outputs[0], 0.4, 0.1),
    'soft_cross_entropy': lambda i: functional.soft_cross_entropy(i.logits, i.outputs[0]),
    'spread_rest': lambda i: functional.spread_rest(*functional.keep_top(i.logits, 2), 4),
    'standardize': lambda i: functional.standardize(i.logits),
    'to_grey': lambda i: [colour.to_grey(images) for images in (i.images, i.grey)],
    'to_half': lambda i: functional.to_half(i.logits * 1e5),
    'top_share': lambda i: functional.top_share(i.values, i.ids, 0.5),
    'uncropped': lambda i: functional.uncropped(i.images, 255 - i.images, i.crop, 4),
    'uniform': lambda i: functional.uniform(1, i.ids, 2),
    'visible': lambda i: functional.visible(i.crop, 4, SIDE, SIDE),
    'warp': lambda i: warp(i.images, i.matrices),
    'within_share': lambda i: functional.within_share(functional.places(i.values, i.ids), 0.5),
    'worst_group': lambda i: functional.worst_group(i.logits[:, 0] > 0, i.labels),
}

# Have no tensor to follow.
WITHOUT = {'pace': 'numbers in, a number out'}

# At 0.1 photons are so many that their number is drawn in another way.
SEVERITIES = (0.1, 1, 2.5, 5)


def _lost(loss: Callable[..., Tensor], inputs: Inputs) -> Tensor:
    more = {'labels': inputs.labels} if 'labels' in inspect.signature(loss).parameters else {}
    return loss(inputs.logits, inputs.outputs[0], **more)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for one in value:
            yield from _flat(one)
    else:
        yield value


def check(row: Row) -> None:
    inputs = Inputs.drawn()
    expected = list(_flat(row(inputs)))
    with FakeGpu() as gpu:
        there = list(_flat(row(Inputs(*map(gpu.put, inputs)))))
    assert len(there) == len(expected)
    for found, wanted in zip(there, expected, strict=True):
        if isinstance(wanted, Tensor):
            assert isinstance(found, OnGpu), 'the result is on the CPU'
            assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
            torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=0, equal_nan=True)
        else:
            assert found == wanted


@pytest.mark.parametrize('name', ROWS)
def test_computes_where_its_input_lies(name: str) -> None:
    check(ROWS[name])


@pytest.mark.parametrize('kind', CORRUPTIONS)
def test_corruptions_compute_where_the_images_lie(kind: str) -> None:
    for severity in SEVERITIES:
        check(lambda i, s=severity: [corruptions.corrupt(some, i.ids, kind, s, 3) for some in (i.images, i.grey)])


@pytest.mark.parametrize('name', OPERATIONS)
def test_operations_compute_where_the_images_lie(name: str) -> None:
    check(lambda i: OPERATIONS[name].apply(i.images, i.factors))


@pytest.mark.parametrize('kind', ['augment', 'colour_jitter', 'rand_augment', 'resized_crop'])
def test_ids_may_come_from_the_host(kind: str) -> None:
    inputs = Inputs.drawn()
    with FakeGpu() as gpu:
        images = gpu.put(inputs.images)
        there = getattr(functional, kind)(images, inputs.ids, inputs.views, 1)
        corrupted = corruptions.corrupt(images, inputs.ids, 'snow', 2)
    assert isinstance(there, OnGpu)
    assert torch.equal(there.cpu(), getattr(functional, kind)(inputs.images, inputs.ids, inputs.views, 1))
    assert torch.equal(corrupted.cpu(), corruptions.corrupt(inputs.images, inputs.ids, 'snow', 2))


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def test_every_public_function_has_a_row() -> None:
    public = set(functional.__all__) | {'corrupt', 'severities_of'}
    for module in pkgutil.iter_modules(functional.__path__):
        found = importlib.import_module(f'{functional.__name__}.{module.name}')
        public |= {name for name in found.__all__ if _is_function(getattr(found, name))}
    assert public == {*ROWS, *WITHOUT}
