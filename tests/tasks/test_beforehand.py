"""What does not go together is said before any data are read."""

from __future__ import annotations

import pytest

from tasks.data import CIFAR10, Digits, FashionMNIST, Spirals
from tasks.data.augment import Augment
from tasks.data.dataset import Dataset
from tasks.errors import InvalidValue
from tasks.models import MLP, DenseNet, Linear, ResNet18, SimpleCNN, WideResNet
from tasks.optimizers import SAM, SGD
from tasks.task import execute
from tasks.train import Train


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"model": SimpleCNN(), "dataset": Spirals()}, r"SimpleCNN takes images of at least 2×2 .* of shape \(2,\)"),
        ({"model": ResNet18(), "dataset": Spirals()}, r"ResNet18 takes images, not examples of shape \(2,\)"),
        ({"model": Linear(output="logistic"), "dataset": Digits()}, "'logistic' is for 2 classes, not 10"),
        ({"augment": Augment(cutout=4), "dataset": Spirals()}, r"Augment takes images, not examples of shape \(2,\)"),
        ({"augment": Augment(cutout=9), "dataset": Digits()}, "cutout must be at most the side of the image, 8×8"),
        ({"model": ResNet18(), "optimizer": SAM(m=1)}, "m=1 .* BatchNorm mixes the examples: take ResNet18"),
        ({"optimizer": SAM(m=256), "batch_size": 128}, "m=256 is more than the batch of 128"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_before_anything_runs(fields, sentence):
    whole = {"dataset": Digits(), "model": MLP(), "optimizer": SGD(), "epochs": 1, **fields}
    with pytest.raises(InvalidValue, match=sentence):
        Train(**whole)


def test_parts_that_go_together_are_not_refused():
    Train(dataset=CIFAR10(), model=WideResNet(norm="group"), optimizer=SAM(m=1), augment=Augment(cutout=16))
    Train(dataset=CIFAR10(), model=ResNet18(), optimizer=SAM(m=1, rho=0.0))  # no ε, so nothing to mix
    Train(dataset=Digits(), model=DenseNet(depth=10), batch_size=None, optimizer=SAM(m=256))


@pytest.mark.parametrize("dataset", [Digits(), Spirals(), FashionMNIST()])
def test_a_dataset_has_examples_of_the_shape_that_it_declares(dataset: Dataset, tmp_path):
    import numpy as np

    try:
        dataset.preflight()
    except Exception as missing:
        pytest.skip(str(missing))
    artifact = execute(dataset, folder=tmp_path / "data")
    arrays = [np.load(p, mmap_mode="r").shape[1:] for p in artifact.dir.glob("*x*.npy")]
    assert arrays
    assert set(arrays) == {dataset.example_shape}
