import pytest
import yaml

from composer_kd.core.errors import UserError
from composer_kd.core.options import Section, parse_section
from composer_kd.models import MODELS, CifarResNet, ModelSection, build_model, parameters

SHAPE = (3, 8, 8)


class Run(Section):
    model: ModelSection


def test_builds_from_the_data_and_the_options():
    net = build_model({'name': 'mlp', 'hidden': [7]}, num_classes=5, shape=(1, 2, 3))
    assert parameters(net) == (6 * 7 + 7) + (7 * 5 + 5)
    net = build_model({'name': 'resnet20'}, num_classes=5, shape=(1, 8, 8))
    assert isinstance(net, CifarResNet)
    assert (net.conv1.in_channels, net.fc.out_features) == (1, 5)


def test_survives_a_run_yaml():
    section = parse_section(Run, {'model': {'name': 'mlp', 'hidden': [4, 3]}}, '')
    written = yaml.safe_load(yaml.safe_dump(section.model_dump()))
    assert written == {'model': {'name': 'mlp', 'hidden': [4, 3]}}
    assert str(build_model(written['model'], 2, SHAPE)) == str(build_model(section.model, 2, SHAPE))


MISTAKES = [
    ({'name': 'mlp', 'hiden': [3]}, "model.hiden: unknown key; did you mean 'hidden'?"),
    ({'name': 'mlp', 'num_classes': 3}, 'model.num_classes: unknown key'),
    ({'name': 'resnet20', 'hidden': [3]}, 'model.hidden: unknown key'),
    ({'name': 'mlp', 'hidden': '3'}, 'model.hidden: should be a valid list'),
    ({'name': 'mlp', 'hidden': [3, 0]}, 'model.hidden.1: should be greater than 0, got 0'),
    ({'name': 'mlp', 'hidden': [3.5]}, 'model.hidden.0: should be a valid integer'),
    ({'name': 'resnet65'}, "model.name: 'resnet65' is not one of .*did you mean 'resnet62'"),
    ({'name': 'resnet21'}, "did you mean 'resnet20'"),
    ({'name': 'densenet', 'growth': 12}, 'model.depth: this key is required'),
    ({'name': 'densenet', 'depth': 40, 'growth': 0}, 'model.growth: should be greater than 0, got 0'),
    ({'name': 'densenet', 'depth': 40, 'growth': 12, 'compression': 1.5}, 'model.compression: .* 1, got 1.5'),
    ({'name': 'wrn', 'depth': 40, 'width': 0}, 'model.width: should be greater than 0, got 0'),
    ({'name': 'wrn', 'depth': 40, 'width': 2, 'dropout': 1}, 'model.dropout: should be less than 1, got 1'),
    ({'name': 'resnet18', 'stem': 'cifar10'}, "model.stem: should be 'cifar' or 'imagenet', got 'cifar10'"),
    ({'name': 20}, 'model.name: should be a valid string'),
    ({'nmae': 'mlp'}, 'model.name: this key is required'),
]


@pytest.mark.parametrize(('values', 'line'), MISTAKES)
def test_mistakes_name_the_key(values, line):
    with pytest.raises(UserError, match=line) as alone:
        build_model(values, 10, SHAPE)
    with pytest.raises(UserError, match=line) as within:
        parse_section(Run, {'model': values}, '')
    assert str(alone.value) == str(within.value)
    assert '\n' not in str(alone.value)


@pytest.mark.parametrize(
    ('values', 'line'),
    [
        ({'name': 'densenet', 'depth': 90, 'growth': 60}, r'6 n \+ 4 with bottlenecks, such as 88 or 94, got 90'),
        ({'name': 'densenet', 'depth': 5, 'growth': 2, 'bottleneck': False}, r'3 n \+ 4 .* 7 or 10, got 5'),
        ({'name': 'wrn', 'depth': 41, 'width': 2}, r'6 n \+ 4 \(10, 16, 22, 28, 34, 40, \.\.\.\), got 41'),
    ],
)
def test_a_depth_that_cannot_be_built(values, line):
    with pytest.raises(UserError, match=rf'^lineage\.gen1\.model: depth must be {line}$'):
        build_model(values, 10, SHAPE, where='lineage.gen1.model')


def test_the_place_in_a_larger_file():
    with pytest.raises(UserError, match=r'^lineage\.gen1\.model\.hiden: unknown key'):
        build_model({'name': 'mlp', 'hiden': [3]}, 10, SHAPE, where='lineage.gen1.model')
    with pytest.raises(UserError, match=r'^model: expected a mapping'):
        build_model('mlp', 10, SHAPE)  # type: ignore[arg-type]


def test_a_factory_of_ones_own(monkeypatch):
    def narrow(num_classes: int, in_channels: int, depth: int, width: float = 1.0):
        return CifarResNet(depth, (4, 4, 8, 8), num_classes, in_channels)

    monkeypatch.setitem(MODELS._entries, 'narrow', (narrow, ''))
    assert build_model({'name': 'narrow', 'depth': 8}, 3, SHAPE)
    with pytest.raises(UserError, match=r'model\.depth: this key is required'):
        build_model({'name': 'narrow'}, 3, SHAPE)
    with pytest.raises(UserError, match='model: depth must be 6 n'):
        build_model({'name': 'narrow', 'depth': 9}, 3, SHAPE)
    with pytest.raises(UserError, match=r'model\.width: should be a valid number'):
        build_model({'name': 'narrow', 'depth': 8, 'width': 'x'}, 3, SHAPE)
