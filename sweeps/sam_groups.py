"""Which coordinates make SAM work: those whose gradient grows at w + ε, shrinks, or turns round?

With r = g⁺/g for each coordinate (g at w, g⁺ at w + ε), the groups are 1: r ≥ 1, 2: 0 ≤ r < 1, 3: r ≤ −1,
4: −1 < r < 0. SAME weighs one group more than SAM does. Does group 1's share fall under SAM and rise under ASAM?
Does the share r < 0 grow with rho? Which groups learn patterns, and which fit noisy labels?
"""

from ray import tune

from orchestrator import Sweep
from tasks.data import CIFAR10, Digits
from tasks.models import MLP, SimpleCNN
from tasks.optimizers import ASAM, SAM, SAME, SGD, CustomSAME
from tasks.probes import Lanczos
from tasks.recording import Record
from tasks.schedules import Cosine
from tasks.train import Train

BASE = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


def optimizers(rhos, cs, asam_rhos):
    rho, c = tune.grid_search(rhos), tune.grid_search(cs)
    return tune.grid_search(
        [
            SGD(**BASE),
            SAM(**BASE, rho=rho),
            ASAM(**BASE, rho=tune.grid_search(asam_rhos)),
            SAME(**BASE, rho=rho, group=tune.grid_search([1, 2, 3, 4]), c=c),
            CustomSAME(**BASE, rho=rho, c=c),
        ]
    )


def with_clean_labels(*names):
    return [tuple({**setting, "label_noise": 0.0} for setting in pair) for pair in names]


SAM_01 = {"optimizer": "SAM", "rho": 0.1}

sweep = Sweep(
    train=Train(
        dataset=CIFAR10(),
        model=SimpleCNN(),
        epochs=30,
        batch_size=128,
        schedule=Cosine(),
        optimizer=optimizers(rhos=[0.05, 0.1, 0.2], cs=[0.5, 2.0], asam_rhos=[0.5, 1.0, 2.0]),
        label_noise=tune.grid_search([0.0, 0.2, 0.4]),
        record=Record(every=50),
    ),
    seeds=range(5),
    probes=[Lanczos(k=1)],
    metric="test_accuracy",
    mode="max",
    contrasts=with_clean_labels(
        (SAM_01, {"optimizer": "SGD"}),
        *(({"optimizer": "SAME", "rho": 0.1, "group": group, "c": 2.0}, SAM_01) for group in (1, 2, 3, 4)),
    ),
    margin=0.005,  # half a percentage point of accuracy counts as no difference
    smoke={
        "train.dataset": Digits(),
        "train.model": MLP(),
        "train.epochs": 8,
        "train.optimizer": optimizers(rhos=[0.1], cs=[2.0], asam_rhos=[1.0]),
        "train.label_noise": tune.grid_search([0.0, 0.4]),
        "train.record.every": 5,
        "seeds": range(2),
        "contrasts": with_clean_labels(
            ({"optimizer": "SAM"}, {"optimizer": "SGD"}),
            *(({"optimizer": "SAME", "group": group}, {"optimizer": "SAM"}) for group in (1, 2, 3, 4)),
        ),
        "margin": 0.02,  # Digits has few examples to judge by
    },
)
