"""The command line's own entry, called from tests, and a sweep of toy tasks to call it with."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

from orchestrator.__main__ import main

TOY = '''\
"""Toy tasks that need no torch."""

import os
import time
from dataclasses import dataclass

from orchestrator import Sweep, same_setting
from tasks.task import GroupProbe, PairProbe, Probe, Task


@dataclass(frozen=True)
class Fit(Task):
    lr: float = 0.1
    streams = ("init",)

    def run(self, ctx):
        if self.lr > 1:
            return {"val_accuracy": float("nan"), "diverged": True}
        (ctx.dir / "w.txt").write_text(str(ctx.rng("init").random()))
        return {"val_accuracy": self.lr, "diverged": False}


@dataclass(frozen=True)
class Look(Probe):
    trouble: str = ""
    seconds: float = 0.0

    def run(self, ctx, trained):
        time.sleep(self.seconds)
        first = trained.seeds["init"] == 0
        if first and self.trouble == "raise":
            raise RuntimeError("no such thing")
        if first and self.trouble == "die":
            os._exit(3)
        return {"draw": float((trained.dir / "w.txt").read_text())}


@dataclass(frozen=True)
class After(Probe):
    look: Look = Look()

    def run(self, ctx, look, trained):
        return {"twice": 2 * look.results["draw"]}


@dataclass(frozen=True)
class Both(PairProbe):
    def run(self, ctx, a, b):
        return {"sum": float((a.dir / "w.txt").read_text()) + float((b.dir / "w.txt").read_text())}


@dataclass(frozen=True)
class All(GroupProbe):
    def run(self, ctx, *trained):
        return {"members": len(trained)}


sweep = Sweep(
    train=Fit(lr={"grid_search": [0.1, 0.2]}),
    seeds=range(3),
    probes=[Look(), After()],
    pairs=[Both()],
    groups=[All()],
    pair_when=same_setting,
)
'''

LAST = re.compile(r"^(\d+) tasks: (\d+) ran, (\d+) stored, (\d+) failed, (\d+) skipped$")


def orchestrate(capsys, *argv: str) -> tuple[int, list[str], str]:
    """Exit code, lines of standard output, standard error."""
    sys.modules.pop("my_probes", None)  # every command is a process of its own, as far as this matters
    code = main(list(argv))
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def counts(lines: list[str]) -> dict[str, int]:
    found = LAST.match(lines[-1])
    assert found, lines[-5:]
    return dict(zip(("tasks", "ran", "stored", "failed", "skipped"), map(int, found.groups()), strict=True))


def artifacts() -> Counter[str]:
    return Counter(path.parent.name for path in Path("artifacts/artifacts").glob("*/*"))
