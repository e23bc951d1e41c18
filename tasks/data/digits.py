"""Scikit-learn's handwritten digits: small, real, and part of the package."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Annotated, ClassVar

from ..errors import DataError
from ..spec import Below, MoreThan
from .dataset import Dataset, Source

__all__ = ["Digits"]


@dataclass(frozen=True)
class Digits(Dataset):
    """1,797 grey images of handwritten digits, 8×8 pixels of 0 to 16, 10 classes.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998), the test
    part, as `sklearn.datasets.load_digits` ships it.

    Attributes:
        test_size: fraction of all images held out for testing, chosen by `split_seed`.
    """

    validation_size: Annotated[float, MoreThan(0)] = 0.2
    test_size: Annotated[float, MoreThan(0), Below(1)] = 0.2

    number_of_classes: ClassVar[int | None] = 10
    example_shape: ClassVar[tuple[int, ...] | None] = (1, 8, 8)

    def preflight(self) -> None:
        """Raises: DataError: scikit-learn is not installed."""
        if importlib.util.find_spec("sklearn") is None:
            raise DataError("Digits comes with scikit-learn, which is not installed: pip install scikit-learn.")

    def read(self) -> Source:
        import numpy as np

        self.preflight()
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x = x.reshape(-1, 1, 8, 8).astype(np.uint8)
        order = np.random.default_rng([self.split_seed, 1]).permutation(len(y))
        test = max(1, round(self.test_size * len(y)))
        return Source(x[order[test:]], y[order[test:]], x[order[:test]], y[order[:test]])
