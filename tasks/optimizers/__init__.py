"""Optimizers."""

from .adamw import AdamW
from .optimizer import Gradients, Optimizer, Progress, Stepper
from .sam import SAM
from .sgd import SGD
from .sharpness_aware import SharpnessAware

__all__ = ["SAM", "SGD", "AdamW", "Gradients", "Optimizer", "Progress", "SharpnessAware", "Stepper"]
