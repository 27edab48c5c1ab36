"""Core WarmStart class."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from composer.core import Event, State
from composer.loggers import Logger
from torch import Tensor, nn

from composer_kd.algorithms.described import Described
from composer_kd.algorithms.roles import Need, Training, refuse_second
from composer_kd.core.errors import UserError
from composer_kd.core.options import number, switch
from composer_kd.functional.warm_start import shrink_perturb
from composer_kd.models.classifier import plain
from composer_kd.models.composer_compat import SURGERY, first_of
from composer_kd.models.finished_run import FinishedRun
from composer_kd.models.weights import (
    load_weights,
    match_weights,
    pickle_refusal,
    tensors_of,
    weights_hash,
    with_more_classes,
)
from composer_kd.storage.distributed import on_rank_zero
from composer_kd.storage.fetch import is_remote

__all__ = ['WarmStart']

# A path that ends so and does not exist was meant as a file, not as a run directory.
_PICKLES = ('.pt', '.pth', '.ckpt', '.bin')
_ENDINGS_OF_WEIGHTS = ('.safetensors', *_PICKLES)

_MOST_PERTURBED = 1000


class WarmStart(Described):
    """Begin a training at the weights of an earlier iteration, as they are or shrunk and perturbed.

    Before the first step, every parameter becomes ``shrink * earlier + perturb * fresh``, where ``fresh`` is what the
    student holds: its own initialisation. Buffers (BatchNorm's running statistics) are the earlier model's. A training
    that continues from a checkpoint does not start again, and does not read the source.

    The defaults are the plain warm start. ``shrink=0.4, perturb=0.1`` is shrink-and-perturb (`Ash and Adams, 2020
    <https://arxiv.org/abs/1910.08475>`_), meant to close the gap in generalisation that a plain warm start leaves.

    Args:
        from_: A run directory (here or on a remote that Streaming knows), a file of weights, or a module, of the
            student's architecture.
        shrink: The part of the earlier weights that stays, from 0 to 1. Default: ``1.0``.
        perturb: The scale of the fresh initialisation that is added, from 0 on. Default: ``0.0``.
        more_classes: Let the student have classes that the source lacks: their outputs begin at the student's own
            initialisation. Classes are matched by name where both sides name them, else the source's come first.
            Default: ``False``.
        trust_pickle: Open a file of weights that is a pickle, as ``.pt`` files are; a process of its own reads it.
            Default: ``False``.

    Example:
        .. testcode::

            from composer import Trainer
            from composer_kd import WarmStart
            trainer = Trainer(
                model=student,
                train_dataloader=train_dataloader,
                max_duration='10ep',
                algorithms=[WarmStart('runs/gen0', shrink=0.4, perturb=0.1)],
            )
    """

    needs: ClassVar[Mapping[str, Need]] = {'from_': Need('weights')}

    def __init__(
        self,
        from_: str | Path | nn.Module,
        shrink: float = 1.0,
        perturb: float = 0.0,
        more_classes: bool = False,
        trust_pickle: bool = False,
    ):
        if not isinstance(from_, str | Path | nn.Module):
            raise UserError(f'from: expected a run directory, a file of weights or a module, got {from_!r}')
        self.shrink = number(shrink, 'shrink', least=0, most=1)
        self.perturb = number(perturb, 'perturb', least=0, most=_MOST_PERTURBED)
        if shrink == perturb == 0:
            raise UserError('shrink and perturb are both 0: all weights would be; for a fresh start, leave it out')
        self.more_classes = switch(more_classes, 'more_classes')
        self.trust_pickle = switch(trust_pickle, 'trust_pickle')
        if not trust_pickle and isinstance(from_, str | Path) and Path(from_).suffix in _PICKLES:
            raise UserError(f'from: {pickle_refusal(from_)}')
        self.source = from_
        self._started = False
        self._before: str | None = None
        self._run: FinishedRun | None = None

    def match(self, event: Event, state: State) -> bool:
        return event in (Event.INIT, Event.BEFORE_LOAD, Event.AFTER_LOAD)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.INIT:
            self._init(state)
        elif event == Event.BEFORE_LOAD:
            self._before = weights_hash(state.model)
        else:
            self._after_load(state)

    def _init(self, state: State) -> None:
        refuse_second(self, WarmStart, Training(state.algorithms), remedy='give one, as a training begins once')
        self._started = False  # In a Trainer before this one it may have.

    def _after_load(self, state: State) -> None:
        # Whether a training begins is known here; all surgery of INIT is done, and the model is not wrapped yet.
        if self._started:
            return
        if int(state.timestamp.batch) > 0:
            warnings.warn(
                'WarmStart: this checkpoint comes from a training without WarmStart; it goes on with its own weights',
                stacklevel=2,
            )
            return
        if self._before not in (None, weights_hash(state.model)):
            warnings.warn(
                'WarmStart: load_path brought weights (load_weights_only), and from_ takes their place'
                + (', but for the part that perturb keeps' if self.perturb else ' whole: leave one of the two out'),
                stacklevel=2,
            )
        # DistributedDataParallel, which comes next, gives rank 0's parameters and buffers to all.
        changed = first_of(state.algorithms, SURGERY)
        on_rank_zero(lambda: self._start(plain(state.model), changed, state))
        self._started = True

    def _start(self, student: nn.Module, changed: str | None, state: State) -> None:
        remedy = 'start from a model of the same architecture'
        if changed:
            remedy += f'; {changed} has changed layers of the student: leave it out, or start from a run that had it'
        name = type(self.source).__name__ if isinstance(self.source, nn.Module) else self.source
        where = f'WarmStart: from {name} for the student {type(student).__name__}'
        weights = self._weights(student)
        if self.more_classes:
            weights = with_more_classes(student, weights, where, self._numbers_of_classes(state))
        source = match_weights(student, weights, where, remedy)
        # Twice for tied parameters, which have two names and one tensor: so nothing is changed in place here.
        parameters = {name for name, _ in student.named_parameters(remove_duplicate=False)}
        started = {}
        for name, fresh in tensors_of(student).items():
            started[name] = source[name].to(fresh)
            if name in parameters:
                started[name] = shrink_perturb(started[name], fresh, self.shrink, self.perturb)
        student.load_state_dict(started, strict=False)

    def _numbers_of_classes(self, state: State) -> list[int] | None:
        """Find the source's classes among the student's by their names; ``None`` where one side has no names."""
        ours = getattr(getattr(state.train_dataloader, 'dataset', None), 'classes', None)
        theirs = None if self._run is None else self._run.manifest.data.classes
        if ours is None or theirs is None:
            return None
        numbers = {name: number for number, name in enumerate(ours)}
        if lost := [name for name in theirs if name not in numbers]:
            raise UserError(
                f'WarmStart: from: {self.source} knows the class {lost[0]!r}, which the training data lacks; keep its '
                f'classes in the data, or leave out more_classes and start from another run'
            )
        return [numbers[name] for name in theirs]

    def _weights(self, student: nn.Module) -> dict[str, Tensor]:
        source = self.source
        if isinstance(source, nn.Module):
            own = {id(parameter) for parameter in student.parameters()}
            if any(id(parameter) in own for parameter in source.parameters()):
                raise UserError(
                    'WarmStart: from: the module shares weights with the student; deep-copy it before, or name a '
                    'file of its weights'
                )
            return tensors_of(source)
        try:
            is_file = not is_remote(str(source)) and not Path(source).is_dir()
            if is_file and (Path(source).is_file() or Path(source).suffix in _ENDINGS_OF_WEIGHTS):
                return load_weights(source, self.trust_pickle)
            self._run = FinishedRun.open(source)
            return self._run.weights()
        except UserError as error:
            raise UserError(f'WarmStart: from: {error}') from None

    def check(self, training: Training) -> None:
        refuse_second(self, WarmStart, training, remedy='give one, as a training begins once')

    def state_dict(self) -> dict:
        return {**super().state_dict(), 'started': self._started}

    def load_state_dict(self, state: dict, strict: bool = False) -> None:
        # A checkpoint that was written before the first step has started too, and must not be shrunk again.
        self._started = bool(state.get('started', False))
