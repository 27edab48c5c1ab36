"""What holds for every model that a YAML can name. Nets without memory (torch's meta device) cost nothing to build."""

import copy
import re
from functools import cache

import pytest
import torch

from composer_kd.models import (
    MODELS,
    build_model,
    classifier,
    load_into,
    multiply_adds,
    parameters,
    save_weights,
    weights_hash,
)

torch.set_num_threads(1)

# Those that the summaries of these models speak of.
REQUIRED = {'densenet': {'depth': 100, 'growth': 12}, 'wrn': {'depth': 28, 'width': 10}}
SMALL = {
    'alexnet': {},
    'densenet': {'depth': 10, 'growth': 4, 'dropout': 0.2},
    'mobilenet_v2': {},
    'mobilenet_v3_small': {},
    'resnet20': {},
    'resnet18': {},
    'vgg11_bn': {},
    'wrn': {'depth': 10, 'width': 1, 'dropout': 0.3},
}


@cache
def weightless(name, shape=(3, 32, 32), classes=100):
    with torch.device('meta'):
        return build_model({'name': name, **REQUIRED.get(name, {})}, classes, shape)


@pytest.mark.parametrize('name', MODELS.names())
def test_every_model_is_copied_whole(name):
    net = weightless(name)
    twin = copy.deepcopy(net)
    mine, its = ([*model.parameters(), *model.buffers()] for model in (net, twin))
    assert [tensor.shape for tensor in mine] == [tensor.shape for tensor in its]
    assert not set(map(id, mine)) & set(map(id, its))


@pytest.mark.parametrize('name', MODELS.names())
def test_logits_for_images_of_one_channel(name):
    net = weightless(name, (1, 28, 28), classes=7).eval()
    assert net(torch.zeros(2, 1, 28, 28, device='meta')).shape == (2, 7)
    assert classifier(net).num_classes == 7


@pytest.mark.parametrize('name', MODELS.names())
def test_the_size_that_a_summary_tells_is_the_nets(name):
    net, told = weightless(name), re.findall(r'([\d.]+)M (parameters|multiply-adds)', dict(MODELS.summaries())[name])
    # The size of one is all options.
    assert [what for _, what in told] == ([] if name == 'mlp' else ['parameters', 'multiply-adds'])
    real = {'parameters': parameters(net) / 1e6, 'multiply-adds': multiply_adds(net, (3, 32, 32)) / 1e6}
    for number, what in told:
        half = 0.5 * 10 ** -len(number.partition('.')[2])
        assert float(number) == pytest.approx(real[what], rel=0, abs=1.001 * half), what


def random_net(name, options):
    """With BatchNorm's statistics as if it had seen data: at 0 and 1 a file that lacks them would not be noticed."""
    net = build_model({'name': name, **options}, 5, (3, 16, 16))
    for buffer, tensor in net.named_buffers():
        if buffer.endswith('running_mean'):
            tensor.uniform_(-0.1, 0.1)
        elif buffer.endswith('running_var'):
            tensor.uniform_(0.8, 1.2)
    return net


@pytest.mark.parametrize(('name', 'options'), SMALL.items())
def test_weights_come_back_and_half_precision_agrees(tmp_path, name, options):
    torch.manual_seed(1)
    source, target = random_net(name, options), random_net(name, options)
    assert weights_hash(source) != weights_hash(target)
    save_weights(source, tmp_path / 'w.safetensors')
    model = classifier(target, cpu_autocast=True, channels_last=True).eval()
    load_into(model, tmp_path / 'w.safetensors')
    assert weights_hash(model) == weights_hash(source)

    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        exact, half = source.eval()(images), model([images])
    assert exact.std(dim=0).min() > 0, 'the images must not all look alike to it'
    assert half.dtype == torch.float32
    assert (half - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize(('name', 'options'), SMALL.items())
def test_every_weight_gets_a_gradient(name, options):
    torch.manual_seed(0)
    net = build_model({'name': name, **options}, 5, (1, 16, 16))
    logits = net(torch.randn(8, 1, 16, 16))
    torch.nn.functional.cross_entropy(logits, torch.arange(8) % 5).backward()
    silent = [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not silent
