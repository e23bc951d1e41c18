"""Which of many step sizes is best? ASHA stops the trainings that fall behind; the rest run to their end.

What was stopped early enters no statistic: the report says how many that were.
"""

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from orchestrator import Sweep
from tasks.data import CIFAR10, Digits
from tasks.models import MLP, SimpleCNN
from tasks.optimizers import SGD
from tasks.probes import Lanczos
from tasks.train import Train

sweep = Sweep(
    train=Train(
        dataset=CIFAR10(),
        model=SimpleCNN(),
        epochs=27,
        batch_size=128,
        optimizer=SGD(lr=tune.loguniform(1e-3, 3.0), momentum=0.9),
    ),
    seeds=range(2),
    probes=[Lanczos(k=1)],
    metric="val_accuracy",
    mode="max",
    margin=0.005,  # of the comparison on fresh seeds (the verb confirm): none can be named before the settings are
    samples=20,
    scheduler=ASHAScheduler(time_attr="epoch", max_t=27, grace_period=3, reduction_factor=3),
    smoke={
        "train.dataset": Digits(),
        "train.model": MLP(),
        "train.epochs": 9,
        "samples": 6,
        "margin": 0.02,  # Digits has few examples to judge by
        "scheduler": ASHAScheduler(time_attr="epoch", max_t=9, grace_period=1, reduction_factor=3),
    },
)
