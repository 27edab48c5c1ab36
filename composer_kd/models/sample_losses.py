"""The loss of every sample of a training step, out of the forward pass that trains: no extra one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from composer_kd.core.errors import UserError
from composer_kd.models.batch import keys_of, labels_of, logits_of, raw_labels
from composer_kd.models.classifier import FirstPass, unwrapped

__all__ = ['SampleLosses', 'StepLosses']


class StepLosses(NamedTuple):
    """What a step showed of its samples, on this rank and on the training device.

    Attributes:
        keys: int64 ``[n, 2]``: sample id and view.
        loss: float32 ``[n]``: of the sample alone, with its hard label, before whatever weights or mixes it.
        correct: uint8 ``[n]``: whether the label had the highest logit.
    """

    keys: Tensor
    loss: Tensor
    correct: Tensor


class SampleLosses:
    """Collects the losses of a step over its microbatches.

    The owner, an algorithm or a callback, passes five events on. What runs twice in a step counts once, as
    :class:`~composer_kd.models.classifier.FirstPass` says. Nothing is read back from the device.

    ============================  ======================
    at                            call
    ============================  ======================
    ``BEFORE_TRAIN_BATCH``        :meth:`start_pass`
    ``BEFORE_FORWARD``            :meth:`read_labels`
    ``AFTER_FORWARD``             :meth:`add`
    ``AFTER_TRAIN_BATCH``         :meth:`end_pass`
    ``BATCH_END``                 :meth:`take`
    ============================  ======================

    The loss is the model's ``per_sample_loss(outputs, batch)`` where it has one, else the cross-entropy of its logits
    in float32.

    Args:
        owner: How error lines call the algorithm or callback that needs the losses.
    """

    def __init__(self, owner: str):
        self.owner = owner
        self._labels: Tensor | None = None
        self._given: Any = None  # The same as the batch has them: a single output's are floats.
        self._passes = FirstPass[StepLosses]()

    def start_pass(self) -> None:
        self._passes.start()

    def read_labels(self, batch: Any) -> None:
        """Keep the hard labels before MixUp and LabelSmoothing replace them; refuse a batch without them or keys."""
        self._labels, self._given = labels_of(batch), raw_labels(batch)
        if self._labels is None:
            raise UserError(f'{self.owner}: the training batches have no hard labels (integers of shape [batch])')
        keys = keys_of(batch)
        if keys is None:
            raise UserError(
                f'{self.owner}: the training batches are not (image, label, key): losses of samples need their ids; '
                f'use data out of shards (composer-kd convert, composer_kd.data.open_data)'
            )
        if len(keys) != len(self._labels):
            raise UserError(
                f'{self.owner}: a batch has {len(self._labels)} labels and {len(keys)} keys; leave out what drops '
                f'samples from a batch (SelectiveBackprop)'
            )

    def add(self, model: nn.Module, outputs: Any, batch: Any) -> StepLosses:
        """Enter a microbatch, and return what was entered.

        Args:
            model: The Trainer's ``state.model``, as it is wrapped.
            outputs: What it answered.
            batch: What it was asked, on the device.
        """
        labels, keys = self._labels, keys_of(batch)
        assert labels is not None, 'read_labels comes first'
        assert keys is not None, 'read_labels comes first'
        per_sample = getattr(unwrapped(model), 'per_sample_loss', None)
        with torch.no_grad():
            logits = logits_of(outputs, 'the student').float()
            if per_sample is None:
                loss = F.cross_entropy(logits, labels, reduction='none')
            else:
                loss = self._checked(per_sample(outputs, (batch[0], self._given, *batch[2:])), labels)
            correct = (logits.argmax(dim=1) == labels).to(torch.uint8)
        losses = StepLosses(keys, loss, correct)
        self._passes.add(losses)
        return losses

    def end_pass(self) -> None:
        self._passes.end()

    def take(self) -> StepLosses:
        """What the step showed; the next one begins from nothing."""
        parts = self._passes.take()
        return parts[0] if len(parts) == 1 else StepLosses(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _checked(self, loss: Any, labels: Tensor) -> Tensor:
        if not isinstance(loss, Tensor) or loss.shape != labels.shape:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise UserError(
                f"{self.owner}: the model's per_sample_loss gives {shape}; needed is one loss a sample, "
                f'{tuple(labels.shape)}'
            )
        return loss.detach().float()
