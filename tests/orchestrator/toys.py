"""Toy tasks of every kind, quick and without networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from tasks.spec import AtLeast, Spec
from tasks.task import Artifact, Context, Curve, GroupProbe, PairProbe, Probe, Task


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
    proportional_to: ClassVar[tuple[str, ...]] = ("epochs",)
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
class Choosy(Probe):
    """A probe that measures and writes something more on the seeds below `below`."""

    below: int = 0

    metrics: ClassVar[Mapping[str, str]] = {"always": "what it always measures", "sometimes": "what it may measure"}
    headline: ClassVar[tuple[str, ...]] = ("always",)
    curves: ClassVar[tuple[Curve, ...]] = (Curve("more", "x", ("y",), "More", "x", "y"),)

    def run(self, ctx: Context, trained: Artifact) -> Any:
        chosen = trained.seeds["init"] < self.below
        if chosen:
            ctx.save_arrays("more", x=np.arange(3), y=np.arange(3))
        return {"always": 1.0, "sometimes": 2.0 if chosen else None}


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


@dataclass(frozen=True)
class Threshold(Probe):
    """A probe whose value lies above its range for some seeds."""

    above: int = 2

    curves: ClassVar[tuple[Curve, ...]] = (
        Curve("reached", "dimension", ("accuracy",), "Accuracy by dimension", "dimension", "accuracy"),
    )

    def run(self, ctx: Context, trained: Artifact) -> Any:
        seed = trained.seeds["init"]
        dimension = np.array([0, 3, 10, 30, 100])
        ctx.save_arrays("reached", dimension=dimension, accuracy=dimension / (dimension + 10 + seed))
        return {"d": None if seed >= self.above else 10.0 + seed, "censored": seed >= self.above}
