"""Tasks of four shapes on one cluster: how long do they take over the best that could be?

Trainings on half a GPU each have a probe on a quarter, one without GPU, and one on a whole GPU. The cluster is real
Ray, on this machine: two nodes with declared GPUs and one without any; the tasks only wait, so its cores do not
matter much. Prints the time from the first task to the last over the larger of two bounds: the longest path, and the
work over the room for it (GPUs, CPUs).

    python benchmarks/placement.py [--trials 16] [--repeats 1]
    python benchmarks/placement.py --room    # `Room` alone: decisions a second on 125 nodes with 8 GPUs each
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "orchestrator"))

from cluster import RayCluster  # noqa: E402

from orchestrator.room import Room  # noqa: E402
from orchestrator.slots import NodeOffer, shape_of  # noqa: E402

NODES = ({"cpus": 4, "gpus": 2}, {"cpus": 4, "gpus": 2}, {"cpus": 4})
SLOTS = {
    "Fit": {"cpu": 1, "gpu": 0.5},
    "Look": {"cpu": 0.5, "gpu": 0.25},
    "Count": {"cpu": 1},
    "Dig": {"cpu": 1, "gpu": 1},
}
SECONDS = {"Fit": 6.0, "Look": 1.5, "Count": 2.0, "Dig": 3.0}

SWEEP = f"""\
import time
from dataclasses import dataclass

from orchestrator import Sweep
from tasks.task import Probe, Task


@dataclass(frozen=True)
class Fit(Task):
    streams = ("init",)

    def run(self, ctx):
        time.sleep({SECONDS["Fit"]})
        return {{"val_accuracy": 1.0}}


@dataclass(frozen=True)
class Look(Probe):
    def run(self, ctx, fit):
        time.sleep({SECONDS["Look"]})
        return {{}}


@dataclass(frozen=True)
class Count(Probe):
    def run(self, ctx, fit):
        time.sleep({SECONDS["Count"]})
        return {{}}


@dataclass(frozen=True)
class Dig(Probe):
    def run(self, ctx, fit):
        time.sleep({SECONDS["Dig"]})
        return {{}}


sweep = Sweep(
    train=Fit(), seeds=range(8), probes=[Look(), Count(), Dig()],
    slot={SLOTS["Fit"]}, slots={{Look: {SLOTS["Look"]}, Count: {SLOTS["Count"]}, Dig: {SLOTS["Dig"]}}},
)
"""


def bound(trials: int) -> float:
    """The least seconds that any placement can take."""
    path = SECONDS["Fit"] + max(s for name, s in SECONDS.items() if name != "Fit")
    shares = []
    for resource in ("cpu", "gpu"):
        work = trials * sum(SECONDS[name] * slot.get(resource, 0) for name, slot in SLOTS.items())
        shares.append(work / sum(node.get(f"{resource}s", 0) for node in NODES))
    return max(path, *shares)


def measure(cluster: RayCluster, trials: int) -> dict[str, Any]:
    """Run the sweep into an empty store and read its manifests."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "mixed.py").write_text(SWEEP)
        command = [sys.executable, "-m", "orchestrator", "sweep", "mixed.py", "--seeds", str(trials)]
        command += ["--address", cluster.address, "--store", "store"]
        subprocess.run(command, check=True, cwd=folder, env=cluster.env, stdout=subprocess.DEVNULL)
        paths = (Path(folder) / "store/artifacts").glob("*/*/manifest.json")
        manifests = [json.loads(path.read_text()) for path in paths]
    first = min(m["started"] for m in manifests)
    last = max(m["started"] + m["seconds"] for m in manifests)
    limit = bound(trials)
    by_name = {
        name: sorted(round(m["started"] - first, 1) for m in manifests if m["task"].endswith(name)) for name in SLOTS
    }
    return {
        "tasks": len(manifests),
        "seconds": last - first,
        "bound": limit,
        "over the bound": (last - first) / limit,
        "workers": len({m["worker"] for m in manifests}),
        "first and last start": {name: (times[0], times[-1]) for name, times in by_name.items() if times},
    }


def measure_room(completions: int = 4000) -> dict[str, float]:
    """Full nodes; after each completion every shape is tried, and room reserved for what does not fit."""
    room = Room([NodeOffer(f"n{n}", f"n{n}", {"CPU": 64.0, "GPU": 8.0}) for n in range(125)])
    dice, shapes = random.Random(0), [shape_of(slot) for slot in SLOTS.values()]
    held: list[Any] = []
    for n in range(8000):
        if (place := room.take(dice.choice(shapes), n, until=n)) is not None:
            held.append(place.holder)
    began, attempts = time.perf_counter(), 0
    for n in range(completions):
        holder = held.pop(dice.randrange(len(held)))
        (room.rest if dice.random() < 0.9 else room.release)(holder)
        room.unreserve()
        for shape in dice.sample(shapes, len(shapes)):
            attempts += 1
            if (place := room.take(shape, (n, shape), until=8000 + n)) is not None:
                held.append(place.holder)
            else:
                room.reserve(shape)
    seconds = time.perf_counter() - began
    return {"completions a second": completions / seconds, "attempts a second": attempts / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--room", action="store_true")
    args = parser.parse_args()
    if args.room:
        print("  ".join(f"{k} {v:.4g}" for k, v in measure_room().items()))
        return
    with RayCluster(NODES) as cluster:
        for _ in range(args.repeats):
            shown = measure(cluster, args.trials)
            words = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
            print("  ".join(words), flush=True)


if __name__ == "__main__":
    main()
