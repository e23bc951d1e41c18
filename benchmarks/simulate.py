"""The graph, its priorities and the admission at scale: runs in simulated time, up to 1,000 GPUs and 100,000 tasks.

Prints for every size of cluster the makespan over the lower bound (the longest path, or all that tasks hold of a
resource over what there is), decisions a second (bundles over the CPU time of the whole simulation, so of graph
and admission at least as many), and at the end the memory of a driver that holds the real plan and graph.

The sweep is like sweeps/sam_rho.py: settings × seeds; data → training → three probes each → pairs of the same
setting or the same seed → a group for each setting. Durations are those of its smoke size on one CPU
(benchmarks/RESULTS.md, "Simulation"), with the spread measured there, times `--scale`: only their ratios matter.

    python benchmarks/simulate.py [--tasks 100000] [--scale 100] [--losses 0.05]
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from dataclasses import replace
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
from orchestrator.sweep import Sweep, same_seed, same_setting

SECONDS = {
    "Points": [0.1],
    "Fit": [0.45, 0.50, 0.55, 0.62, 0.80],
    "Curvature": [0.30, 0.36, 0.42, 0.60],
    "Threshold": [0.10, 0.12, 0.15],
    "Ensemble": [0.02, 0.03],
    "Line": [0.08, 0.09, 0.12],
}
"""Seconds of a task by kind; standing in for data, training, Lanczos, gradient noise, ensemble and interpolation."""


def planned(tasks: int, seeds: int = 10) -> Plan:
    """A plan of about so many tasks: settings × seeds, pairs of one setting and of one seed in neighbours."""
    each = seeds * 3 + seeds * (seeds - 1) // 2 + 1
    settings = max(round(tasks / each), 1)
    sweep = Sweep(
        train=Fit(rho=grid(*(n / 1000 for n in range(settings)))),
        seeds=range(seeds),
        probes=[Curvature(), Threshold()],
        pairs=[Line()],
        groups=[Ensemble()],
        pair_when=same_setting | same_seed if settings < 30 else same_setting,
        slot={"cpu": 1, "gpu": 1},
        name="large",
    )
    return make_plan(sweep, None)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512, 1000])
    parser.add_argument("--scale", type=float, default=100.0, help="of the durations")
    parser.add_argument("--losses", type=float, default=0.05, help="of a node in an hour, in the second table")
    options = parser.parse_args()

    began = time.process_time()
    plan = planned(options.tasks)
    print(f"plan: {len(plan.nodes)} tasks, {time.process_time() - began:.1f} s of CPU, {memory():.0f} MiB", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        graph = Graph()
        plan.add_to(graph, plan.nodes.values(), Store(folder))
    print(f"graph: {time.process_time() - began:.1f} s of CPU, {memory():.0f} MiB", flush=True)

    samples = {name: [options.scale * s for s in seconds] for name, seconds in SECONDS.items()}
    seconds = drawn(graph, samples, 0)
    for title, failures in (
        ("undisturbed", Failures()),
        (
            f"a node is lost {options.losses:g} times an hour, trainings go on from a snapshot a minute",
            Failures(nodes={"gpu": options.losses}, snapshots={"Fit": 60.0}),
        ),
    ):
        print(f"\n{title}\n gpus  slots     bound s  makespan s  ratio  bundles  decisions/s  tasks/s  lost %")
        for gpus in options.gpus:
            own = again(graph)
            began = time.process_time()
            found = simulate(own, cluster(gpus), seconds, times=replace(USUAL, worker=6.0), failures=failures)
            took = time.process_time() - began
            print(
                f"{gpus:5d} {found.slots:6d} {found.bound:11.0f} {found.seconds:11.0f} "
                f"{found.seconds / found.bound:6.3f} {found.bundles:8d} {found.bundles / took:12.0f} "
                f"{found.tasks / took:8.0f} {100 * found.lost / found.busy:7.2f}",
                flush=True,
            )
    print(f"\npeak memory of this process, with plan, graph and simulation: {memory():.0f} MiB")


if __name__ == "__main__":
    main()
