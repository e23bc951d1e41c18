"""Small studies without networks: toy tasks, and a plan carried out here and now, one task after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from orchestrator.plan import Node, Plan, make_plan
from orchestrator.store import Store
from orchestrator.study import Outcome, Study
from orchestrator.sweep import Sweep, same_seed, same_setting
from tasks.spec import AtLeast, Spec
from tasks.task import Artifact, Context, Curve, GroupProbe, PairProbe, Probe, Task, drain

COMMAND = "python -m orchestrator sweep sweeps/toy.py"


@dataclass(frozen=True)
class Downhill(Spec):
    """A toy optimizer."""

    lr: float = 0.1


@dataclass(frozen=True)
class Sideways(Spec):
    """Another."""

    lr: float = 0.1
    angle: float = 1.0


@dataclass(frozen=True)
class Points(Task):
    """A toy dataset."""

    n: int = 8

    def run(self, ctx: Context) -> Any:
        np.save(ctx.dir / "x.npy", np.arange(self.n, dtype=np.float32))
        return {"examples": self.n}


@dataclass(frozen=True)
class Fit(Task):
    """A toy training: a noisy curve that falls faster for a larger rho."""

    dataset: Points = Points()
    rho: Annotated[float, AtLeast(0)] = 0.05
    width: int = 16
    optimizer: Downhill | Sideways = Downhill()
    epochs: int = 6
    diverge_above: float = 1e9

    streams: ClassVar[tuple[str, ...]] = ("init", "order")
    metrics: ClassVar[Mapping[str, str]] = {
        "val_accuracy": "validation accuracy",
        "train_loss": "training loss at the end (cross-entropy)",
        "epochs": "epochs trained",
        "diverged": "ended in a non-finite loss",
    }
    headline: ClassVar[tuple[str, ...]] = ("val_accuracy", "train_loss")
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve("history", "epoch", ("running_train_loss", "val_loss"), "Loss during training", "epoch",
              "cross-entropy", log_y=True, dashed=("running_train_loss",)),
    )  # fmt: skip

    def run(self, ctx: Context, dataset: Artifact) -> Any:
        rng = ctx.rng("order")
        noise = rng.normal()
        epochs = np.arange(1, self.epochs + 1)
        fall = np.exp(-(0.25 + self.rho) * epochs) * np.exp(0.15 * noise) + 0.02
        diverged = self.rho > self.diverge_above and ctx.seeds["init"] % 2 == 1
        for epoch in epochs:
            yield {"epoch": int(epoch), "train_loss": float(fall[epoch - 1])}
        ctx.save_arrays("history", epoch=epochs, running_train_loss=fall, val_loss=1.1 * fall + 0.05)
        if diverged:
            return {"val_accuracy": None, "train_loss": None, "epochs": 3, "diverged": True}
        accuracy = 0.9 + 0.4 * self.rho - 1.2 * self.rho**2 + 0.01 * noise + (self.width == 32) * 0.02
        if isinstance(self.optimizer, Sideways):
            accuracy -= 0.015
        return {"val_accuracy": accuracy, "train_loss": fall[-1], "epochs": self.epochs, "diverged": False}


@dataclass(frozen=True)
class Curvature(Probe):
    """A toy spectrum: k eigenvalues and a slice of the loss along each."""

    k: Annotated[int, AtLeast(1)] = 3

    metrics: ClassVar[Mapping[str, str]] = {"lambda_max": "largest Hessian eigenvalue", "converged": "all converged"}
    headline: ClassVar[tuple[str, ...]] = ("lambda_max",)
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve("spectrum", "index", ("eigenvalues",), "Hessian spectrum", "rank", "eigenvalue", kind="points"),
        Curve("slices", "epsilon", ("loss", "predicted"), "Loss along the top eigenvectors",
              "step ε (in units of ‖w‖)", "loss", dashed=("predicted",)),
    )  # fmt: skip

    def run(self, ctx: Context, trained: Artifact) -> Any:
        rng = ctx.rng("toy")
        top = 40 / (1 + 20 * trained.task.rho) * np.exp(0.2 * rng.normal())
        values = top / (1 + np.arange(self.k)) ** 1.3
        epsilon = np.linspace(-1, 1, 21)
        predicted = 0.05 + 0.5 * values[:, None] * epsilon**2 / 40
        ctx.save_arrays("spectrum", index=np.arange(1, self.k + 1), eigenvalues=values)
        ctx.save_arrays("slices", epsilon=epsilon, loss=predicted * (1 + 0.3 * epsilon), predicted=predicted)
        return {"lambda_max": top, "converged": True}


@dataclass(frozen=True)
class Brittle(Probe):
    """A probe that fails on one seed."""

    seed: int = 1

    def run(self, ctx: Context, trained: Artifact) -> Any:
        if trained.seeds["init"] == self.seed:
            raise ValueError("the toy broke")
        return {"strength": 1.5 + 0.1 * trained.seeds["init"], "ratio": float("inf"), "remark": "fine"}


@dataclass(frozen=True)
class Line(PairProbe):
    """A toy interpolation."""

    steps: Annotated[int, AtLeast(2)] = 21

    metrics: ClassVar[Mapping[str, str]] = {"barrier": "loss barrier", "alpha_max": "where the loss is largest"}
    headline: ClassVar[tuple[str, ...]] = ("barrier",)
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve("path", "alpha", ("train_loss", "test_loss"), "Loss along the straight line", "α", "loss",
              dashed=("test_loss",)),
    )  # fmt: skip

    def run(self, ctx: Context, a: Artifact, b: Artifact) -> Any:
        alpha = np.linspace(0, 1, self.steps)
        height = 0.2 + 0.5 * abs(a.task.rho - b.task.rho) + 0.05 * (a.seeds["init"] + b.seeds["init"])
        loss = 0.1 + height * 4 * alpha * (1 - alpha)
        ctx.save_arrays("path", alpha=alpha, train_loss=loss, test_loss=loss + 0.05)
        return {"barrier": height, "alpha_max": 0.5}


@dataclass(frozen=True)
class Ensemble(GroupProbe):
    """A toy ensemble."""

    metrics: ClassVar[Mapping[str, str]] = {"accuracy": "accuracy of averaged predictions", "members": "members"}
    headline: ClassVar[tuple[str, ...]] = ("accuracy",)

    def run(self, ctx: Context, *trained: Artifact) -> Any:
        return {"accuracy": max(t.results["val_accuracy"] for t in trained) + 0.01, "members": len(trained)}


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


def carry_out(plan: Plan, store: Store, *, stop: Callable[[Node], bool] = lambda node: False) -> Outcome:
    """Run a plan's tasks in this process, one after the other, and commit them.

    Args:
        stop: trainings to treat as ended early by a scheduler.
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
                    "run": "r1",
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
    return Outcome(states, errors, because, begun, time.time() - begun, [COMMAND], slots=2)


def toy_study(store: Store, **changes: Any) -> Study:
    """The study of `toy_sweep(**changes)`, carried out in the store."""
    plan = make_plan(toy_sweep(**changes), store)
    return Study.from_plan(plan, store, carry_out(plan, store))
