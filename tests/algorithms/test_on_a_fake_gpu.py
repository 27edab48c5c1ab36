"""Every algorithm trains on a simulated GPU: nothing mixes devices, and a step waits for the device as seldom as said.

Composer's own Trainer runs, on a device of its ``gpu`` name that simulates one (``tests/fake_gpu.py`` says what that
cannot find). Composer itself reads the loss and a few flags back in every step: counted are the reads between two
batches whose stack passes a file of this package.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from composer.core import Algorithm, Callback, State
from composer.devices import Device
from composer.loggers import Logger
from torch import Tensor, nn

from composer_kd import Distillation, Teacher, TeacherMixupKD
from composer_kd.models import build_model, classifier, weights_hash
from tests.algorithms.common import make_trainer, net
from tests.algorithms.settings import SETTINGS
from tests.algorithms.test_recorded_distillation import copied
from tests.fake_gpu import GPU, FakeGpu, OnGpu, Read
from tests.teachers.recorded_runs import MODEL, record, tiny_data, trained_run

# Reads of a step: one of all that it logs, unless something else is said here.
READS = {
    'OracleKD': 2,  # How many samples have a target.
    'LossCurriculum': 0,
    'WarmStart': 0,
}
ONE, RECORDED = 1, 2  # Whether microbatches came in the order of the batch.
# In the first step, before anything is learnt: what the teachers said, and whether the images are pixels.
MORE_IN_THE_FIRST = {'AdversarialRecycling': 3, 'LossCurriculum': 0, 'WarmStart': 0}


class SimulatedGpu(Device):
    """Composer's word for where the tensors are put."""

    dist_backend = 'gloo'
    name = 'gpu'
    _device = GPU

    def module_to_device(self, module: nn.Module) -> nn.Module:
        return FakeGpu.put_module(module)

    def tensor_to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(GPU)


class Watch(Callback):
    """Looks where the tensors of every step are, and at what it read back."""

    def __init__(self, gpu: FakeGpu):
        self.gpu = gpu
        self.steps: list[list[Read]] = []
        self._before = 0

    def before_dataloader(self, state: State, logger: Logger) -> None:
        self._before = len(self.gpu.own_reads)

    def after_loss(self, state: State, logger: Logger) -> None:
        loss = state.loss['total'] if isinstance(state.loss, dict) else state.loss
        assert all(isinstance(part, OnGpu) for part in (*state.batch, state.outputs, loss))

    def after_backward(self, state: State, logger: Logger) -> None:
        assert all(isinstance(parameter.grad, OnGpu) for parameter in state.model.parameters())

    def batch_end(self, state: State, logger: Logger) -> None:
        self.steps.append(self.gpu.own_reads[self._before :])


def three_steps(algorithm: Algorithm, free: int = 1 << 30, **options: Any) -> tuple[str, list[list[Read]]]:
    """Train on the simulated GPU, two steps of one epoch and one of the next.

    Returns:
        The hash of the weights at the end, and what each step read back.
    """
    with FakeGpu(free) as gpu:
        watch = Watch(gpu)
        hashed = _trained(algorithm, device=SimulatedGpu(), callbacks=[watch], **options)
    assert len(watch.steps) == 3
    return hashed, watch.steps


def _trained(algorithm: Algorithm, **options: Any) -> str:
    trainer, _ = make_trainer(
        [algorithm],
        epochs='3ba',
        train_subset_num_batches=2,
        eval_subset_num_batches=1,
        precision='fp32',
        **options,
    )
    trainer.fit()
    trainer.close()
    return weights_hash(trainer.state.model)


@pytest.mark.parametrize('name', SETTINGS)
def test_trains_there_as_on_the_cpu_and_seldom_waits(name: str) -> None:
    setting, kind = SETTINGS[name], name.split('-')[0]
    algorithm = setting.make()
    on_cpu = _trained(deepcopy(algorithm), student=net(1), train_dataloader=setting.train_data(), evaluate=True)
    hashed, steps = three_steps(algorithm, student=net(1), train_dataloader=setting.train_data(), evaluate=True)
    assert hashed == on_cpu
    allowed = READS.get(kind, ONE)
    assert len(steps[0]) <= allowed + MORE_IN_THE_FIRST.get(kind, 1), steps[0]
    assert len(steps[1]) <= allowed, steps[1]
    assert len(steps[2]) <= allowed, steps[2]


def _teach(teachers: list[Teacher], free: int = 1 << 30) -> list[list[Read]]:
    data = tiny_data()
    torch.manual_seed(9)
    student = classifier(build_model(MODEL, data.num_classes, data.shape), data.num_classes)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    options = {'model': student, 'optimizers': optimizer, 'train_dataloader': data.train}
    return three_steps(TeacherMixupKD(teachers), free, **options)[1]


@pytest.fixture(scope='module')
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = trained_run(tmp_path_factory.mktemp('runs'))
    record(run, tiny_data(), 2)
    return run


@pytest.mark.parametrize('free', [1 << 30, 0], ids=['on-the-device', 'in-pinned-memory'])
@pytest.mark.parametrize('beside', [False, True], ids=['alone', 'beside-a-live-one'])
def test_recorded_teachers_teach_there_and_seldom_wait(recorded: Path, free: int, beside: bool) -> None:
    teachers = [Teacher.recorded(recorded), *([Teacher.from_run(recorded, name='live')] if beside else [])]
    steps = _teach(teachers, free)
    assert len(steps[0]) <= RECORDED + 1, steps[0]
    assert len(steps[1]) <= RECORDED, steps[1]
    assert len(steps[2]) <= RECORDED, steps[2]


@pytest.mark.parametrize(
    ('unseen', 'allowed'), [('live', RECORDED), ('label', RECORDED + 1)]
)  # How many have a target.
def test_what_is_not_recorded_is_not_waited_for(recorded: Path, tmp_path: Path, unseen: str, allowed: int) -> None:
    some = copied(recorded, tmp_path, known=150)
    steps = _teach([Teacher.recorded(some, unseen=unseen)])
    assert len(steps[0]) <= allowed + 1, steps[0]
    assert len(steps[1]) <= allowed, steps[1]
    assert len(steps[2]) <= allowed, steps[2]


class OnTheHost(nn.Module):
    """A net whose author forgot where its input is."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :10] + torch.zeros(10)


def test_a_forgotten_device_is_found() -> None:
    with pytest.raises(Exception, match='Expected all tensors to be on the same device'):
        three_steps(Distillation([OnTheHost()]))
