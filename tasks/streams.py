"""Named streams of randomness, derived from seeds; never global state.

This module is part of every task's code: change how numbers are derived, and everything is another
task. The rest of the framework (`task`, `spec`, `errors`, `snapshots`) is not, since it decides no number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def entropy(stream: str, seeds: Mapping[str, int]) -> int:
    """128 bits that depend on the name of the stream and on its seed alone.

    A stream that `seeds` names ("init") is driven by that seed alone, so that it can be varied or
    frozen on its own. "order/3" is a part of the stream "order" and driven by its seed. Any other name
    ("directions") depends on all seeds.
    """
    driver = stream.partition("/")[0]
    basis = seeds[driver] if driver in seeds else sorted(seeds.items())
    digest = hashlib.sha256(json.dumps([stream, basis]).encode()).digest()
    return int.from_bytes(digest[:16], "big")


def numpy_generator(stream: str, seeds: Mapping[str, int]) -> np.random.Generator:
    """A fresh PCG64 generator."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(entropy(stream, seeds)))


def torch_generator(stream: str, seeds: Mapping[str, int]) -> torch.Generator:
    """A fresh torch generator on the CPU, seeded with 63 bits (all that torch takes)."""
    import torch

    return torch.Generator().manual_seed(entropy(stream, seeds) >> 65)
