"""Both ends of the Hessian's spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from ..spec import AtLeast, MoreThan
from ..task import Artifact, Context, Curve, Probe, Results
from ..trained import load_trained
from ._common import check_pairs, fixed_set, hessian_pairs

__all__ = ["Lanczos"]


@dataclass(frozen=True)
class Lanczos(Probe):
    """The k largest and k smallest eigenvalues of the Hessian of the mean training loss.

    The loss is the trial's own without weight decay, in eval mode, on the first `examples` of a fixed
    permutation of the training set (with its labels as trained on): the same examples for every trial.
    Lanczos with full reorthogonalisation and thick restart, see `tasks.linalg.lanczos`; the residuals
    are computed afresh at the end. Compare sharpness at matched loss: curvature of the cross-entropy
    vanishes as the loss does, so `train_loss` on the same examples stands beside it.

    Leaves `spectrum.npz`: rank (2k,) from 1, the largest, to −1, the smallest; eigenvalues, residuals
    ‖Hv − λv‖ and converged, each (2k,); ritz, all Ritz values of the last projection; and
    `vectors.npz` (vectors, (2k, parameters)) if `save_vectors`.

    Attributes:
        k: eigenpairs at each end.
        examples: how many training examples; the whole set if it has fewer.
        tol: a pair has converged when its residual is at most tol · max |λ|.
        max_iterations: most Hessian-vector products.
        basis: most vectors of the size of the weights held at once.
        verify: products spent on looking, from a fresh random vector, for eigenvalues that were missed
            (copies of a multiple one); 0 leaves it out.
        batch_size: examples in one micro-batch, fewer where memory is short.
        save_vectors: keep the eigenvectors.
    """

    k: Annotated[int, AtLeast(1)] = 3
    examples: Annotated[int, AtLeast(1)] = 1024
    tol: Annotated[float, MoreThan(0)] = 1e-4
    max_iterations: Annotated[int, AtLeast(1)] = 500
    basis: Annotated[int, AtLeast(4)] = 48
    verify: Annotated[int, AtLeast(0)] = 8
    batch_size: Annotated[int, AtLeast(1)] = 512
    save_vectors: bool = False

    metrics: ClassVar[Mapping[str, str]] = {
        "lambda_max": "largest eigenvalue of the Hessian of the training loss",
        "lambda_min": "smallest eigenvalue of the Hessian",
        "condition_number": "condition number |λ_max / λ_min| of the Hessian, λ_min its smallest (most negative)",
        "negative_ritz_values": "negative Ritz values: the Hessian has at least as many negative eigenvalues",
        "train_loss": "training loss on the examples of the Hessian",
        "gradient_norm": "norm of the loss's gradient on these examples",
        "residual": "largest residual ‖Hv − λv‖ of the eigenpairs, relative to max |λ|",
        "lambda_min_error": "residual of the smallest eigenpair: a bound on the error of λ_min",
        "converged": "all eigenpairs have converged",
        "products": "Hessian-vector products",
        "examples": "examples of the Hessian",
    }
    headline: ClassVar[tuple[str, ...]] = ("lambda_max", "lambda_min", "condition_number", "train_loss")
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            file="spectrum",
            x="rank",
            y=("eigenvalues",),
            title="Ends of the Hessian's spectrum",
            xlabel="rank (1 = largest, −1 = smallest)",
            ylabel="eigenvalue",
            kind="points",
        ),
    )

    def run(self, ctx: Context, trained: Artifact) -> Results:
        """Raises: UserError: k exceeds the number of parameters."""
        import numpy as np
        import torch

        from ..landscape import full_precision

        trial = load_trained(ctx, trained)
        x, y = fixed_set(trial, "train", self.examples)
        check_pairs(self.k, sum(p.numel() for p in trial.model.parameters()))
        with full_precision():
            hessian, pairs = hessian_pairs(
                ctx,
                trial,
                x,
                y,
                self.batch_size,
                top=self.k,
                bottom=self.k,
                tol=self.tol,
                max_products=self.max_iterations,
                basis=self.basis,
                verify=self.verify,
            )
            residuals = np.array(
                [
                    float(torch.linalg.vector_norm(hessian(v) - value * v))
                    for v, value in zip(pairs.vectors, pairs.values, strict=True)
                ]
            )
        scale = float(np.abs(pairs.values).max())
        converged = residuals <= self.tol * scale
        if not converged.all():
            ctx.log(f"{int((~converged).sum())} of {2 * self.k} eigenpairs did not converge: {residuals.tolist()}")
        ctx.save_arrays(
            "spectrum",
            rank=np.concatenate([np.arange(1, self.k + 1), np.arange(-self.k, 0)]),
            eigenvalues=pairs.values,
            residuals=residuals,
            converged=converged,
            ritz=pairs.ritz,
        )
        if self.save_vectors:
            ctx.save_arrays("vectors", vectors=pairs.vectors)
        low = float(pairs.values[-1])
        return {
            "lambda_max": float(pairs.values[0]),
            "lambda_min": low,
            "condition_number": abs(float(pairs.values[0]) / low) if low != 0 else None,
            # Not those that are zero up to rounding.
            "negative_ritz_values": int((pairs.ritz < -1e-6 * scale).sum()),
            "train_loss": hessian.loss,
            "gradient_norm": float(torch.linalg.vector_norm(hessian.gradient)),
            "residual": float(residuals.max()) / scale if scale > 0 else 0.0,
            "lambda_min_error": float(residuals[-1]),
            "converged": bool(converged.all()),
            "products": pairs.products + 2 * self.k,
            "examples": len(y),
        }
