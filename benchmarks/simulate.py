"""The graph, its priorities and the admission at scale: runs in simulated time, up to 1,000 GPUs and 100,000 tasks.

Prints for every size of cluster the makespan over the lower bound (the longest path, or all that tasks hold of a
resource over what there is), decisions a second (bundles over the CPU time of the whole simulation, so of graph
and admission at least as many), and at the end the memory of a driver that holds the real plan and graph.

The sweeps are like sweeps/sam_rho.py: settings × seeds; data → training → two probes each → two probes of pairs →
a group for each setting; pairs of one setting or of one seed (then nearly all tasks are pairs), or of one setting
only. Durations are those measured at its smoke size, times `--scale`. A task holds a whole GPU.

    python benchmarks/simulate.py [--tasks 100000] [--scale 100] [--losses 0.05]
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/orchestrator"))

from builders import grid
from toys import Curvature, Ensemble, Fit, Line, Threshold

from orchestrator.forecast import again
from orchestrator.graph import Graph
from orchestrator.plan import Plan, make_plan
from orchestrator.simulation import USUAL, Failures, drawn, simulate
from orchestrator.slots import NodeKind
from orchestrator.store import Store
from orchestrator.sweep import PairRule, Sweep, same_seed, same_setting

SECONDS = {
    "Points": [1.38],
    "Fit": [0.274, 0.343, 0.414, 0.540],
    "Curvature": [0.397, 0.513, 0.591, 0.625],
    "Threshold": [1.146, 1.270, 1.348, 1.499],
    "Line": [0.084, 0.089, 0.094, 0.095],
    "Path": [0.951, 1.097, 1.194, 1.573],
    "Ensemble": [0.011, 0.014, 0.017, 0.025],
}
"""Seconds of a task by kind: the quantiles 0.1, 0.25, 0.5 and 0.75 of Digits, Train, Lanczos, GradientNoise,
Interpolation, AutoNEB and Ensemble in the manifests of a smoke run of sweeps/sam_rho.py (2 CPUs, 2026-11-22)."""


@dataclass(frozen=True)
class Path(Line):
    """Stands for a second pair probe."""


def planned(tasks: int, rule: PairRule, seeds: int = 10) -> Plan:
    """A plan of about so many tasks."""
    settings = 1
    while _count(settings + 1, rule, seeds) <= tasks:
        settings += 1
    sweep = Sweep(
        train=Fit(rho=grid(*(n / 1000 for n in range(settings)))),
        seeds=range(seeds),
        probes=[Curvature(), Threshold()],
        pairs=[Line(), Path()],
        groups=[Ensemble()],
        pair_when=rule,
        slot={"cpu": 1, "gpu": 1},
        name="large",
    )
    return make_plan(sweep, None)


def _count(settings: int, rule: PairRule, seeds: int) -> int:
    across = seeds * settings * (settings - 1) // 2 if "seed" in (rule.near or ()) else 0
    return 1 + settings * (3 * seeds + 1 + seeds * (seeds - 1)) + 2 * across


def cluster(gpus: int) -> list[NodeKind]:
    """Machines of up to eight GPUs, all of which are there."""
    each = min(gpus, 8)
    nodes = -(-gpus // each)
    return [
        NodeKind("head", {"CPU": 0}, 1, 1, head=True),
        NodeKind("gpu", {"CPU": 12 * each, "GPU": each}, nodes, nodes),
    ]


def memory() -> float:
    """Peak memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(options: argparse.Namespace, rule: PairRule) -> None:
    """Simulate a sweep with these pairs on every cluster."""
    began = time.process_time()
    plan = planned(options.tasks, rule)
    took = time.process_time() - began
    kinds = Counter(node.kind for node in plan.nodes.values())
    print(f"\npairs of {rule.words}: {len(plan.nodes)} tasks {dict(kinds)}; plan {took:.1f} s of CPU", end="")
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        graph = Graph()
        plan.add_to(graph, plan.nodes.values(), Store(folder))
    print(f", graph {time.process_time() - began:.1f} s, {memory():.0f} MiB", flush=True)
    samples = {name: [options.scale * s for s in seconds] for name, seconds in SECONDS.items()}
    seconds = drawn(graph, samples, 0)
    print(" gpus     bound s  makespan s  ratio  bundles  decisions/s  tasks/s  lost % (with losses)  ratio then")
    for gpus in options.gpus:
        own = again(graph)
        began = time.process_time()
        times = replace(USUAL, worker=6.0)
        found = simulate(own, cluster(gpus), seconds, times=times)
        took = time.process_time() - began
        failures = Failures(nodes={"gpu": options.losses}, snapshots={"Fit": 60.0})
        disturbed = simulate(again(graph), cluster(gpus), seconds, times=times, failures=failures)
        print(
            f"{gpus:5d} {found.bound:11.0f} {found.seconds:11.0f} {found.seconds / found.bound:6.3f} "
            f"{found.bundles:8d} {found.bundles / took:12.0f} {found.tasks / took:8.0f} "
            f"{100 * disturbed.lost / disturbed.busy:21.2f} {disturbed.seconds / found.bound:11.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512, 1000])
    parser.add_argument("--scale", type=float, default=100.0, help="of the durations")
    parser.add_argument("--losses", type=float, default=0.05, help="of each node in an hour, for the last two columns")
    options = parser.parse_args()

    for rule in (same_setting | same_seed, same_setting):
        measure(options, rule)
    print(f"\npeak memory of this process, with plan, graph and simulation: {memory():.0f} MiB")


if __name__ == "__main__":
    main()
