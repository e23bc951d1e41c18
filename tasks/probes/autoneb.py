"""A path of low loss between two trained networks."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ..errors import InvalidValue
from ..spec import AtLeast, Below, MoreThan
from ..task import Artifact, Context, Curve, PairProbe, Results
from ..trained import load_trained
from ._common import check_same, fixed_set

if TYPE_CHECKING:
    import torch

    from ..paths import Band

__all__ = ["AutoNEB"]


@dataclass(frozen=True)
class AutoNEB(PairProbe):
    """Minimum-energy path between two minima by the automated nudged elastic band (Draxler et al. 2018).

    See `tasks.paths.autoneb`: the straight line's nodes, pushed off it by `perturbation`, descend the
    training loss across the path; nodes are inserted where the loss between two of them exceeds the
    straight line; the step size falls geometrically from `lr` to `lr_final` over the cycles, and a cycle
    whose steps prove too large is taken back. Of all cycles the path with the lowest saddle is kept.

    The loss of a path is never that of the descent's minibatches or of the nodes alone: it is
    measured at `resolution` points equidistant in length, in eval mode, on `examples` fixed training
    and test examples, and for the saddle also at the nodes and at `samples` points between each two.
    The saddle of the best path found is an upper bound to that of the best path there is. With
    BatchNorm, minibatch gradients use the batch's own statistics, and every measured point, end points
    included, statistics estimated anew on these training examples; none is part of the path.

    Leaves `path.npz`: position (resolution,), from 0 to 1 in length; train_loss, train_error, test_loss,
    test_error along the path, and straight_train_loss along the straight line, each (resolution,); and
    `cycles.npz`: saddle and pivots after each cycle, (cycles + 1,), the straight line first.

    Attributes:
        cycles: how often nodes are inserted and relaxed.
        steps: gradient steps of every node in a cycle.
        lr, lr_final: step size of the first and of the last cycle.
        momentum: of the nodes' descent.
        batch_size: examples in a minibatch; all nodes of a step share one.
        pivots: nodes between the ends to begin with.
        max_pivots: most nodes between the ends.
        samples: points between two nodes at which the loss is looked at for inserting one.
        relative, absolute: a node is inserted where the loss exceeds the straight line between two nodes
            by more than max(absolute, relative · (highest − lowest loss of the path)); `relative` is halved
            from cycle to cycle.
        perturbation: how far the start is pushed off the straight line, in units of its length.
        resolution: points at which the final path is measured.
        examples: how many training and test examples the path is measured on; fewer if a set is smaller.
    """

    cycles: Annotated[int, AtLeast(1)] = 6
    steps: Annotated[int, AtLeast(1)] = 50
    lr: Annotated[float, MoreThan(0)] = 0.05
    lr_final: Annotated[float, MoreThan(0)] = 0.005
    momentum: Annotated[float, AtLeast(0), Below(1)] = 0.9
    batch_size: Annotated[int, AtLeast(1)] = 256
    pivots: Annotated[int, AtLeast(1)] = 3
    max_pivots: Annotated[int, AtLeast(1)] = 15
    samples: Annotated[int, AtLeast(1)] = 4
    relative: Annotated[float, AtLeast(0)] = 0.2
    absolute: Annotated[float, AtLeast(0)] = 0.01
    perturbation: Annotated[float, AtLeast(0)] = 0.01
    resolution: Annotated[int, AtLeast(3)] = 41
    examples: Annotated[int, AtLeast(1)] = 1024

    metrics: ClassVar[Mapping[str, str]] = {
        "saddle": "saddle: highest training loss on the path",
        "test_saddle": "highest test loss on the path",
        "train_error_saddle": "highest training error on the path",
        "test_error_saddle": "highest test error on the path",
        "train_barrier": "barrier of the training loss on the path",
        "test_barrier": "barrier of the test loss on the path",
        "straight_saddle": "highest training loss on the straight line",
        "straight_barrier": "barrier of the training loss on the straight line",
        "length": "length of the path in weights",
        "relative_length": "length of the path over that of the straight line",
        "pivots": "nodes of the path between the ends",
        "best_cycle": "cycle that the path is from (0: none was better than the straight line)",
        "failed_cycles": "cycles taken back because their steps were too large",
        "batchnorm": "rule for BatchNorm's statistics (none: the network has no such layer)",
        "train_examples": "training examples measured on",
        "test_examples": "test examples measured on",
    }
    headline: ClassVar[tuple[str, ...]] = ("saddle", "train_barrier", "test_barrier", "relative_length")
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            file="path",
            x="position",
            y=("train_loss", "test_loss", "straight_train_loss"),
            dashed=("straight_train_loss",),
            title="Loss along the path between two networks",
            xlabel="position on the path (share of its length)",
            ylabel="loss",
        ),
        Curve(
            file="path",
            x="position",
            y=("train_error", "test_error"),
            title="Error along the path between two networks",
            xlabel="position on the path (share of its length)",
            ylabel="error (share of wrong answers)",
        ),
    )

    def validate(self) -> None:
        if self.lr_final > self.lr:
            raise InvalidValue(f"AutoNEB: lr_final={self.lr_final:g} must not exceed lr={self.lr:g}.")
        if self.max_pivots < self.pivots:
            raise InvalidValue(f"AutoNEB: max_pivots={self.max_pivots} must be at least pivots={self.pivots}.")

    def run(self, ctx: Context, a: Artifact, b: Artifact) -> Generator[Results, None, Results]:
        """Find the path, reporting after each cycle; interrupted, it continues after the last one.

        Yields: `cycle`, `saddle`, `pivots` and `relative_length` so far.
        Raises: UserError: the networks do not have the same parameters.
        """
        import numpy as np
        import torch

        from ..landscape import Landscape, full_precision
        from ..paths import along, autoneb, barrier, lengths

        first, second = load_trained(ctx, a), load_trained(ctx, b)
        check_same(first, second)
        land = Landscape(first.model, first.loss)
        start, end = land.origin, Landscape(second.model, second.loss).origin
        x, y = fixed_set(first, "train", self.examples)
        tx, ty = fixed_set(first, "test", self.examples)
        data = first.data
        n = len(data.train.y)
        order = ctx.generator("order")
        rows = {-1: torch.empty(0)}  # the minibatch of the current step

        def loss(w: torch.Tensor) -> float:
            land.reestimate(w, x)
            return land.evaluate(w, x, y)[0]

        def gradient(w: torch.Tensor, step: int) -> tuple[float, torch.Tensor]:
            if step not in rows:
                rows.clear()
                drawn = torch.randint(n, (min(self.batch_size, n),), generator=order).to(y.device)
                rows[step] = drawn
            xs = data.normalise(data.train.x[rows[step]])
            return land.gradient(w, xs, data.train.y[rows[step]], train_mode=land.has_batchnorm)

        def profile(path: torch.Tensor, where: np.ndarray) -> np.ndarray:
            points = []
            for w in along(path, where):
                land.reestimate(w, x)
                points.append((*land.evaluate(w, x, y), *land.evaluate(w, tx, ty)))
            return np.array(points).T

        with full_precision():
            span = float(lengths(torch.stack([start, end]))[0])
            bands: list[dict[str, Any]] = []  # the reports
            best: Band | None = None
            after: Band | None = None
            failed = 0

            def state() -> dict[str, Any]:
                other = None if best is band else vars(best)  # mostly it is the same, and it is large
                return {
                    "bands": bands,
                    "band": vars(band),
                    "best": other,
                    "failed": failed,
                    "order": order.get_state(),
                }

            if (before := ctx.resume()) is not None:
                bands, failed = before["bands"], before["failed"]
                after = _restored(before["band"], start)
                best = after if before["best"] is None else _restored(before["best"], start)
                order.set_state(before["order"])
                yield from bands
            for band in autoneb(
                start,
                end,
                loss=loss,
                gradient=gradient,
                step_sizes=np.geomspace(self.lr, self.lr_final, self.cycles).tolist(),
                steps=self.steps,
                pivots=self.pivots,
                max_pivots=self.max_pivots,
                samples=self.samples,
                relative=self.relative,
                absolute=self.absolute,
                perturbation=self.perturbation,
                momentum=self.momentum,
                generator=ctx.generator("perturbation"),
                after=after,
            ):
                failed += band.failed
                if best is None or (band.saddle < best.saddle and not band.failed):
                    best = band
                longer = float(lengths(band.path).sum()) / span if span > 0 else 1.0
                bands.append(
                    {
                        "cycle": band.cycle,
                        "saddle": band.saddle,
                        "pivots": len(band.path) - 2,
                        "relative_length": longer,
                    }
                )
                ctx.snapshot(state)
                yield bands[-1]
            if failed:
                ctx.log(f"{failed} of {self.cycles} cycles were taken back: lr={self.lr:g} is too large for them.")
            assert best is not None  # the straight line is always among them
            where = np.linspace(0, 1, self.resolution)
            train_loss, train_accuracy, test_loss, test_accuracy = profile(best.path, where)
            straight = profile(torch.stack([start, end]), where)[0]
        ctx.save_arrays(
            "path",
            position=where,
            train_loss=train_loss,
            train_error=1 - train_accuracy,
            test_loss=test_loss,
            test_error=1 - test_accuracy,
            straight_train_loss=straight,
        )
        ctx.save_arrays("cycles", saddle=[r["saddle"] for r in bands], pivots=[r["pivots"] for r in bands])
        positions, losses = np.concatenate([where, best.sampled]), np.concatenate([train_loss, best.losses])
        return {
            "saddle": float(losses.max()),
            "test_saddle": float(test_loss.max()),
            "train_error_saddle": float(1 - train_accuracy.min()),
            "test_error_saddle": float(1 - test_accuracy.min()),
            "train_barrier": barrier(positions, losses),
            "test_barrier": barrier(where, test_loss),
            "straight_saddle": float(max(straight.max(), bands[0]["saddle"])),
            "straight_barrier": barrier(where, straight),
            "length": float(lengths(best.path).sum()),
            "relative_length": float(lengths(best.path).sum()) / span if span > 0 else 1.0,
            "pivots": len(best.path) - 2,
            "best_cycle": best.cycle,
            "failed_cycles": failed,
            "batchnorm": "reestimate" if land.has_batchnorm else "none",
            "train_examples": len(y),
            "test_examples": len(ty),
        }


def _restored(state: dict[str, Any], like: torch.Tensor) -> Band:
    """The band of a snapshot, on the device of `like`."""
    from ..paths import Band

    return Band(**{**state, "path": state["path"].to(like)})
