"""Why is SAM robust to label noise: through the logits, the Jacobian, or small weights of the last layer?

SGD, SAM, per-example SAM (1-SAM), and SAM's two halves: logit-SAM takes the logits from w + ε and the Jacobian from w,
J-SAM the other way round (Baek et al. 2024). Beside them their cheap substitute, SGD with an L2 penalty on the last
activations and the last layer's weights. Which fit the clean examples before the noisy ones?
"""

from ray import tune

from orchestrator import Sweep
from tasks.data import CIFAR10, Digits
from tasks.models import MLP, SimpleCNN
from tasks.optimizers import JSAM, SAM, SGD, LogitSAM
from tasks.probes import Lanczos
from tasks.recording import Record
from tasks.regularisers import LastLayerL2
from tasks.schedules import Cosine
from tasks.train import Train


def optimizers(rhos, lr):
    base, rho = {"lr": lr, "momentum": 0.9, "weight_decay": 5e-4}, tune.grid_search(rhos)
    halves = [half(**base, rho=rho, m=tune.grid_search([None, 1])) for half in (JSAM, LogitSAM)]
    return tune.grid_search([SGD(**base), SAM(**base, rho=rho, m=tune.grid_search([None, 1])), *halves])


def penalties(*strengths):
    return tune.grid_search([(), *((LastLayerL2(activations=s, weights=s),) for s in strengths)])


def substitute_for_sgd_alone(train):
    return train.regularisers == () or isinstance(train.optimizer, SGD)


def against_sgd(rho, **where):
    """Each way of being robust against plain SGD; of SAM and its halves those that perturb per example."""
    sgd = {"optimizer": "SGD", "regularisers": "none", **where}
    members = [{"optimizer": name, "m": 1, **rho, **where} for name in ("SAM", "JSAM", "LogitSAM")]
    penalty = {"optimizer": "SGD", "regularisers": (LastLayerL2(activations=1e-3, weights=1e-3),), **where}
    return [(setting, sgd) for setting in (*members, penalty)]


sweep = Sweep(
    train=Train(
        dataset=CIFAR10(),
        model=SimpleCNN(),
        epochs=60,
        batch_size=128,
        schedule=Cosine(),
        optimizer=optimizers([0.02, 0.05, 0.1], lr=0.01),
        regularisers=penalties(1e-5, 1e-4, 1e-3),
        label_noise=tune.grid_search([0.0, 0.2, 0.4, 0.6]),
        record=Record(every=100),
    ),
    setting_when=substitute_for_sgd_alone,
    seeds=range(5),
    probes=[Lanczos(k=1)],
    metric="test_accuracy",
    mode="max",
    contrasts=against_sgd({"rho": 0.1}, label_noise=0.4),
    margin=0.005,  # half a percentage point of accuracy counts as no difference
    smoke={
        "train.dataset": Digits(),
        "train.model": MLP(),
        "train.epochs": 8,
        "train.optimizer": optimizers([0.1], lr=0.05),
        "train.regularisers": penalties(1e-3),
        "train.label_noise": 0.4,
        "train.record.every": 5,
        "seeds": range(2),
        "contrasts": against_sgd({}),
        "margin": 0.02,  # Digits has few examples to judge by
    },
)
