"""Losses against formulas written anew in NumPy, their gradients against finite differences, and their properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from composer_kd.functional import LOSSES, hard, kl, mse, soft_cross_entropy, standardize


def logits(seed: int, samples: int = 6, classes: int = 5, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(samples, classes, dtype=torch.float64, generator=generator)


def softened(z: Tensor, temperature: float) -> np.ndarray:
    e = np.exp(z.numpy() / temperature)
    return e / e.sum(axis=1, keepdims=True)


def kl_by_hand(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> float:
    p, q = softened(teacher, temperature), softened(student, temperature)
    return temperature**2 * float(np.mean([np.dot(pi, np.log(pi / qi)) for pi, qi in zip(p, q, strict=True)]))


def soft_ce_by_hand(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> float:
    p, q = softened(teacher, temperature), softened(student, temperature)
    return temperature**2 * float(np.mean([-np.dot(pi, np.log(qi)) for pi, qi in zip(p, q, strict=True)]))


def mse_by_hand(student: Tensor, teacher: Tensor) -> float:
    s, t = student.numpy(), teacher.numpy()
    return float(sum((s[i, c] - t[i, c]) ** 2 for i in range(len(s)) for c in range(s.shape[1]))) / s.size


def hard_by_hand(student: Tensor, teacher: Tensor) -> float:
    q = softened(student, 1.0)
    return float(np.mean([-np.log(q[i, teacher[i].argmax()]) for i in range(len(q))]))


BY_HAND = {
    'mse': (mse, mse_by_hand, {}),
    'kl at 4': (kl, kl_by_hand, {}),
    'kl at 1': (kl, kl_by_hand, {'temperature': 1.0}),
    'kl at 0.5': (kl, kl_by_hand, {'temperature': 0.5}),
    'kl at 40': (kl, kl_by_hand, {'temperature': 40.0}),
    'soft_ce at 4': (soft_cross_entropy, soft_ce_by_hand, {}),
    'soft_ce at 1.5': (soft_cross_entropy, soft_ce_by_hand, {'temperature': 1.5}),
    'hard': (hard, hard_by_hand, {}),
}
every_loss = pytest.mark.parametrize(('loss', 'by_hand', 'options'), BY_HAND.values(), ids=BY_HAND.keys())


def test_every_registered_loss_is_compared_here() -> None:
    assert {LOSSES.get(name) for name in LOSSES.names()} <= {loss for loss, _, _ in BY_HAND.values()}


@every_loss
def test_is_its_formula(loss, by_hand, options) -> None:
    student, teacher = logits(1), logits(2)
    assert loss(student, teacher, **options).item() == pytest.approx(by_hand(student, teacher, **options), rel=1e-10)


@every_loss
def test_is_the_average_over_samples(loss, by_hand, options) -> None:
    student, teacher = logits(1), logits(2)
    singly = [loss(student[i : i + 1], teacher[i : i + 1], **options).item() for i in range(len(student))]
    assert loss(student, teacher, **options).item() == pytest.approx(np.mean(singly), rel=1e-10)


@every_loss
def test_gradient_is_the_one_of_finite_differences(loss, by_hand, options) -> None:
    student, teacher = logits(3, samples=3, classes=4).requires_grad_(), logits(4, samples=3, classes=4)
    (gradient,) = torch.autograd.grad(loss(student, teacher, **options), student)
    step = 1e-6
    with torch.no_grad():
        for i in range(3):
            for c in range(4):
                up, down = student.clone(), student.clone()
                up[i, c] += step
                down[i, c] -= step
                slope = (by_hand(up, teacher, **options) - by_hand(down, teacher, **options)) / (2 * step)
                assert gradient[i, c].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_kl_asks_the_teacher_first() -> None:
    # KL(p_t || p_s) of a sure teacher and an undecided student, and the other way round: by hand at T = 1.
    sure, undecided = torch.log(torch.tensor([[0.9, 0.1]])), torch.zeros(1, 2)
    assert kl(undecided, sure, temperature=1.0).item() == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2), rel=1e-5)
    assert kl(sure, undecided, temperature=1.0).item() == pytest.approx(
        0.5 * np.log(1 / 1.8) + 0.5 * np.log(5), rel=1e-5
    )
    student, teacher = logits(1), logits(2)
    assert abs(kl(student, teacher) - kl(teacher, student)) > 0.01


def test_gradient_flows_into_the_student_as_the_difference_of_probabilities() -> None:
    # d/ds T^2 KL = T (q - p) / B; with swapped arguments it would be something else altogether.
    student, teacher = logits(1).requires_grad_(), logits(2)
    (gradient,) = torch.autograd.grad(kl(student, teacher, temperature=3.0), student)
    expected = 3.0 * (softened(student.detach(), 3.0) - softened(teacher, 3.0)) / len(teacher)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('loss', [kl, mse])
def test_is_zero_where_both_agree_and_positive_elsewhere(loss) -> None:
    z = logits(1)
    assert loss(z, z).item() == pytest.approx(0, abs=1e-12)
    assert loss(z, logits(2)).item() > 0.1


def test_kl_at_a_high_temperature_is_the_distance_of_centred_logits() -> None:
    # Hinton, Vinyals and Dean, section 2.1: T^2 KL -> ||(s - mean s) - (t - mean t)||^2 / (2 C).
    student, teacher = logits(1), logits(2)
    difference = (student - student.mean(dim=1, keepdim=True)) - (teacher - teacher.mean(dim=1, keepdim=True))
    expected = (difference**2).sum(dim=1).mean().item() / (2 * student.shape[1])
    assert kl(student, teacher, temperature=1e4).item() == pytest.approx(expected, rel=1e-3)
    assert kl(student, teacher, temperature=1.0).item() != pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize('temperature', [1.0, 2.0, 7.0])
def test_soft_ce_is_kl_plus_the_targets_entropy(temperature: float) -> None:
    student, teacher = logits(1).requires_grad_(), logits(2)
    p = softened(teacher, temperature)
    entropy = float(np.mean(-(p * np.log(p)).sum(axis=1)))
    one, other = soft_cross_entropy(student, teacher, temperature), kl(student, teacher, temperature)
    assert (one - other).item() == pytest.approx(temperature**2 * entropy, rel=1e-9)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (one, other)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('loss', [kl, soft_cross_entropy])
def test_logits_as_large_as_a_float_can_take_stay_finite(loss) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = loss(student, torch.tensor([[-1e4, 1e4, 0.0]]), temperature=1.0)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


def test_standardize_keeps_the_shape_and_drops_place_and_scale() -> None:
    z = logits(1)
    scored = standardize(z)
    np.testing.assert_allclose(scored.mean(dim=1).numpy(), 0, atol=1e-12)
    np.testing.assert_allclose(scored.numpy().std(axis=1), 1, rtol=1e-6)
    torch.testing.assert_close(standardize(5 * z + 3), scored, rtol=1e-6, atol=1e-8)
    # Sample by sample: shifting and scaling one leaves the others alone.
    other = z.clone()
    other[2] = 7 * other[2] - 1
    torch.testing.assert_close(standardize(other), scored, rtol=1e-6, atol=1e-8)
    assert torch.equal(scored.argsort(dim=1), z.argsort(dim=1))


def test_standardize_survives_a_sample_without_spread() -> None:
    # The outputs of a net whose last layer starts at zero.
    flat = torch.zeros(2, 4, requires_grad=True)
    kl(standardize(flat), standardize(logits(1, 2, 4).float())).backward()
    assert torch.isfinite(flat.grad).all()
