"""How faithful a student is to its teacher.

The divergence from the teacher is :func:`.kl` at temperature 1; accuracy says nothing of either: a student may be as
accurate as its teacher and wrong about other samples (`Stanton et al, 2021 <https://arxiv.org/abs/2106.05945>`_).
"""

from __future__ import annotations

from torch import Tensor

__all__ = ['agreement']


def agreement(student: Tensor, teacher: Tensor) -> Tensor:
    """The share of the samples for which student and teacher prefer the same class.

    Args:
        student: The student's logits ``[N, C]``.
        teacher: The teacher's logits ``[N, C]``.

    Returns:
        Tensor: Between 0 and 1, without dimensions.
    """
    return (student.argmax(dim=1) == teacher.argmax(dim=1)).double().mean()
