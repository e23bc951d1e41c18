"""Random images and labels in CIFAR-10's format: what they show does not matter to the clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from tasks.data.dataset import Dataset, Source
from tasks.spec import AtLeast

__all__ = ["HELD_OUT", "Noise"]

HELD_OUT = 8  # examples for validation and test each: there must be some


@dataclass(frozen=True)
class Noise(Dataset):
    """Drawn from a fixed seed.

    Attributes:
        examples: to train on.
    """

    validation_size: float = HELD_OUT
    examples: Annotated[int, AtLeast(1)] = 640

    def read(self) -> Source:
        rng = np.random.default_rng(0)
        n = self.examples + int(self.validation_size)
        x, y = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, n)
        return Source(x, y, x[:HELD_OUT], y[:HELD_OUT])
