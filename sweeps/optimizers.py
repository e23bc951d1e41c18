"""Do SGD, momentum and AdamW end in different minima, and are these connected?"""

from ray import tune

from orchestrator import Sweep, same_seed, same_setting
from tasks.data import CIFAR10, Digits
from tasks.models import MLP, SimpleCNN
from tasks.optimizers import SGD, AdamW
from tasks.probes import AutoNEB, GradientNoise, Interpolation, IntrinsicDimension, Lanczos, Perturbation
from tasks.train import Train

sweep = Sweep(
    train=Train(
        dataset=CIFAR10(),
        model=SimpleCNN(),
        epochs=12,
        batch_size=128,
        optimizer=tune.grid_search([SGD(lr=0.05), SGD(lr=0.05, momentum=0.9), AdamW(lr=1e-3)]),
    ),
    seeds=range(5),
    probes=[Lanczos(k=3), GradientNoise(), Perturbation(), IntrinsicDimension()],
    pairs=[Interpolation(), AutoNEB()],
    pair_when=same_seed & ~same_setting,
    metric="val_accuracy",
    mode="max",
    contrasts="all",
    margin=0.005,  # half a percentage point of accuracy counts as no difference
    smoke={
        "train.dataset": Digits(),
        "train.model": MLP(),
        "train.epochs": 10,
        "seeds": range(2),
        "margin": 0.02,  # Digits has few examples to judge by
        "probes.IntrinsicDimension.dimensions": (3, 10, 30, 100),
        "probes.IntrinsicDimension.epochs": 5,
        "pairs.Interpolation.steps": 21,
        "pairs.AutoNEB.cycles": 3,
        "pairs.AutoNEB.steps": 20,
    },
)
