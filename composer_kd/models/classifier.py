"""Any net from images to logits as a ComposerModel that takes ``(x, y)`` and ``(x, y, key)`` batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Generic, TypeVar

import torch
from composer.models import ComposerClassifier, ComposerModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from composer_kd.core.errors import UserError

__all__ = [
    'Classifier',
    'FirstPass',
    'SampleCrossEntropy',
    'classifier',
    'evaluation_mode',
    'plain',
    'refuse_strict_model',
    'unwrapped',
]


class Classifier(ComposerModel):
    """A net whose batches are sequences that begin with inputs and labels; what follows (the key) is left alone.

    Labels are class indices ``[B]`` or, after MixUp, CutMix or LabelSmoothing, probabilities ``[B, C]``. Logits come
    back as float32 whatever the precision of the forward pass, so that every loss and teacher sees full precision.

    Evaluation measures ``MulticlassAccuracy``, ``MulticlassTop5Accuracy`` (top ``C`` where there are fewer than five
    classes) and ``CrossEntropy`` (mean over samples). Training measures nothing: Composer would compute on every batch
    and keep the last batch's value only.

    Args:
        module: The net; it stays reachable as ``classifier.module``.
        num_classes: Number of logits that it gives.
        cpu_autocast: Run the forward pass on the CPU in bfloat16. Composer refuses ``amp_bf16`` there; on other
            devices this has no effect and the Trainer's ``precision`` decides.
        channels_last: Keep weights and images in ``torch.channels_last``, which convolutions run faster in.
    """

    def __init__(self, module: nn.Module, num_classes: int, cpu_autocast: bool = False, channels_last: bool = False):
        super().__init__()
        if channels_last:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module = module
        self.num_classes = num_classes
        self.cpu_autocast = cpu_autocast
        self.channels_last = channels_last

    def forward(self, batch: Sequence[Any]) -> Tensor:
        inputs = batch[0]
        if self.channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        on_cpu = self.cpu_autocast and inputs.device.type == 'cpu'
        with torch.autocast('cpu', dtype=torch.bfloat16) if on_cpu else nullcontext():
            logits = self.module(inputs)
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits

    def loss(self, outputs: Tensor, batch: Sequence[Any]) -> Tensor:
        """Cross-entropy, averaged over the batch."""
        return F.cross_entropy(outputs, self._targets(outputs, batch[1]))

    def per_sample_loss(self, outputs: Tensor, batch: Sequence[Any]) -> Tensor:
        """Cross-entropy of each sample, ``[B]``, for methods that weight samples."""
        return F.cross_entropy(outputs, self._targets(outputs, batch[1]), reduction='none')

    def get_metrics(self, is_train: bool = False) -> dict[str, Metric]:
        # New objects at each call, kept by Composer's State alone: the model stays nothing but its net.
        if is_train:
            return {}
        # validate_args would synchronise the device at every batch; cross-entropy refuses labels out of range anyway.
        return {
            'MulticlassAccuracy': MulticlassAccuracy(self.num_classes, average='micro', validate_args=False),
            'MulticlassTop5Accuracy': MulticlassAccuracy(
                self.num_classes, top_k=min(5, self.num_classes), average='micro', validate_args=False
            ),
            'CrossEntropy': SampleCrossEntropy(),
        }

    def update_metric(self, batch: Sequence[Any], outputs: Tensor, metric: Metric) -> None:
        targets = self._targets(outputs, batch[1])
        if isinstance(metric, MulticlassAccuracy) and targets.is_floating_point():
            targets = targets.argmax(dim=1)
        metric.update(outputs, targets)

    def _targets(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``labels`` as cross-entropy wants them, after a look at the shapes (no look at values: that would sync)."""
        if outputs.ndim != 2 or outputs.shape[1] != self.num_classes:
            raise UserError(
                f'model: its outputs have the shape {list(outputs.shape)}, but [batch, {self.num_classes}] logits are '
                f'needed; give the net {self.num_classes} outputs or change num_classes'
            )
        if labels.shape == outputs.shape:
            return labels.to(outputs.dtype)
        if labels.shape != outputs.shape[:1]:
            raise UserError(
                f'data: labels have the shape {list(labels.shape)}; needed are class indices [{len(outputs)}] '
                f'or probabilities {list(outputs.shape)}'
            )
        return labels.long()


