"""Which step size and weight decay suit SAM? Optuna proposes, and sees each setting averaged over its seeds.

Needs Optuna: pip install -e '.[search]' -c constraints.txt
"""

from optuna.samplers import TPESampler
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from orchestrator import Sweep
from tasks.data import CIFAR10, Digits
from tasks.models import MLP, SimpleCNN
from tasks.optimizers import SAM
from tasks.probes import Lanczos
from tasks.train import Train

sweep = Sweep(
    train=Train(
        dataset=CIFAR10(),
        model=SimpleCNN(),
        epochs=12,
        batch_size=128,
        optimizer=SAM(lr=tune.loguniform(1e-3, 1.0), momentum=0.9, weight_decay=tune.loguniform(1e-5, 1e-2), rho=0.05),
    ),
    seeds=range(3),
    probes=[Lanczos(k=1)],
    metric="val_accuracy",
    mode="max",
    search=OptunaSearch(sampler=TPESampler(seed=0)),
    margin=0.005,  # of the comparison on fresh seeds (the verb confirm): none can be named before the settings are
    samples=30,
    smoke={
        "train.dataset": Digits(),
        "train.model": MLP(),
        "train.epochs": 2,
        "seeds": range(2),
        "samples": 6,
        "margin": 0.02,  # Digits has few examples to judge by
    },
)
