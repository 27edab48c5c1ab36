"""Snow, frost and fog. Images are float32 [B, C, H, W] from 0 to 1, and so are theirs."""

from __future__ import annotations

import torch
from torch import Tensor

from composer_kd.functional.corruptions.blur import zoomed
from composer_kd.functional.corruptions.draws import Draws
from composer_kd.functional.corruptions.plasma import plasma
from composer_kd.functional.corruptions.sums import moved

__all__ = ['fog', 'frost', 'snow']

_LUMA = (0.299, 0.587, 0.114)
# Of the frost: between its crystals and in them, red, green and blue.
_CLEAR, _CRYSTAL = (0.10, 0.18, 0.28), (0.92, 0.97, 1.00)


def snow(
    images: Tensor,
    draws: Draws,
    mean: float,
    scale: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    clear: float,
) -> Tensor:
    """Flakes: what of a noise is above a threshold, enlarged, drawn down a slanting line, twice; under a pale sky.

    Args:
        images: The images.
        draws: Their draws.
        mean: Of the noise.
        scale: Its standard deviation.
        zoom: How far it is enlarged.
        threshold: Below it there is no flake.
        radius: Of the motion blur.
        sigma: Of the motion blur.
        clear: The part of the image that the pale sky leaves.
    """
    layer = zoomed(draws.normal(0, 1, *images.shape[2:]) * scale + mean, zoom)
    layer = layer.masked_fill(layer < threshold, 0.0).clamp_(0, 1)
    layer = moved(layer, radius, sigma, draws.uniform(1, 1, low=-135, high=-45)[:, 0])
    pale = _grey(images) * 1.5 + 0.5
    return images * clear + torch.maximum(images, pale) * (1 - clear) + layer + layer.flip(2, 3)


def frost(images: Tensor, draws: Draws, clear: float, thick: float) -> Tensor:
    """A sheet of ice crystals: ``clear`` of the image plus ``thick`` of the ice."""
    height, width = images.shape[2:]
    # Needles along three directions at 60 degrees from seeds that lie closer in some places than in others.
    seeds = (draws.normal(0, 1, height, width) - 2.5 + 1.5 * plasma(draws, 1, height, width, 2.0)).clamp_(min=0)
    turn = draws.uniform(2, 1, high=180)[:, 0]
    needles = torch.zeros_like(seeds)
    for direction in (0, 60, 120):
        along = moved(seeds, 12, 4, turn + direction) + moved(seeds, 12, 4, turn + direction + 180)
        needles = torch.maximum(needles, along)
    needles = (needles / needles.amax((2, 3), keepdim=True).clamp_min(1e-6) * 2).clamp_(max=1).sqrt()
    ends = torch.tensor([_CLEAR, _CRYSTAL]).view(2, 3, 1, 1).to(images.device)
    if images.shape[1] == 1:
        ends = _grey(ends)
    return images * clear + (ends[0] + (ends[1] - ends[0]) * needles) * thick


def fog(images: Tensor, draws: Draws, thick: float, decay: float) -> Tensor:
    """A cloud over the image, the whole brought back to the image's own largest value."""
    largest = images.amax((1, 2, 3), keepdim=True)
    cloud = plasma(draws, 0, images.shape[2], images.shape[3], decay)
    return (images + cloud * thick) * (largest / (largest + thick).clamp_min(1e-6))


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    red, green, blue = (images[:, channel : channel + 1] * weight for channel, weight in enumerate(_LUMA))
    return red + green + blue
