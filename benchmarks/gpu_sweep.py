"""Trainings alone, of CIFAR-10's size: what gpu.py runs in slots of several sizes."""

from noise import Noise

from orchestrator import Sweep
from tasks.models import MLP, ResNet18, SimpleCNN
from tasks.optimizers import SAM, SGD
from tasks.train import Train

MODELS = (MLP, ResNet18, SimpleCNN)  # for --set, as SAM is
OTHERS = (SAM,)

sweep = Sweep(
    train=Train(
        dataset=Noise(examples=50_000),
        model=SimpleCNN(),
        optimizer=SGD(lr=0.05, momentum=0.9, weight_decay=5e-4),
        epochs=5,
        batch_size=128,
    ),
    seeds=range(4),
)
