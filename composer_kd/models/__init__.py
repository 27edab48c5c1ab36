"""Nets and their wrapper for Composer: built by name, weighed, saved and loaded."""

from composer_kd.models.classifier import Classifier, classifier, plain
from composer_kd.models.cost import inference_seconds, multiply_adds, parameters
from composer_kd.models.densenet import DenseNet, densenet
from composer_kd.models.mlp import MLP, mlp
from composer_kd.models.registry import MODELS
from composer_kd.models.resnet import (
    CifarResNet,
    resnet8x4,
    resnet20,
    resnet32,
    resnet32x4,
    resnet44,
    resnet56,
    resnet62,
    resnet68,
    resnet110,
)
from composer_kd.models.section import ModelSection, build_model
from composer_kd.models.torchvision_nets import (
    alexnet,
    mobilenet_v2,
    mobilenet_v3_large,
    mobilenet_v3_small,
    resnet18,
    resnet34,
    resnet50,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)
from composer_kd.models.weights import load_into, load_weights, save_weights, weights_hash
from composer_kd.models.wide_resnet import WideResNet, wrn, wrn_16_2, wrn_40_1, wrn_40_2

__all__ = [
    'MLP',
    'MODELS',
    'CifarResNet',
    'Classifier',
    'DenseNet',
    'ModelSection',
    'WideResNet',
    'alexnet',
    'build_model',
    'classifier',
    'densenet',
    'inference_seconds',
    'load_into',
    'load_weights',
    'mlp',
    'mobilenet_v2',
    'mobilenet_v3_large',
    'mobilenet_v3_small',
    'multiply_adds',
    'parameters',
    'plain',
    'resnet8x4',
    'resnet18',
    'resnet20',
    'resnet32',
    'resnet32x4',
    'resnet34',
    'resnet44',
    'resnet50',
    'resnet56',
    'resnet62',
    'resnet68',
    'resnet110',
    'save_weights',
    'vgg11',
    'vgg11_bn',
    'vgg13',
    'vgg13_bn',
    'vgg16',
    'vgg16_bn',
    'vgg19',
    'vgg19_bn',
    'weights_hash',
    'wrn',
    'wrn_16_2',
    'wrn_40_1',
    'wrn_40_2',
]
