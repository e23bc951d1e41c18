"""Does SAM's gain shrink as the training set grows?

Every training sees the same number of examples, so that a larger set means new examples and not more steps.
"""

from ray import tune

from orchestrator import Sweep
from tasks.data import CIFAR10, Digits
from tasks.models import MLP, SimpleCNN
from tasks.optimizers import SAM
from tasks.probes import Lanczos
from tasks.schedules import Cosine
from tasks.train import Train


def gains(sizes, rhos):
    """SAM against SGD with the same training set."""
    return [({"train_size": n, "rho": rho}, {"train_size": n, "rho": 0.0}) for n in sizes for rho in rhos]


sweep = Sweep(
    train=Train(
        dataset=CIFAR10(train_size=tune.grid_search([1_500, 5_000, 15_000, 45_000])),
        model=SimpleCNN(),
        epochs=tune.grid_search([360, 108, 36, 12]),
        batch_size=125,
        schedule=Cosine(),
        optimizer=SAM(lr=0.05, momentum=0.9, weight_decay=5e-4, rho=tune.grid_search([0.0, 0.05, 0.1, 0.2])),
    ),
    setting_when=lambda train: train.epochs * train.dataset.train_size == 540_000,
    seeds=range(5),
    probes=[Lanczos(k=1)],
    metric="test_accuracy",
    mode="max",
    contrasts=gains([1_500, 5_000, 15_000, 45_000], [0.05, 0.1, 0.2]),
    margin=0.005,  # half a percentage point of accuracy counts as no difference
    smoke={
        "train.dataset": Digits(train_size=tune.grid_search([100, 300, 1000])),
        "train.model": MLP(),
        "train.epochs": tune.grid_search([60, 20, 6]),
        "train.batch_size": 50,
        "train.optimizer.rho": tune.grid_search([0.0, 0.1]),
        "setting_when": lambda train: train.epochs * train.dataset.train_size == 6_000,
        "seeds": range(2),
        "contrasts": gains([100, 300, 1000], [0.1]),
        "margin": 0.02,  # Digits has few examples to judge by
    },
)
