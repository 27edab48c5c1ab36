import pytest
import torch

from composer_kd.models import MLP, MODELS, CifarResNet, multiply_adds, parameters

torch.set_num_threads(1)

NARROW = (16, 16, 32, 64)
WIDE = (32, 64, 128, 256)
SHAPES = {
    'resnet8': (8, NARROW),
    'resnet14': (14, NARROW),
    'resnet20': (20, NARROW),
    'resnet32': (32, NARROW),
    'resnet44': (44, NARROW),
    'resnet56': (56, NARROW),
    'resnet62': (62, NARROW),
    'resnet68': (68, NARROW),
    'resnet110': (110, NARROW),
    'resnet8x4': (8, WIDE),
    'resnet32x4': (32, WIDE),
}
# As printed with the released CIFAR-100 models of the distillation literature.
PUBLISHED_PARAMETERS = {
    'resnet20': 278_324,
    'resnet32': 472_756,
    'resnet44': 667_188,
    'resnet56': 861_620,
    'resnet62': 958_836,
    'resnet68': 1_056_052,
    'resnet110': 1_736_564,
    'resnet8x4': 1_233_540,
    'resnet32x4': 7_433_860,
}


def counted_by_hand(depth, widths, classes=100, channels=3, side=32):
    """(parameters, multiply-adds), layer by layer from the paper's description."""
    blocks = (depth - 2) // 6
    parameters = work = 0

    def conv(inputs, outputs, kernel, side):
        nonlocal parameters, work
        parameters += inputs * outputs * kernel**2 + 2 * outputs  # with its BatchNorm
        work += inputs * outputs * kernel**2 * side**2

    conv(channels, widths[0], 3, side)
    inputs = widths[0]
    for stage, width in enumerate(widths[1:]):
        side //= 2 if stage else 1
        for _ in range(blocks):
            conv(inputs, width, 3, side)
            conv(width, width, 3, side)
            if inputs != width:
                conv(inputs, width, 1, side)
            inputs = width
    return parameters + inputs * classes + classes, work + inputs * classes


@pytest.mark.parametrize('name', SHAPES)
def test_parameters_and_multiply_adds(name):
    net = MODELS.get(name)(num_classes=100)
    assert parameters(net) == PUBLISHED_PARAMETERS.get(name, parameters(net))
    assert (parameters(net), multiply_adds(net, (3, 32, 32))) == counted_by_hand(*SHAPES[name])


def test_resnet56_is_the_published_one():
    net = MODELS.get('resnet56')(num_classes=100)
    assert parameters(net) == 861_620
    assert round(multiply_adds(net, (3, 32, 32)) / 1e6, 2) == 125.75


def test_stages_halve_the_image():
    net = CifarResNet(8, NARROW, num_classes=10)
    sides = []
    for stage in net.stages:
        stage.register_forward_hook(lambda _m, _i, out: sides.append(tuple(out.shape[1:])))
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sides == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_forward_is_the_papers_formula():
    """The whole network once more, written with functional calls on its own weights."""
    torch.manual_seed(0)
    net = CifarResNet(14, NARROW, num_classes=7).eval()
    state = net.state_dict()
    for name, tensor in state.items():
        if 'bn' in name or 'shortcut.1' in name:
            low, high = (0.5, 1.5) if name.endswith(('var', 'weight')) else (-0.3, 0.3)
            tensor.copy_(torch.empty(tensor.shape).uniform_(low, high))

    def conv_bn(x, conv, bn, stride=1):
        weight = state[f'{conv}.weight']
        x = torch.nn.functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var = state[f'{bn}.running_mean'], state[f'{bn}.running_var']
        scale, shift = state[f'{bn}.weight'], state[f'{bn}.bias']
        view = (1, -1, 1, 1)
        return (x - mean.view(view)) / (var.view(view) + 1e-5).sqrt() * scale.view(view) + shift.view(view)

    images = torch.randn(3, 3, 16, 16)
    x = conv_bn(images, 'conv1', 'bn1').clamp(min=0)
    for stage in range(3):
        for block in range(2):
            at = f'stages.{stage}.{block}'
            stride = 2 if stage and not block else 1
            out = conv_bn(x, f'{at}.conv1', f'{at}.bn1', stride).clamp(min=0)
            out = conv_bn(out, f'{at}.conv2', f'{at}.bn2')
            has_projection = f'{at}.shortcut.0.weight' in state
            assert has_projection == (stride == 2)
            skip = conv_bn(x, f'{at}.shortcut.0', f'{at}.shortcut.1', stride) if has_projection else x
            x = (out + skip).clamp(min=0)
    expected = x.flatten(2).mean(2) @ state['fc.weight'].T + state['fc.bias']
    assert expected.std(dim=0).min() > 0.01, 'the images must not all look alike to it'
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)


def test_he_initialisation_uses_fan_out():
    torch.manual_seed(0)
    net = CifarResNet(8, WIDE, num_classes=10)
    strided = net.stages[2][0].conv1.weight  # 128 -> 256: fan in and fan out differ
    assert strided.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)


def test_one_channel_and_every_weight_gets_a_gradient():
    net = MODELS.get('resnet20')(num_classes=10, in_channels=1)
    net(torch.randn(4, 1, 28, 28)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize('depth', [2, 9, 21])
def test_impossible_depth(depth):
    with pytest.raises(ValueError, match='6 n'):
        CifarResNet(depth, NARROW)


def test_mlp_has_no_state_of_a_batch():
    net = MLP(in_features=12, hidden=[5, 6], num_classes=3)
    assert parameters(net) == (12 * 5 + 5) + (5 * 6 + 6) + (6 * 3 + 3)
    assert not list(net.buffers())
    images = torch.randn(6, 3, 2, 2)
    torch.testing.assert_close(net(images), torch.cat([net(images[:2]), net(images[2:])]))
    w0, b0, w1, b1, w2, b2 = (p.detach() for p in net.parameters())
    hidden = (images.flatten(1) @ w0.T + b0).clamp(min=0)
    hidden = (hidden @ w1.T + b1).clamp(min=0)
    torch.testing.assert_close(net(images), hidden @ w2.T + b2)