class SampleCrossEntropy(Metric):
    """Cross-entropy averaged over samples; Composer's averages over batches, so a short last batch counts too much."""

    full_state_update = False
    higher_is_better = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state('total', torch.tensor(0.0), dist_reduce_fx='sum')
        self.add_state('count', torch.tensor(0), dist_reduce_fx='sum')

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.total += F.cross_entropy(preds, target, reduction='sum')
        self.count += len(preds)

    def compute(self) -> Tensor:
        return self.total / self.count


def classifier(
    module: nn.Module, num_classes: int | None = None, cpu_autocast: bool = False, channels_last: bool = False
) -> Classifier:
    """Wrap any net from inputs to logits for Composer.

    Args:
        module: A plain net, ``forward(x) -> logits [B, C]``.
        num_classes: ``C``; by default the net's own ``num_classes`` or the size of its last ``nn.Linear``.
        cpu_autocast: See :class:`Classifier`.
        channels_last: See :class:`Classifier`.

    Example:
        >>> import torchvision
        >>> model = classifier(torchvision.models.resnet18(num_classes=100))
        >>> model.num_classes
        100
    """
    if isinstance(module, ComposerModel):
        raise UserError(f'model: {type(module).__name__} is a ComposerModel already; pass it to the Trainer as it is')
    stated = _stated_classes(module)
    if num_classes is None:
        num_classes = stated if stated is not None else _last_linear(module)
    elif stated is not None and stated != num_classes:
        raise UserError(
            f'model: num_classes is {num_classes}, but {type(module).__name__} was built for {stated}; '
            'make the two agree'
        )
    if num_classes is None:
        raise UserError(
            f'model: the number of classes cannot be told from {type(module).__name__} (no num_classes, no nn.Linear); '
            'pass num_classes'
        )
    if num_classes < 2:
        raise UserError(f'model: num_classes must be at least 2, got {num_classes}')
    return Classifier(module, num_classes, cpu_autocast, channels_last)


def refuse_strict_model(model: nn.Module, dataset: Any) -> None:
    """Refuse Composer's own classifier for keyed data: it takes a batch apart in two, and these have three parts.

    A subclass that has its own of everything that takes a batch apart is left alone.
    """
    kind = type(unwrapped(model))
    if not issubclass(kind, ComposerClassifier) or not hasattr(dataset, 'content_hashes'):
        return
    if any(getattr(kind, name) is getattr(ComposerClassifier, name) for name in ('forward', 'loss', 'update_metric')):
        raise UserError(
            'the model is a ComposerClassifier, which takes (x, y) batches alone, and this data has (x, y, key); '
            'wrap the net in composer_kd.models.classifier instead'
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and ``torch.compile``, in any order."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, '_orig_mod', None), nn.Module):
            model = inner
        else:
            return model


def plain(model: nn.Module) -> nn.Module:
    """The bare net inside DistributedDataParallel, ``torch.compile`` and :class:`Classifier`, in any order."""
    inner = unwrapped(model)
    return plain(inner.module) if isinstance(inner, Classifier) else inner


def _stated_classes(module: nn.Module) -> int | None:
    stated = getattr(module, 'num_classes', None)
    return stated if isinstance(stated, int) else None


def _last_linear(module: nn.Module) -> int | None:
    sizes = [part.out_features for part in module.modules() if isinstance(part, nn.Linear)]
    return sizes[-1] if sizes else None


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put all parts of ``module`` in evaluation mode, and each back into its own at the end."""
    # Mode by mode, not `module.train(was)`: a user may have frozen a part by putting it in evaluation mode.
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


T = TypeVar('T')


class FirstPass(Generic[T]):
    """The items that a step's microbatches left, once, whatever runs twice.

    SAM runs the forward and backward passes of a step twice, and a retry after running out of memory does too. A pass
    begins from nothing (:meth:`start`, at BEFORE_TRAIN_BATCH); the first that comes to its end (:meth:`end`, at
    AFTER_TRAIN_BATCH) is the step's: that at the weights which the step began with. :meth:`take` it at BATCH_END.
    """

    def __init__(self) -> None:
        self._pass: list[T] = []
        self._first: list[T] | None = None

    def start(self) -> None:
        self._pass = []

    def add(self, item: T) -> None:
        self._pass.append(item)

    def end(self) -> None:
        if self._first is None:
            self._first = self._pass

    def take(self) -> list[T]:
        """The step's items; the next step begins from nothing."""
        items = self._pass if self._first is None else self._first
        self._pass, self._first = [], None
        return items
