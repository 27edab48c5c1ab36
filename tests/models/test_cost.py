import pytest
import torch
from torch import nn

from composer_kd.models import classifier, inference_seconds, multiply_adds, parameters, weights_hash

torch.set_num_threads(1)


def small_net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 5)
    )


def test_counts_by_hand():
    # A 3x3 convolution over 4x4 positions from 3 to 4 channels, then 64 x 5; BatchNorm and bias are free.
    assert multiply_adds(small_net(), (3, 4, 4)) == 3 * 4 * 9 * 16 + 64 * 5
    assert parameters(small_net()) == (3 * 4 * 9 + 4) + 8 + (64 * 5 + 5)


def test_grouped_and_strided_convolutions():
    assert multiply_adds(nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8), (8, 8, 8)) == 8 * 9 * 16


def test_a_shared_parameter_counts_once():
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    assert parameters(nn.Sequential(first, second)) == 16


def test_nothing_changes():
    net = small_net()
    net[1].eval()  # frozen by its owner, inside a net in training mode
    before, modes, rng = weights_hash(net), [m.training for m in net.modules()], torch.get_rng_state()
    multiply_adds(net, (3, 4, 4))
    assert weights_hash(net) == before
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(p.grad is None for p in net.parameters())


def test_a_net_that_draws_random_numbers_in_evaluation():
    class Noisy(nn.Linear):
        def forward(self, input):
            return super().forward(input + torch.randn_like(input))

    net = Noisy(4, 2)
    rng = torch.get_rng_state()
    assert multiply_adds(net, (4,)) == 8
    assert torch.equal(torch.get_rng_state(), rng)


def test_modes_come_back_after_an_error():
    net = small_net()
    with pytest.raises(RuntimeError):
        multiply_adds(net, (2, 4, 4))
    assert net.training


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    assert multiply_adds(small_net().to(dtype), (3, 4, 4)) == 2048


def test_wrapped_nets_cost_the_same():
    assert multiply_adds(classifier(small_net()), (3, 4, 4)) == 2048
    assert multiply_adds(torch.compile(small_net()), (3, 4, 4)) == 2048


class Watched(nn.Linear):
    """Notes what its passes see, and takes as many seconds of a clock of its own as it is told, pass by pass."""

    def __init__(self, monkeypatch, first, then):
        super().__init__(48, 5)
        self.first, self.then, self.passes, self.now = first, then, [], 0.0
        monkeypatch.setattr('composer_kd.models.cost.time.perf_counter', lambda: self.now)

    def forward(self, input):
        self.now += self.then if self.passes else self.first
        self.passes.append((tuple(input.shape), self.training, torch.is_grad_enabled(), input.dtype))
        return super().forward(input.flatten(1))


@pytest.mark.parametrize(
    ('first', 'then', 'passes'),
    [(0.5, 0.01, 26), (0.5, 0.125, 5), (0.25, 0.25, 4), (9.0, 2.0, 4)],
    ids=['the most', 'a second', 'a whole second', 'the fewest'],
)
def test_passes_for_a_second_whose_median_is_not_moved_by_the_first(monkeypatch, first, then, passes):
    net = Watched(monkeypatch, first, then)
    assert inference_seconds(net, (3, 4, 4), 7) == pytest.approx(then)
    assert net.passes == [((7, 3, 4, 4), False, False, torch.float32)] * passes


def test_it_is_measured_in_the_precision_and_layout_of_the_classifier():
    seen = []
    net = small_net()
    net[1].register_forward_hook(
        lambda module, inputs, output: seen.append(
            (inputs[0].dtype, inputs[0].is_contiguous(memory_format=torch.channels_last))
        )
    )
    inference_seconds(classifier(net, cpu_autocast=True, channels_last=True), (3, 4, 4), 2)
    assert set(seen) == {(torch.bfloat16, True)}


def test_measuring_seconds_changes_nothing():
    net = small_net()
    net[1].eval()
    before, modes, rng = weights_hash(net), [m.training for m in net.modules()], torch.get_rng_state()
    inference_seconds(classifier(net), (3, 4, 4), 3)
    assert weights_hash(net) == before
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_model_that_composer_compiled_is_measured_as_it_is():
    model = classifier(small_net())
    model.forward = lambda batch: pytest.fail('this would compile anew for every size of batch')
    assert inference_seconds(model, (3, 4, 4), 3)


@pytest.mark.parametrize(
    'error',
    [
        torch.OutOfMemoryError('CUDA out of memory'),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError('CUBLAS_STATUS_ALLOC_FAILED'),
    ],
)
def test_where_it_cannot_be_done_the_seconds_are_not_known(error):
    class Hungry(nn.Linear):
        def forward(self, input):
            raise error

    assert inference_seconds(Hungry(4, 2), (4,), 256) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_on_the_device():
    assert multiply_adds(small_net().cuda(), (3, 4, 4)) == 2048
