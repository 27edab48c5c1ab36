"""How many examples are kept, and whose."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from composer_kd.errors import UserError
from composer_kd.functional.counter import counter_hash

__all__ = ['Budget']

_UNITS = {'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'KiB': 2**10, 'MiB': 2**20, 'GiB': 2**30}
_SIZE = rf'([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?) *({"|".join(_UNITS)})'

# Goes into the hash that chooses.
_VERSION = 1


class Budget:
    """A bound on the examples that are kept: a number of samples, a size, or none.

    Args:
        given: ``None``, ``10000`` or ``'64MB'``; a delta takes a byte a pixel and channel.
    """

    def __init__(self, given: int | str | None):
        self._samples: int | None = None
        self._bytes: float | None = None
        self.given = given
        size = re.fullmatch(_SIZE, given) if isinstance(given, str) else None
        if size is not None:
            self._bytes = float(size[1]) * _UNITS[size[2]]
            if self._bytes < 1:
                raise UserError(f'budget: {given!r} has no room for anything; raise it, or leave it out to keep all')
        elif isinstance(given, int) and not isinstance(given, bool) and given > 0:
            self._samples = given
        elif given is not None:
            raise UserError(f"budget: expected a number of samples, or a size as '64MB'; got {given!r}")

    def kept(self, ids: NDArray[np.int64], shape: Sequence[int], owner: str) -> NDArray[np.int64]:
        """The rows of the data whose examples are kept: those with the lowest hashes of their ids, in their order.

        Who is kept does not depend on the order, the seed or the rest of the data, so nothing has to make way later.
        """
        capacity, size = len(ids), int(np.prod(shape))
        if self._bytes is not None:
            capacity = int(self._bytes // size)
        elif self._samples is not None:
            capacity = self._samples
        if not capacity:
            raise UserError(
                f'{owner}: budget: {self.given} has no room for one delta, which takes {size:,} bytes; raise it'
            )
        hashes = counter_hash(_VERSION, torch.from_numpy(ids)).numpy()
        return np.sort(np.argsort(hashes, kind='stable')[:capacity])
