"""What a new data set has that an earlier one had not, on hand-made samples."""

from __future__ import annotations

import numpy as np
import pytest

from composer_kd.data.comparison import TrainingPart, compare
from composer_kd.data.dataset import TableBuilder

CLASSES = ('cat', 'dog')


def part(samples: list[tuple[int, int]], classes: tuple[str, ...] = CLASSES) -> TrainingPart:
    """Samples as (grey level of all pixels, label)."""
    table = TableBuilder()
    for number, (level, label) in enumerate(samples):
        table.add(number, label, np.full((1, 2, 2), level, np.uint8))
    return TrainingPart(table.finish(), classes)


def test_samples_are_told_apart_by_their_pixels() -> None:
    earlier = part([(10, 0), (20, 1), (30, 0), (40, 1)])
    new = part([(20, 1), (30, 1), (50, 0), (60, 1), (70, 0)])
    found = compare(new, earlier, CLASSES)
    assert (found.samples, found.earlier_samples) == (5, 4)
    assert (found.unseen, found.relabelled, found.gone) == (3, 1, 2)
    assert found.unseen_share == pytest.approx(0.6)
    assert found.lines()[0] == (
        '5 training samples, 60% of them never seen, 1 with another label than before, 2 of the earlier 4 gone'
    )


def test_labels_are_compared_by_the_names_of_classes() -> None:
    earlier = part([(10, 0), (20, 1)])
    new = part([(10, 1), (20, 2), (30, 0)], ('bird', 'cat', 'dog'))
    found = compare(new, earlier, CLASSES)
    assert (found.unseen, found.relabelled) == (1, 0)
    assert found.new_classes == ('bird',)
    assert found.lost_classes == ()
    assert '1 new classes: bird' in found.lines()


def test_a_class_that_is_gone_is_named() -> None:
    assert compare(part([(10, 0)], ('cat',)), None, CLASSES).lost_classes == ('dog',)


def test_the_shift_is_in_standard_deviations_of_the_earlier_pixels() -> None:
    earlier, new = part([(100, 0), (140, 1)]), part([(110, 0), (150, 1)])
    assert compare(new, earlier, CLASSES).shift == pytest.approx(10 / 20)
    assert compare(new, earlier, CLASSES).lines()[1] == 'the mean of a channel has moved by 0.50 standard deviations'
    assert len(compare(earlier, earlier, CLASSES).lines()) == 1


def test_without_the_earlier_data_nothing_is_claimed() -> None:
    found = compare(part([(10, 0)]), None, CLASSES)
    assert found.unseen is None
    assert found.unseen_share is None
    assert found.lines() == [
        '1 training samples; the earlier data is not at hand, so how many are new is not known',
    ]
