"""Architectures."""

from .mlp import MLP
from .model import Model
from .resnet import ResNet18
from .simple_cnn import SimpleCNN

__all__ = ["MLP", "Model", "ResNet18", "SimpleCNN"]
