"""Tasks that wait instead of compute, with a dataset and checkpoints of some megabytes: what crosses the network?"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import ClassVar

from orchestrator import Sweep, same_setting
from tasks.task import Artifact, Context, PairProbe, Probe, Results, Task

MB = 1_000_000


@dataclass(frozen=True)
class Dataset(Task):
    """Once."""

    megabytes: int = 24

    def run(self, ctx: Context) -> Results:
        (ctx.dir / "examples.bin").write_bytes(random.Random(0).randbytes(self.megabytes * MB))
        return {"megabytes": self.megabytes}


@dataclass(frozen=True)
class Fit(Task):
    """Reads the dataset, leaves a checkpoint."""

    dataset: Dataset = Dataset()
    setting: int = 0
    megabytes: int = 6

    streams: ClassVar[tuple[str, ...]] = ("init",)

    def run(self, ctx: Context, dataset: Artifact) -> Results:
        read = len((dataset.dir / "examples.bin").read_bytes())
        seed = 1000 * self.setting + ctx.seeds["init"]
        time.sleep(1.0 + 0.1 * (seed % 5))
        (ctx.dir / "weights.safetensors").write_bytes(random.Random(seed).randbytes(self.megabytes * MB))
        return {"read": read, "accuracy": seed / 1e6}


@dataclass(frozen=True)
class Look(Probe):
    """Reads the dataset and a checkpoint."""

    index: int = 0

    def run(self, ctx: Context, trained: Artifact) -> Results:
        size = len((trained.dir / "weights.safetensors").read_bytes())
        time.sleep(0.6 + 0.05 * self.index)
        (ctx.dir / "value.txt").write_text(f"{size} {trained.results['accuracy']}")
        return {"size": size}


@dataclass(frozen=True)
class Between(PairProbe):
    """Reads two checkpoints."""

    def run(self, ctx: Context, a: Artifact, b: Artifact) -> Results:
        size = sum(len((x.dir / "weights.safetensors").read_bytes()) for x in (a, b))
        time.sleep(0.6)
        return {"size": size}


sweep = Sweep(
    train=Fit(setting={"grid_search": list(range(6))}),  # type: ignore[arg-type]
    seeds=range(3),
    probes=[Look(index=i) for i in range(4)],
    pairs=[Between()],
    pair_when=same_setting,
    metric="accuracy",
    mode="max",
    slot={"cpu": 1},
    smoke={"train.setting": (0, 1), "train.megabytes": 1, "train.dataset.megabytes": 2},
)
