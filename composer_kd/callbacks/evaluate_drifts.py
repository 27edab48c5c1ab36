"""Core EvaluateDrifts class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.core import Callback, State
from composer.core.precision import get_precision_context
from composer.loggers import Logger
from composer.utils import dist
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from composer_kd.archive.evaluations import DriftFile
from composer_kd.core.errors import UserError
from composer_kd.core.options import parse_section
from composer_kd.data.dataset import DatasetInfo, KeyedImages
from composer_kd.data.drift.drifted_tests import DriftedTests
from composer_kd.data.drift.scenarios import Scenarios, check_scenario_files, scenarios_of
from composer_kd.data.section import DataSection
from composer_kd.data.transform import Augmentation, Prepare
from composer_kd.functional import expected_calibration_error, worst_group
from composer_kd.models import weights_hash
from composer_kd.models.batch import logits_of
from composer_kd.models.classifier import plain, unwrapped
from composer_kd.models.weights import share_buffers
from composer_kd.storage.distributed import on_rank_zero, raise_on_all_ranks

__all__ = ['EvaluateDrifts', 'answers_to', 'groups_in', 'quality_of']

_TOP = 5


class EvaluateDrifts(Callback):
    """Measure how a model stands up to drifts of its test data, when its training has ended.

    ``drifts.json`` holds, for the test data and for each drift of them: how many ``samples``, ``accuracy``, ``top5``,
    ``cross_entropy``, ``calibration_error`` and the ``worst_group``: that with the lowest accuracy of the superclasses,
    of the classes where the data has no superclasses, or of the fine classes where a drift made superclasses of them.
    Training is not changed: nothing is drawn, BatchNorm does not learn, every
    part of the model is left in the mode that it was in. Ranks share the samples.

    Args:
        folder: Where the file goes.
        data: The section of the data that the model is trained on, as in a YAML. Each drift takes the place of its own.
        drifts: Names to drifts, as ``drifts:`` in a YAML.
        batch_size: Images in a forward pass of a rank. Default: ``1000``.

    Example:
        .. testcode::

            from composer import Trainer
            from composer_kd import EvaluateDrifts
            trainer = Trainer(
                model=model,
                train_dataloader=train_dataloader,
                max_duration='2ep',
                callbacks=[EvaluateDrifts('runs/mine', {'source': 'synthetic100'}, {'grid': {'severities': [1, 5]}})],
            )
            trainer.fit()
    """

    def __init__(
        self,
        folder: str | Path,
        data: DataSection | Mapping[str, Any],
        drifts: Mapping[str, Any],
        batch_size: int = 1000,
    ):
        self.folder = Path(folder)
        self.data = data if isinstance(data, DataSection) else parse_section(DataSection, dict(data), 'data')
        try:
            self.scenarios = scenarios_of(TypeAdapter(Scenarios).validate_python(dict(drifts)))
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f'{".".join(["drifts", *map(str, first["loc"])])}: {first["msg"]}') from None
        self.batch_size = batch_size

    def fit_start(self, state: State, logger: Logger) -> None:
        self.data.check_source('data')
        check_scenario_files(self.scenarios, 'drifts')

    def fit_end(self, state: State, logger: Logger) -> None:
        with raise_on_all_ranks():
            tests = DriftedTests(self.data)
        share_buffers(state.model)
        model: Any = unwrapped(state.model)
        groups = groups_in(tests.clean.info)
        epoch = int(state.timestamp.epoch)
        found = DriftFile(weights_hash(plain(state.model)), epoch, tests.clean.fingerprint, groups)

        def answer(batch: Any) -> Tensor:
            with torch.no_grad(), get_precision_context(state.precision, state.precision_config):
                return logits_of(model(batch), type(self).__name__).float()

        def measure(dataset: KeyedImages) -> dict[str, Any]:
            return quality_of(answers_to(dataset, answer, state.device, self.batch_size), dataset)

        with _in_eval_mode(model):
            found.clean = measure(tests.clean)
            for name, drifts in self.scenarios.items():
                with raise_on_all_ranks():
                    dataset = tests.under(drifts, f'drifts.{name}')
                described = [drift.description('test') for drift in drifts]
                shown = {'drift': described, 'fingerprint': dataset.fingerprint}
                found.drifts[name] = {**shown, **measure(dataset)}
                logger.log_metrics({f'drift/{name}/accuracy': found.drifts[name]['accuracy']})
        on_rank_zero(lambda: found.write(self.folder))


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def answers_to(
    dataset: KeyedImages, answer: Callable[[Any], Tensor], device: Any, batch_size: int, classes: int | None = None
) -> Tensor:
    """Logits [N, C] of all samples as they are stored, in their order, on every rank; each rank computes its share.

    Args:
        dataset: Whose.
        answer: From a batch, prepared and on the device, to float32 logits.
        device: Composer's.
        batch_size: Images in a forward pass of a rank.
        classes: How many the model tells apart; ``None``: those of the data set.
    """
    width = classes or dataset.num_classes
    prepare = Prepare(Augmentation.none(), *dataset.normalization)
    mine = np.arange(dist.get_global_rank(), len(dataset), dist.get_world_size())
    answers: list[Tensor] = []
    with raise_on_all_ranks():
        for start in range(0, len(mine), batch_size):
            # View -1: the image as it is stored.
            packed = (mine[start : start + batch_size] - len(dataset)).tolist()
            answers.append(answer(prepare(device.batch_to_device(dataset.__getitems__(packed)))).cpu())
    own = torch.cat(answers) if answers else torch.empty(0, width)
    logits = torch.empty(len(dataset), width)
    for rank, part in enumerate(dist.all_gather_object(own)):
        logits[rank :: dist.get_world_size()] = part
    return logits


def quality_of(logits: Tensor, dataset: KeyedImages) -> dict[str, Any]:
    """How good the answers to a data set are; null is what is no number, because they are none."""
    labels = torch.from_numpy(dataset.labels)
    right = logits.argmax(dim=1) == labels
    top = logits.topk(min(_TOP, logits.shape[1]), dim=1).indices
    names, groups = _groups_of(dataset)
    group, accuracy = worst_group(right, groups)
    return {
        'samples': len(labels),
        'accuracy': float(right.double().mean()),
        'top5': float((top == labels[:, None]).any(dim=1).double().mean()),
        'cross_entropy': _finite(F.cross_entropy(logits, labels)),
        'calibration_error': _finite(expected_calibration_error(logits, labels)),
        'worst_group': {'name': names[group], 'accuracy': accuracy},
    }


def groups_in(info: DatasetInfo) -> str:
    """What a worst group of such data is one of."""
    if info.fine_classes is not None:
        return 'fine class'
    return 'class' if info.coarse is None else 'superclass'


def _groups_of(dataset: KeyedImages) -> tuple[tuple[str, ...], Tensor]:
    """Their names, and that of each sample: the fine classes where they are what moves under the superclasses."""
    info, labels = dataset.info, torch.from_numpy(dataset.labels)
    if info.fine_classes is not None and dataset.fine is not None:
        return info.fine_classes, torch.from_numpy(dataset.fine)
    if info.coarse is not None and info.superclasses is not None:
        return info.superclasses, torch.tensor(info.coarse)[labels]
    return info.classes, labels


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
