"""Import torchvision beside any build of torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_declared: list[Any] = []  # keeps the declarations alive for as long as the process


def torchvision_datasets() -> ModuleType:
    """The module `torchvision.datasets`.

    torchvision's wheels are built for CUDA; beside a CPU build of torch their compiled operators do not
    load, and the import fails because the schema of `torchvision::nms` is unknown. Declaring the two
    schemas is enough for everything but those operators, which datasets do not use.
    """
    try:
        return importlib.import_module("torchvision.datasets")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    import torch

    for name in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    return importlib.import_module("torchvision.datasets")
