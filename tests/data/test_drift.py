"""Drifts of samples and labels by hand: counts, who is there, what is nested, and where a path leads."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from composer_kd.core.errors import UserError
from composer_kd.core.options import parse_section
from composer_kd.data.convert import CIFAR100_CLASSES, CIFAR100_COARSE, CIFAR100_SUPERCLASSES
from composer_kd.data.drift import DRIFTS, Drift, SampleSet
from composer_kd.data.drift.base import PARTS
from composer_kd.data.section import DataSection
from composer_kd.functional.corruptions import corrupt


def population(sizes, part='train', coarse=None) -> SampleSet:
    """Classes of these sizes, mixed up, with ids that are not places."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    np.random.default_rng(0).shuffle(labels)
    count = len(labels)
    hashes = np.random.default_rng(1).integers(0, 2**63, count).astype(np.uint64)
    superclasses = None if coarse is None else tuple(f'super {number}' for number in range(max(coarse) + 1))
    return SampleSet(
        part, np.arange(count), np.arange(count) * 3 + 1, hashes, labels,
        tuple(f'class {number}' for number in range(len(sizes))), superclasses,
        None if coarse is None else tuple(coarse), np.ones(len(sizes), np.bool_),
    )  # fmt: skip


def made(name: str, **options) -> Drift:
    (drift,) = parse_section(DataSection, {'drift': {'name': name, **options}}, 'data').drift or [None]
    return drift


def ids(drifted: SampleSet) -> set[int]:
    return set(drifted.ids.tolist())


# -- how frequent classes are -----------------------------------------------------------------------------------------


def test_a_long_tail_is_exponential() -> None:
    everyone = population([100] * 5)
    # 100 * 16 ** (-c / 4), and the floor of it.
    assert made('long_tail', factor=16.0).change(everyone).sizes().tolist() == [100, 50, 25, 12, 6]
    assert made('long_tail', factor=16.0, order='reversed').change(everyone).sizes().tolist() == [6, 12, 25, 50, 100]
    drawn = made('long_tail', factor=16.0, order='drawn', seed=1).change(everyone).sizes().tolist()
    assert sorted(drawn) == [6, 12, 25, 50, 100]
    assert drawn != [6, 12, 25, 50, 100] != drawn[::-1]
    # The counts of CIFAR-100 with an imbalance of 100, as the literature has them: 500 and 5, 10,847 in all.
    sizes = made('long_tail', factor=100.0).change(population([500] * 100)).sizes()
    assert (sizes[0], sizes[-1], sizes.sum()) == (500, 5, 10847)


def test_a_tail_keeps_one_sample_and_other_sizes_in_proportion() -> None:
    assert made('long_tail', factor=1000.0).change(population([40, 20, 0, 8])).sizes().tolist() == [40, 2, 0, 1]


def test_a_longer_tail_is_within_a_shorter_one() -> None:
    everyone = population([60] * 6)
    tails = [ids(made('long_tail', factor=factor).change(everyone)) for factor in (2.0, 10.0, 50.0)]
    assert tails[0] > tails[1] > tails[2]


def test_dirichlet_priors() -> None:
    everyone = population([200] * 10)
    shifted = made('dirichlet', alpha=0.5).change(everyone)
    sizes = shifted.sizes()
    assert sizes.max() == 200
    assert sizes.min() >= 1
    assert sizes.std() > 30
    assert len(ids(shifted)) == len(shifted)
    assert np.array_equal(made('dirichlet', alpha=0.5).change(everyone).ids, shifted.ids)
    assert not np.array_equal(made('dirichlet', alpha=0.5, seed=1).change(everyone).sizes(), sizes)
    assert made('dirichlet', alpha=1e5).change(everyone).sizes().min() > 190


# -- who is there -----------------------------------------------------------------------------------------------------


def test_growing_data_contains_what_it_was() -> None:
    everyone = population([10, 20, 3, 1])
    grown = [made('growing', share=share).change(everyone) for share in (0.1, 0.25, 0.5, 0.9)]
    assert [one.sizes().tolist() for one in grown] == [[1, 2, 1, 1], [3, 5, 1, 1], [5, 10, 2, 1], [9, 18, 3, 1]]
    for smaller, larger in pairwise(map(ids, grown)):
        assert smaller < larger
    assert made('growing', share=1.0).simplify() is None
    assert made('growing', share=0.5).parts == ['train']
    assert ids(made('growing', share=0.5, seed=1).change(everyone)) != ids(grown[2])


