"""What adversarial examples have cost a training since the last look."""

from __future__ import annotations

from composer.core import State

from composer_kd.algorithms.adversarial_recycling import AdversarialRecycling

__all__ = ['AttackCosts']


class AttackCosts:
    """Reads the counters of the training's :class:`.AdversarialRecycling`, if it has one; all of them on this rank."""

    def __init__(self) -> None:
        self._algorithm: AdversarialRecycling | None = None
        self._seconds = (0.0, 0.0)
        self._attacked = self._replayed = 0

    def start(self, state: State) -> None:
        """What was before does not count: the algorithm may have been in a Trainer before this one."""
        self._algorithm = next((one for one in state.algorithms if isinstance(one, AdversarialRecycling)), None)
        self.seconds()
        self.images(0)

    def said(self) -> dict[str, float]:
        """What the algorithm logged of the last step."""
        return {} if self._algorithm is None else self._algorithm.last_step

    def seconds(self) -> tuple[float, float]:
        """Since the last time, in steps and between them. On a GPU this waits for the attacks' work."""
        before = self._seconds
        if self._algorithm is not None:
            self._seconds = self._algorithm.attack_seconds
        return self._seconds[0] - before[0], self._seconds[1] - before[1]

    def images(self, multiply_adds: int) -> tuple[int, int, int]:
        """Since the last time: multiply-adds of attacks, images attacked, images replayed.

        Args:
            multiply_adds: Of a forward pass of one image.
        """
        if self._algorithm is None:
            return 0, 0, 0
        before = self._attacked, self._replayed
        self._attacked, self._replayed = self._algorithm.images_attacked, self._algorithm.images_replayed
        attacked = self._attacked - before[0]
        return attacked * self._algorithm.attack.passes * multiply_adds, attacked, self._replayed - before[1]
