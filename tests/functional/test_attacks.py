"""Attacks against closed forms for a linear model, against foolbox, and by their promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from composer_kd.core.errors import UserError
from composer_kd.functional import fgsm, pgd, project, random_start, round_at_random
from composer_kd.functional.attacks import normalised, other_labels, pixels_of
from composer_kd.functional.augment import normalise

SHAPE = (2, 3, 4)
MEAN, STD = (0.4, 0.5), (0.2, 0.3)


def pixels(count: int = 5, low: int = 60, high: int = 200) -> Tensor:
    return torch.randint(low, high, (count, *SHAPE), generator=torch.Generator().manual_seed(1)).float()


def two_classes() -> tuple[nn.Module, Tensor]:
    """A linear model of two classes, and the direction in pixels in which the first one's margin falls fastest."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 2))
    weight = model[1].weight.detach()
    scale = 1 / (255 * torch.tensor(STD)).view(2, 1, 1)
    return model, (weight[1] - weight[0]).view(SHAPE) * scale


def small_net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(72, 4)
    ).eval()


def loss_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(model(normalised(images, (MEAN, STD))), labels, reduction='none')


# -- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('steps', [1, 5])
def test_on_a_linear_model_linf_is_the_sign(steps: int) -> None:
    model, direction = two_classes()
    images, labels = pixels(), torch.zeros(5, dtype=torch.int64)
    adversarial = pgd(model, images, labels, 8.0, 8.0 / steps, steps, normalization=(MEAN, STD))
    torch.testing.assert_close(adversarial - images, (8 * direction.sign()).expand_as(images), atol=1e-4, rtol=0)
    once = fgsm(model, images, labels, 8.0, normalization=(MEAN, STD))
    torch.testing.assert_close(once, adversarial, atol=1e-4, rtol=0)
    back = fgsm(model, images, labels, 8.0, targeted=True, normalization=(MEAN, STD))
    torch.testing.assert_close(back - images, images - once)


def test_on_a_linear_model_l2_is_the_direction() -> None:
    model, direction = two_classes()
    images, labels = pixels(), torch.zeros(5, dtype=torch.int64)
    expected = 20 * direction / direction.norm()
    for steps, size in ((1, 100.0), (4, 5.0), (10, 7.0)):
        adversarial = pgd(model, images, labels, 20.0, size, steps, 'l2', normalization=(MEAN, STD))
        torch.testing.assert_close(adversarial - images, expected.expand_as(images), atol=1e-3, rtol=1e-3)


def test_a_step_by_hand() -> None:
    # Two pixels, identity model: the loss of class 0 grows when its logit falls and the other's rises.
    images = torch.tensor([[250.0, 3.0]]).view(1, 2, 1, 1)
    options = {'normalization': lambda given: given / 255}
    adversarial = pgd(nn.Flatten(), images, torch.tensor([0]), 8.0, 6.0, 2, **options)
    assert adversarial.flatten().tolist() == [242.0, 11.0]
    towards = pgd(nn.Flatten(), images, torch.tensor([0]), 8.0, 6.0, 2, targeted=True, **options)
    assert towards.flatten().tolist() == [255.0, 0.0], 'pixels stay within 0 and 255'


# -- projection, start, targets ---------------------------------------------------------------------------------------


def test_projection_by_hand() -> None:
    deltas = torch.tensor([[3.0, -4.0], [30.0, -40.0], [0.0, 0.0]]).view(3, 1, 1, 2)
    assert project(deltas, 10.0).flatten(1).tolist() == [[3, -4], [10, -10], [0, 0]]
    by_hand = torch.tensor([[3.0, -4.0], [6.0, -8.0], [0.0, 0.0]])
    torch.testing.assert_close(project(deltas, 10.0, 'l2').flatten(1), by_hand)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_a_random_start_is_of_the_sample_and_the_step_alone(norm: str) -> None:
    ids = torch.tensor([9, 4, 77])
    start = random_start((3, *SHAPE), ids, 1, 2, 10.0, norm)
    assert torch.equal(start, random_start((3, *SHAPE), ids, 1, 2, 10.0, norm))
    assert torch.equal(start[[2, 0]], random_start((2, *SHAPE), ids[[2, 0]], 1, 2, 10.0, norm))
    for other in (random_start((3, *SHAPE), ids, 1, 3, 10.0, norm), random_start((3, *SHAPE), ids, 2, 2, 10.0, norm)):
        assert not torch.isclose(start, other).any()


