"""The sweep that `chaos.py` disturbs: trainings of some seconds, probes, and pairs with paths between minima.

Every task notes in the file $CHAOS_LEDGER that it starts, and on what, before it does anything else.
Nothing that the tasks compute depends on that.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orchestrator import Sweep, same_seed, same_setting
from tasks import data, probes, train
from tasks.models import MLP
from tasks.optimizers import SGD
from tasks.task import Artifact, Context, Task


def identity(task: Task, seeds: Any, inputs: Iterable[str]) -> str:
    """What a task is within this sweep, without its key: a task that runs does not know that."""
    own = {name: seeds[name] for name in task.streams}
    return json.dumps([type(task).__name__, repr(task), own, list(inputs)])


class Noted:
    """Notes each of its starts."""

    def run(self, ctx: Context, *inputs: Artifact) -> Any:
        line = {"time": time.time(), "pid": os.getpid(), "task": identity(self, ctx.seeds, (i.key for i in inputs))}  # type: ignore[arg-type]
        if "CHAOS_LEDGER" in os.environ:
            with open(os.environ["CHAOS_LEDGER"], "a") as ledger:
                ledger.write(json.dumps(line) + "\n")
        return super().run(ctx, *inputs)  # type: ignore[misc]


@dataclass(frozen=True)
class Digits(Noted, data.Digits):
    pass


@dataclass(frozen=True)
class Train(Noted, train.Train):
    pass


@dataclass(frozen=True)
class Lanczos(Noted, probes.Lanczos):
    pass


@dataclass(frozen=True)
class Interpolation(Noted, probes.Interpolation):
    pass


@dataclass(frozen=True)
class AutoNEB(Noted, probes.AutoNEB):
    pass


sweep = Sweep(
    train=Train(
        dataset=Digits(),
        model=MLP(widths=(256, 256)),
        optimizer=SGD(lr={"grid_search": [0.02, 0.05]}, momentum=0.9),  # type: ignore[arg-type]
        epochs=40,
        batch_size=16,
    ),
    seeds=range(4),
    probes=[Lanczos(k=3, examples=512)],
    pairs=[Interpolation(steps=11, examples=512), AutoNEB(cycles=4, steps=20, examples=512, resolution=11)],
    pair_when=same_setting | same_seed,
    metric="val_accuracy",
    mode="max",
    slot={"cpu": 1},
    smoke={"train.epochs": 20, "seeds": range(2), "pairs.AutoNEB.cycles": 3},
)
