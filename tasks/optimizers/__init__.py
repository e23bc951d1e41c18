"""Optimizers."""

from .adamw import AdamW
from .asam import ASAM
from .optimizer import Gradients, Optimizer, Progress, Stepper
from .sam import SAM
from .sam_agree import SAMAgree, SAMAnatomy, SGDAgree
from .sam_bounded import ClampSAM, ClipSAM
from .same import SAME, CustomSAME
from .sgd import SGD
from .sharpness_aware import SharpnessAware
from .sign_magnitude import SAMDirection, SAMMagnitude, SignMagnitude

__all__ = [
    "ASAM",
    "SAM",
    "SAME",
    "SGD",
    "AdamW",
    "ClampSAM",
    "ClipSAM",
    "CustomSAME",
    "Gradients",
    "Optimizer",
    "Progress",
    "SAMAgree",
    "SAMAnatomy",
    "SAMDirection",
    "SAMMagnitude",
    "SGDAgree",
    "SharpnessAware",
    "SignMagnitude",
    "Stepper",
]
