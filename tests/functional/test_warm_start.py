"""shrink_perturb: by hand, and to the bit where nothing is to be done."""

from __future__ import annotations

import torch

from composer_kd.functional import shrink_perturb


def test_by_hand() -> None:
    source, fresh = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([3.0, 5.0, -10.0])
    torch.testing.assert_close(shrink_perturb(source, fresh, 0.4, 0.1), torch.tensor([0.7, -0.3, -1.0]))
    torch.testing.assert_close(shrink_perturb(source, fresh, 0.0, 2.0), 2 * fresh)
    assert source.tolist() == [1.0, -2.0, 0.0]


def test_a_plain_warm_start_has_the_bits_of_its_source() -> None:
    source, fresh = torch.tensor([0.1, -0.0, 3e-42]), torch.tensor([float('inf'), 1.0, 1.0])
    started = shrink_perturb(source, fresh, 1.0, 0.0)
    assert started.view(torch.int32).tolist() == source.view(torch.int32).tolist()
