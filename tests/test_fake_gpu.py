"""The simulated GPU follows the rules of a real one, as far as it says so."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.fake_gpu import GPU, FakeGpu, OnGpu

HERE = torch.arange(6.0).view(2, 3)  # On the CPU.


@pytest.fixture
def gpu():
    with FakeGpu() as gpu:
        yield gpu


MIXED = {
    'arithmetic': lambda there: there + HERE,
    'in place': lambda there: HERE.clone().add_(there),
    'in place, a number': lambda there: torch.zeros(()).add_(there.sum()),
    'a number from there': lambda there: HERE * there.sum(),
    'concatenation': lambda there: torch.cat([there, HERE]),
    'a stack of numbers': lambda there: torch.stack([there.sum(), HERE.sum()]),
    'a layer': lambda there: nn.Linear(3, 2)(there),
    'a loss': lambda there: F.mse_loss(there, HERE),
    'gather': lambda there: there.gather(1, HERE.long() % 3),
    'an index from there': lambda there: HERE[there[0].long() % 2],
    'a value at an index': lambda there: there.__setitem__(torch.tensor([0]), HERE[:1]),
    'a factory': lambda there: torch.zeros(3, device='cuda') + torch.zeros(3),
}


@pytest.mark.parametrize('mix', MIXED.values(), ids=MIXED.keys())
def test_two_devices_do_not_mix(gpu: FakeGpu, mix) -> None:
    with pytest.raises(RuntimeError, match='same device'):
        mix(HERE.to('cuda'))


def filled(there):
    there[:1] = HERE[:1]
    return there


ALLOWED = {
    'a slice that is filled from the CPU': filled,
    'a number from the CPU': lambda there: there + HERE.sum(),
    'an index from the CPU': lambda there: there[torch.tensor([1])],
    'a mask from the CPU': lambda there: there[HERE > 2],
    'a shape': lambda there: there.view_as(HERE.view(3, 2)),
    'a method that makes': lambda there: there.new_zeros(2),
    'one like it': lambda there: torch.ones_like(there),
    'a parameter': nn.Parameter,
    'a copy': deepcopy,
    'one of several': lambda there: there.topk(2).values,
}


@pytest.mark.parametrize('make', ALLOWED.values(), ids=ALLOWED.keys())
def test_what_comes_of_it_is_there(gpu: FakeGpu, make) -> None:
    made = make(HERE.to('cuda'))
    assert isinstance(made, OnGpu)
    assert made.device == GPU
    assert made.is_cuda
    assert gpu.reads == []


READS = {
    'item': lambda there: there.sum().item(),
    'float': lambda there: float(there.sum()),
    'bool': lambda there: bool(there.any()),
    'tolist': lambda there: there.tolist(),
    'cpu': lambda there: there.cpu(),
    'to': lambda there: there.to('cpu', torch.float64),
    'into a tensor of the CPU': lambda there: HERE.clone().copy_(there),
    'nonzero': lambda there: there.nonzero(),
    'mask': lambda there: there[there > 2],
    'a number as an index': lambda there: there[there[0, 0].long()],
    'unique': lambda there: there.unique(),
}


@pytest.mark.parametrize('read', READS.values(), ids=READS.keys())
def test_reads_are_counted(gpu: FakeGpu, read) -> None:
    read(HERE.to('cuda'))
    assert [one.place for one in gpu.reads] == [None]  # Nothing of the package was on the way.


def test_what_is_on_the_host_again_is_there_no_longer(gpu: FakeGpu) -> None:
    there = HERE.to('cuda')
    back = there.cpu()
    there.zero_()
    assert type(back) is torch.Tensor
    assert torch.equal(back, HERE)
    with pytest.raises(TypeError, match='convert cuda:0 device type tensor to numpy'):
        there.numpy()


def test_a_net_learns_there_what_it_learns_on_the_cpu(gpu: FakeGpu) -> None:
    ends = []
    for device in ('cpu', 'cuda'):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        if device == 'cuda':
            gpu.put_module(net)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(net(HERE.to(device)), torch.tensor([0, 1]).to(device)).backward()
            optimizer.step()
        assert all(parameter.grad.device.type == device for parameter in net.parameters())
        ends.append([value.cpu() for value in net.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
