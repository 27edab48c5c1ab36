"""Adversarial examples by steps along the gradient: torch in, torch out, in pixels from 0 to 255.

An ``epsilon`` of 8 is the 8/255 of papers. Nothing here draws from a generator: a random start is a hash of what it is
for, so that ranks, microbatches and resumed runs agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from composer_kd.core.errors import UserError
from composer_kd.functional.augment import coefficients
from composer_kd.functional.counter import counter_hash, uniform

__all__ = [
    'NORMS',
    'fgsm',
    'normalised',
    'other_labels',
    'pgd',
    'pixels_of',
    'project',
    'random_start',
    'round_at_random',
]

Model = Callable[[Tensor], Tensor]
Normalization = Callable[[Tensor], Tensor] | tuple[Sequence[float], Sequence[float]]
Bound = float | Tensor

NORMS = ('linf', 'l2')

# First in the hash, each another number, so that no two draws of one sample and step are the same. (1 is taken by the
# choice of the share of a batch that is attacked.)
_START, _TARGET, _ROUNDING = 0xA1, 0xA2, 0xA3

# Only the gradient's direction counts. In float16 small ones would be rounded to 0.
_SCALE = 256.0

# How far rounding may take a pixel beyond the bounds.
_BESIDE = 0.01


def fgsm(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    targeted: bool = False,
    bounds: tuple[Bound, Bound] = (0.0, 255.0),
    normalization: Normalization | None = None,
) -> Tensor:
    """The fast gradient sign method (Goodfellow et al, 2015): one step of the whole ``epsilon`` from the image itself.

    The arguments are those of :func:`pgd`.
    """
    return pgd(model, images, labels, epsilon, epsilon, 1, 'linf', targeted, None, bounds, normalization)


def pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    step_size: float,
    steps: int,
    norm: str = 'linf',
    targeted: bool = False,
    start: Tensor | None = None,
    bounds: tuple[Bound, Bound] = (0.0, 255.0),
    normalization: Normalization | None = None,
    strongest: bool = False,
) -> Tensor:
    """Projected gradient descent (Madry et al, 2018) on the cross-entropy of each sample.

    The cross-entropy is ``softplus(m)`` of ``m = logsumexp(other logits) - label's logit``, so that its gradient points
    where that of ``m`` does, which is what is followed: the one of the cross-entropy itself is rounded to 0 where a
    model is sure, and such a model would seem to withstand what it was never shown.

    With ``linf`` a step is ``delta + step_size * sign(g)``, with ``l2`` it is ``delta + step_size * g / |g|``; after
    each, ``delta`` is put back into the ball of radius ``epsilon`` and the image into the bounds. Gradients of the
    model's parameters are neither computed nor touched; whether it is in evaluation mode is the caller's matter.

    Args:
        model: From normalised images to logits ``[B, classes]``.
        images: ``[B, C, H, W]``, pixels on the scale of the bounds.
        labels: int64 ``[B]``: what the model should not say; with ``targeted``, what it should.
        epsilon: The radius, in pixels.
        step_size: In pixels.
        steps: How many.
        norm: ``'linf'`` or ``'l2'``.
        targeted: Descend towards ``labels`` instead of climbing away from them.
        start: The deltas ``[B, C, H, W]`` that the first step is taken from; ``None`` is the image itself.
        bounds: The smallest and the largest pixel: numbers, or tensors that broadcast (equal ones hold a pixel still).
        normalization: What the model wants: a function of pixels, or (mean, std) of each channel on the scale of 0
            to 1; ``None`` gives it pixels.
        strongest: Return, of each sample, that of the start and all steps which the model does worst on. This costs
            one forward pass more, and what comes out is never weaker than the start.

    Returns:
        The adversarial images, float32.
    """
    clean = images.float()
    _refuse_other_scale(clean, epsilon, bounds)
    sign = -1.0 if targeted else 1.0
    adversarial = _within(clean, torch.zeros_like(clean) if start is None else start, epsilon, norm, bounds)
    best, best_loss = adversarial, torch.full_like(labels, -torch.inf, dtype=torch.float32)

    def keep_the_stronger(losses: Tensor) -> None:
        nonlocal best, best_loss
        stronger = sign * losses > best_loss
        best = torch.where(stronger.view(-1, 1, 1, 1), adversarial, best)
        best_loss = torch.where(stronger, sign * losses, best_loss)

    for _ in range(steps):
        losses, gradient = _losses_and_gradient(model, adversarial, labels, normalization)
        if strongest:
            keep_the_stronger(losses)
        step = sign * step_size * _direction(gradient, norm)
        adversarial = _within(clean, adversarial - clean + step, epsilon, norm, bounds)
    if not strongest:
        return adversarial
    with torch.no_grad():
        keep_the_stronger(_losses(model, adversarial, labels, normalization))
    return best


def _refuse_other_scale(images: Tensor, epsilon: float, bounds: tuple[Bound, Bound]) -> None:
    """Refuse images and an epsilon that are not on the scale of the bounds; callers who give tensors know theirs."""
    low, high = bounds
    if isinstance(low, Tensor) or isinstance(high, Tensor) or not images.numel():
        return
    least, most = (float(end) for end in torch.aminmax(images))
    if not (low - _BESIDE <= least and most <= high + _BESIDE):
        raise UserError(
            f'pgd: images from {least:.3g} to {most:.3g} lie outside of the bounds, {low:g} to {high:g}; give pixels '
            f'on that scale, and what the model wants as normalization'
        )
    if high - low > 2 and epsilon < 1:
        raise UserError(
            f'pgd: epsilon {epsilon:.3g} is less than a pixel of {low:g} to {high:g}; 8 stands for 8/255, or give '
            f'images from 0 to 1 and bounds=(0, 1)'
        )


def project(deltas: Tensor, epsilon: float, norm: str = 'linf') -> Tensor:
    """The nearest deltas within the ball of radius ``epsilon``, sample by sample."""
    if norm == 'linf':
        return deltas.clamp(-epsilon, epsilon)
    return deltas * (epsilon / _lengths(deltas).clamp(min=epsilon))


def random_start(shape: Sequence[int], ids: Tensor, seed: int, step: int, epsilon: float, norm: str = 'linf') -> Tensor:
    """Deltas drawn evenly out of the ball, from a hash of (seed, step, id, pixel).

    Args:
        shape: ``[B, C, H, W]``.
        ids: int64 ``[B]``: who the samples are.
        seed: Of the training or the evaluation.
        step: When it is: another one draws other deltas.
        epsilon: The radius of the ball.
        norm: ``'linf'`` or ``'l2'``.
    """
    pixels = int(torch.Size(shape[1:]).numel())
    drawn = uniform(_START, seed, step, ids.view(-1, 1), torch.arange(pixels + 1, device=ids.device))
    drawn, radius = drawn[:, :pixels], drawn[:, pixels:]
    if norm == 'linf':
        return ((2 * drawn - 1) * epsilon).float().view(*shape)
    # Normal numbers have no preferred direction; the volume of a ball grows with its radius to the power of pixels.
    normal = torch.special.ndtri(drawn)
    length = epsilon * radius ** (1 / pixels)
    return (length * normal / normal.norm(dim=1, keepdim=True)).float().view(*shape)


def round_at_random(deltas: Tensor, ids: Tensor, seed: int, step: int) -> Tensor:
    """Deltas in whole pixels: down or up, so that each is right on average, by a hash of (seed, step, id, pixel).

    The nearest whole number would take away what is below a half, in every step again. Whole numbers stay.

    Args:
        deltas: Float ``[B, C, H, W]``.
        ids: int64 ``[B]``: who the samples are.
        seed: Of the training.
        step: When it is: another one draws anew.
    """
    pixels = int(torch.Size(deltas.shape[1:]).numel())
    # A hash has 64 bits and a pixel takes 16: a hash for each would take as long as a tenth of an attack.
    quarters = torch.arange(-(-pixels // 4), device=ids.device)
    hashes = counter_hash(_ROUNDING, seed, step, ids.view(-1, 1), quarters)
    parts = torch.stack([(hashes >> bits) & 0xFFFF for bits in (0, 16, 32, 48)], dim=2).flatten(1)[:, :pixels]
    drawn = (parts.to(torch.float32) + 0.5) / 2**16
    return (deltas + drawn.view(deltas.shape)).floor()


def other_labels(labels: Tensor, ids: Tensor, seed: int, classes: int) -> Tensor:
    """A class other than its own for each sample, from a hash of (seed, id): the target of a targeted attack."""
    drawn = counter_hash(_TARGET, seed, ids).remainder(classes - 1)
    return (labels + 1 + drawn).remainder(classes)


def normalised(pixels: Tensor, normalization: Normalization | None) -> Tensor:
    """What a model gets of float pixels: with (mean, std), the arithmetic of ``normalise``, to the bit."""
    if normalization is None:
        return pixels
    if callable(normalization):
        return normalization(pixels)
    scale, shift = coefficients(*map(tuple, normalization), pixels.device)
    return pixels * scale + shift


def pixels_of(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The pixels of normalised images, as floats; those of 8-bit images come out a hair beside whole numbers."""
    scale, shift = coefficients(tuple(mean), tuple(std), images.device)
    return (images.float() - shift) / scale


