"""The noise of minibatch gradients, beside the curvature on the same examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from ..spec import AtLeast, MoreThan
from ..task import Artifact, Context, Curve, Probe, Results
from ..trained import load_trained
from ._common import fixed_set, hessian_pairs

__all__ = ["GradientNoise"]

SHOWN = 50  # eigenvalues kept for the picture


@dataclass(frozen=True)
class GradientNoise(Probe):
    """Covariance C of per-example gradients, its top eigenvalue λ_C, and the Hessian's λ_H on the same examples.

    C = Σ (gᵢ − ḡ)(gᵢ − ḡ)ᵀ / (m − 1) over the first m = `examples` of a fixed permutation of the
    training set; a minibatch of size B drawn without replacement from N examples has covariance
    C/B · (N − B)/(N − 1). Its spectrum is that of the m × m Gram matrix. λ_C depends on the sample, so it
    is reported on the first half and quarter of the same examples too; compare it at equal m only.

    Leaves `noise.npz`: rank (50,), and the largest eigenvalues of C from m, m/2 and m/4 examples (full,
    half, quarter; NaN where there are fewer).

    Attributes:
        examples: m; the whole training set if it has fewer.
        tol, max_iterations: of the Lanczos iteration for λ_H, as in `Lanczos`.
        memory: GiB for per-example gradients; what does not fit is computed again for every block.
        batch_size: examples in one micro-batch of the Hessian.
    """

    examples: Annotated[int, AtLeast(8)] = 1024
    tol: Annotated[float, MoreThan(0)] = 1e-3
    max_iterations: Annotated[int, AtLeast(1)] = 200
    memory: Annotated[float, MoreThan(0)] = 1.0
    batch_size: Annotated[int, AtLeast(1)] = 512

    metrics: ClassVar[Mapping[str, str]] = {
        "lambda_c": "largest eigenvalue λ_C of the covariance of per-example gradients",
        "lambda_c_half": "λ_C from half of the examples",
        "lambda_c_quarter": "λ_C from a quarter of the examples",
        "lambda_h": "largest eigenvalue λ_H of the Hessian on the same examples",
        "noise_ratio": "noise ratio λ_C / λ_H (None where λ_H is not positive)",
        "trace": "trace of the covariance of per-example gradients",
        "noise_along_h": "variance of the gradient along the Hessian's top eigenvector, v_Hᵀ C v_H",
        "alignment": "alignment |⟨v_C, v_H⟩| of the top eigenvectors of noise and Hessian",
        "gradient_norm": "norm of the mean gradient",
        "train_loss": "training loss on these examples",
        "converged": "λ_H has converged",
        "examples": "examples of noise and Hessian",
    }
    headline: ClassVar[tuple[str, ...]] = ("lambda_c", "noise_ratio", "alignment")
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            file="noise",
            x="rank",
            y=("full", "half", "quarter"),
            title="Spectrum of the gradient noise, from m, m/2 and m/4 examples",
            xlabel="rank",
            ylabel="eigenvalue of the covariance",
            kind="points",
            log_y=True,
        ),
    )

    def run(self, ctx: Context, trained: Artifact) -> Results:
        """Raises: UserError: fewer than 8 training examples."""
        import numpy as np
        import torch

        from ..curvature import GradientCovariance
        from ..errors import UserError
        from ..landscape import full_precision

        trial = load_trained(ctx, trained)
        x, y = fixed_set(trial, "train", self.examples)
        m = len(y)
        if m < 8:
            raise UserError(f"GradientNoise needs at least 8 training examples, and the set has {m}.")
        with full_precision():
            hessian, pairs = hessian_pairs(
                ctx, trial, x, y, self.batch_size, top=1, tol=self.tol, max_products=self.max_iterations
            )
            v_h, lambda_h = pairs.vectors[0], float(pairs.values[0])
            converged = bool(pairs.converged.all())
            if not converged:
                ctx.log(f"λ_H did not converge: residual {pairs.residuals[0]}")
            mean_norm = float(torch.linalg.vector_norm(hessian.gradient))
            train_loss = hessian.loss
            del hessian, pairs  # its graph
            noise = GradientCovariance(
                trial.model, trial.loss, x, y, directions=v_h[None], memory=int(self.memory * 2**30)
            )
            spectra = [noise.spectrum(n) for n in (m, m // 2, m // 4)]
            v_c = noise.combine(spectra[0][1])
        shown = np.full((3, SHOWN), np.nan)
        for row, (values, _) in zip(shown, spectra, strict=True):
            # Of n eigenvalues the last is zero by construction: the gradients are centred.
            found = values[: min(SHOWN, len(values) - 1)].numpy()
            row[: len(found)] = found
        ctx.save_arrays("noise", rank=np.arange(1, SHOWN + 1), full=shown[0], half=shown[1], quarter=shown[2])
        lambda_c = float(spectra[0][0][0])
        return {
            "lambda_c": lambda_c,
            "lambda_c_half": float(spectra[1][0][0]),
            "lambda_c_quarter": float(spectra[2][0][0]),
            "lambda_h": lambda_h,
            "noise_ratio": lambda_c / lambda_h if lambda_h > 0 else None,
            "trace": float(spectra[0][0].sum()),
            "noise_along_h": float(noise.along[:, 0].var()),
            "alignment": min(1.0, abs(float(v_c @ v_h))),
            "gradient_norm": mean_norm,
            "train_loss": train_loss,
            "converged": converged,
            "examples": m,
        }
