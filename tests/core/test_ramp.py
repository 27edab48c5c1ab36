"""Numbers that change with the progress, against their lines and curves by hand."""

from __future__ import annotations

import math

import pytest

from composer_kd.core.errors import UserError
from composer_kd.core.ramp import Ramp
from composer_kd.core.schedule import Progress


def after(epochs: float, of: float = 40.0) -> Progress:
    whole = int(epochs)
    return Progress(whole, int(epochs * 10), round((epochs - whole) * 10), 10, of)


CASES = {
    'a number': (0.3, {0: 0.3, 20: 0.3, 39.9: 0.3}),
    'over the whole training': ('8 to 1', {0: 8, 10: 6.25, 20: 4.5, 39.9: 8 - 7 * 399 / 400}),
    'over the beginning': ('0 to 1 until 20ep', {0: 0, 5: 0.25, 19.9: 0.995, 20: 1, 39: 1}),
    'in batches': ('1 to 0.5 until 100ba', {0: 1, 5: 0.75, 10: 0.5, 30: 0.5}),
    'as a part of the training': ('2 to 4 until 0.25dur', {0: 2, 5: 3, 10: 4, 40: 4}),
    'gently': ('8 to 1 until 0.5dur, cosine', {0: 8, 5: 1 + 3.5 * (1 + math.cos(math.pi / 4)), 10: 4.5, 20: 1}),
}


@pytest.mark.parametrize(('written', 'values'), CASES.values(), ids=CASES.keys())
def test_is_its_line(written, values) -> None:
    ramp = Ramp(written)
    for epochs, value in values.items():
        assert ramp.at(after(epochs)) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(
    ('written', 'message'),
    [
        (-1, 'the weight is a finite number from 0 on, got -1'),
        (True, 'got True'),
        (float('nan'), 'got nan'),
        (None, 'got None'),
        ('1', "got '1'; one that changes is written as '8 to 1'"),
        ('1 to -1', "from 0 on, got '1 to -1'"),
        ('8 to', "'8 to' is not a number that changes"),
        ('8 to 1 until noon', 'is not a number that changes'),
        ('8 to 1 until 20ep, square', 'is not a number that changes'),
        ('8 to 1 until 2dur', "the weight: '8 to 1 until 2dur': until is a time after 0ep, and at most 1dur"),
        ('8 to 1 until 0ep', 'until is a time after 0ep'),
    ],
)
def test_refuses_what_is_no_number(written, message) -> None:
    with pytest.raises(UserError, match=message):
        Ramp(written, 'the weight')


def test_refuses_its_bound_where_that_is_open() -> None:
    assert Ramp(0).at(after(3)) == 0
    with pytest.raises(UserError, match="the temperature is a finite number above 0, got '4 to 0'"):
        Ramp('4 to 0', 'the temperature', open=True)


def test_refuses_parts_of_a_training_of_unknown_length() -> None:
    with pytest.raises(UserError, match='needs to know how long the training is'):
        Ramp('8 to 1', 'kd_weight').check(Progress(0, 0))
    Ramp('8 to 1 until 5ep').check(Progress(0, 0))
