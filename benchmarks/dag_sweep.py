"""A thousand tasks that do nothing: what does carrying them out cost?

100 roots (25 settings of 4 seeds), 400 probes (4 on each root), 400 pairs (each root with the next four)
and 100 fan-ins (4 on the four seeds of each setting).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator import PairRule, Sweep
from tasks.task import Artifact, Context, GroupProbe, PairProbe, Probe, Results, Task

SETTINGS, SEEDS, EACH = 25, 4, 4


def leave(ctx: Context, value: int) -> Results:
    """All that a task does: one small file and one result."""
    (ctx.dir / "value.txt").write_text(str(value))
    return {"value": value}


@dataclass(frozen=True)
class Root(Task):
    """Depends on nothing."""

    setting: int = 0

    streams: ClassVar[tuple[str, ...]] = ("init",)

    def run(self, ctx: Context) -> Results:
        return leave(ctx, self.setting)


@dataclass(frozen=True)
class Leaf(Probe):
    """On one root."""

    index: int = 0

    def run(self, ctx: Context, root: Artifact) -> Results:
        return leave(ctx, self.index)


@dataclass(frozen=True)
class Pair(PairProbe):
    """On two roots."""

    def run(self, ctx: Context, a: Artifact, b: Artifact) -> Results:
        return leave(ctx, 2)


@dataclass(frozen=True)
class FanIn(GroupProbe):
    """On the four roots of a setting."""

    index: int = 0

    def run(self, ctx: Context, *roots: Artifact) -> Results:
        return leave(ctx, len(roots))


def number(trial) -> int:
    return trial.setting.index * SEEDS + int(trial.replicate.label)


near = PairRule(lambda a, b: (number(b) - number(a)) % (SETTINGS * SEEDS) in (1, 2, 3, 4, 96, 97, 98, 99), "near")

sweep = Sweep(
    train=Root(setting={"grid_search": list(range(SETTINGS))}),  # type: ignore[arg-type]
    seeds=range(SEEDS),
    probes=[Leaf(index=i) for i in range(EACH)],
    pairs=[Pair()],
    groups=[FanIn(index=i) for i in range(EACH)],
    pair_when=near,
    metric="value",
    slot={"cpu": 1},
)