def test_a_random_start_fills_the_ball_evenly() -> None:
    ids = torch.arange(4000)
    linf = random_start((4000, 1, 1, 2), ids, 0, 0, 4.0)
    assert linf.abs().max() <= 4
    assert linf.mean().abs() < 0.1
    assert linf.var() == pytest.approx(16 / 3, rel=0.05)
    l2 = random_start((4000, 1, 1, 2), ids, 0, 0, 4.0, 'l2').flatten(1)
    # In a disc, the square of the radius is uniform, and all directions are alike.
    assert (l2.norm(dim=1) ** 2 / 16).mean() == pytest.approx(0.5, abs=0.02)
    assert l2.norm(dim=1).max() <= 4 + 1e-5
    assert ((l2[:, 0] > 0) & (l2[:, 1] > 0)).float().mean() == pytest.approx(0.25, abs=0.03)


def test_targets_are_other_classes_and_of_the_sample_alone() -> None:
    ids, labels = torch.arange(3000), torch.arange(3000) % 5
    targets = other_labels(labels, ids, 3, 5)
    assert not (targets == labels).any()
    assert torch.bincount((targets - labels) % 5, minlength=5)[1:].min() > 650
    assert torch.equal(targets[10:20], other_labels(labels[10:20], ids[10:20], 3, 5))


# -- promises ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('norm', 'epsilon', 'size'), [('linf', 8.0, 3.0), ('l2', 30.0, 12.0)])
def test_stays_in_the_ball_and_in_the_bounds_and_raises_the_loss(norm: str, epsilon: float, size: float) -> None:
    model, images, labels = small_net(), pixels(low=0, high=256), torch.tensor([0, 1, 2, 3, 0])
    start = random_start(images.shape, torch.arange(5), 0, 0, epsilon, norm)
    adversarial = pgd(model, images, labels, epsilon, size, 6, norm, start=start, normalization=(MEAN, STD))
    deltas = adversarial - images
    largest = deltas.abs().max() if norm == 'linf' else deltas.flatten(1).norm(dim=1).max()
    assert largest <= epsilon + 1e-3
    assert adversarial.min() >= 0
    assert adversarial.max() <= 255
    assert (loss_of(model, adversarial, labels) > loss_of(model, images, labels)).all()


def test_pixels_with_equal_bounds_are_held_still() -> None:
    model, images, labels = small_net(), pixels(), torch.tensor([0, 1, 2, 3, 0])
    images[..., 0] = 0
    high = torch.full_like(images, 255.0)
    high[..., 0] = 0
    start = random_start(images.shape, torch.arange(5), 0, 0, 8.0)
    adversarial = pgd(model, images, labels, 8.0, 3.0, 4, start=start, bounds=(0.0, high), normalization=(MEAN, STD))
    assert (adversarial[..., 0] == 0).all()
    assert ((adversarial - images)[..., 1:] != 0).float().mean() > 0.9


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_an_image_whose_gradient_overflows_stays_where_it_is(norm: str) -> None:
    images, labels = pixels(), torch.tensor([0, 1, 2, 3, 0])

    def overflowing(normalised: Tensor) -> Tensor:
        logits = small_net()(normalised)
        return torch.cat([logits[:1] * torch.inf, logits[1:]])

    adversarial = pgd(overflowing, images, labels, 8.0, 3.0, 2, norm, normalization=(MEAN, STD))
    assert torch.equal(adversarial[0], images[0])
    moved = pgd(small_net(), images, labels, 8.0, 3.0, 2, norm, normalization=(MEAN, STD))
    assert torch.equal(adversarial[1:], moved[1:])