def test_growth_goes_by_content() -> None:
    """Re-ordered and renumbered, the same images are there."""
    everyone = population([30] * 4)
    order = np.random.default_rng(2).permutation(len(everyone))
    shuffled = everyone.only(order)
    there = made('growing', share=0.4).change(everyone).hashes
    assert set(made('growing', share=0.4).change(shuffled).hashes.tolist()) == set(there.tolist())


def test_new_classes() -> None:
    everyone = population([5] * 6)
    few = made('new_classes', classes=2).change(everyone)
    assert few.sizes().tolist() == [5, 5, 0, 0, 0, 0]
    assert few.classes == everyone.classes
    assert made('new_classes', classes=2, order='reversed').change(everyone).sizes().tolist() == [0, 0, 0, 0, 5, 5]
    drawn = [made('new_classes', classes=count, order='drawn').change(everyone) for count in (2, 4)]
    assert ids(drawn[0]) < ids(drawn[1])
    assert (drawn[1].sizes() > 0).sum() == 4


def test_subpopulations_are_disjoint_and_cover_all() -> None:
    coarse = list(CIFAR100_COARSE)
    everyone = population([4] * 100, coarse=coarse)
    sides = {side: made('subpopulation', side=side).change(everyone) for side in ('source', 'target')}
    fine = {side: {everyone.labels[row] for row in one.rows} for side, one in sides.items()}
    assert fine['source'].isdisjoint(fine['target'])
    assert len(fine['source']) + len(fine['target']) == 100
    for number in range(20):
        assert sum(coarse[label] == number for label in fine['source']) == 3  # half of five, rounded up
    for one in sides.values():
        assert len(one.classes) == 20
        assert (one.superclasses, one.coarse) == (None, None)
        assert np.array_equal(one.labels, np.array(coarse)[everyone.labels[one.rows]])
    other = made('subpopulation', side='source', sources=1, seed=4).change(everyone)
    assert len({everyone.labels[row] for row in other.rows}) == 20


def test_samples_keep_their_fine_class_on_the_way_and_under_other_drifts() -> None:
    everyone = population([4] * 100, coarse=list(CIFAR100_COARSE))
    ends = {'from': {'name': 'subpopulation', 'side': 'source'}, 'to': {'name': 'subpopulation', 'side': 'target'}}
    way = made('path', steps=2, step=1, **ends).change(everyone)
    thinned = made('long_tail', factor=4).change(made('label_noise', rate=0.5).change(way))
    for one in (made('subpopulation', side='source').change(everyone), way, thinned):
        assert one.fine_classes == everyone.classes
        assert np.array_equal(one.fine, everyone.labels[one.rows])
    assert len(thinned) < len(way)
    assert everyone.fine is None


def test_the_superclasses_of_cifar100_are_the_standard_ones() -> None:
    parent = {name: CIFAR100_SUPERCLASSES[CIFAR100_COARSE[number]] for number, name in enumerate(CIFAR100_CLASSES)}
    assert parent['otter'] == 'aquatic_mammals'
    assert parent['ray'] == 'fish'
    assert parent['rocket'] == parent['tank'] == 'vehicles_2'
    assert np.bincount(CIFAR100_COARSE).tolist() == [5] * 20


# -- wrong labels -----------------------------------------------------------------------------------------------------


def test_symmetric_noise_has_its_rate_and_any_other_class() -> None:
    everyone = population([1000] * 5)
    noisy = made('label_noise', rate=0.3).change(everyone)
    wrong = noisy.labels != everyone.labels
    assert wrong.mean() == pytest.approx(0.3, abs=0.02)
    steps = np.bincount((noisy.labels - everyone.labels)[wrong] % 5, minlength=5) / wrong.sum()
    assert steps[0] == 0
    assert steps[1:] == pytest.approx([0.25] * 4, abs=0.03)
    assert np.array_equal(noisy.ids, everyone.ids)


