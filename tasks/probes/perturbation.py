"""The loss along lines through the trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from ..errors import InvalidValue
from ..spec import AtLeast, MoreThan
from ..task import Artifact, Context, Curve, Probe, Results
from ..trained import load_trained
from ._common import check_pairs, fixed_set, hessian_pairs, symmetric

__all__ = ["Perturbation"]


@dataclass(frozen=True)
class Perturbation(Probe):
    """Loss and accuracy along ±ε, along the Hessian's top eigenvectors and along random directions.

    Scale of ε: relative to the weights. Along an eigenvector v (unit norm, its sign such that the
    gradient along it is not negative) the weights are w + ε ‖w‖ v, |ε| ≤ `radius`. Along a random
    direction they are w + ε d, |ε| ≤ `random_radius`, with d Gaussian and each filter rescaled to the
    norm of that filter of w, biases left alone (Li et al. 2018), so that ‖d‖ ≈ ‖w‖.

    Beside each curve stands its prediction from derivatives at w, L + s gᵀu + ½ s² uᵀHu for a step of
    length s along u. Everything is measured on the first `examples` of a fixed permutation of the
    training set, in eval mode.

    Leaves `eigen.npz` and `random.npz`: epsilon (steps,), loss, prediction and accuracy (directions,
    steps), and length (directions,), the distance in weights of ε = 1; curvature (directions,), uᵀHu of the unit
    vector, and slope (directions,), gᵀu.

    Attributes:
        k: top eigenvectors.
        directions: random directions.
        steps: points on each line; odd, so that the centre is one of them.
        radius: largest |ε| along eigenvectors.
        random_radius: largest |ε| along random directions.
        examples: how many training examples; the whole set if it has fewer.
        tol, max_iterations: of the eigenvectors, as in `Lanczos`.
        batch_size: examples in one micro-batch of the Hessian.
    """

    k: Annotated[int, AtLeast(1)] = 2
    directions: Annotated[int, AtLeast(1)] = 3
    steps: Annotated[int, AtLeast(3)] = 21
    radius: Annotated[float, MoreThan(0)] = 0.05
    random_radius: Annotated[float, MoreThan(0)] = 0.5
    examples: Annotated[int, AtLeast(1)] = 1024
    tol: Annotated[float, MoreThan(0)] = 1e-3
    max_iterations: Annotated[int, AtLeast(1)] = 200
    batch_size: Annotated[int, AtLeast(1)] = 512

    metrics: ClassVar[Mapping[str, str]] = {
        "rise_eigen": "rise of the loss at ε = ±radius along the top eigenvector, mean of both sides",
        "rise_random": "rise of the loss at ε = ±random_radius, mean over random directions and sides",
        "rise_ratio": "measured rise along the top eigenvector over the quadratic prediction (None if that is ≤ 0)",
        "drop_random": "drop of the accuracy at ε = ±random_radius, mean over random directions and sides",
        "curvature_random": "curvature along a random direction, dᵀHd (filter-normalised d), mean",
        "lambda_max": "largest eigenvalue of the Hessian on these examples",
        "train_loss": "training loss on these examples",
        "converged": "the eigenvectors have converged",
        "examples": "examples of loss and Hessian",
    }
    headline: ClassVar[tuple[str, ...]] = ("rise_eigen", "rise_random")
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            file="eigen",
            x="epsilon",
            y=("loss", "prediction"),
            dashed=("prediction",),
            each="eigenvector",
            title="Loss along the Hessian's top eigenvectors",
            xlabel="ε (step length / norm of the weights)",
            ylabel="training loss",
        ),
        Curve(
            file="random",
            x="epsilon",
            y=("loss", "prediction"),
            dashed=("prediction",),
            each="direction",
            title="Loss along random directions",
            xlabel="ε (multiple of a filter-normalised direction)",
            ylabel="training loss",
        ),
        Curve(
            file="eigen",
            x="epsilon",
            y=("accuracy",),
            each="eigenvector",
            title="Accuracy along the Hessian's top eigenvectors",
            xlabel="ε (step length / norm of the weights)",
            ylabel="training accuracy",
        ),
        Curve(
            file="random",
            x="epsilon",
            y=("accuracy",),
            each="direction",
            title="Accuracy along random directions",
            xlabel="ε (multiple of a filter-normalised direction)",
            ylabel="training accuracy",
        ),
    )

    def validate(self) -> None:
        if self.steps % 2 == 0:
            raise InvalidValue(f"Perturbation: steps must be odd, so that the centre is a point, not {self.steps}.")

    def run(self, ctx: Context, trained: Artifact) -> Results:
        """Raises: UserError: k exceeds the number of parameters."""
        import numpy as np
        import torch

        from ..landscape import Landscape, filter_normalised, full_precision

        trial = load_trained(ctx, trained)
        x, y = fixed_set(trial, "train", self.examples)
        land = Landscape(trial.model, trial.loss)
        check_pairs(self.k, land.size)
        rng = ctx.generator("directions")
        random = [filter_normalised(land, rng) for _ in range(self.directions)]
        with full_precision():
            hessian, pairs = hessian_pairs(
                ctx, trial, x, y, self.batch_size, top=self.k, tol=self.tol, max_products=self.max_iterations
            )
            norm = float(torch.linalg.vector_norm(land.origin))
            eigen = [v * (norm if float(v @ hessian.gradient) >= 0 else -norm) for v in pairs.vectors]
            lines = {}
            for name, vectors, radius in (("eigen", eigen, self.radius), ("random", random, self.random_radius)):
                epsilon = symmetric(radius, self.steps)
                slope = np.array([float(v.double() @ hessian.gradient.double()) for v in vectors])
                curvature = np.array([float(v.double() @ hessian(v).double()) for v in vectors])
                points = [[land.evaluate(land.origin + float(e) * v, x, y) for e in epsilon] for v in vectors]
                loss, accuracy = np.array(points).transpose(2, 0, 1)
                rise = epsilon * slope[:, None] + 0.5 * epsilon**2 * curvature[:, None]
                length = np.array([float(torch.linalg.vector_norm(v)) for v in vectors])
                lines[name] = (loss, accuracy, rise, curvature)
                ctx.save_arrays(
                    name,
                    epsilon=epsilon,
                    loss=loss,
                    prediction=hessian.loss + rise,
                    accuracy=accuracy,
                    length=length,
                    slope=slope / np.maximum(length, 1e-30),
                    curvature=curvature / np.maximum(length, 1e-30) ** 2,
                )
        if not pairs.converged.all():
            ctx.log(f"{int((~pairs.converged).sum())} of {self.k} eigenvectors did not converge")
        ends, centre = [0, -1], self.steps // 2
        loss, _, predicted, _ = lines["eigen"]
        rise = float(loss[0, ends].mean() - loss[0, centre])
        expected = float(predicted[0, ends].mean())
        around, accuracy, _, curvature = lines["random"]
        return {
            "rise_eigen": rise,
            "rise_random": float((around[:, ends] - around[:, [centre]]).mean()),
            "rise_ratio": rise / expected if expected > 0 else None,
            "drop_random": float((accuracy[:, [centre]] - accuracy[:, ends]).mean()),
            "curvature_random": float(curvature.mean()),
            "lambda_max": float(pairs.values[0]),
            "train_loss": hessian.loss,
            "converged": bool(pairs.converged.all()),
            "examples": len(y),
        }
