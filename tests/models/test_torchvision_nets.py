import pytest
import torch
import torchvision
from torch import nn

from composer_kd.core.errors import UserError
from composer_kd.models import MODELS, build_model, multiply_adds, parameters, resnet18, vgg11, weights_hash

torch.set_num_threads(1)

NAMES = [name for name in MODELS.names() if 'stem' in MODELS.get(name).__annotations__]


def weightless(name, **options):
    with torch.device('meta'):
        return MODELS.get(name)(**options)


@pytest.mark.parametrize('name', NAMES)
def test_the_imagenet_form_is_torchvisions_own(name):
    net = weightless(name, num_classes=1000, stem='imagenet')
    with torch.device('meta'):
        own = getattr(torchvision.models, name)()
    assert str(net) == str(own)
    # What torchvision publishes with its weights: parameters, and multiply-adds at 224x224 in billions.
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    assert parameters(net) == published['num_params']
    assert multiply_adds(net, (3, 224, 224)) / 1e9 == pytest.approx(published['_ops'], abs=0.0006)


def test_the_imagenet_form_begins_as_torchvisions():
    torch.manual_seed(3)
    ours = MODELS.get('mobilenet_v3_small')(num_classes=10, stem='imagenet')
    torch.manual_seed(3)
    assert weights_hash(ours) == weights_hash(torchvision.models.mobilenet_v3_small(num_classes=10))


@pytest.mark.parametrize('name', NAMES)
def test_what_convolutions_see_of_a_small_image(name):
    net, seen = weightless(name), []
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].shape[-1]))
    assert net(torch.zeros(2, 3, 32, 32, device='meta')).shape == (2, 100)
    expected = {'alexnet': [32, 15, 7], 'vgg': [32, 16, 8, 4, 2]}.get(name.rstrip('_bn0123456789'), [32, 16, 8, 4])
    maps = [side for side in seen if side > 1]  # squeeze-and-excitation looks at one number a channel, no map
    assert list(dict.fromkeys(maps)) == expected


def test_maps_of_the_stages():
    net, maps = weightless('resnet18'), []
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        stage.register_forward_hook(lambda _m, _i, out: maps.append(tuple(out.shape[1:])))
    net(torch.zeros(1, 3, 32, 32, device='meta'))
    assert maps == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]


@pytest.mark.parametrize('name', NAMES)
def test_blocks_are_torchvisions_but_for_the_ends(name):
    """Every weight of the small form has its name and, but for the first convolution and hidden layers, its shape."""
    small, own = (
        {key: tensor.shape for key, tensor in weightless(name, num_classes=1000, stem=stem).state_dict().items()}
        for stem in ('cifar', 'imagenet')
    )
    assert list(small) == list(own)
    first, *_ = small
    assert small[first] == (*own[first][:2], 3, 3)
    differing = {key for key in small if small[key] != own[key]} - {first}
    assert all(key.startswith('classifier') for key in differing) if 'net_v' not in name else not differing
    assert bool(differing) == name.startswith(('alexnet', 'vgg'))


def test_parameters_of_the_usual_cifar_variants():
    assert parameters(weightless('resnet18', num_classes=10)) == 11_173_962
    assert parameters(weightless('resnet34', num_classes=10)) == 21_282_122
    assert parameters(weightless('resnet50', num_classes=10)) == 23_520_842
    assert parameters(weightless('mobilenet_v2', num_classes=100)) == 2_351_972
    # 14,714,688 of the convolutions, and three linear layers.
    assert parameters(weightless('vgg16', num_classes=10)) == 14_714_688 + 2 * (512 * 512 + 512) + (512 * 10 + 10)


@pytest.mark.parametrize('name', ['alexnet', 'resnet18', 'mobilenet_v2'])
@pytest.mark.parametrize('stem', ['cifar', 'imagenet'])
def test_one_channel(name, stem):
    three, one = (weightless(name, in_channels=channels, stem=stem) for channels in (3, 1))
    first = next(iter(three.parameters()))
    assert parameters(three) - parameters(one) == 2 * first[:, 0].numel()
    assert one(torch.zeros(2, 1, 64, 64, device='meta')).shape == (2, 100)


def test_the_small_form_begins_with_he():
    torch.manual_seed(0)
    net = resnet18(num_classes=10)
    deep = net.layer4[0].conv1.weight  # 256 -> 512: fan in and fan out differ
    assert deep.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert net.conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all((part.weight == 1).all() and (part.bias == 0).all() for part in norms)
    assert all((part.running_mean == 0).all() and (part.running_var == 1).all() for part in norms)
    # torch's own start of a linear layer: uniform in 1 / sqrt(inputs).
    assert net.fc.weight.abs().max().item() == pytest.approx(512**-0.5, rel=0.01)
    assert all(tensor.isfinite().all() for tensor in net.state_dict().values())


def test_a_vgg_without_batch_norm_passes_the_image_on():
    torch.manual_seed(0)
    net, sizes = vgg11(num_classes=10).eval(), []
    for part in net.classifier:
        part.register_forward_hook(lambda _m, _i, out: sizes.append(out.square().mean().item()))
    with torch.no_grad():
        net(torch.randn(4, 3, 32, 32))
    before, after = sizes[1], sizes[4]  # of the two ReLUs
    assert after / before == pytest.approx(1, abs=0.4)
    assert net.classifier[0].weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ('options', 'side'),
    [
        ({'name': 'vgg11'}, 16),
        ({'name': 'vgg19_bn', 'stem': 'imagenet'}, 32),
        ({'name': 'alexnet'}, 15),
        ({'name': 'alexnet', 'stem': 'imagenet'}, 63),
    ],
)
def test_an_image_too_small_is_one_line(options, side):
    with torch.device('meta'):
        net = build_model(options, 10, (3, side - 1, side))
    assert net(torch.zeros(1, 3, side, side, device='meta')).shape == (1, 10)
    form = ' with stem: imagenet' if 'stem' in options else ''
    line = f'^model: {options["name"]}{form} needs images of at least {side}x{side}, got {side - 1}x{side}; '
    with pytest.raises(UserError, match=line):
        net(torch.zeros(1, 3, side - 1, side, device='meta'))


def test_an_unknown_stem():
    with pytest.raises(ValueError, match="stem must be 'cifar' or 'imagenet', got 'mnist'"):
        resnet18(stem='mnist')  # type: ignore[arg-type]