def test_the_strongest_is_never_weaker_than_the_start_nor_than_any_step() -> None:
    model, images, labels = small_net(), pixels(40), torch.arange(40) % 4
    start = pgd(model, images, labels, 8.0, 4.0, 10, normalization=(MEAN, STD)) - images
    # Steps far too large: they jump from one corner of the ball to another.
    options = {'start': start, 'normalization': (MEAN, STD)}
    last = loss_of(model, pgd(model, images, labels, 8.0, 30.0, 1, **options), labels)
    best = loss_of(model, pgd(model, images, labels, 8.0, 30.0, 1, strongest=True, **options), labels)
    began = loss_of(model, images + start, labels)
    assert (last < began - 1e-4).any(), 'the trap is real: some steps lose'
    torch.testing.assert_close(best, torch.maximum(last, began))


def test_the_model_is_not_touched() -> None:
    model, images, labels = small_net(), pixels(), torch.tensor([0, 1, 2, 3, 0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        pgd(model, images, labels, 8.0, 3.0, 3, normalization=(MEAN, STD), strongest=True)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_normalised_is_what_the_loader_does_and_pixels_come_back() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 2, 16, 16).contiguous()
    as_loaded = normalise(images, MEAN, STD)
    assert torch.equal(normalised(images.float(), (MEAN, STD)), as_loaded)
    assert torch.equal(pixels_of(as_loaded, MEAN, STD).round().to(torch.uint8), images)
    assert torch.equal(normalised(images.float(), lambda given: given / 2), images.float() / 2)


# -- other scales -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('images', 'epsilon', 'line'),
    [
        (torch.randn(4, *SHAPE), 8.0, r'images from -.* lie outside of the bounds, 0 to 255; give pixels'),
        (torch.rand(4, *SHAPE), 8 / 255, r'epsilon 0.0314 is less than a pixel of 0 to 255; 8 stands for 8/255'),
    ],
)
def test_images_and_epsilon_are_on_the_scale_of_the_bounds(images: Tensor, epsilon: float, line: str) -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(UserError, match=line) as refused:
        pgd(small_net(), images, labels, epsilon, epsilon / 4, 2, normalization=(MEAN, STD))
    assert '\n' not in str(refused.value)


def test_other_bounds_are_another_scale() -> None:
    model, images, labels = small_net(), pixels(), torch.arange(5) % 4
    ours = pgd(model, images, labels, 8.0, 2.0, 4, normalization=(MEAN, STD))
    of_one = pgd(model, images / 255, labels, 8 / 255, 2 / 255, 4, bounds=(0, 1),
                 normalization=lambda given: normalised(255 * given, (MEAN, STD)))  # fmt: skip
    assert ((255 * of_one - ours).abs() < 0.01).float().mean() > 0.99


def test_what_is_drawn_for_one_purpose_has_nothing_to_do_with_what_is_drawn_for_another() -> None:
    ids, shape = torch.arange(4000), (4000, 1, 2, 4)
    start = random_start(shape, ids, 3, 5, 8.0).flatten(1)
    up = round_at_random(torch.full(shape, 0.5), ids, 3, 5).flatten(1)
    together = torch.corrcoef(torch.cat([start, up], dim=1).T)[:8, 8:]
    assert together.abs().max() < 0.07  # four standard deviations of none


# -- sure models ------------------------------------------------------------------------------------------------------