def _losses(model: Model, pixels: Tensor, labels: Tensor, normalization: Normalization | None) -> Tensor:
    """Of each sample the logarithm of the odds against its label: the larger, the larger the cross-entropy."""
    logits = model(normalised(pixels, normalization)).float()
    label = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(label, -torch.inf).logsumexp(dim=1) - logits.gather(1, labels[:, None])[:, 0]


def _losses_and_gradient(
    model: Model, pixels: Tensor, labels: Tensor, normalization: Normalization | None
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        pixels = pixels.detach().requires_grad_()
        losses = _losses(model, pixels, labels, normalization)
        # Of the pixels alone: parameters get no gradient, and the pass that would compute theirs is saved.
        (gradient,) = torch.autograd.grad(_SCALE * losses.sum(), pixels)
    return losses.detach(), gradient


def _direction(gradient: Tensor, norm: str) -> Tensor:
    # In float16 that of a net which is not trained yet may overflow: such an image stays where it is.
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    if norm == 'linf':
        return gradient.sign()
    return gradient / _lengths(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)


def _within(clean: Tensor, deltas: Tensor, epsilon: float, norm: str, bounds: tuple[Bound, Bound]) -> Tensor:
    return (clean + project(deltas, epsilon, norm)).clamp(min=bounds[0]).clamp(max=bounds[1])


def _lengths(deltas: Tensor) -> Tensor:
    return deltas.flatten(1).norm(dim=1).view(-1, *[1] * (deltas.dim() - 1))
