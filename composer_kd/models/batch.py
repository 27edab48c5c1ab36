"""What a batch, a model's outputs and its loss hold, for batches of our loaders and of a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from composer_kd.core.errors import UserError

__all__ = [
    'has_single_output',
    'input_of',
    'keys_of',
    'labels_of',
    'logits_of',
    'raw_labels',
    'teacher_batch',
    'total_loss',
]


def teacher_batch(state: Any) -> Any:
    """What teachers are asked about: the batch as the student saw it, unless an algorithm has kept another for them."""
    kept = (getattr(algorithm, 'batch_for_teachers', None) for algorithm in state.algorithms)
    return next((batch for batch in kept if batch is not None), state.batch)


def input_of(batch: Any) -> Tensor:
    """The input of an ``(x, y)`` or ``(x, y, key)`` batch."""
    if isinstance(batch, list | tuple) and batch and isinstance(batch[0], Tensor):
        return batch[0]
    raise UserError(
        f'the batch is a {type(batch).__name__}, so a plain module cannot be asked for its outputs; '
        f'batches are (x, y) or (x, y, key), and a teacher that is a ComposerModel gets any batch whole'
    )


def labels_of(batch: Any) -> Tensor | None:
    """The hard labels ``[B]`` of a batch, or ``None`` where it has none.

    The second part of a tuple, or ``labels`` of a mapping. Labels of a single output, zeros and ones as floats, are
    counted as two classes; to see that they are, a GPU is waited for.
    """
    labels = raw_labels(batch)
    if not isinstance(labels, Tensor):
        return None
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dim() != 1 or not labels.is_floating_point():
        return labels if labels.dim() == 1 else None
    return labels.long() if bool(((labels == 0) | (labels == 1)).all()) else None


def raw_labels(batch: Any) -> Any:
    """What stands in a batch where labels are expected, of whatever kind; ``None`` where nothing does."""
    if isinstance(batch, Mapping):
        return batch.get('labels')
    return batch[1] if isinstance(batch, list | tuple) and len(batch) > 1 else None


def has_single_output(outputs: Any) -> bool:
    """Whether a model gives one number a sample, as a binary classifier with a sigmoid or a regression does."""
    found = _tensor_of(outputs)
    return isinstance(found, Tensor) and (found.dim() == 1 or (found.dim() == 2 and found.shape[1] == 1))


def keys_of(batch: Any) -> Tensor | None:
    """The keys ``[B, 2]`` (sample id, view) of a batch, or ``None`` for an ``(x, y)`` one."""
    if not isinstance(batch, list | tuple) or len(batch) < 3 or not isinstance(batch[2], Tensor):
        return None
    keys = batch[2]
    return keys if keys.dim() == 2 and keys.shape[1] == 2 and keys.dtype == torch.int64 else None


def logits_of(outputs: Any, owner: str) -> Tensor:
    """The logits ``[B, C]`` in a model's outputs: the tensor itself, or the entry or attribute called ``logits``.

    A single output ``z`` becomes the logits ``(0, z)`` of two classes, whose softmax is the sigmoid of ``z``.
    """
    logits = _tensor_of(outputs)
    if isinstance(logits, Tensor) and has_single_output(logits):
        logits = logits.reshape(-1, 1)
        return torch.cat([torch.zeros_like(logits), logits], dim=1)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(outputs).__name__
        raise UserError(f'{owner} gives {shape}; distillation needs logits of shape [batch, classes]')
    return logits


def _tensor_of(outputs: Any) -> Any:
    if isinstance(outputs, Mapping):
        return outputs.get('logits')
    return outputs if isinstance(outputs, Tensor) else getattr(outputs, 'logits', outputs)


def total_loss(loss: Any) -> Tensor:
    """What Composer would backpropagate: ``total`` of a dict that has it, else the sum of all parts' averages."""
    if isinstance(loss, Tensor):
        return loss.mean()
    if isinstance(loss, Mapping):
        if 'total' in loss:
            return loss['total']
        loss = list(loss.values())
    return torch.stack([part.mean() for part in loss]).sum()
