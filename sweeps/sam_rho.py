"""Does SAM's or ASAM's rho flatten the minimum, and is the difference larger than the noise between seeds?"""

from ray import tune

from orchestrator import Sweep, same_seed, same_setting
from tasks.data import CIFAR10, Digits
from tasks.models import MLP, SimpleCNN
from tasks.optimizers import ASAM, SAM
from tasks.probes import (
    AutoNEB,
    Ensemble,
    GradientNoise,
    Interpolation,
    Lanczos,
    LossSurface,
    Perturbation,
    SpectralDensity,
)
from tasks.train import Train

BASE = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}

sweep = Sweep(
    train=Train(
        dataset=CIFAR10(),
        model=SimpleCNN(),
        epochs=12,
        batch_size=128,
        optimizer=tune.grid_search(
            [
                SAM(**BASE, rho=tune.grid_search([0.0, 0.05, 0.1, 0.2, 0.5])),
                ASAM(**BASE, rho=tune.grid_search([0.5, 1.0, 2.0])),
            ]
        ),
    ),
    seeds=range(5),
    probes=[Lanczos(k=3), GradientNoise(), Perturbation(), SpectralDensity(), LossSurface()],
    pairs=[Interpolation(steps=41), AutoNEB()],
    groups=[Ensemble()],
    pair_when=same_setting | same_seed,
    metric="val_accuracy",
    mode="max",
    baseline={"rho": 0.0},
    margin=0.005,  # half a percentage point of accuracy counts as no difference
    smoke={
        "train.dataset": Digits(),
        "train.model": MLP(),
        "train.epochs": 10,
        "train.optimizer": tune.grid_search(
            [
                SAM(**BASE, rho=tune.grid_search([0.0, 0.05, 0.2])),
                ASAM(**BASE, rho=tune.grid_search([0.5, 2.0])),
            ]
        ),
        "seeds": range(2),
        "margin": 0.02,  # Digits has few examples to judge by
        "probes.SpectralDensity.vectors": 3,
        "probes.LossSurface.steps": (11, 11),
        "pairs.Interpolation.steps": 21,
        "pairs.AutoNEB.cycles": 3,
        "pairs.AutoNEB.steps": 20,
    },
)