def sure(times: float) -> nn.Module:
    """The same decisions between two classes, that much surer of them."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(72, 2)).eval()
    with torch.no_grad():
        for parameter in net[-1].parameters():
            parameter.mul_(times)
    return net


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize('strongest', [False, True])
def test_a_model_that_is_surer_of_the_same_decisions_withstands_no_more(norm: str, strongest: bool) -> None:
    images = pixels(60, 0, 256)
    with torch.no_grad():
        labels = sure(1.0)(normalised(images, (MEAN, STD))).argmax(dim=1)
    shown, right = {}, {}
    for times in (1.0, 3000.0):
        shown[times] = pgd(
            sure(times), images, labels, 20.0, 5.0, 10, norm, normalization=(MEAN, STD), strongest=strongest
        )
        with torch.no_grad():
            right[times] = sure(times)(normalised(shown[times], (MEAN, STD))).argmax(dim=1) == labels
        margins = sure(times)(normalised(images, (MEAN, STD))).detach().diff(dim=1).abs()
    # So sure that the cross-entropy of nearly all is 0 to the last bit of a float.
    assert margins.median() > 100
    assert torch.equal(right[1.0], right[3000.0])
    assert 0 < right[1.0].float().mean() < 1
    assert ((shown[1.0] - shown[3000.0]).abs() < 0.01).float().mean() > 0.99


# -- the peer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('norm', 'epsilon', 'size', 'steps'), [('linf', 8.0, 2.0, 20), ('linf', 30.0, 40.0, 1), ('l2', 40.0, 8.0, 20)]
)
@pytest.mark.parametrize('begin', ['image', 'start'])
def test_agrees_with_foolbox_on_the_same_start(norm: str, epsilon: float, size: float, steps: int, begin: str) -> None:
    foolbox = pytest.importorskip('foolbox', reason='foolbox is not installed (extra: adversarial)')
    model, images, labels = small_net(), pixels(40, 0, 256), torch.arange(40) % 4
    start = random_start(images.shape, torch.arange(40), 0, 0, epsilon, norm) if begin == 'start' else None
    ours = pgd(model, images, labels, epsilon, size, steps, norm, start=start, normalization=(MEAN, STD))

    kind = foolbox.attacks.LinfPGD if norm == 'linf' else foolbox.attacks.L2PGD

    class FromOurStart(kind):
        def get_random_start(self, x0, epsilon):
            given = type(x0)(images / 255 + start / 255)
            return given.clip(0, 1)

    scaled = {'mean': list(MEAN), 'std': list(STD), 'axis': -3}
    their_model = foolbox.PyTorchModel(model, bounds=(0, 1), preprocessing=scaled, device='cpu')
    attack = FromOurStart(abs_stepsize=size / 255, steps=steps, random_start=start is not None)
    _, (theirs,), _ = attack(their_model, images / 255, labels, epsilons=[epsilon / 255])
    # Signs of gradients near 0 may differ by rounding: then a pixel is elsewhere, and the loss is the same.
    close = (ours - 255 * theirs).abs() < 0.01
    assert close.float().mean() > 0.995
    torch.testing.assert_close(loss_of(model, ours, labels), loss_of(model, 255 * theirs, labels), atol=1e-3, rtol=1e-3)


# -- whole pixels -----------------------------------------------------------------------------------------------------


def test_rounding_is_right_on_average_and_a_function_of_who_and_when() -> None:
    shape, ids = (400, 3, 5, 5), torch.arange(400)
    for value in (0.25, -0.4, 2.9):
        rounded = round_at_random(torch.full(shape, value), ids, 1, 2)
        assert set(rounded.unique().tolist()) == {math.floor(value), math.ceil(value)}
        # 30,000 draws: four standard deviations.
        assert rounded.mean().item() == pytest.approx(value, abs=4 * 0.5 / 30_000**0.5)
        # No pixel goes with another one: those of one hash neither.
        up = (rounded - value).flatten(1)
        assert (torch.corrcoef(up.T) - torch.eye(75)).abs().max() < 0.3
    halves = torch.full(shape, 0.5)
    drawn = round_at_random(halves, ids, 1, 2)
    assert torch.equal(round_at_random(halves[7:9], ids[7:9], 1, 2), drawn[7:9])
    for seed, step in ((1, 3), (2, 2)):
        assert (round_at_random(halves, ids, seed, step) == drawn).float().mean() == pytest.approx(0.5, abs=0.02)


def test_rounding_leaves_whole_numbers() -> None:
    deltas = torch.randint(-127, 128, (50, 3, 4, 4), generator=torch.Generator().manual_seed(1)).float()
    assert torch.equal(round_at_random(deltas, torch.arange(50), 0, 0), deltas)
