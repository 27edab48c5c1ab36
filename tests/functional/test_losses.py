"""Losses against formulas written anew in NumPy, their gradients against finite differences, and their properties."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.functional import LOSSES, cwtm, dist, dkd, hard, kl, mse, soft_cross_entropy, standardize


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


def kl_of_elements_by_hand(student: Tensor, teacher: Tensor, average: str, temperature: float = 4.0) -> float:
    assert average == 'elements'
    return kl_by_hand(student, teacher, temperature) / student.shape[1]


def dkd_by_hand(
    student: Tensor, teacher: Tensor, labels: Tensor, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> float:
    p, q = softened(teacher, temperature), softened(student, temperature)
    total = 0.0
    for pi, qi, y in zip(p, q, labels.tolist(), strict=True):
        one = pi[y] * np.log(pi[y] / qi[y]) + (1 - pi[y]) * np.log((1 - pi[y]) / (1 - qi[y]))
        rest_p, rest_q = np.delete(pi, y) / (1 - pi[y]), np.delete(qi, y) / (1 - qi[y])
        total += alpha * one + beta * float(np.dot(rest_p, np.log(rest_p / rest_q)))
    return temperature**2 * total / len(p)


def dist_by_hand(
    student: Tensor, teacher: Tensor, beta: float = 2.0, gamma: float = 2.0, temperature: float = 4.0
) -> float:
    p, q = softened(teacher, temperature), softened(student, temperature)
    within_samples = np.mean([np.corrcoef(pi, qi)[0, 1] for pi, qi in zip(p, q, strict=True)])
    within_classes = np.mean([np.corrcoef(pc, qc)[0, 1] for pc, qc in zip(p.T, q.T, strict=True)])
    return temperature**2 * float(beta * (1 - within_samples) + gamma * (1 - within_classes))


def cwtm_by_hand(student: Tensor, teacher: Tensor, labels: Tensor) -> float:
    p, q = softened(teacher, 1.0), softened(student, 1.0)
    top = p.max(axis=1)
    return float(sum(-top[i] * np.log(q[i, y]) for i, y in enumerate(labels.tolist())) / top.sum())


LABELS = torch.tensor([0, 3, 3, 1, 2, 0])
BY_HAND = {
    'mse': (mse, mse_by_hand, {}),
    'kl at 4': (kl, kl_by_hand, {}),
    'kl at 1': (kl, kl_by_hand, {'temperature': 1.0}),
    'kl at 0.5': (kl, kl_by_hand, {'temperature': 0.5}),
    'kl at 40': (kl, kl_by_hand, {'temperature': 40.0}),
    'kl of elements': (kl, kl_of_elements_by_hand, {'average': 'elements'}),
    'soft_ce at 4': (soft_cross_entropy, soft_ce_by_hand, {}),
    'soft_ce at 1.5': (soft_cross_entropy, soft_ce_by_hand, {'temperature': 1.5}),
    'hard': (hard, hard_by_hand, {}),
    'dkd': (dkd, dkd_by_hand, {'labels': LABELS}),
    'dkd at 1': (dkd, dkd_by_hand, {'labels': LABELS, 'alpha': 0.3, 'beta': 2.0, 'temperature': 1.0}),
    'dist': (dist, dist_by_hand, {}),
    'dist at 1': (dist, dist_by_hand, {'beta': 0.5, 'gamma': 3.0, 'temperature': 1.0}),
    'cwtm': (cwtm, cwtm_by_hand, {'labels': LABELS}),
}
# What compares or weighs the samples of a batch with each other is no average over them.
OF_THE_BATCH = ('dist', 'cwtm')
AVERAGES = {name: row for name, row in BY_HAND.items() if not name.startswith(OF_THE_BATCH)}
every_loss = pytest.mark.parametrize(('loss', 'by_hand', 'options'), BY_HAND.values(), ids=BY_HAND.keys())


def test_every_registered_loss_is_compared_here() -> None:
    assert {LOSSES.get(name) for name in LOSSES.names()} <= {loss for loss, _, _ in BY_HAND.values()}


def of_samples(options: dict, rows: slice) -> dict:
    return {**options, 'labels': options['labels'][rows]} if 'labels' in options else options


@every_loss
def test_is_its_formula(loss, by_hand, options) -> None:
    student, teacher = logits(1), logits(2)
    assert loss(student, teacher, **options).item() == pytest.approx(by_hand(student, teacher, **options), rel=1e-10)


@pytest.mark.parametrize(('loss', 'by_hand', 'options'), AVERAGES.values(), ids=AVERAGES.keys())
def test_is_the_average_over_samples(loss, by_hand, options) -> None:
    student, teacher = logits(1), logits(2)
    rows = [slice(i, i + 1) for i in range(len(student))]
    singly = [loss(student[row], teacher[row], **of_samples(options, row)).item() for row in rows]
    assert loss(student, teacher, **options).item() == pytest.approx(np.mean(singly), rel=1e-10)


@every_loss
def test_gradient_is_the_one_of_finite_differences(loss, by_hand, options) -> None:
    student, teacher = logits(3, samples=3, classes=4).requires_grad_(), logits(4, samples=3, classes=4)
    options = of_samples(options, slice(0, 3))
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


@pytest.mark.parametrize(
    'loss',
    [
        kl,
        soft_cross_entropy,
        partial(dkd, labels=torch.tensor([0, 1])),
        partial(dkd, labels=torch.tensor([2, 2])),
        dist,
    ],
)
def test_logits_as_large_as_a_float_can_take_stay_finite(loss) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [0.0, 1e4, -1e4]], requires_grad=True)
    value = loss(student, torch.tensor([[-1e4, 1e4, 0.0], [1e4, 0.0, -1e4]]), temperature=1.0)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_dkd_is_kl_where_the_other_classes_weigh_as_much_as_they_are_probable(temperature: float) -> None:
    # Zhao et al, equation 5: KL = KL(b_t || b_s) + (1 - p_t(y)) KL(q_t || q_s).
    student, teacher = logits(1), logits(2)
    others = 1 - torch.tensor(softened(teacher, temperature)).gather(1, LABELS[:, None])[:, 0]
    one = dkd(student, teacher, LABELS, alpha=1.0, beta=others, temperature=temperature)
    assert one.item() == pytest.approx(kl(student, teacher, temperature).item(), rel=1e-10)
    assert dkd(student, teacher, LABELS, beta=2.0).item() != pytest.approx(kl(student, teacher).item(), rel=0.01)


def test_dkd_of_a_sure_teacher_still_tells_of_the_other_classes() -> None:
    # In kl their part is weighted by 1 - p_t(y), here 2e-9; decoupled it is not.
    teacher = torch.tensor([[30.0, 10.0, 0.0]])
    student = torch.tensor([[30.0, 0.0, 10.0]])
    labels = torch.tensor([0])
    assert kl(student, teacher, temperature=1.0).item() < 1e-6
    # q_t is almost (1, 0), q_s almost (0, 1): their divergence is the distance of the logits, 10.
    assert dkd(student, teacher, labels, beta=1.0, temperature=1.0).item() == pytest.approx(10, rel=1e-3)


def log_of_affine(p: np.ndarray, scale: np.ndarray) -> Tensor:
    """Logits whose probabilities are ``scale p + (1 - scale) / C``: again probabilities, and an affine map of p."""
    return torch.tensor(np.log(scale * p + (1 - scale) / p.shape[1]))


def test_dist_is_invariant_to_positive_affine_maps_of_the_probabilities() -> None:
    student, teacher = logits(1), logits(2)
    p = softened(student, 1.0)
    # Within samples each may have a map of its own, within classes all samples share one.
    of_its_own = log_of_affine(p, np.linspace(0.2, 0.9, len(p))[:, None])
    shared = log_of_affine(p, np.full((1, 1), 0.3))
    for options, mapped in (({'gamma': 0.0}, of_its_own), ({'beta': 0.0}, shared), ({}, shared)):
        before = dist(student, teacher, temperature=1.0, **options).item()
        assert dist(mapped, teacher, temperature=1.0, **options).item() == pytest.approx(before, rel=1e-9)
    assert dist(of_its_own, teacher, temperature=1.0).item() != pytest.approx(
        dist(student, teacher, temperature=1.0).item()
    )
    assert dist(student, student).item() == pytest.approx(0, abs=1e-10)


def test_dist_of_one_sample_is_refused() -> None:
    with pytest.raises(UserError, match='this one has a single sample'):
        dist(logits(1)[:1], logits(2)[:1])


def test_dist_survives_outputs_that_do_not_vary() -> None:
    flat = torch.zeros(3, 4, requires_grad=True)
    value = dist(flat, logits(1, 3, 4).float())
    value.backward()
    assert value.item() == pytest.approx(4.0**2 * (2 + 2), rel=1e-5)  # No correlation in either direction.
    assert flat.grad.abs().max() < 1  # Where nothing varies, no direction is a way to correlate.


def test_kl_refuses_another_average() -> None:
    with pytest.raises(UserError, match="average is 'samples' or 'elements', got 'batch'"):
        kl(logits(1), logits(2), average='batch')


def test_standardize_keeps_the_shape_and_drops_place_and_scale() -> None:
    z = logits(1)
    scored = standardize(z)
    np.testing.assert_allclose(scored.mean(dim=1).numpy(), 0, atol=1e-12)
    # The published code divides by torch.std, which counts one class less.
    z_np = z.numpy()
    spread = np.sqrt(((z_np - z_np.mean(axis=1, keepdims=True)) ** 2).sum(axis=1) / (z.shape[1] - 1))
    np.testing.assert_allclose(scored.numpy(), (z_np - z_np.mean(axis=1, keepdims=True)) / spread[:, None], rtol=1e-10)
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
    # With the spread for a divisor the gradient would be 1 / 1e-7 as large; it is as that of logits that spread 0.01.
    assert 0 < flat.grad.abs().max() < 100


def test_standardize_trains_a_layer_that_starts_at_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, target = torch.randn(256, 8, generator=generator), torch.randn(8, 5, generator=generator)
    layer = torch.nn.Linear(8, 5)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(60):
        loss = 9 * kl(standardize(layer(inputs)), standardize(inputs @ target), temperature=2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses) <= 1.5 * losses[0]
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize(
    ('loss', 'options'), [(dkd, {'beta': 3.0, 'temperature': 2.0}), (cwtm, {})], ids=['dkd', 'cwtm']
)
def test_samples_without_a_label_are_left_out(loss, options) -> None:
    labels = torch.tensor([0, -100, 3, 1, -100, 0])
    student, teacher, labelled = logits(1).requires_grad_(), logits(2), labels >= 0
    value = loss(student, teacher, labels, **options)
    alone = loss(student[labelled], teacher[labelled], labels[labelled], **options)
    assert value.item() == pytest.approx(alone.item(), rel=1e-12)
    gradients = [torch.autograd.grad(one, student)[0] for one in (value, alone)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)
    assert gradients[0][~labelled].abs().max() == 0
    assert value.item() != pytest.approx(loss(student, teacher, labels.clamp_min(0), **options).item(), rel=1e-3)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('loss', [dkd, cwtm])
def test_no_label_at_all_is_0_and_no_gradient(loss, dtype) -> None:
    student = logits(1).to(dtype).requires_grad_()
    value = loss(student, logits(2).to(dtype), torch.full((6,), -100))
    value.backward()
    assert value.item() == 0.0
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros_like(student))
