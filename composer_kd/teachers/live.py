"""A teacher that computes: a module, run without gradients on exactly what the student saw."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from composer.core.precision import get_precision_context
from composer.models import ComposerClassifier, ComposerModel
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.models import Classifier, multiply_adds, weights_hash
from composer_kd.models.batch import input_of, keys_of, logits_of
from composer_kd.models.classifier import plain, unwrapped
from composer_kd.teachers.base import BaseTeacher, Outputs
from composer_kd.teachers.features import FeatureTap

__all__ = ['LiveTeacher']

Normalization = tuple[Sequence[float], Sequence[float]]


class LiveTeacher(BaseTeacher):
    """A teacher that computes its outputs with a module; see :meth:`composer_kd.Teacher.live`."""

    def __init__(
        self,
        module: torch.nn.Module,
        name: str | None = None,
        normalization: Normalization | None = None,
        data_normalization: Normalization | None = None,
    ):
        # Our classifier's autocast and layout follow the student's, so the plain net inside is what is kept.
        self.module = module.module if isinstance(module, Classifier) else module
        self.name = name or type(self.module).__name__
        self.normalization = normalization
        self.data_normalization = data_normalization
        self._compiled: Callable[..., Any] | None = None
        self._convert: tuple[Tensor, Tensor] | None = None
        self._parts: list[torch.nn.Module] = []
        self._cpu_autocast = False
        self._channels_last = False
        self._tap: FeatureTap | None = None

    @property
    def live_teachers(self) -> Sequence[LiveTeacher]:
        return (self,)

    @property
    def weights_hash(self) -> str:
        return weights_hash(self.module)

    def place(self, state: Any) -> None:
        self._refuse_the_student(state)
        self.module = state.device.module_to_device(self.module)
        self.module.eval()
        self._parts = list(self.module.modules())
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)  # One by one: a TorchScript module refuses it as a whole.
        # At INIT it is not wrapped yet; a recorded teacher's model may be loaded later.
        student = unwrapped(state.model)
        self._cpu_autocast = bool(getattr(student, 'cpu_autocast', False))
        self._channels_last = bool(getattr(student, 'channels_last', False))
        if self._channels_last:
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compile(self, **options: Any) -> None:
        """Run the module through ``torch.compile`` from now on; ``module`` itself stays what it is."""
        if not isinstance(self.module, ComposerModel):
            self._compiled = torch.compile(self.module, **options)

    def start(self, state: Any) -> None:
        trained = {id(p) for optimizer in state.optimizers for group in optimizer.param_groups for p in group['params']}
        if any(id(parameter) in trained for parameter in self.module.parameters()):
            raise UserError(f'the optimizer holds parameters of teacher {self.name!r}; teachers are not trained')
        self.read_normalization(getattr(state.train_dataloader, 'dataset', None), state.device)

    def read_normalization(self, dataset: Any, device: Any) -> None:
        """Prepare the conversion of inputs, once the training data is known."""
        if self.normalization is None:
            return
        data = self.data_normalization or getattr(dataset, 'normalization', None)
        if data is None:
            raise UserError(
                f'teacher {self.name!r} has a normalization of its own, but the training data does not say which one '
                f'it comes with; give Teacher.live, .from_checkpoint or .from_run data_normalization=(mean, std)'
            )
        (mean, std), (own_mean, own_std) = (_channels(pair, self.name) for pair in (data, self.normalization))
        if torch.equal(mean, own_mean) and torch.equal(std, own_std):
            self._convert = None
            return
        scale, shift = std / own_std, (mean - own_mean) / own_std
        self._convert = (device.tensor_to_device(scale), device.tensor_to_device(shift))

    def tap(self, modules: Sequence[str]) -> None:
        wanted = [*(self._tap.modules if self._tap else ()), *modules]
        self.release()
        tap = FeatureTap(*wanted)
        tap.attach(plain(self.module), f'teacher {self.name!r}')
        self._tap = tap

    def release(self) -> None:
        if self._tap is not None:
            self._tap.remove()
            self._tap = None

    def outputs(self, batch: Any, state: Any) -> Outputs:
        # Part by part: a BatchNorm in train mode under a root in eval mode would learn along just the same.
        if any(part.training for part in self._parts):
            raise UserError(f'teacher {self.name!r} was put in train mode while it taught; leave it in eval mode')
        if self._tap is not None:
            self._tap.open = True
        with torch.no_grad(), self._precision(state):
            try:
                outputs = self._forward(batch)
            except RuntimeError as error:
                if 'out of memory' in str(error).lower() or 'CUDNN_STATUS_NOT_SUPPORTED' in str(error):
                    raise  # Composer's, which tries again with smaller microbatches.
                raise UserError(
                    f'teacher {self.name!r} cannot be run on this batch: {_reason(error)}; '
                    f'a teacher gets exactly what the student gets'
                ) from error
            logits = logits_of(outputs, f'teacher {self.name!r}').float()
            return Outputs(logits, {} if self._tap is None else self._tap.take())

    def multiply_adds(self, shape: Sequence[int]) -> int:
        return 0 if isinstance(self.module, ComposerModel) else multiply_adds(self.module, tuple(shape))

    def _forward(self, batch: Any) -> Any:
        strict = isinstance(self.module, ComposerClassifier) and type(self.module).forward is ComposerClassifier.forward
        if strict and keys_of(batch) is not None:
            batch = batch[:2]  # Composer's own takes a batch apart in two.
        if isinstance(self.module, ComposerModel) and self._convert is None:
            return self.module(batch)
        inputs = input_of(batch)
        if self._convert is not None:
            scale, shift = self._convert
            inputs = inputs * scale + shift
        if isinstance(self.module, ComposerModel):
            return self.module((inputs, *batch[1:]))
        if self._channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return (self._compiled or self.module)(inputs)

    def _precision(self, state: Any) -> contextlib.AbstractContextManager[Any]:
        if self._cpu_autocast:
            return torch.autocast('cpu', dtype=torch.bfloat16)
        return get_precision_context(state.precision, state.precision_config)

    def _refuse_the_student(self, state: Any) -> None:
        students = {id(parameter) for parameter in state.model.parameters()}
        if any(id(parameter) in students for parameter in self.module.parameters()):
            raise UserError(
                f'teacher {self.name!r} shares weights with the student, so it would be trained along; '
                f'load it from a file or deep-copy the module before the training'
            )

    def __repr__(self) -> str:
        return f'Teacher.live({type(self.module).__name__}, name={self.name!r})'


def _reason(error: RuntimeError) -> str:
    """Find the line of a message that says what went wrong: the first, or the last after TorchScript's traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if 'TorchScript' in lines[0] else 0].strip()


def _channels(normalization: Normalization, name: str) -> tuple[Tensor, Tensor]:
    mean_t, std_t = (torch.as_tensor(part, dtype=torch.float32) for part in normalization)
    if mean_t.shape != std_t.shape or mean_t.dim() > 1 or not bool((std_t > 0).all()):
        raise UserError(f'teacher {name!r}: a normalization is (mean, std), a number a channel, std above 0')
    return mean_t.view(-1, 1, 1), std_t.view(-1, 1, 1)
