"""How many dimensions a training needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from ..errors import InvalidValue, UserError
from ..minibatch import Minibatch
from ..optimizers.optimizer import Optimizer, Progress
from ..regularisers.regulariser import optimizers_of
from ..spec import AtLeast, AtMost, MoreThan, NotEmpty
from ..task import Artifact, Context, Curve, Probe, Results
from ..trained import Trained, load_trained

if TYPE_CHECKING:
    import numpy as np

__all__ = ["IntrinsicDimension", "crossing"]

DENSE_BYTES = 1 << 29


@dataclass(frozen=True)
class IntrinsicDimension(Probe):
    """The dimension of a random subspace in which training reaches 90 % of the full accuracy (Li et al. 2018).

    Trains w = w₀ + P z for each dimension d, with z = 0 at first, w₀ the trial's own initial weights
    (stream "init") and P, of unit columns, from a stream of its own for each d. P is dense while its
    d · D numbers take at most 512 MiB, Fastfood above (`projection="auto"`).

    The training is the trial's: its optimizer, batch size, clipping and schedule, for `epochs` epochs,
    without augmentation, regularisers (other than the model's dropout), early stopping and weight decay
    (which would pull towards w = 0, out of the subspace).
    The optimizer works on z/s with s = √(D/d): then s² P Pᵀ, whose mean over P is the identity,
    stands before a gradient step of plain descent, and a sign-like step (Adam) has its usual length in
    weights, so the trial's step size means the same for every d. SAM's ρ keeps its length in weights;
    what members of its family do to single coordinates (ASAM's sizes, ClampSAM's τ, the groups of r) they do to
    those of z/s. Trainings with m=1 are refused: each example would need weights of its own.
    For each of `lr_factors` × the trial's step size the network is trained; the best validation
    accuracy counts.

    d_int90 is where the accuracy on the validation set, made non-decreasing in d by isotonic regression
    and starting from the untrained network at d = 0, first reaches `share` of the full training's,
    linearly interpolated. If it never does within `dimensions`, the value is right-censored: `censored`
    is True and `d_int90` None. Then take the median over seeds with the censored ones above the rest.

    Leaves `accuracy.npz`: dimension (n + 1,) from 0; accuracy, isotonic and target, each (n + 1,);
    lr_factor (n + 1,), the best one; train_loss (n + 1,), of its last epoch.

    Attributes:
        dimensions: the subspaces' dimensions, ascending.
        epochs: passes over the training examples; None: as many as the full training's.
        share: of the full training's validation accuracy that is to be reached.
        lr_factors: multiples of the trial's step size to try.
        projection: "auto", or one kind for every d.
    """

    dimensions: Annotated[tuple[Annotated[int, AtLeast(1)], ...], NotEmpty()] = (10, 30, 100, 300, 1000, 3000)
    epochs: Annotated[int, AtLeast(1)] | None = None
    share: Annotated[float, MoreThan(0), AtMost(1)] = 0.9
    lr_factors: Annotated[tuple[Annotated[float, MoreThan(0)], ...], NotEmpty()] = (1.0, 0.1)
    projection: Literal["auto", "dense", "fastfood"] = "auto"

    proportional_to: ClassVar[tuple[str, ...]] = ("epochs",)

    metrics: ClassVar[Mapping[str, str]] = {
        "d_int90": "intrinsic dimension: where the subspace reaches the share of the full validation accuracy",
        "censored": "the share was not reached within the range of dimensions (d_int90 lies above it)",
        "below_range": "the smallest dimension reached the share already (d_int90 lies at or below it)",
        "best_accuracy": "best validation accuracy in any subspace",
        "full_accuracy": "validation accuracy of the full training",
        "target_accuracy": "validation accuracy to be reached",
        "largest_dimension": "largest dimension tried",
        "diverged_trainings": "trainings in subspaces that ended in a non-finite loss",
        "parameters": "number of parameters D",
    }
    headline: ClassVar[tuple[str, ...]] = ("d_int90", "censored", "best_accuracy")
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            file="accuracy",
            x="dimension",
            y=("accuracy", "isotonic", "target"),
            dashed=("isotonic", "target"),
            title="Accuracy of training in a random subspace",
            xlabel="dimension of the subspace",
            ylabel="validation accuracy",
        ),
    )

    def validate(self) -> None:
        if list(self.dimensions) != sorted(set(self.dimensions)):
            raise InvalidValue(f"IntrinsicDimension: dimensions must be ascending, not {self.dimensions!r}.")

    def run(self, ctx: Context, trained: Artifact) -> Generator[Results, None, Results]:
        """Train in each subspace, reporting after each; interrupted, it continues after the last training.

        Yields: `d`, `accuracy` and `lr_factor`.
        Raises: UserError: a dimension exceeds the number of parameters, or the training kept no accuracy.
        """
        import numpy as np

        from ..landscape import full_precision
        from ..linalg import isotonic

        trial = load_trained(ctx, trained)
        full = trained.results.get("val_accuracy")
        if not isinstance(full, (int, float)):
            raise UserError("The training kept no val_accuracy to compare a subspace with.")
        size = sum(p.numel() for p in trial.model.parameters())
        if self.dimensions[-1] > size:
            raise UserError(
                f"IntrinsicDimension: dimension {self.dimensions[-1]} exceeds the network's {size} parameters."
            )
        for optimizer in optimizers_of(trial.train):
            if getattr(optimizer, "m", None) == 1 and getattr(optimizer, "rho", None) != 0:
                raise UserError(
                    f"IntrinsicDimension: {type(optimizer).__name__}(m=1) moves each example's weights on their own, "
                    f"for which a random subspace would need a network each for: take trainings with another m."
                )
        before = ctx.resume() or {"rows": [], "tried": []}
        rows: list[tuple[int, float, float, float]] = before["rows"]  # d, accuracy, loss, factor: the best for each d
        tried: list[tuple[float, float, float]] = before["tried"]  # accuracy, loss, factor: all for every d
        each = len(self.lr_factors)

        def report(row: tuple[int, float, float, float]) -> Results:
            return {"d": row[0], "accuracy": row[1], "lr_factor": row[3]}

        for row in rows[1:]:
            yield report(row)
        with full_precision():
            if not rows:
                rows.append((0, self._accuracy(ctx, trial), float("nan"), float("nan")))
            for i, d in enumerate(self.dimensions[len(rows) - 1 :], start=len(rows) - 1):
                for factor in self.lr_factors[len(tried) - i * each :]:
                    tried.append((*self._train(ctx, trial, d, size, factor), factor))
                    ctx.snapshot(lambda: {"rows": rows, "tried": tried})
                # A diverged training has learnt nothing that a trainer could keep.
                accuracy, loss, factor = max(tried[i * each :], key=lambda row: (np.isfinite(row[1]), row[0]))
                rows.append((d, accuracy, loss, factor))
                yield report(rows[-1])
        diverged = sum(not np.isfinite(loss) for _, loss, _ in tried)
        dimension, reached, losses, factors = np.array(rows, dtype=float).T
        fitted = isotonic(reached)
        target = self.share * float(full)
        ctx.save_arrays(
            "accuracy",
            dimension=dimension,
            accuracy=reached,
            isotonic=fitted,
            target=np.full_like(reached, target),
            lr_factor=factors,
            train_loss=losses,
        )
        found = crossing(dimension, fitted, target)
        return {
            "d_int90": found,
            "censored": found is None,
            "below_range": bool(fitted[1] >= target),
            "best_accuracy": float(reached.max()),
            "full_accuracy": float(full),
            "target_accuracy": target,
            "largest_dimension": self.dimensions[-1],
            "diverged_trainings": diverged,
            "parameters": size,
        }

    def _accuracy(self, ctx: Context, trial: Trained) -> float:
        """Validation accuracy of the initial network."""
        from ..landscape import Landscape

        network = trial.train.model.build(trial.data.shape, trial.data.classes, ctx.generator("init")).to(ctx.device)
        land = Landscape(network, trial.loss)
        land.reestimate(land.origin, trial.data.normalise(trial.data.train.x[:1000]))
        x, y = trial.data.normalise(trial.data.validation.x), trial.data.validation.y
        return land.evaluate(land.origin, x, y)[1]

    def _train(self, ctx: Context, trial: Trained, d: int, size: int, lr_factor: float) -> tuple[float, float]:
        """Train in one subspace; validation accuracy at the end, and mean training loss of the last epoch."""
        import math

        import torch

        from ..landscape import Landscape
        from ..models.dropout import has_dropout, seed_dropout
        from ..projections import Dense, Fastfood, Subspace

        device, data, train = ctx.device, trial.data, trial.train
        network = train.model.build(data.shape, data.classes, ctx.generator("init")).to(device)
        land = Landscape(network, trial.loss)
        dense = self.projection == "dense" or (self.projection == "auto" and 4 * d * size <= DENSE_BYTES)
        kind: type[Dense] | type[Fastfood] = Dense if dense else Fastfood
        project = kind(size, d, ctx.generator(f"projection/{d}"), device=device)
        scale = math.sqrt(size / d)
        subspace = Subspace(land, project, scale, d).to(device)
        stepper = _within(train.optimizer, scale).build(subspace)

        epochs = self.epochs or train.epochs
        n = len(data.train.y)
        batch = min(train.batch_size or n, n)
        steps = n // batch
        mean = math.nan
        dropout = has_dropout(network)
        subspace.train()
        for epoch in range(epochs):
            masks = torch.randint(1 << 62, (steps,), generator=ctx.generator(f"dropout/{d}/{epoch}")).tolist()
            order = torch.randperm(n, generator=ctx.generator(f"subspace order/{d}/{epoch}")).to(device)
            total = torch.zeros((), device=device)
            for step in range(steps):
                rows = order[step * batch : (step + 1) * batch]
                x, y = data.normalise(data.train.x[rows]), data.train.y[rows]

                minibatch = Minibatch(subspace, x, y, micro=train.micro_batch_size)
                if dropout:
                    minibatch.before_forward.append(partial(seed_dropout, land.model, masks[step]))
                total += stepper.gradient(minibatch, Progress(epoch * steps + step, epochs * steps, steps))[0]
                if train.clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_([subspace.z], train.clip_norm)
                stepper.step(lr_factor * train.schedule.factor(epoch * steps + step, epochs * steps))
            mean = float(total) / steps
            if not math.isfinite(mean):
                break
        subspace.eval()
        x, y = data.normalise(data.validation.x), data.validation.y
        with stepper.evaluating(lambda: map(data.normalise, data.train.x.tensor_split(-(-n // 1000)))):
            return land.evaluate(subspace.weights().detach(), x, y)[1], mean


def _within(optimizer: Any, scale: float) -> Any:
    """The optimizer as it acts on z/s: without weight decay, which would pull to w₀; ρ and damping in units of w."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(optimizer):
        value = getattr(optimizer, field.name)
        if field.name == "weight_decay" and value is not None:
            changes[field.name] = 0.0
        elif field.name == "rho":
            changes[field.name] = value / scale
        elif field.name == "damping":
            changes[field.name] = value * scale**2
        elif isinstance(value, Optimizer):
            changes[field.name] = _within(value, scale)
    return dataclasses.replace(optimizer, **changes)


def crossing(x: np.ndarray, y: np.ndarray, target: float) -> float | None:
    """Where y, non-decreasing over ascending x, first reaches the target, linearly interpolated; None if never."""
    import numpy as np

    reached = np.flatnonzero(y >= target)
    if not len(reached):
        return None
    i = int(reached[0])
    if i == 0:
        return float(x[0])
    return float(x[i - 1] + (target - y[i - 1]) / (y[i] - y[i - 1]) * (x[i] - x[i - 1]))
