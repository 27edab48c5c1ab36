"""The student as an attack sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from composer.core import State, get_precision_context
from torch import Tensor

from composer_kd.models.batch import logits_of
from composer_kd.models.classifier import Classifier, unwrapped
from composer_kd.models.evaluating import evaluating
from composer_kd.teachers.harvest import Inference

__all__ = ['attackable']


@contextmanager
def attackable(state: State | Inference, *rest: Any) -> Iterator[Callable[[Tensor], Tensor]]:
    """The student as a function from normalised images to float32 logits, for the length of a ``with`` block.

    It is in evaluation mode: BatchNorm uses its running statistics and does not learn from the attack, drop-out draws
    nothing, and what an image is turned into does not depend on the images beside it, so that ranks and microbatches
    agree. Without DistributedDataParallel, whose gradients an attack has no part in.

    Args:
        state: The Trainer's, or what stands for it where a finished run's model is asked.
        rest: What else a batch holds, for models that look at it.
    """
    net = unwrapped(state.model)
    # Composer puts what it compiles in the place of the model's `forward`: it would compile anew for these batches.
    forward = partial(Classifier.forward, net) if isinstance(net, Classifier) else net

    def logits(images: Tensor) -> Tensor:
        with get_precision_context(state.precision, state.precision_config):
            outputs = forward((images, *rest))
        return logits_of(outputs, 'the student').float()

    with evaluating(net):
        yield logits
