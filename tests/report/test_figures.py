"""Colours that can be told apart, and arms that can be told apart without them."""

from __future__ import annotations

import pytest

from composer_kd.report.render.charts import PALEST, STRONGEST
from composer_kd.report.render.figures import ACCENTS, INK, MUTED, PAPER, style_of, with_variables


def luminance(color: str) -> float:
    """Relative luminance as the Web Content Accessibility Guidelines define it."""
    channels = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_contrast(scheme):
    paper = getattr(PAPER, scheme)
    assert contrast(getattr(INK, scheme), paper) >= 7
    assert contrast(getattr(MUTED, scheme), paper) >= 4.5
    assert all(contrast(getattr(accent, scheme), paper) >= 3 for accent in ACCENTS)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_letters_on_a_heat_map_can_be_read(scheme):
    def blended(share):
        over, under = ([int(getattr(one, scheme)[i : i + 2], 16) for i in (1, 3, 5)] for one in (ACCENTS[1], PAPER))
        return '#' + ''.join(f'{round(share * a + (1 - share) * b):02x}' for a, b in zip(over, under, strict=True))

    assert all(contrast(getattr(INK, scheme), blended(share)) >= 4.5 for share in (PALEST, STRONGEST))


def test_no_two_of_28_arms_look_alike_and_colour_is_never_the_only_sign():
    styles = [style_of(index) for index in range(28)]
    assert len({(style.color, style.line) for style in styles}) == 28
    assert len({(style.line, style.marker) for style in styles}) == 28


def test_a_recoloured_drawing_keeps_no_fixed_colour():
    drawing = ' '.join(f'fill: {shade.light}' for shade in (PAPER, INK, MUTED, *ACCENTS))
    assert '#' not in with_variables(drawing)
