"""Where a warm start begins: between the weights of an earlier iteration and a fresh initialisation."""

from __future__ import annotations

from torch import Tensor

__all__ = ['shrink_perturb']


def shrink_perturb(source: Tensor, fresh: Tensor, shrink: float, perturb: float) -> Tensor:
    """``shrink * source + perturb * fresh`` (Ash and Adams, NeurIPS 2020, arXiv 1910.08475).

    Args:
        source: A parameter of the earlier model.
        fresh: The same parameter as an initialisation draws it.
        shrink: The part of the earlier weights that stays.
        perturb: The scale of the fresh ones. With 0, and ``shrink`` 1, the result has the bits of ``source``.
    """
    scaled = shrink * source
    # Adding 0 * fresh would turn -0 into 0, and an infinite initialisation into NaN.
    return scaled + perturb * fresh if perturb else scaled
