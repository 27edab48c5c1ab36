"""When something acts, and how strongly: one small pure thing, used by every algorithm that has a schedule."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from composer_kd.core.errors import UserError

__all__ = ['FORMS', 'Progress', 'Schedule']


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Args:
        epoch: Finished epochs.
        batch: Finished batches.
        batch_in_epoch: Finished batches of the current epoch.
        epoch_length: Batches in an epoch; ``None`` where the loader cannot tell.
        epochs: The length of the whole training in epochs (a fraction where it is given in batches or samples);
            ``None`` where it cannot be told (a duration in tokens or seconds).
        batches: The length of the whole training in batches, where it is given so.
    """

    epoch: int
    batch: int
    batch_in_epoch: int = 0
    epoch_length: int | None = None
    epochs: float | None = None
    batches: int | None = None

    @classmethod
    def of(cls, state: Any) -> Progress:
        """Read the progress off a Composer ``State`` while it trains."""
        length = None if state.dataloader_len is None else int(state.dataloader_len)
        return cls(
            epoch=int(state.timestamp.epoch),
            batch=int(state.timestamp.batch),
            batch_in_epoch=int(state.timestamp.batch_in_epoch),
            epoch_length=length,
            epochs=_epochs(state, length),
            batches=_batches(state),
        )

    @property
    def in_epochs(self) -> float:
        """Epochs with the current one's finished part; whole epochs where the length of one is not known."""
        return self.epoch + (self.batch_in_epoch / self.epoch_length if self.epoch_length else 0.0)

    @property
    def fraction(self) -> float:
        """The finished part of the whole training: (epoch + batch in epoch / length) / epochs.

        A training whose length is given in batches counts those: its epochs may change their length.
        """
        if self.batches:
            return self.batch / self.batches
        if not self.epochs:
            raise UserError(
                "schedule: 'dur' needs a max_duration in ep or ba (sp needs a loader that has a length); "
                'use those units instead'
            )
        return self.in_epochs / self.epochs

    def ahead(self) -> Iterator[Progress]:
        """Points of a training that begins here, a hundredth apart, its two ends not among them."""
        length, epochs = self.epoch_length or 1000, self.epochs or 0.0
        for hundredth in range(1, 100) if epochs else ():
            batch = int(hundredth / 100 * epochs * length) or 1
            yield replace(self, epoch=batch // length, batch=batch, batch_in_epoch=batch % length, epoch_length=length)


def _epochs(state: Any, length: int | None) -> float | None:
    duration = state.max_duration
    if duration is None:
        return None
    unit, value = duration.unit.value, duration.value
    if unit == 'ep':
        return float(value)
    if unit == 'ba' and length:
        return value / length
    samples = _samples(state.dataloader, length)
    return value / samples if unit == 'sp' and samples else None


def _samples(loader: Any, length: int | None) -> int | None:
    """What all ranks together are shown in an epoch: with drop_last fewer than there are, padded a few more."""
    from composer.utils import dist

    try:
        own = len(getattr(loader, 'sampler', None) or loader.dataset)
    except (AttributeError, TypeError):  # Not a DataLoader, or one whose data has no length.
        return None
    if getattr(loader, 'drop_last', False) and length and loader.batch_size:
        own = min(own, length * loader.batch_size)
    return own * dist.get_world_size()


def _batches(state: Any) -> int | None:
    duration = state.max_duration
    return duration.value if duration is not None and duration.unit.value == 'ba' else None


# Batch 3 of 30 is at 0.1dur, although (0 + 3 / 10) / 3 comes out as the float below 0.1. No step is as short as this.
_ROUNDING = 1e-9

_NUMBER = r'([0-9]+(?:\.[0-9]+)?|\.[0-9]+)'
_LONGEST = 1e9
_MARK = rf'{_NUMBER}\s*(ep|ba|dur)'
FORMS = {
    'always': 'in every step',
    'every 10ep': 'in epochs 0, 10, 20, ...; every 100ba in those batches',
    'first 20ep': 'in the beginning; also first 500ba, first 0.3dur (of the training)',
    'from 10ep to 50ep': 'between two points, the second not included',
    'until overtaken': 'until the student is better than its teachers on the first evaluator',
    '..., linear decay to 0.1': 'after any of them: falling from 1; also cosine decay, exponential decay',
}
"""What a schedule looks like, and what it means."""
_DECAYS = ('linear', 'cosine', 'exponential')
_GRAMMAR = (
    f'one of {", ".join(repr(form) for form in FORMS if not form.startswith("..."))}, '
    "each with an optional ', linear decay', ', cosine decay' or ', exponential decay to 0.1' (units: ep, ba, dur)"
)


@dataclass(frozen=True)
class _Mark:
    value: float
    unit: str

    def reached(self, progress: Progress) -> float:
        """How far the training has come on this mark's scale, in the mark's unit."""
        return {
            'ep': lambda: progress.in_epochs,
            'ba': lambda: float(progress.batch),
            'dur': lambda: progress.fraction,
        }[self.unit]()

    @classmethod
    def of(cls, number: str, unit: str, text: str) -> _Mark:
        if float(number) > _LONGEST:
            raise UserError(f'schedule: {text!r}: no training has more than {_LONGEST:g}{unit}')
        return cls(float(number), unit)

    def __str__(self) -> str:
        return f'{self.value:g}{self.unit}'


class Schedule:
    """When, and how strongly, something acts during a training.

    A schedule is a pure function of the progress: resuming, ranks and microbatches cannot disagree on it.

    ==================== =================================================================
    ``always``           in every step
    ``every 10ep``       in epochs 0, 10, 20, ... (``every 100ba``: in those batches)
    ``first 20ep``       at the beginning; also ``first 500ba``, ``first 0.3dur``
    ``from 10ep to 50ep`` between two points, the second not included
    ``until overtaken``  until the student is better than its teachers on the first evaluator
    ==================== =================================================================

    Each may be followed by a decay of its strength from 1 over the time that it spans, as in ``first 20ep, linear
    decay`` or ``always, cosine decay to 0.1``; ``exponential`` ends at 0.01 unless told otherwise.

    Args:
        text: The schedule, as above.

    Example:
        >>> Schedule('first 20ep, linear decay').weight(Progress(epoch=5, batch=500))
        0.75
    """

    def __init__(self, text: str = 'always'):
        if not isinstance(text, str):
            raise UserError(f'schedule: {text!r} is not a schedule; write {_GRAMMAR}')
        self.text = text.strip()
        when, _, decay = (part.strip() for part in self.text.partition(','))
        self.start, self.stop, self.period = _Mark(0.0, 'dur'), _Mark(1.0, 'dur'), None
        self._windowed = False
        self.until_overtaken = when == 'until overtaken'
        if when not in ('always', 'until overtaken'):
            self._parse_when(when)
        self.decay, self.floor = self._parse_decay(decay)

    @classmethod
    def of(cls, schedule: Schedule | str) -> Schedule:
        """``schedule`` itself, or the one that a string describes."""
        return schedule if isinstance(schedule, Schedule) else cls(schedule)

    def weight(self, progress: Progress, overtaken: bool = False) -> float:
        """The strength at ``progress``: 0 where the schedule is off, 1 where it is on and has not decayed."""
        if self.until_overtaken and overtaken:
            return 0.0
        if self.period is not None:
            # Compared as whole numbers: every 10ep is on throughout epoch 10, not only in its first batch.
            count = progress.epoch if self.period.unit == 'ep' else progress.batch
            if count % int(self.period.value):
                return 0.0
        if self._windowed and not self.start.value <= self.start.reached(progress) + _ROUNDING < self.stop.value:
            return 0.0
        return self._decayed(progress) if self.decay else 1.0

    def check(self, progress: Progress, where: str = 'schedule') -> None:
        """Refuse, at the start of a training, what cannot work in it: an unknown length, or a window after its end."""
        needs_length = 'dur' in (self.start.unit, self.stop.unit) and (self._windowed or self.decay is not None)
        if needs_length and not (progress.epochs or progress.batches):
            raise UserError(
                f'{where}: {self.text!r} needs to know how long the training is; give max_duration in ep or ba '
                f'(sp needs a loader that has a length)'
            )
        if self._windowed and progress.epochs:
            ends = {'ep': progress.epochs, 'dur': 1.0}
            if progress.epoch_length:
                ends['ba'] = progress.epochs * progress.epoch_length
            end = ends.get(self.start.unit, math.inf)
            if self.start.value >= end:
                raise UserError(f'{where}: {self.text!r} begins after the training ends ({end:g}{self.start.unit})')

    def _parse_when(self, when: str) -> None:
        if match := re.fullmatch(rf'every {_MARK}', when):
            period = _Mark.of(match[1], match[2], self.text)
            if period.unit == 'dur' or period.value < 1 or period.value != int(period.value):
                raise UserError(f"schedule: {self.text!r}: 'every' takes a whole number of ep or ba, from 1 on")
            self.period = period
        elif match := re.fullmatch(rf'first {_MARK}', when):
            self._between(_Mark(0.0, match[2]), _Mark.of(match[1], match[2], self.text))
        elif match := re.fullmatch(rf'from {_MARK} to {_MARK}', when):
            self._between(_Mark.of(match[1], match[2], self.text), _Mark.of(match[3], match[4], self.text))
        else:
            raise UserError(f'schedule: {self.text!r} is not a schedule; write {_GRAMMAR}')

    def _between(self, start: _Mark, stop: _Mark) -> None:
        """A window of its own. Without one the span is the whole training, which only a decay has to know."""
        self.start, self.stop, self._windowed = start, stop, True
        if self.start.unit != self.stop.unit:
            raise UserError(f'schedule: {self.text!r} mixes {self.start.unit} and {self.stop.unit}; use one unit')
        if self.stop.value <= self.start.value:
            raise UserError(
                f'schedule: {self.text!r} ends before it begins or is empty; the second point must be later'
            )
        if self.stop.unit == 'dur' and self.stop.value > 1:
            raise UserError(f"schedule: {self.text!r}: 'dur' is a fraction of the training, from 0 to 1")

    def _parse_decay(self, decay: str) -> tuple[str | None, float]:
        if not decay and ',' not in self.text:
            return None, 0.0
        match = re.fullmatch(rf'({"|".join(_DECAYS)}) decay(?: to {_NUMBER})?', decay)
        if not match:
            raise UserError(f'schedule: {self.text!r}: {decay!r} is not a decay; write {_GRAMMAR}')
        shape, floor = match[1], match[2]
        if floor is None:
            return shape, 0.01 if shape == 'exponential' else 0.0
        if not 0 <= float(floor) < 1 or (shape == 'exponential' and float(floor) == 0):
            raise UserError(f'schedule: {self.text!r}: a decay ends between 0 and 1 (an exponential one above 0)')
        return shape, float(floor)

    def _decayed(self, progress: Progress) -> float:
        position = (self.start.reached(progress) - self.start.value) / (self.stop.value - self.start.value)
        position = min(max(position, 0.0), 1.0)
        if self.decay == 'exponential':
            return self.floor**position
        shape = 1 - position if self.decay == 'linear' else 0.5 * (1 + math.cos(math.pi * position))
        return self.floor + (1 - self.floor) * shape

    def __repr__(self) -> str:
        return f'Schedule({self.text!r})'

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)
