"""Two interleaved spirals: a two-dimensional problem whose decision boundary can be drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from ..spec import AtLeast, MoreThan
from .dataset import Dataset, Source

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Spirals"]


@dataclass(frozen=True)
class Spirals(Dataset):
    """Points on two spirals, with noise; two classes, two features.

    With U uniform on [0, 1) and the angle n = √U · 600 · 2π/360, class 0 lies at
    (−1.5 n cos n, 1.5 n sin n) and class 1 at the opposite point, each plus N(0, noise²) in both
    coordinates.

    Attributes:
        examples: training and validation points together, half of each class (the odd one in class 0).
        test_examples: test points.
        noise: standard deviation of the noise, in the units of the coordinates (the radius goes to 15.7).
        seed: seed of the points.
    """

    validation_size: Annotated[float, MoreThan(0)] = 0.2
    examples: Annotated[int, AtLeast(4)] = 1000
    test_examples: Annotated[int, AtLeast(2)] = 1000
    noise: Annotated[float, AtLeast(0)] = 0.5
    seed: Annotated[int, AtLeast(0)] = 0

    number_of_classes: ClassVar[int | None] = 2
    example_shape: ClassVar[tuple[int, ...] | None] = (2,)

    def read(self) -> Source:
        return Source(*self._points(self.examples, stream=0), *self._points(self.test_examples, stream=1))

    def _points(self, count: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        rng = np.random.default_rng([self.seed, stream])
        y = np.arange(count) % 2
        angle = np.sqrt(rng.random(count)) * 600 * 2 * math.pi / 360
        side = np.where(y == 0, 1.0, -1.0)
        x = np.stack([-1.5 * angle * np.cos(angle) * side, 1.5 * angle * np.sin(angle) * side], axis=1)
        x += self.noise * rng.standard_normal((count, 2))
        return x.astype(np.float32), y