def test_pair_flips_go_to_the_next_class() -> None:
    everyone = population([50] * 4)
    noisy = made('label_noise', rate=1.0, form='pair_flip').change(everyone)
    assert np.array_equal(noisy.labels, (everyone.labels + 1) % 4)


def test_noise_is_of_the_id_and_grows() -> None:
    everyone = population([100] * 4)
    noisy = made('label_noise', rate=0.3).change(everyone)
    some = everyone.only(np.arange(0, 400, 3))
    assert np.array_equal(made('label_noise', rate=0.3).change(some).labels, noisy.labels[::3])
    more = made('label_noise', rate=0.6).change(everyone)
    wrong = noisy.labels != everyone.labels
    assert np.array_equal(more.labels[wrong], noisy.labels[wrong])
    test = population([100] * 4, part='test')
    assert not np.array_equal(made('label_noise', rate=0.3, parts=['test']).change(test).labels, noisy.labels)
    assert made('label_noise', rate=0.3).parts == ['train']


def test_noise_names_no_class_that_is_yet_to_come() -> None:
    everyone = population([100] * 6)
    few = made('new_classes', classes=3, order='reversed').change(everyone)
    for form in ('symmetric', 'pair_flip'):
        noisy = made('label_noise', rate=0.5, form=form).change(few)
        assert set(noisy.labels.tolist()) == {3, 4, 5}


# -- paths ------------------------------------------------------------------------------------------------------------

ENDS = [
    ({'name': 'growing', 'share': 0.2}, {'name': 'growing', 'share': 0.9}),
    ({'name': 'long_tail', 'factor': 10.0}, {'name': 'long_tail', 'factor': 10.0, 'order': 'reversed'}),
    ({'name': 'subpopulation', 'side': 'source'}, {'name': 'subpopulation', 'side': 'target'}),
    ({'name': 'new_classes', 'classes': 4}, {'name': 'new_classes', 'classes': 10}),
    ({'name': 'label_noise', 'rate': 0.4}, {'name': 'dirichlet', 'alpha': 1.0}),
]


@pytest.mark.parametrize(('start', 'end'), ENDS, ids=lambda end: end['name'])
def test_a_path_begins_and_ends_at_its_ends(start, end) -> None:
    everyone = population([30] * 10, coarse=[0] * 5 + [1] * 5)
    way = {'from': start, 'to': end, 'steps': 4}
    for step, plain in ((0, start), (4, end)):
        path, plain = made('path', step=step, **way).simplify(), made(**plain)
        assert path.description('train') == plain.description('train')
        there, expected = path.change(everyone), plain.change(everyone)
        assert np.array_equal(there.ids, expected.ids)
        assert np.array_equal(there.labels, expected.labels)
    assert made('path', step=0, steps=4, to=end).simplify() is None


FOG = {'name': 'corruption', 'kind': 'fog', 'severity': 1.0}
NOISE = {'name': 'label_noise', 'rate': 0.3}


@pytest.mark.parametrize(
    ('way', 'value'),
    [
        ({'to': {'name': 'corruption', 'kind': 'fog', 'severity': 5.0}}, 2.0),
        ({'from': FOG, 'to': {**FOG, 'severity': 3}}, 1.8),
        ({'to': {'name': 'label_noise', 'rate': 0.5}}, 0.2),
        ({'from': {'name': 'growing', 'share': 0.2}, 'to': {'name': 'growing', 'share': 0.7}}, 0.4),
        ({'to': {'name': 'long_tail', 'factor': 32.0}}, 4.0),
        ({'from': {'name': 'new_classes', 'classes': 10}, 'to': {'name': 'new_classes', 'classes': 21}}, 14),
    ],
)  # fmt: skip
def test_numbers_lie_between(way, value) -> None:
    settled = made('path', steps=5, step=2, **way).simplify()
    numbers = {'corruption': 'severity', 'label_noise': 'rate', 'growing': 'share', 'long_tail': 'factor'}
    assert getattr(settled, numbers.get(settled.name, 'classes')) == pytest.approx(value)


