"""The density of the Hessian's whole spectrum."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from ..spec import AtLeast
from ..task import Artifact, Context, Curve, Probe, Results
from ..trained import load_trained
from ._common import fixed_set

__all__ = ["SpectralDensity"]


@dataclass(frozen=True)
class SpectralDensity(Probe):
    """Where the eigenvalues of the Hessian of the mean training loss lie, by stochastic Lanczos quadrature.

    From each of `vectors` random vectors v (independent signs, ‖v‖ = 1) `steps` steps of Lanczos with full
    reorthogonalisation give nodes θᵢ and weights τᵢ², a Gauss quadrature of the spectral measure as v sees it:
    Σ τᵢ² f(θᵢ) = vᵀ f(H) v for all polynomials up to degree 2·steps − 1. Its mean over random vectors is the
    average of f over the eigenvalues (Golub & Meurant 2010, chapter 11; Ghorbani et al. 2019, section 2). What differs
    from vector to vector is the error: every result that is an average has a standard error beside it.

    Loss, examples and mode as in `Lanczos`. Pictures spread each node over a Gaussian of stated width.

    Leaves `density.npz`: nodes and weights, (vectors, steps), each row's nodes ascending and its weights summing to
    one; a row that ended early, in a space that H does not leave, is filled up with nodes of weight 0.

    Attributes:
        vectors: random vectors.
        steps: Lanczos steps from each, one Hessian-vector product a step; at most as many as there are parameters.
        examples: how many training examples; the whole set if it has fewer.
        batch_size: examples in one micro-batch, fewer where memory is short.
    """

    vectors: Annotated[int, AtLeast(2)] = 8
    steps: Annotated[int, AtLeast(2)] = 60
    examples: Annotated[int, AtLeast(1)] = 1024
    batch_size: Annotated[int, AtLeast(1)] = 512

    proportional_to: ClassVar[tuple[str, ...]] = ("vectors", "steps")
    metrics: ClassVar[Mapping[str, str]] = {
        "trace": "trace of the Hessian (Hutchinson's estimate)",
        "trace_error": "standard error of the trace, over random vectors",
        "norm": "Frobenius norm of the Hessian, √(Σ λ²)",
        "norm_error": "standard error of the Frobenius norm (by the delta method)",
        "negative_share": "share of eigenvalues below −1 % of the largest in magnitude",
        "negative_share_error": "standard error of that share",
        "node_max": "largest node: a lower bound on λ_max",
        "node_min": "smallest node: an upper bound on λ_min",
        "train_loss": "training loss on the examples of the Hessian",
        "products": "Hessian-vector products",
        "examples": "examples of the Hessian",
    }
    headline: ClassVar[tuple[str, ...]] = ("trace", "negative_share", "train_loss")
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            file="density",
            x="nodes",
            y=("weights",),
            title="Density of the Hessian's spectrum",
            xlabel="eigenvalue",
            ylabel="density",
            kind="density",
            log_y=True,
        ),
    )

    def run(self, ctx: Context, trained: Artifact) -> Generator[Results, None, Results]:
        """One report a random vector."""
        import numpy as np
        import torch

        from ..curvature import Hessian
        from ..landscape import full_precision
        from ..linalg import quadrature

        trial = load_trained(ctx, trained)
        x, y = fixed_set(trial, "train", self.examples)
        with full_precision():
            hessian = Hessian(trial.model, trial.loss, x, y, batch_size=self.batch_size)
            size = hessian.size
            steps = min(self.steps, size)
            state: dict[str, Any] = ctx.resume() or {"nodes": [], "weights": [], "products": 0}
            for i in range(len(state["nodes"])):
                yield {"vector": i + 1}
            for i in range(len(state["nodes"]), self.vectors):
                signs = torch.randint(0, 2, (size,), generator=ctx.generator(f"signs/{i}"), dtype=torch.float64) * 2 - 1
                nodes, weights = quadrature(hessian, signs.to(hessian.gradient), steps)
                short = steps - len(nodes)
                state = {
                    "nodes": [*state["nodes"], np.pad(nodes, (0, short), mode="edge")],
                    "weights": [*state["weights"], np.pad(weights, (0, short))],
                    "products": state["products"] + len(nodes),
                }
                ctx.snapshot(lambda state=state: state)  # type: ignore[misc]
                yield {"vector": i + 1}
        nodes, weights = np.stack(state["nodes"]), np.stack(state["weights"])
        ctx.save_arrays("density", nodes=nodes, weights=weights)

        def mean(f: np.ndarray) -> tuple[float, float]:
            """The average of f over the eigenvalues, and its standard error."""
            each = (weights * f).sum(axis=1)
            return float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each)))

        first, first_error = mean(nodes)
        second, second_error = mean(nodes**2)
        norm = float(np.sqrt(size * second))
        negative, negative_error = mean((nodes < -0.01 * np.abs(nodes).max()).astype(float))
        return {
            "trace": size * first,
            "trace_error": size * first_error,
            "norm": norm,
            "norm_error": 0.5 * size * second_error / norm if norm > 0 else 0.0,
            "negative_share": negative,
            "negative_share_error": negative_error,
            "node_max": float(nodes.max()),
            "node_min": float(nodes.min()),
            "train_loss": hessian.loss,
            "products": int(state["products"]),
            "examples": len(y),
        }
