import math

import pytest
import torch

from composer_kd.functional import keep_top, spread_rest, to_half

torch.set_num_threads(1)


def test_by_hand():
    """exp of the logits: 8, 4, 2, 1, 1. Without the two largest 4 are left in three places: 4/3 each."""
    logits = torch.tensor([[1.0, 8.0, 2.0, 4.0, 1.0]]).log()
    values, indices, rest = keep_top(logits, 2)
    assert indices.tolist() == [[1, 3]]
    assert (values.dtype, indices.dtype, rest.dtype) == (torch.float16, torch.int16, torch.float16)
    torch.testing.assert_close(values.float(), torch.tensor([[8.0, 4.0]]).log(), atol=1e-3, rtol=0)
    assert rest.item() == pytest.approx(math.log(4 / 3), abs=2e-4)
    torch.testing.assert_close(
        spread_rest(values, indices, rest, 5).exp(),
        torch.tensor([[4 / 3, 8.0, 4 / 3, 4.0, 4 / 3]]),
        atol=0,
        rtol=1e-3,
    )


def test_all_classes_are_the_logits():
    logits = torch.randn(7, 10, generator=torch.Generator().manual_seed(0)) * 5
    assert torch.equal(spread_rest(*keep_top(logits, 10), 10), logits.half().float())


def test_one_class():
    """With one logit kept, the others share what is left of its probability."""
    probability = 0.91
    logits = torch.tensor([[0.91, 0.04, 0.03, 0.02]]).log() + 3
    spread = spread_rest(*keep_top(logits, 1), 4).softmax(1)
    torch.testing.assert_close(spread, torch.tensor([[probability, 0.03, 0.03, 0.03]]), atol=3e-4, rtol=0)


@pytest.mark.parametrize('k', [1, 3, 20, 99])
def test_kept_classes_keep_their_probability(k):
    logits = torch.randn(64, 100, generator=torch.Generator().manual_seed(k)) * 3
    values, indices, rest = keep_top(logits, k)
    before, after = logits.softmax(1), spread_rest(values, indices, rest, 100).softmax(1)
    torch.testing.assert_close(after.gather(1, indices.long()), before.gather(1, indices.long()), atol=0, rtol=1e-2)
    assert (values[:, :-1] >= values[:, 1:]).all()
    assert (rest <= values[:, -1] + 1e-2).all()


@pytest.mark.parametrize(('classes', 'dtype'), [(32_768, torch.int16), (32_769, torch.int32)])
def test_the_last_class_of_many(classes, dtype):
    logits = torch.zeros(1, classes)
    logits[0, -1] = 5
    values, indices, rest = keep_top(logits, 1)
    assert indices.dtype == dtype
    assert indices.item() == classes - 1
    assert spread_rest(values, indices, rest, classes).argmax().item() == classes - 1


def test_half_clips_and_counts():
    half, clipped = to_half(torch.tensor([[1e6, -7e4, 65504.0, -65504.0, 1.5]]))
    assert half.tolist() == [[65504.0, -65504.0, 65504.0, -65504.0, 1.5]]
    assert clipped.item() == 2
    assert to_half(torch.tensor([float('nan')]))[0].isnan().all(), 'what is not a number must not look like one'
    values, _, rest = keep_top(torch.tensor([[1e6, -1e6, -1e6]]), 1)
    assert (values.item(), rest.item()) == (65504.0, -65504.0)


@pytest.mark.parametrize('k', [0, 4, -1])
def test_k_out_of_range(k):
    with pytest.raises(ValueError, match=f'keeps 1 to 3 of 3 logits, not {k}'):
        keep_top(torch.zeros(2, 3), k)
