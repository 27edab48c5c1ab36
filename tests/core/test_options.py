"""The binder: whatever is wrong with an option is one line with its place and what would be right."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest

from composer_kd.core.errors import UserError
from composer_kd.core.options import (
    check_keys,
    check_options,
    instantiate,
    number,
    one_of,
    parse_section,
    split_name,
    switch,
    whole_number,
)
from composer_kd.runs.config import RunConfig


class Cooler:
    def __init__(self, from_: str, speed: float = 1.0, mode: Literal['slow', 'fast'] = 'slow', *, steps: int = 3):
        if speed < 0:
            raise UserError(f'cooler: speed: expected a number from 0, got {speed!r}')
        self.given = (from_, speed, mode, steps)


def test_keys_become_arguments() -> None:
    made = instantiate(Cooler, {'from': 'gen0', 'speed': 2, 'mode': 'fast'}, 'algorithms.cooler')
    assert made.given == ('gen0', 2, 'fast', 3)


@pytest.mark.parametrize(
    ('options', 'line'),
    [
        (
            {'from': 'a', 'sped': 1.0},
            "algorithms.cooler.sped: unknown key; did you mean 'speed'? (known: from, mode, speed, steps)",
        ),
        ({'from_': 'a'}, 'algorithms.cooler.from_: unknown key; write from'),
        ({'speed': 1.0}, 'algorithms.cooler.from: this key is required'),
        ({'from': 'a', 'speed': '0.1'}, "algorithms.cooler.speed: expected a number, got '0.1'"),
        ({'from': 'a', 'speed': True}, 'algorithms.cooler.speed: expected a number, got True'),
        (
            {'from': 'a', 'speed': 'fast'},
            'algorithms.cooler.speed: should be a valid number, unable to parse string as a number, '
            "got 'fast'",
        ),
        ({'from': 'a', 'speed': math.inf}, 'algorithms.cooler.speed: expected a finite number, got inf'),
        ({'from': 'a', 'mode': 'middling'}, "algorithms.cooler.mode: should be 'slow' or 'fast', got 'middling'"),
        ({'from': 'a', 'speed': -1.0}, 'algorithms.cooler: speed: expected a number from 0, got -1.0'),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refusal:
        instantiate(Cooler, options, 'algorithms.cooler')
    assert str(refusal.value) == line


def test_what_another_package_raises_becomes_a_line() -> None:
    def broken(rate: float) -> None:
        raise ZeroDivisionError(f'rate {rate} is too small\nmore text')

    with pytest.raises(UserError, match=r'^optimizer: rate 0\.5 is too small$'):
        instantiate(broken, {'rate': 0.5}, 'optimizer')


def test_given_arguments_cannot_be_set() -> None:
    with pytest.raises(UserError, match=r'cooler\.mode: unknown key; .*known: from, speed, steps'):
        check_options(Cooler, {'from': 'a', 'mode': 'fast'}, 'cooler', {'mode'})


def test_sections_and_keys_say_it_alike() -> None:
    with pytest.raises(UserError) as of_section:
        parse_section(RunConfig, {'model': {'name': 'mlp'}, 'max_duration': '1ep', 'batchsize': 3}, 'lineage.gen1')
    with pytest.raises(UserError) as of_keys:
        check_keys(['batchsize'], RunConfig.model_fields, 'lineage.gen1')
    assert str(of_section.value) == str(of_keys.value)
    assert str(of_keys.value).startswith("lineage.gen1.batchsize: unknown key; did you mean 'batch_size'?")


def test_names_with_options_are_split() -> None:
    assert split_name('sgd', 'optimizer') == ('sgd', {})
    assert split_name({'name': 'sgd', 'lr': 0.1}, 'optimizer') == ('sgd', {'lr': 0.1})
    with pytest.raises(UserError, match='optimizer: expected a name, or a mapping with name and options, got 3'):
        split_name(3, 'optimizer')


@pytest.mark.parametrize(
    ('bounds', 'bad', 'words'),
    [
        ({'above': 0, 'most': 1}, 0, 'above 0 and at most 1'),
        ({'above': 0, 'below': 1}, 1, 'above 0 and below 1'),
        ({'least': 0, 'most': 1}, 1.5, 'from 0 to 1'),
        ({'least': 0}, -0.1, 'from 0 on'),
        ({}, math.nan, 'that is finite'),
        ({'least': 0}, True, 'from 0 on'),
        ({'least': 0}, '1', 'from 0 on'),
    ],
)
def test_numbers_have_bounds(bounds: dict[str, float], bad: Any, words: str) -> None:
    assert number(0.5, 'share', **bounds) == 0.5
    with pytest.raises(UserError) as refusal:
        number(bad, 'share', **bounds)
    assert str(refusal.value) == f'share: expected a number {words}, got {bad!r}'


def test_words_whole_numbers_and_switches() -> None:
    assert one_of('fast', ('slow', 'fast'), 'mode') == 'fast'
    with pytest.raises(UserError, match="mode: 'fst' is not one of them; did you mean 'fast'"):
        one_of('fst', ('slow', 'fast'), 'mode')
    assert whole_number(3, 'steps') == 3
    for bad in (0, True, 1.5):
        with pytest.raises(UserError, match=r'steps: expected a whole number from 1 on, got '):
            whole_number(bad, 'steps')
    with pytest.raises(UserError, match='steps: expected at most 1,000,000,000, got 10000000000'):
        whole_number(10**10, 'steps')
    assert switch(False, 'fill') is False
    with pytest.raises(UserError, match='fill: expected true or false, got 1'):
        switch(1, 'fill')
