"""Architectures."""

from .densenet import DenseNet
from .linear import Linear, TwoLayerLinear
from .mlp import MLP
from .model import Model
from .resnet import ResNet18, ResNet34, ResNet50
from .simple_cnn import SimpleCNN
from .wide_resnet import WideResNet

__all__ = [
    "MLP",
    "DenseNet",
    "Linear",
    "Model",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "SimpleCNN",
    "TwoLayerLinear",
    "WideResNet",
]
