"""What the seeds of a setting know together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..task import Artifact, Context, GroupProbe, Results
from ..trained import load_trained

if TYPE_CHECKING:
    import torch

__all__ = ["Ensemble"]


@dataclass(frozen=True)
class Ensemble(GroupProbe):
    """All seeds of a setting as one classifier: the average of their predicted probabilities.

    Measured on the whole test and validation sets. The disagreement of two members is the share of
    examples on which their most probable classes differ, averaged over all pairs (Fort et al. 2019).

    Leaves `members.npz`: test_accuracy and validation_accuracy (members,), and
    test_disagreement and validation_disagreement (members, members).
    """

    metrics: ClassVar[Mapping[str, str]] = {
        "test_accuracy": "test accuracy of the averaged predictions of all seeds",
        "test_loss": "test loss (cross-entropy) of the averaged predictions of all seeds",
        "test_member_accuracy": "mean test accuracy of the seeds",
        "test_gain": "gain in test accuracy of the ensemble over its mean member",
        "test_disagreement": "share of test examples that two seeds classify differently, mean over pairs",
        "validation_accuracy": "validation accuracy of the averaged predictions of all seeds",
        "validation_loss": "validation loss (cross-entropy) of the averaged predictions of all seeds",
        "validation_member_accuracy": "mean validation accuracy of the seeds",
        "validation_gain": "gain in validation accuracy of the ensemble over its mean member",
        "validation_disagreement": "share of validation examples that two seeds classify differently, mean over pairs",
        "members": "seeds in the ensemble",
    }
    headline: ClassVar[tuple[str, ...]] = ("test_accuracy", "test_gain", "test_disagreement", "members")

    def run(self, ctx: Context, *trained: Artifact) -> Results:
        """Raises: UserError: there is no trial."""
        import torch

        from ..errors import UserError
        from ..landscape import full_precision

        if not trained:
            raise UserError("Ensemble needs at least one trained trial.")
        outputs: dict[str, list[torch.Tensor]] = {"test": [], "validation": []}
        labels: dict[str, torch.Tensor] = {}
        with full_precision(), torch.no_grad():
            for artifact in trained:  # one network at a time in memory
                trial = load_trained(ctx, artifact)
                for name, rows in outputs.items():
                    part = trial.data.split(name)
                    batches = [trial.model(trial.data.normalise(x)).double() for x in part.x.split(1000)]
                    rows.append(torch.cat(batches).log_softmax(1).cpu())
                    labels[name] = part.y.cpu()
        results: dict[str, float | int | None] = {}
        saved: dict[str, torch.Tensor] = {}
        for name, rows in outputs.items():
            found = combine(torch.stack(rows), labels[name])
            mean = float(found.accuracies.mean())
            results |= {
                f"{name}_accuracy": found.accuracy,
                f"{name}_loss": found.loss,
                f"{name}_member_accuracy": mean,
                f"{name}_gain": found.accuracy - mean,
                f"{name}_disagreement": found.disagreement,
            }
            saved |= {f"{name}_accuracy": found.accuracies, f"{name}_disagreement": found.differ}
        ctx.save_arrays("members", **saved)
        return {**results, "members": len(trained)}


@dataclass(frozen=True)
class Combined:
    """How one set of examples is classified by members and by the average of their probabilities."""

    accuracy: float
    loss: float
    accuracies: torch.Tensor
    differ: torch.Tensor
    disagreement: float | None


def combine(logs: torch.Tensor, labels: torch.Tensor) -> Combined:
    """Average the members' probabilities.

    Args:
        logs: logarithms of the predicted probabilities, shape (members, n, classes).
        labels: shape (n,).

    Returns:
        accuracy and cross-entropy of the average; accuracies of the members, shape (members,); the share
        of examples on which two members differ, shape (members, members), and its mean over pairs (None
        for a single member).
    """
    import math

    import torch

    members = len(logs)
    average = logs.logsumexp(0) - math.log(members)  # log of the mean probability
    votes = logs.argmax(2)
    differ = torch.stack([(votes != own).double().mean(1) for own in votes])
    return Combined(
        accuracy=float((average.argmax(1) == labels).double().mean()),
        loss=float(-average.gather(1, labels[:, None]).mean()),
        accuracies=(votes == labels).double().mean(1),
        differ=differ,
        disagreement=float(differ.sum()) / (members * (members - 1)) if members > 1 else None,
    )
