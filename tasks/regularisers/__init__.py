"""Regularisers: what is done to the examples, loss, gradient or weights of a step, besides the optimizer's own.

L2 is `weight_decay` of the optimizers, cutout is `Augment(cutout=…)`, dropout is a field of the models.
"""

from .adversarial_training import AdversarialTraining
from .l1 import L1
from .label_smoothing import LabelSmoothing
from .last_layer_l2 import LastLayerL2
from .max_norm import MaxNorm
from .mixup import Mixup
from .noise import InputNoise, WeightNoise
from .regulariser import Regulariser

__all__ = [
    "L1",
    "AdversarialTraining",
    "InputNoise",
    "LabelSmoothing",
    "LastLayerL2",
    "MaxNorm",
    "Mixup",
    "Regulariser",
    "WeightNoise",
]