def test_what_has_nothing_between_is_mixed_by_samples_that_stay() -> None:
    everyone = population([100] * 10, coarse=[0] * 5 + [1] * 5)
    source, target = (ids(made('subpopulation', side=side).change(everyone)) for side in ('source', 'target'))
    steps = [
        made('path', steps=5, step=step, to={'name': 'subpopulation', 'side': 'target'},
             **{'from': {'name': 'subpopulation', 'side': 'source'}}).simplify().change(everyone)
        for step in range(6)
    ]  # fmt: skip
    shares = [len(ids(step) & target) / len(target) for step in steps]
    assert shares == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1], abs=0.08)
    for before, after in pairwise(map(ids, steps)):
        assert before & target <= after
        assert after & source <= before
    assert all((np.diff(step.rows) > 0).all() for step in steps)


def test_a_path_of_pixels_mixes_by_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, 3, 8, 8), dtype=torch.uint8, generator=generator)
    numbers = torch.arange(200)
    kinds = ('contrast', 'brightness')
    start, end = ({'name': 'corruption', 'kind': kind, 'severity': 4} for kind in kinds)
    ends = [corrupt(images, numbers, kind, 4) for kind in kinds]
    over = torch.zeros(200, dtype=torch.bool)
    for step in (1, 2, 3):
        mixed = made('path', steps=4, step=step, to=end, **{'from': start}).simplify().paint(images, numbers, 'train')
        now = (mixed == ends[1]).flatten(1).all(1)
        assert torch.equal(mixed[~now], ends[0][~now])
        assert (now | ~over).all()
        assert now.double().mean().item() == pytest.approx(step / 4, abs=0.1)
        over = now


def test_a_path_keeps_to_the_parts_of_both() -> None:
    path = made('path', steps=2, step=1, parts=['train', 'test'], to={'name': 'growing', 'share': 0.5})
    assert path.simplify().parts == ['train']
    # One that does not come to a plain drift leaves alone what both ends do.
    noise = {'name': 'label_noise', 'rate': 0.5}
    mixed = made('path', steps=2, step=1, to={'name': 'growing', 'share': 0.5}, **{'from': noise})
    assert [part for part in PARTS if mixed.simplify().acts_on(part)] == ['train']
    with pytest.raises(UserError, match=r'data\.drift\.parts: its ends act on train alone; name one of those'):
        made('path', steps=2, step=1, parts=['test'], to={'name': 'growing', 'share': 0.5})


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('drift', 'message'),
    [
        ('fogg', r"^data\.drift\.name: 'fogg' is not one of the drifts; "),
        ({'name': 'growwing'}, r"^data\.drift\.name: 'growwing' .*did you mean 'growing'\?"),
        (3, r'^data\.drift: expected the name of a drift, or a mapping with name and options, got 3$'),
        ({'name': 'corruption', 'kind': 'fogg'}, r"^data\.drift\.kind: 'fogg' is not .* did you mean 'fog'\?"),
        ({'name': 'corruption', 'kind': 'fog', 'severity': 0}, r'^data\.drift\.severity: .* greater .* to 1, got 0$'),
        ({'name': 'corruption', 'kind': 'fog', 'severity': 6}, r'^data\.drift\.severity: .* less .* to 5, got 6$'),
        ([{'name': 'corruption', 'kind': 'fog', 'severty': 1}], r"^data\.drift\.0\.severty: unknown key; .*'severity'"),
        ({'name': 'corruption'}, r'^data\.drift\.kind: this key is required$'),
        ({'name': 'label_noise', 'rate': 1.5}, r'^data\.drift\.rate: '),
        ({'name': 'growing', 'share': 0.5, 'parts': []}, r'^data\.drift\.parts: '),
        ({'name': 'subpopulation', 'side': 'source', 'parts': ['test']}, r'^data\.drift\.parts: superclasses are'),
        ({**FOG, 'files': '/x', 'parts': ['train']}, r'^data\.drift\.parts: the publ'),
        ([NOISE, NOISE], r'^data\.drift\.1: a second label_noise with seed 0 draws what the first one draws; give it'),
        ([FOG, {**FOG, 'kind': 'snow', 'files': '/x'}], r'^data\.drift\.1: the images of its files would take'),
        ({'name': 'path', 'steps': 3, 'step': 4, 'to': {'name': 'growing', 'share': 0.5}}, r'^data\.drift\.step: 4 of'),
        ({'name': 'path', 'steps': 3, 'step': 1, 'to': {'name': 'growing'}}, r'^data\.drift\.to\.share: .* required$'),
    ],
)  # fmt: skip
def test_the_section_refuses_in_one_line(drift, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_section(DataSection, {'drift': drift}, 'data')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('drift', 'message'),
    [
        ({'name': 'subpopulation', 'side': 'source'}, r'^this data has no superclasses; synthetic100 and cifar100'),
        ({'name': 'new_classes', 'classes': 9}, r'^9 classes, and the data has 4; lower classes$'),
    ],
)
def test_data_that_does_not_fit(drift, message) -> None:
    with pytest.raises(UserError, match=message):
        made(**drift).change(population([5] * 4))


