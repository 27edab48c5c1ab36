"""Batches of a user's own: mappings as Hugging Face's, and Composer's own classifier beside keyed ones."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from composer.models import ComposerClassifier, ComposerModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from composer_kd import (
    AdversarialRecycling,
    BornAgain,
    Distillation,
    LossCurriculum,
    OracleKD,
    RecordLosses,
    Teacher,
    UserError,
)
from composer_kd.models import classifier, weights_hash
from tests.algorithms.common import (
    CLASSES,
    images_and_labels,
    keyed_loader,
    logged,
    make_trainer,
    net,
    pixel_loader,
    trained_net,
)
from tests.teachers.test_checks import PERMUTED, Changed, Lines


class OfMappings(ComposerModel):
    """A model as Hugging Face's are: a mapping goes in, one that has logits comes out."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return {'logits': self.module(batch['input'])}

    def loss(self, outputs: dict[str, Tensor], batch: Any) -> Tensor:
        return F.cross_entropy(outputs['logits'], batch['labels'])


def mappings() -> DataLoader:
    images, labels = images_and_labels()
    rows = [{'input': x, 'labels': y} for x, y in zip(images, labels, strict=True)]
    return DataLoader(rows, 32)  # type: ignore[arg-type]


def pairs() -> DataLoader:
    return DataLoader(torch.utils.data.TensorDataset(*images_and_labels()), 32)


@pytest.mark.parametrize(
    'make', [OracleKD, partial(BornAgain, method='cwtm'), partial(Distillation, loss='dkd'), Distillation]
)
def test_a_mapping_trains_as_the_same_batch_in_a_pair_does(make) -> None:
    student, taught_by = net(1), [trained_net(11, steps=2), trained_net(12, steps=3)]
    totals, hashes = [], []
    for wrap, data in ((OfMappings, mappings()), (classifier, pairs())):
        own = copy.deepcopy(student)
        trainer, log = make_trainer(
            [make([Teacher.live(wrap(copy.deepcopy(module)), name='gen') for module in taught_by])],
            student=own, model=wrap(own), train_dataloader=data, epochs='3ba', device_train_microbatch_size=16,
        )  # fmt: skip
        trainer.fit()
        trainer.close()
        totals.append([logged(log, name) for name in ('loss/train/total', 'distill/teacher_accuracy/gen-0')])
        hashes.append(weights_hash(own))
    assert totals[0] == totals[1]
    assert hashes[0] == hashes[1] != weights_hash(student)
    assert len(totals[0][1]) == 3


def test_a_guessing_teacher_is_found_in_mappings() -> None:
    own, teacher = net(1), OfMappings(Changed(lambda z: z[:, PERMUTED]))
    with Lines() as lines:
        trainer, _ = make_trainer(
            [Distillation([Teacher.live(teacher, name='gen0')])], student=own, model=OfMappings(own),
            train_dataloader=mappings(), epochs='1ep',
        )  # fmt: skip
        trainer.fit()
        trainer.close()
    assert len(lines) == 1
    assert "teacher 'gen0' is at chance level" in lines[0]


# -- Composer's own classifier ----------------------------------------------------------------------------------------


class OfTriples(ComposerClassifier):
    """One that takes batches of three parts."""

    def __init__(self, module: nn.Module):
        super().__init__(module, num_classes=CLASSES)
        self.parts: list[int] = []

    def forward(self, batch: Any) -> Tensor:
        self.parts.append(len(batch))
        return self.module(batch[0])

    def loss(self, outputs: Any, batch: Any, *args: Any, **kwargs: Any) -> Tensor:
        return F.cross_entropy(outputs, batch[1])

    def update_metric(self, batch: Any, outputs: Any, metric: Any) -> None:
        metric.update(outputs, batch[1])


@pytest.mark.parametrize('normalization', [None, ([0.5] * 3, [0.25] * 3)], ids=['', 'normalised otherwise'])
def test_composers_classifier_teaches_beside_keys(normalization) -> None:
    totals = []
    for wrap in (lambda module: module, partial(ComposerClassifier, num_classes=CLASSES), OfTriples):
        teacher = wrap(trained_net(11))
        trainer, log = make_trainer(
            [Distillation([Teacher.live(teacher, normalization=normalization)])],
            train_dataloader=keyed_loader(), epochs='2ba',
        )  # fmt: skip
        trainer.fit()
        trainer.close()
        totals.append(logged(log, 'loss/train/total'))
        if isinstance(teacher, OfTriples):  # A subclass is given the keys, which it may want.
            assert teacher.parts == [3, 3]
    assert totals[0] == totals[1] == totals[2]


@pytest.mark.parametrize(
    ('make', 'data'),
    [
        (lambda folder: Distillation([trained_net(11)]), keyed_loader),
        (lambda folder: LossCurriculum(mode='infobatch'), keyed_loader),
        (lambda folder: AdversarialRecycling(epsilon=8), pixel_loader),
        (lambda folder: RecordLosses(folder / 'run'), keyed_loader),
    ],
    ids=['Distillation', 'LossCurriculum', 'AdversarialRecycling', 'RecordLosses'],
)
def test_composers_classifier_is_refused_as_a_student_of_keyed_data(make, data, tmp_path: Path) -> None:
    student, made = net(1), make(tmp_path)
    callback = isinstance(made, RecordLosses)
    trainer, _ = make_trainer(
        [] if callback else [made], student=student, model=ComposerClassifier(student, num_classes=CLASSES),
        train_dataloader=data(), epochs='1ba', callbacks=[made] if callback else [],
    )  # fmt: skip
    with pytest.raises(
        UserError, match=r'ComposerClassifier, which takes \(x, y\) .* in composer_kd\.models\.clas'
    ) as e:
        trainer.fit()
    trainer.close()
    assert '\n' not in str(e.value)
    assert int(trainer.state.timestamp.batch) == 0


def test_a_student_that_takes_keys_is_left_alone_and_so_are_pairs() -> None:
    for wrap, data in ((OfTriples, keyed_loader()), (partial(ComposerClassifier, num_classes=CLASSES), pairs())):
        student = net(1)
        trainer, log = make_trainer(
            [Distillation([trained_net(11)])], student=student, model=wrap(student), train_dataloader=data, epochs='1ba'
        )
        trainer.fit()
        trainer.close()
        assert logged(log, 'loss/train/distill')[0] > 0
