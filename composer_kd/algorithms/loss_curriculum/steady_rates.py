"""Learning rates that do not notice that epochs have changing lengths."""

from __future__ import annotations

from collections.abc import Callable

from composer.core import State, Time, TimeUnit
from torch.optim.lr_scheduler import LambdaLR

__all__ = ['SteadyRates']


class SteadyRates:
    """Shows Composer's schedulers a training whose epochs all have their full length.

    Composer turns ``ep`` and ``dur`` into batches by the length of the epoch under way, so that a training whose epochs
    grow would see its milestones move away again. Between :meth:`start` and :meth:`stop` a scheduler sees batch
    ``(epoch + batch in epoch / length) * full length`` of epochs of the full length. A duration in batches is right as
    it is and left alone, as are PyTorch's own schedulers, which count their steps.
    """

    def __init__(self) -> None:
        self._replaced: list[tuple[LambdaLR, list[Callable]]] = []

    def start(self, state: State, full_length: int) -> None:
        self.stop()
        if state.max_duration is None or state.max_duration.unit != TimeUnit.EPOCH:
            return
        for scheduler in state.schedulers:
            if isinstance(scheduler, LambdaLR):
                self._replaced.append((scheduler, scheduler.lr_lambdas))
                scheduler.lr_lambdas = [_steady(rate, state, full_length) for rate in scheduler.lr_lambdas]

    def stop(self) -> None:
        for scheduler, rates in self._replaced:
            scheduler.lr_lambdas = rates
        self._replaced = []


def _steady(rate: Callable, state: State, full_length: int) -> Callable:
    # A function, not an object: LambdaLR writes what objects hold into the checkpoint.
    def steady(step: int) -> float:
        now, length = state.timestamp, state.dataloader_len
        if not length:
            return rate(step)
        in_epoch = int(now.batch_in_epoch) * full_length // int(length)
        state.timestamp = now.copy(batch=int(now.epoch) * full_length + in_epoch, batch_in_epoch=in_epoch)
        # Not by its setter, which would cut it to what the loader has in this epoch.
        state._dataloader_len = Time(full_length, TimeUnit.BATCH)
        try:
            return rate(step)
        finally:
            state.timestamp, state._dataloader_len = now, length

    return steady
