"""What AWS's instance types have, as far as it follows from their names; for plans without the network."""

from __future__ import annotations

import re
from dataclasses import dataclass

_GIB = 1024**3
_GIB_PER_CPU = {"c": 2, "m": 4, "r": 8}
_GENERAL = {f"{family}{series}" for family in "cmr" for series in ("5", "5a", "5d", "6a", "6i", "6id", "7a", "7i")}
_ONE_TO_EIGHT = {"g4dn": ("T4", 4), "g5": ("A10G", 4), "g6": ("L4", 4), "g6e": ("L40S", 8)}
"""Families whose GPUs follow from the size: accelerator, GiB a CPU."""
_WHOLE = {
    "p3dn.24xlarge": (96, 768, 8, "V100"),
    "p4d.24xlarge": (96, 1152, 8, "A100"),
    "p4de.24xlarge": (96, 1152, 8, "A100"),
    "p5.4xlarge": (16, 256, 1, "H100"),
    "p5.48xlarge": (192, 2048, 8, "H100"),
    "p5e.48xlarge": (192, 2048, 8, "H200"),
    "p5en.48xlarge": (192, 2048, 8, "H200"),
    "p6-b200.48xlarge": (192, 2048, 8, "B200"),
}
"""CPUs, GiB, GPUs, accelerator."""


@dataclass(frozen=True)
class InstanceType:
    """What one instance has.

    Attributes:
        cpus: virtual ones.
        memory: bytes.
        gpus: how many; `accelerator` is their type in Ray's words, "" where there are none.
    """

    cpus: int
    memory: int
    gpus: int = 0
    accelerator: str = ""


def instance_type(name: str) -> InstanceType | None:
    """The instance type of this name; None where it is not known here."""
    if name in _WHOLE:
        cpus, gib, gpus, accelerator = _WHOLE[name]
        return InstanceType(cpus, gib * _GIB, gpus, accelerator)
    family, _, size = name.partition(".")
    found = re.fullmatch(r"(\d*)xlarge", size)
    if found is None and (size != "large" or family not in _GENERAL):
        return None
    times = int(found[1] or 1) if found else 0
    cpus = 4 * times if found else 2
    if family in _GENERAL:
        return InstanceType(cpus, cpus * _GIB_PER_CPU[family[0]] * _GIB)
    if family in _ONE_TO_EIGHT and times in (1, 2, 4, 8, 12, 16, 24, 48):
        accelerator, gib = _ONE_TO_EIGHT[family]
        return InstanceType(cpus, cpus * gib * _GIB, {12: 4, 24: 4, 48: 8}.get(times, 1), accelerator)
    return None
