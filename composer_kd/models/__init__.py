"""Nets and their wrapper for Composer: built by name, weighed, saved and loaded."""

from composer_kd.models.classifier import Classifier, classifier, plain
from composer_kd.models.cost import inference_seconds, multiply_adds, parameters
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
    resnet110,
)
from composer_kd.models.section import ModelSection, build_model
from composer_kd.models.weights import load_into, load_weights, save_weights, weights_hash

__all__ = [
    'MLP',
    'MODELS',
    'CifarResNet',
    'Classifier',
    'ModelSection',
    'build_model',
    'classifier',
    'inference_seconds',
    'load_into',
    'load_weights',
    'mlp',
    'multiply_adds',
    'parameters',
    'plain',
    'resnet8x4',
    'resnet20',
    'resnet32',
    'resnet32x4',
    'resnet44',
    'resnet56',
    'resnet110',
    'save_weights',
    'weights_hash',
]
