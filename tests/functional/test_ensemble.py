"""Averages of several models' answers, and how many of them are right: by hand and against formulas in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from composer_kd.functional import average_logits, average_probabilities, right_counts

# Three models, four samples, three classes. Right: 0 of them, 1, 2 and all 3.
LOGITS = torch.tensor(
    [
        [[5.0, 0.0, 0.0], [2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 9.0]],
        [[4.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.1]],
        [[0.0, 0.0, 1.0], [2.0, 1.0, 0.0], [9.0, 0.0, 0.0], [1.0, 1.0, 1.5]],
    ]
)
LABELS = torch.tensor([1, 1, 1, 2])


def probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(axis=-1, keepdims=True)


def test_how_many_are_right_by_hand() -> None:
    assert right_counts(LOGITS, LABELS).tolist() == [1, 1, 1, 1]
    assert right_counts(LOGITS[:2], LABELS).tolist() == [1, 1, 2]
    assert right_counts(LOGITS, torch.tensor([2, 2, 2, 0])).tolist() == [3, 1, 0, 0], 'counts of 0 stay'
    assert right_counts(LOGITS.half(), LABELS).dtype == torch.int64


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
def test_the_averages_are_what_they_are_called(dtype: torch.dtype) -> None:
    logits = (torch.randn(4, 50, 7, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)
    exact = logits.double().numpy()
    np.testing.assert_allclose(average_logits(logits).numpy(), exact.mean(axis=0), atol=1e-5)
    together = average_probabilities(logits)
    np.testing.assert_allclose(together.exp().numpy(), probabilities(exact).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(together.softmax(dim=1).numpy(), probabilities(exact).mean(axis=0), atol=1e-6)


def test_the_two_averages_differ_where_one_model_is_sure_and_wrong() -> None:
    # One model says class 0 with 20 nats to spare, two say class 1 with 2: logits let the sure one win.
    logits = torch.tensor([[[20.0, 0.0]], [[0.0, 2.0]], [[0.0, 2.0]]])
    assert average_logits(logits).argmax().item() == 0
    assert average_probabilities(logits).argmax().item() == 1


def test_one_model_is_itself() -> None:
    alone = LOGITS[:1]
    assert torch.equal(average_logits(alone), LOGITS[0])
    torch.testing.assert_close(average_probabilities(alone).softmax(dim=1), LOGITS[0].softmax(dim=1))


def test_the_order_of_the_models_does_not_matter() -> None:
    turned = LOGITS.flip(0)
    torch.testing.assert_close(average_logits(turned), average_logits(LOGITS))
    torch.testing.assert_close(average_probabilities(turned), average_probabilities(LOGITS))
    assert torch.equal(right_counts(turned, LABELS), right_counts(LOGITS, LABELS))


def test_what_all_think_impossible_is_unlikely_and_not_infinitely_so() -> None:
    logits = torch.tensor([[[60000.0, -60000.0]], [[500.0, 0.0]]]).half()
    together = average_probabilities(logits)
    assert together[0, 0].item() == pytest.approx(0, abs=1e-6)
    assert together[0, 1].item() == pytest.approx(-500 - math.log(2), rel=1e-5)
