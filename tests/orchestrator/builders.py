"""Small studies: a plan of toy tasks, carried out here and now, one task after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from toys import Curvature, Ensemble, Fit, Line

from orchestrator.plan import Node, Plan, make_plan
from orchestrator.store import Store
from orchestrator.study import Outcome, Study
from orchestrator.sweep import Sweep, same_seed, same_setting
from tasks.task import Artifact, Context, drain

COMMAND = "python -m orchestrator sweep sweeps/toy.py"


def grid(*values: Any) -> dict[str, list[Any]]:
    """What `ray.tune.grid_search` returns."""
    return {"grid_search": list(values)}


def toy_sweep(**changes: Any) -> Sweep:
    """Five values of rho, three seeds, every kind of task."""
    fields: dict[str, Any] = {
        "train": Fit(rho=grid(0.0, 0.02, 0.05, 0.1, 0.2)),
        "seeds": range(3),
        "probes": [Curvature(k=3)],
        "pairs": [Line()],
        "groups": [Ensemble()],
        "pair_when": same_setting | same_seed,
        "name": "toy",
        "question": "Does rho flatten the minimum?\n\nA toy study: nothing here is a network.",
    }
    return Sweep(**{**fields, **changes})


def carry_out(
    plan: Plan, store: Store, *, stop: Callable[[Node], bool] = lambda node: False, run: str = "r1"
) -> Outcome:
    """Run a plan's tasks in this process, one after the other, and commit them.

    Args:
        stop: trainings to treat as ended early by a scheduler.
        run: the path of the run in the store.
    """
    states: dict[str, str] = {}
    errors: dict[str, str] = {}
    because: dict[str, str] = {}
    artifacts: dict[str, Artifact] = {}
    barren: set[str] = set()
    begun = time.time()
    for number, node in enumerate(plan.nodes.values()):
        bad = [because.get(k, k) for k in plan.ancestors(node.key) if k in barren or states[k] in ("failed", "skipped")]
        if node.key in plan.stored:
            states[node.key] = "stored"
            manifest = store.manifest(node.name, node.key)
        elif bad:
            states[node.key], because[node.key] = "skipped", bad[0]
            continue
        elif stop(node):
            states[node.key], because[node.key] = "skipped", node.key
            continue
        else:
            started = time.time()
            folder = store.workspace()
            inputs = tuple(artifacts[k] for k in node.inputs)
            seeds = dict(node.seeds) or ({} if not inputs else dict(inputs[-1].seeds))
            try:
                results = drain(node.task.run(Context(folder, seeds=seeds, device="cpu"), *inputs))
            except Exception as error:
                states[node.key], errors[node.key] = "failed", f"{type(error).__name__}: {error}"
                continue
            states[node.key] = "done"
            manifest = store.commit(
                node.name,
                node.key,
                folder,
                {
                    **node.spec(),
                    "status": "diverged" if results.get("diverged") is True else "done",
                    "results": results,
                    "started": started,
                    "seconds": time.time() - started,
                    "host": "laptop",
                    "worker": f"worker-{number % 2}",
                    "device": "cpu",
                    "versions": {"python": "3.11", "numpy": np.__version__},
                    "git": {"commit": "0123456789abcdef", "dirty": False},
                    "attempt": 1,
                    "peak_memory_bytes": 1 << 20,
                    "run": run,
                },
            )
        if manifest["status"] == "diverged":
            barren.add(node.key)
        artifacts[node.key] = Artifact(
            node.key,
            node.task,
            store.fetch(node.name, node.key),
            manifest["results"],
            manifest["seeds"],
            tuple(artifacts[k] for k in node.inputs),
        )
    return Outcome(states, errors, because, begun, time.time() - begun, slots=2, command=COMMAND)


def toy_study(store: Store, **changes: Any) -> Study:
    """The study of `toy_sweep(**changes)`, carried out in the store."""
    plan = make_plan(toy_sweep(**changes), store)
    return Study.from_plan(plan, store, carry_out(plan, store))
