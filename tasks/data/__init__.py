"""Datasets, and how tasks load them."""

from .augment import Augment
from .cifar import CIFAR10, CIFAR100
from .dataset import Data, Dataset, Source, Split, data_root, load_data
from .digits import Digits
from .fashion_mnist import FashionMNIST
from .spirals import Spirals

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Augment",
    "Data",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "Source",
    "Spirals",
    "Split",
    "data_root",
    "load_data",
]
