"""Calibration error, agreement and divergence: against formulas in numpy, sample by sample, and cases made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from composer_kd.functional import agreement, expected_calibration_error, kl


def by_definition(logits: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Guo et al, equations 2 to 4, one bin after the other, in float64."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    error = 0.0
    for number in range(1, bins + 1):
        inside = [i for i, c in enumerate(confidence) if (number - 1) / bins < c <= number / bins]
        if inside:
            accuracy = sum(predicted[i] == labels[i] for i in inside) / len(inside)
            error += len(inside) / len(labels) * abs(accuracy - sum(confidence[i] for i in inside) / len(inside))
    return error


def confident(*probabilities: float) -> torch.Tensor:
    """Logits of two classes, the first of which has these probabilities."""
    return torch.tensor([[math.log(p / (1 - p)), 0.0] for p in probabilities], dtype=torch.float64)


@pytest.mark.parametrize('bins', [1, 10, 15])
@pytest.mark.parametrize('scale', [0.3, 2.0, 20.0])
def test_it_is_the_papers_formula(scale: float, bins: int) -> None:
    drawn = np.random.default_rng(bins)
    logits = drawn.normal(size=(500, 7)) * scale
    labels = np.where(drawn.random(500) < 0.5, logits.argmax(axis=1), drawn.integers(0, 7, 500))
    error = expected_calibration_error(torch.from_numpy(logits), torch.from_numpy(labels), bins)
    assert error.item() == pytest.approx(by_definition(logits, labels, bins), abs=1e-7)


def test_perfectly_calibrated() -> None:
    # Of ten samples with a confidence of 0.8 eight are right, of ten with 0.6 six.
    logits = confident(*[0.8] * 10, *[0.6] * 10)
    labels = torch.tensor([0] * 8 + [1] * 2 + [0] * 6 + [1] * 4)
    assert expected_calibration_error(logits, labels).item() == pytest.approx(0, abs=1e-7)


def test_always_wrong_and_certain() -> None:
    logits = torch.tensor([[1e4, 0.0, 0.0]] * 5)
    assert expected_calibration_error(logits, torch.tensor([1, 2, 1, 2, 1])).item() == 1


def test_always_right_and_certain() -> None:
    assert expected_calibration_error(torch.eye(4) * 1e4, torch.arange(4)).item() == 0


def test_errors_of_two_bins_do_not_cancel_and_those_of_one_do() -> None:
    # Too modest by 0.45 on one half, too sure by 0.45 on the other.
    logits, labels = confident(0.55, 0.95), torch.tensor([0, 1])
    assert expected_calibration_error(logits, labels).item() == pytest.approx((0.45 + 0.95) / 2, abs=1e-7)
    assert expected_calibration_error(logits, labels, bins=1).item() == pytest.approx(0.25, abs=1e-7)


def test_the_edge_belongs_to_the_bin_below() -> None:
    # A confidence of exactly a half, of two equal logits; with two bins it is beside 0.5000001, not above it.
    logits = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    sure = torch.sigmoid(torch.tensor(1.0)).item()
    error = expected_calibration_error(logits, torch.tensor([0, 1]), bins=2).item()
    assert error == pytest.approx((0.5 + sure) / 2, abs=1e-7), 'in one bin it would be |1 - 0.5 - sure| / 2'


def test_half_precision_in_double_out() -> None:
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(1)).half()
    labels = torch.arange(50) % 5
    error = expected_calibration_error(logits, labels)
    assert error.dtype == torch.float64
    assert error.item() == pytest.approx(by_definition(logits.double().numpy(), labels.numpy(), 15), abs=1e-6)


def test_agreement_counted_by_hand() -> None:
    student = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 2.0, 9.0], [4.0, 1.0, 0.0]])
    teacher = torch.tensor([[9.0, 8.0, 7.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.1], [0.0, 1.0, 2.0]])
    assert agreement(student, teacher).item() == 0.5
    assert agreement(student, student * 100 - 7).item() == 1
    assert agreement(teacher, student) == agreement(student, teacher)


def test_the_divergence_from_the_teacher_is_kl_at_temperature_one() -> None:
    drawn = np.random.default_rng(5)
    student, teacher = drawn.normal(size=(2, 40, 6)) * 3
    p_student, p_teacher = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in (student, teacher))
    by_sample = [(t * np.log(t / s)).sum() for s, t in zip(p_student, p_teacher, strict=True)]
    value = kl(torch.from_numpy(student), torch.from_numpy(teacher), temperature=1.0)
    assert value.item() == pytest.approx(np.mean(by_sample), rel=1e-12)
