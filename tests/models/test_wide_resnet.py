import pytest
import torch
from torch.nn import functional as F

from composer_kd.models import MODELS, WideResNet, multiply_adds, parameters, wrn

torch.set_num_threads(1)

# Depth, width, classes: as printed with the released models.
PUBLISHED_PARAMETERS = {
    (40, 2, 100): 2_255_156,
    (16, 2, 100): 703_284,
    (40, 1, 100): 569_780,
    (28, 10, 10): 36_479_194,
}


def counted_by_hand(depth, width, classes, side=32):
    """(parameters, multiply-adds), layer by layer from the paper's description."""
    total, work = 3 * 16 * 9, 3 * 16 * 9 * side**2
    inputs = 16
    for stage in range(3):
        outputs = 16 * width * 2**stage
        side //= 2 if stage else 1
        for _ in range((depth - 4) // 6):
            weights = 9 * inputs * outputs + 9 * outputs**2 + (inputs * outputs if inputs != outputs else 0)
            total += weights + 2 * inputs + 2 * outputs
            work += weights * side**2
            inputs = outputs
    return total + 2 * inputs + inputs * classes + classes, work + inputs * classes


@pytest.mark.parametrize(('depth', 'width', 'classes'), PUBLISHED_PARAMETERS)
def test_parameters_are_the_published_ones(depth, width, classes):
    with torch.device('meta'):
        net = wrn(depth, width, num_classes=classes)
    assert parameters(net) == PUBLISHED_PARAMETERS[depth, width, classes]
    assert (parameters(net), multiply_adds(net, (3, 32, 32))) == counted_by_hand(depth, width, classes)


@pytest.mark.parametrize(('depth', 'width'), [(16, 2), (40, 1), (40, 2)])
def test_the_named_ones(depth, width):
    with torch.device('meta'):
        named, general = MODELS.get(f'wrn_{depth}_{width}')(num_classes=100), wrn(depth, width)
    assert str(named) == str(general)


@pytest.mark.parametrize('width', [1, 2])
def test_forward_is_the_papers_formula(width):
    """The whole network once more, written with functional calls on its own weights."""
    torch.manual_seed(0)
    net = WideResNet(16, width, num_classes=7, dropout=0.5).eval()
    state = net.state_dict()
    for name, tensor in state.items():
        if 'bn' in name:
            low, high = (0.5, 1.5) if name.endswith(('var', 'weight')) else (-0.3, 0.3)
            tensor.copy_(torch.empty(tensor.shape).uniform_(low, high))

    def norm_relu(x, bn):
        mean, var, scale, shift = (
            state[f'{bn}.{part}'].view(1, -1, 1, 1) for part in ('running_mean', 'running_var', 'weight', 'bias')
        )
        return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)

    images = torch.randn(3, 3, 16, 16)
    x = F.conv2d(images, state['conv1.weight'], padding=1)
    for stage in range(3):
        for block in range(2):
            at = f'stages.{stage}.{block}'
            stride = 2 if stage and not block else 1
            activated = norm_relu(x, f'{at}.bn1')
            out = F.conv2d(activated, state[f'{at}.conv1.weight'], stride=stride, padding=1)
            out = F.conv2d(norm_relu(out, f'{at}.bn2'), state[f'{at}.conv2.weight'], padding=1)
            changes = block == 0 and (stage > 0 or width > 1)
            assert (f'{at}.shortcut.weight' in state) == changes
            x = out + (F.conv2d(activated, state[f'{at}.shortcut.weight'], stride=stride) if changes else x)
    expected = norm_relu(x, 'bn').flatten(2).mean(2) @ state['fc.weight'].T + state['fc.bias']
    assert expected.std(dim=0).min() > 0.01, 'the images must not all look alike to it'
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)


def test_stages_halve_the_image():
    net, maps = WideResNet(10, 2, num_classes=10), []
    for stage in net.stages:
        stage.register_forward_hook(lambda _m, _i, out: maps.append(tuple(out.shape[1:])))
    net(torch.zeros(2, 3, 32, 32))
    assert maps == [(32, 32, 32), (64, 16, 16), (128, 8, 8)]


def test_dropout_stands_between_the_convolutions_of_a_block():
    net = WideResNet(10, 1, num_classes=10, dropout=1.0)  # drops everything: only the shortcuts are left
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    images = torch.randn(4, 3, 8, 8)
    logits = net(images)
    net.load_state_dict(state)
    for stage in net.stages:
        torch.nn.init.zeros_(stage[0].conv2.weight)
        stage[0].dropout.p = 0.0
    assert torch.equal(net(images), logits)
