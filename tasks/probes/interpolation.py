"""The loss on the straight line between two trained networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ..spec import AtLeast
from ..task import Artifact, Context, Curve, PairProbe, Results
from ..trained import load_trained
from ._common import check_same, fixed_set

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Interpolation"]


@dataclass(frozen=True)
class Interpolation(PairProbe):
    """Loss and accuracy of (1 − α) w_A + α w_B, the whole network interpolated, for α within and beyond [0, 1].

    The barrier of a quantity is max over α ∈ [0, 1] of L(α) − [(1 − α) L(0) + α L(1)] (Entezari et al.
    2022); `instability` is that of Frankle et al. 2020, the highest test error on the line minus the
    mean of the two ends. With label noise, all points are measured on the labels that A was trained on.

    Every point, end points included, is measured under one rule for BatchNorm: by default its
    statistics are estimated anew on the training examples (those that the loss is measured on) at each
    point; "interpolate" takes those of A and B, interpolated like the weights. The losses that the
    trainings themselves ended with stand beside (`stored_…`; None if A or B kept none). Without
    BatchNorm, and with examples=None, the ends are these.

    Leaves `line.npz`: alpha (n,), train_loss, train_error, test_loss and test_error (n,).

    Attributes:
        steps: points on [0, 1], both ends included.
        margin: how far the line goes on beyond both ends, in units of α.
        examples: how many examples of the training and of the test set; None takes all.
        batchnorm: rule for the statistics of BatchNorm layers.
    """

    steps: Annotated[int, AtLeast(3)] = 41
    margin: Annotated[float, AtLeast(0)] = 0.25
    examples: Annotated[int, AtLeast(1)] | None = 5000
    batchnorm: Literal["reestimate", "interpolate"] = "reestimate"

    metrics: ClassVar[Mapping[str, str]] = {
        "train_barrier": "barrier of the training loss on the straight line",
        "test_barrier": "barrier of the test loss on the straight line",
        "train_error_barrier": "barrier of the training error on the straight line",
        "test_error_barrier": "barrier of the test error on the straight line",
        "instability": "highest test error on the straight line minus the mean of its ends",
        "train_loss_a": "training loss at α = 0",
        "train_loss_b": "training loss at α = 1",
        "test_loss_a": "test loss at α = 0",
        "test_loss_b": "test loss at α = 1",
        "stored_train_loss_a": "training loss that the training of A ended with",
        "stored_train_loss_b": "training loss that the training of B ended with",
        "stored_test_loss_a": "test loss that the training of A ended with",
        "stored_test_loss_b": "test loss that the training of B ended with",
        "distance": "distance ‖w_B − w_A‖ of the weights",
        "cosine": "cosine of the angle between w_A and w_B",
        "finite": "all losses on the line are finite",
        "batchnorm": "rule for BatchNorm's statistics (none: the network has no such layer)",
        "train_examples": "training examples measured on",
        "test_examples": "test examples measured on",
    }
    headline: ClassVar[tuple[str, ...]] = ("train_barrier", "test_barrier", "test_error_barrier", "distance")
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            file="line",
            x="alpha",
            y=("train_loss", "test_loss"),
            dashed=("test_loss",),
            title="Loss on the straight line between two networks",
            xlabel="α (0 = first network, 1 = second)",
            ylabel="loss",
        ),
        Curve(
            file="line",
            x="alpha",
            y=("train_error", "test_error"),
            dashed=("test_error",),
            title="Error on the straight line between two networks",
            xlabel="α (0 = first network, 1 = second)",
            ylabel="error (share of wrong answers)",
        ),
    )

    def alphas(self) -> np.ndarray:
        """The points: `steps` on [0, 1], continued with the same spacing to at most `margin` beyond."""
        import numpy as np

        inner = self.steps - 1
        beyond = int(self.margin * inner + 1e-9)
        return np.arange(-beyond, inner + beyond + 1) / inner

    def run(self, ctx: Context, a: Artifact, b: Artifact) -> Results:
        """Raises: UserError: the networks do not have the same parameters."""
        import numpy as np
        import torch

        from ..landscape import Landscape, full_precision
        from ..paths import barrier

        first, second = load_trained(ctx, a), load_trained(ctx, b)
        check_same(first, second)
        x, y = fixed_set(first, "train", self.examples)
        tx, ty = fixed_set(first, "test", self.examples)
        land, other = Landscape(first.model, first.loss), Landscape(second.model, second.loss)
        buffers = [
            (here, here.clone(), there)
            for here, there in zip(land.model.buffers(), other.model.buffers(), strict=True)
            if here.is_floating_point()
        ]
        alphas = self.alphas()
        points = []
        with full_precision():
            for alpha in map(float, alphas):
                w = (1 - alpha) * land.origin + alpha * other.origin
                if self.batchnorm == "reestimate":
                    land.reestimate(w, x)
                else:
                    for here, start, end in buffers:
                        here.copy_((1 - alpha) * start + alpha * end)
                points.append((*land.evaluate(w, x, y), *land.evaluate(w, tx, ty)))
        train_loss, train_accuracy, test_loss, test_accuracy = np.array(points).T
        train_error, test_error = 1 - train_accuracy, 1 - test_accuracy
        ctx.save_arrays(
            "line",
            alpha=alphas,
            train_loss=train_loss,
            train_error=train_error,
            test_loss=test_loss,
            test_error=test_error,
        )
        i, j = int(np.flatnonzero(alphas == 0)[0]), int(np.flatnonzero(alphas == 1)[0])
        w_a, w_b = land.origin.double(), other.origin.double()
        return {
            "train_barrier": barrier(alphas, train_loss),
            "test_barrier": barrier(alphas, test_loss),
            "train_error_barrier": barrier(alphas, train_error),
            "test_error_barrier": barrier(alphas, test_error),
            "instability": float(test_error[i : j + 1].max() - (test_error[i] + test_error[j]) / 2),
            "train_loss_a": float(train_loss[i]),
            "train_loss_b": float(train_loss[j]),
            "test_loss_a": float(test_loss[i]),
            "test_loss_b": float(test_loss[j]),
            "stored_train_loss_a": a.results.get("train_loss"),
            "stored_train_loss_b": b.results.get("train_loss"),
            "stored_test_loss_a": a.results.get("test_loss"),
            "stored_test_loss_b": b.results.get("test_loss"),
            "distance": float(torch.linalg.vector_norm(w_b - w_a)),
            "cosine": float(torch.nn.functional.cosine_similarity(w_a, w_b, dim=0)),
            "finite": bool(np.isfinite(np.array(points)).all()),
            "batchnorm": self.batchnorm if land.has_batchnorm else "none",
            "train_examples": len(y),
            "test_examples": len(ty),
        }
