"""Optimizers."""

from .adagrad import AdaGrad
from .adam import Adam
from .adamw import AdamW
from .asam import ASAM
from .averaging import EMA, SWA, PolyakAverage
from .lbfgs import LBFGS
from .logit_sam import JSAM, LogitSAM
from .newton_cg import NewtonCG
from .optimizer import Gradients, Optimizer, Progress, Stepper
from .rmsprop import RMSProp
from .sam import SAM
from .sam_agree import SAMAgree, SAMAnatomy, SGDAgree
from .sam_bounded import ClampSAM, ClipSAM
from .same import SAME, CustomSAME
from .sgd import SGD
from .sharpness_aware import SharpnessAware
from .sign_magnitude import SAMDirection, SAMMagnitude, SignMagnitude

__all__ = [
    "ASAM",
    "EMA",
    "JSAM",
    "LBFGS",
    "SAM",
    "SAME",
    "SGD",
    "SWA",
    "AdaGrad",
    "Adam",
    "AdamW",
    "ClampSAM",
    "ClipSAM",
    "CustomSAME",
    "Gradients",
    "LogitSAM",
    "NewtonCG",
    "Optimizer",
    "PolyakAverage",
    "Progress",
    "RMSProp",
    "SAMAgree",
    "SAMAnatomy",
    "SAMDirection",
    "SAMMagnitude",
    "SGDAgree",
    "SharpnessAware",
    "SignMagnitude",
    "Stepper",
]
