import pytest
import torch
from torch.nn import functional as F

from composer_kd.core.errors import UserError
from composer_kd.models import DenseNet, densenet, multiply_adds, parameters

torch.set_num_threads(1)

WITHOUT = {'compression': 1.0, 'bottleneck': False}
# Depth, growth, form, and the millions of parameters in the paper's table of CIFAR results.
PUBLISHED = [
    (40, 12, WITHOUT, 1.0),
    (100, 12, WITHOUT, 7.0),
    (100, 24, WITHOUT, 27.2),
    (100, 12, {}, 0.8),
    (250, 24, {}, 15.3),
    (190, 40, {}, 25.6),
]


def counted_by_hand(depth, growth, compression=0.5, bottleneck=True, classes=10, side=32):
    """(parameters, multiply-adds), layer by layer from the paper's description."""
    total = work = 0

    def bn_conv(inputs, outputs, kernel):
        nonlocal total, work
        total += 2 * inputs + inputs * outputs * kernel**2
        work += inputs * outputs * kernel**2 * side**2

    channels = 2 * growth if bottleneck and compression < 1 else 16
    total += 3 * channels * 9
    work += 3 * channels * 9 * side**2
    for block in range(3):
        if block:
            bn_conv(channels, int(channels * compression), 1)  # before its pooling, on the larger map
            channels, side = int(channels * compression), side // 2
        for _ in range((depth - 4) // (6 if bottleneck else 3)):
            if bottleneck:
                bn_conv(channels, 4 * growth, 1)
                bn_conv(4 * growth, growth, 3)
            else:
                bn_conv(channels, growth, 3)
            channels += growth
    return total + 2 * channels + channels * classes + classes, work + channels * classes


@pytest.mark.parametrize(('depth', 'growth', 'form', 'millions'), PUBLISHED)
def test_parameters_are_the_published_ones(depth, growth, form, millions):
    with torch.device('meta'):
        net = densenet(depth, growth, num_classes=10, **form)
    assert round(parameters(net) / 1e6, 1) == millions
    assert (parameters(net), multiply_adds(net, (3, 32, 32))) == counted_by_hand(depth, growth, **form)


def test_each_of_the_two_options_alone():
    with torch.device('meta'):
        for form in ({'compression': 0.5, 'bottleneck': False}, {'compression': 1.0, 'bottleneck': True}):
            net = densenet(40, 12, num_classes=10, **form)
            assert (parameters(net), multiply_adds(net, (3, 32, 32))) == counted_by_hand(40, 12, **form)


def test_forward_is_the_papers_formula():
    """The whole network once more, written with functional calls on its own weights."""
    torch.manual_seed(0)
    net = DenseNet(16, 4, num_classes=7, dropout=0.5).eval()
    for name, tensor in net.state_dict().items():
        if tensor.dim() == 1 and 'fc' not in name:
            low, high = (0.5, 1.5) if name.endswith(('var', 'weight')) else (-0.3, 0.3)
            tensor.copy_(torch.empty(tensor.shape).uniform_(low, high))
    norms = iter([m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)])
    convolutions = iter([m for m in net.modules() if isinstance(m, torch.nn.Conv2d)])

    def norm_relu(x):
        bn, view = next(norms), (1, -1, 1, 1)
        x = (x - bn.running_mean.view(view)) / (bn.running_var.view(view) + 1e-5).sqrt()
        return (x * bn.weight.view(view) + bn.bias.view(view)).clamp(min=0)

    def conv(x):
        weight = next(convolutions).weight
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    images = torch.randn(3, 3, 16, 16)
    x = conv(images)
    for block in range(3):
        if block:
            x = conv(norm_relu(x))
            x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
        for _ in range(2):
            x = torch.cat([x, conv(norm_relu(conv(norm_relu(x))))], dim=1)
    expected = norm_relu(x).flatten(2).mean(2) @ net.fc.weight.T + net.fc.bias
    assert expected.std(dim=0).min() > 0.01, 'the images must not all look alike to it'
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)


def test_stages_halve_the_image_and_keep_what_they_saw():
    net, outputs = DenseNet(10, 6, num_classes=10), []
    for stage in net.stages:
        stage.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    layer = net.stages[2][1]
    layer.register_forward_hook(lambda _m, inputs, out: outputs.append((inputs[0], out)))
    net(torch.randn(2, 3, 32, 32))
    (seen, extended), maps = outputs.pop(2), [tuple(out.shape[1:]) for out in [*outputs[:2], outputs[-1]]]
    assert maps == [(12 + 6, 32, 32), (9 + 6, 16, 16), (7 + 6, 8, 8)]
    assert torch.equal(extended[:, : seen.shape[1]], seen)


def test_dropout_follows_every_convolution_but_the_stem():
    net = DenseNet(10, 4, num_classes=10, dropout=0.25)
    drops = [m for m in net.modules() if isinstance(m, torch.nn.Dropout)]
    assert [m.p for m in drops] == [0.25] * (3 * 2 + 2)
    images = torch.randn(4, 3, 8, 8)
    torch.manual_seed(0)
    first = net(images)
    assert not torch.equal(first, net(images))
    torch.manual_seed(0)
    assert torch.equal(first, net(images))
    net.eval()
    assert torch.equal(net(images), net(images))


def test_an_image_too_small_is_one_line():
    net = DenseNet(10, 4)
    assert net.eval()(torch.zeros(1, 3, 4, 5)).shape == (1, 100)
    with pytest.raises(UserError, match=r'^model: densenet needs images of at least 4x4, got 8x3; set data.image_size'):
        net(torch.zeros(1, 3, 8, 3))
