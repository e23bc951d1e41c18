"""Probes: what to measure on trained trials, on pairs of them, and on all seeds of a setting."""

from .autoneb import AutoNEB
from .ensemble import Ensemble
from .gradient_noise import GradientNoise
from .interpolation import Interpolation
from .intrinsic_dimension import IntrinsicDimension
from .lanczos import Lanczos
from .loss_surface import LossSurface
from .perturbation import Perturbation
from .spectral_density import SpectralDensity

__all__ = [
    "AutoNEB",
    "Ensemble",
    "GradientNoise",
    "Interpolation",
    "IntrinsicDimension",
    "Lanczos",
    "LossSurface",
    "Perturbation",
    "SpectralDensity",
]
