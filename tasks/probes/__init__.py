"""Probes: what to measure on trained trials, on pairs of them, and on all seeds of a setting."""

from .autoneb import AutoNEB
from .ensemble import Ensemble
from .gradient_noise import GradientNoise
from .interpolation import Interpolation
from .intrinsic_dimension import IntrinsicDimension
from .lanczos import Lanczos
from .perturbation import Perturbation

__all__ = [
    "AutoNEB",
    "Ensemble",
    "GradientNoise",
    "Interpolation",
    "IntrinsicDimension",
    "Lanczos",
    "Perturbation",
]
