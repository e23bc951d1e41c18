"""Expectations over χ² and normal variables, by Gauss-Legendre quadrature in their probability integral."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["chi2_nodes", "normal_nodes"]


@lru_cache(maxsize=512)
def chi2_nodes(degrees: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Values v and weights w with Σ w·f(v) ≈ E f(V), V ~ χ² with these degrees of freedom; to about 1/count²."""
    from scipy.special import chdtri

    nodes, weights = _legendre(count)
    return chdtri(degrees, (1 - nodes) / 2), weights / 2


def normal_nodes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for a standard normal variable."""
    from scipy.special import ndtri

    nodes, weights = _legendre(count)
    return ndtri((1 + nodes) / 2), weights / 2


@lru_cache(maxsize=8)
def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(count)
    return nodes, weights
