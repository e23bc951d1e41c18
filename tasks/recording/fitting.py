"""Who is fitted first under label noise: examples with the true label, or those with another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..task import Curve

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CURVES", "METRICS", "Fitting", "results"]

METRICS: Mapping[str, str] = {
    "clean_accuracy": "training accuracy on examples with the true label (running mean over the last epoch)",
    "noisy_accuracy": "training accuracy on examples with a wrong label, by that label (running, last epoch)",
    "clean_half_epoch": "first epoch with a running training accuracy of ½ on examples with the true label",
    "noisy_half_epoch": "first epoch with a running training accuracy of ½ on examples with a wrong label, by it",
}
"""Scalar results of a training with label noise, in words."""

CURVES = (
    Curve(
        file="history",
        x="epoch",
        y=("running_noisy_accuracy", "running_clean_accuracy"),
        title="Training accuracy on wrong labels, and on the others (dashed)",
        xlabel="epoch",
        ylabel="accuracy",
        dashed=("running_clean_accuracy",),
    ),
)


class Fitting:
    """Running accuracy on the clean and on the noisy examples of an epoch, with the labels they are trained on.

    Args:
        noisy: which examples of the training set have a label that is not the true one, bool of shape (n,).
    """

    def __init__(self, noisy: Tensor) -> None:
        self.noisy = noisy
        self.begin()

    def begin(self) -> None:
        """Begin an epoch."""
        import torch

        self._sums = torch.zeros(4, dtype=torch.int64, device=self.noisy.device)

    def add(self, rows: Tensor, hits: Tensor) -> None:
        """Take in a step: the rows of its examples, and which of them were classified as labelled."""
        import torch

        noisy = self.noisy.index_select(0, rows)
        self._sums += torch.stack([~noisy & hits, ~noisy, noisy & hits, noisy]).sum(1)

    def row(self) -> dict[str, float]:
        """`running_clean_accuracy` and `running_noisy_accuracy` of the epoch; nan without such an example."""
        clean_hits, clean, noisy_hits, noisy = self._sums.tolist()
        return {
            "running_clean_accuracy": clean_hits / clean if clean else math.nan,
            "running_noisy_accuracy": noisy_hits / noisy if noisy else math.nan,
        }


def results(history: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The scalars in METRICS from a training's history; None without label noise, or where it never came to that."""
    found: dict[str, Any] = dict.fromkeys(METRICS)
    for kind in ("clean", "noisy"):
        accuracies = history.get(f"running_{kind}_accuracy", ())
        if len(accuracies) and math.isfinite(accuracies[-1]):
            found[f"{kind}_accuracy"] = accuracies[-1]
        reached = (epoch for epoch, a in zip(history["epoch"], accuracies, strict=False) if a >= 0.5)
        found[f"{kind}_half_epoch"] = next(reached, None)
    return found
