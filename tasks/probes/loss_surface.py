"""The loss on a plane through the trained weights."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from ..errors import InvalidValue
from ..spec import AtLeast, MoreThan
from ..task import Artifact, Context, Curve, Probe, Results
from ..trained import load_trained
from ._common import check_pairs, fixed_set, hessian_pairs, symmetric

__all__ = ["LossSurface"]


@dataclass(frozen=True)
class LossSurface(Probe):
    """Loss and accuracy at w + a d₁ + b d₂, on a grid of (a, b) whose centre is the trained network.

    `along="random"`: d₁ and d₂ are Gaussian with each filter rescaled to the norm of that filter of w, biases and
    BatchNorm left alone (Li et al. 2018, section 4), so that a = 1 moves every filter by its own norm. They are nearly
    orthogonal, as random directions in many dimensions are; `cosine` says how nearly.
    `along="eigenvectors"`: the Hessian's two top eigenvectors (unit norm, orthogonal; the sign such that the gradient
    along them is not negative) times ‖w‖. A radius of 0.05 then shows what 1 shows along random directions.

    Measured on the first `examples` of a fixed permutation of the training set, in eval mode, with BatchNorm's
    statistics as trained. A surface through random directions tells little of the sharpest ones: in high dimension
    these are almost orthogonal to any random plane.

    Leaves `surface.npz`: a (steps[0],), b (steps[1],), loss and accuracy (steps[0], steps[1]), of which [i, j] is at
    (a[i], b[j]); and length (2,), ‖d₁‖ and ‖d₂‖.

    Attributes:
        along: what spans the plane.
        steps: points along d₁ and along d₂; odd, so that the centre is one of them.
        radius: largest |a| and |b|.
        examples: how many training examples; the whole set if it has fewer.
        tol, max_iterations, batch_size: of the eigenvectors, as in `Lanczos`.
    """

    along: Literal["random", "eigenvectors"] = "random"
    steps: tuple[Annotated[int, AtLeast(3)], Annotated[int, AtLeast(3)]] = (25, 25)
    radius: tuple[Annotated[float, MoreThan(0)], Annotated[float, MoreThan(0)]] = (1.0, 1.0)
    examples: Annotated[int, AtLeast(1)] = 1024
    tol: Annotated[float, MoreThan(0)] = 1e-3
    max_iterations: Annotated[int, AtLeast(1)] = 200
    batch_size: Annotated[int, AtLeast(1)] = 512

    metrics: ClassVar[Mapping[str, str]] = {
        "rise_edge": "rise of the loss from the centre to the edge of the surface, mean over the edge's points",
        "lowest": "lowest loss on the surface minus the loss at its centre (0 or less)",
        "cosine": "cosine of the angle between the two directions",
        "train_loss": "training loss at the centre",
        "converged": "the eigenvectors have converged",
        "examples": "examples of the loss",
    }
    headline: ClassVar[tuple[str, ...]] = ("rise_edge", "train_loss")
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            file="surface",
            x="a",
            across="b",
            y=("loss",),
            title="Loss surface",
            xlabel="step along the first direction",
            ylabel="training loss",
            kind="surface",
            log_y=True,
        ),
    )

    def validate(self) -> None:
        for steps in self.steps:
            if steps % 2 == 0:
                raise InvalidValue(f"LossSurface: steps must be odd, so that the centre is a point, not {self.steps}.")

    def run(self, ctx: Context, trained: Artifact) -> Generator[Results, None, Results]:
        """One report a row of the grid. Raises: UserError: the network has fewer than 2 parameters (eigenvectors)."""
        import numpy as np
        import torch

        from ..landscape import Landscape, filter_normalised, full_precision

        trial = load_trained(ctx, trained)
        x, y = fixed_set(trial, "train", self.examples)
        land = Landscape(trial.model, trial.loss)
        converged = True
        with full_precision():
            if self.along == "random":
                rng = ctx.generator("directions")
                first, second = filter_normalised(land, rng), filter_normalised(land, rng)
            else:
                check_pairs(2, land.size)
                hessian, pairs = hessian_pairs(
                    ctx, trial, x, y, self.batch_size, top=2, tol=self.tol, max_products=self.max_iterations
                )
                norm = float(torch.linalg.vector_norm(land.origin))
                first, second = (v * (norm if float(v @ hessian.gradient) >= 0 else -norm) for v in pairs.vectors)
                converged = bool(pairs.converged.all())
            a, b = (symmetric(radius, steps) for radius, steps in zip(self.radius, self.steps, strict=True))
            rows: list[list[tuple[float, float]]] = (ctx.resume() or {"rows": []})["rows"]
            for i in range(len(rows)):
                yield {"row": i + 1}
            for i in range(len(rows), len(a)):
                # Both products are formed at every point, so that a coordinate is visited exactly as it is stated.
                start = land.origin + float(a[i]) * first
                rows.append([land.evaluate(start + float(e) * second, x, y) for e in b])
                ctx.snapshot(lambda: {"rows": rows})
                yield {"row": i + 1}
        loss, accuracy = np.array(rows, dtype=float).transpose(2, 0, 1)
        length = torch.stack([torch.linalg.vector_norm(d.double()) for d in (first, second)])
        ctx.save_arrays("surface", a=a, b=b, loss=loss, accuracy=accuracy, length=length.cpu().numpy())
        centre = float(loss[len(a) // 2, len(b) // 2])
        edge = np.ones(loss.shape, dtype=bool)
        edge[1:-1, 1:-1] = False
        rise = float(loss[edge].mean()) - centre
        return {
            "rise_edge": rise if np.isfinite(rise) else None,
            "lowest": float(np.nanmin(loss)) - centre,
            "cosine": float(first.double() @ second.double() / length.prod().clamp_min(1e-30)),
            "train_loss": centre,
            "converged": converged,
            "examples": len(y),
        }
