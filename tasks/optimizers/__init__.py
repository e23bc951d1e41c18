"""Optimizers."""

from .adamw import AdamW
from .optimizer import Optimizer, Stepper
from .sam import SAM
from .sam_adamw import SAMAdamW
from .sgd import SGD
from .sharpness_aware import SharpnessAware

__all__ = ["SAM", "SGD", "AdamW", "Optimizer", "SAMAdamW", "SharpnessAware", "Stepper"]
