"""Is it the sign or the magnitude of SAM's gradient that generalises, and the coordinates where both gradients agree?

The 2×2 of the sign from g or g⁺ with the magnitude from g or g⁺ (SGD, SAM-magnitude, SAM-direction, SAM), and the
variants that keep coordinates of one sign (agree, anatomy) or bound ε or g⁺ (clamp, clip), at a moderate and a large
rho. Read test accuracy and test loss apart: a variant may win one and lose the other.
"""

from ray import tune

from orchestrator import Sweep
from tasks.data import CIFAR10, Augment, Digits
from tasks.models import MLP, ResNet18, ResNet34, ResNet50, WideResNet
from tasks.optimizers import (
    SAM,
    SGD,
    ClampSAM,
    ClipSAM,
    SAMAgree,
    SAMAnatomy,
    SAMDirection,
    SAMMagnitude,
    SGDAgree,
)
from tasks.probes import Lanczos
from tasks.recording import Record
from tasks.schedules import Cosine
from tasks.train import Train

BASE = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
MEMBERS = (SAM, SAMMagnitude, SAMDirection, SAMAgree, SGDAgree, SAMAnatomy, ClampSAM, ClipSAM)


def parts_of_sam(rho, **where):
    """SAM against SGD, and the two halves of its gradient against the whole."""
    sgd, *sam = ({"optimizer": name, **where} for name in ("SGD", "SAM", "SAMDirection", "SAMMagnitude"))
    whole, *halves = ({**setting, **rho} for setting in sam)
    return [(whole, sgd), *((half, whole) for half in halves)]


sweep = Sweep(
    train=Train(
        dataset=CIFAR10(),
        model=tune.grid_search([ResNet18(), ResNet34(), ResNet50(), WideResNet(depth=28, width=10)]),
        epochs=200,
        batch_size=128,
        augment=Augment(),
        schedule=Cosine(),
        precision="bf16",
        optimizer=tune.grid_search(
            [SGD(**BASE), *(member(**BASE, rho=tune.grid_search([0.1, 0.5])) for member in MEMBERS)]
        ),
        record=Record(every=200),
    ),
    seeds=range(5),
    probes=[Lanczos(k=1)],
    metric="test_accuracy",
    mode="max",
    contrasts=[
        pair
        for model in ("ResNet18", "ResNet34", "ResNet50", "WideResNet")
        for pair in parts_of_sam({"rho": 0.1}, model=model)
    ],
    margin=0.005,  # half a percentage point of accuracy counts as no difference
    smoke={
        "train.dataset": Digits(),
        "train.model": MLP(),
        "train.epochs": 5,
        "train.augment": None,
        "train.optimizer.lr": 0.05,
        "train.optimizer.rho": 0.2,
        "train.precision": "float32",
        "train.record.every": 5,
        "seeds": range(2),
        "contrasts": parts_of_sam({}),
        "margin": 0.02,  # Digits has few examples to judge by
    },
)