def test_ends_of_other_tasks() -> None:
    everyone = population([20] * 4, coarse=[0, 0, 1, 1])
    path = made('path', steps=2, step=1, to={'name': 'subpopulation', 'side': 'source'})
    with pytest.raises(UserError, match=r'^its two ends have other classes \(4 and 2\)'):
        path.simplify().change(everyone)


@pytest.mark.parametrize('sources', [5, 7])
def test_a_side_without_classes(sources) -> None:
    everyone = population([4] * 10, coarse=[0] * 5 + [1] * 5)
    with pytest.raises(UserError, match=rf"^{sources} of the 5 classes of 'super 0' at the source: .*; set sources"):
        made('subpopulation', side='source', sources=sources).change(everyone)


# -- files and other packages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('drift', [end for ends in ENDS for end in ends], ids=lambda end: str(list(end.values())))
def test_what_a_run_writes_down_is_read_again(drift) -> None:
    other = {**drift, 'seed': 7}
    given = [drift, {'name': 'path', 'steps': 3, 'step': 1, 'from': other, 'to': other}]
    section = parse_section(DataSection, {'drift': given}, 'data')
    assert parse_section(DataSection, section.model_dump(mode='json'), 'data') == section


def test_a_path_leads_to_no_drift_that_was_there_before_it() -> None:
    way = {'name': 'path', 'steps': 3, 'step': 1, 'to': FOG}
    with pytest.raises(UserError, match=r'data\.drift\.1: a second fog with seed 0 draws what the first one draws'):
        parse_section(DataSection, {'drift': [FOG, way]}, 'data')
    # Its own ends are two places of one way.
    assert parse_section(DataSection, {'drift': {**way, 'from': {**FOG, 'severity': 1}}}, 'data').drift


def test_two_of_a_kind_with_seeds_of_their_own_draw_apart() -> None:
    given = [NOISE, {**NOISE, 'seed': 1}, {**FOG, 'kind': 'snow'}, FOG]
    section = parse_section(DataSection, {'drift': given}, 'data')
    first, second, *_ = section.drift or []
    noisy = second.change(first.change(population([2000] * 4)))
    wrong = (noisy.labels != population([2000] * 4).labels).mean()
    # 0.3 + 0.3 - 0.09, less those that come back to a label of four by the second draw: 0.09 / 3.
    assert wrong == pytest.approx(0.48, abs=0.02)


def test_no_drift_is_the_default_however_it_is_written() -> None:
    for values in ({}, {'drift': None}, {'drift': []}):
        assert parse_section(DataSection, values, 'data').model_dump(mode='json')['drift'] is None


def test_another_package_adds_a_drift(monkeypatch) -> None:
    class Halved(Drift):
        name: str = 'halved'

        def change(self, population: SampleSet) -> SampleSet:
            return population.only(np.arange(0, len(population), 2))

    point = SimpleNamespace(name='halved', value='elsewhere:Halved', dist=SimpleNamespace(name='my-drifts'))
    groups = {'composer_kd.drifts': [point]}
    monkeypatch.setattr('composer_kd.core.registry.metadata.entry_points', lambda group: groups.get(group, []))
    monkeypatch.setattr(DRIFTS, '_plugins_seen', False)
    monkeypatch.setattr(DRIFTS, '_entries', dict(DRIFTS._entries))
    monkeypatch.setitem(__import__('sys').modules, 'elsewhere', SimpleNamespace(Halved=Halved))
    assert dict(DRIFTS.summaries())['halved'] == 'from my-drifts'
    assert len(made('halved', parts=['train']).change(population([10, 10]))) == 10
