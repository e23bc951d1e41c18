"""Early stopping: when a training is over before its last epoch, and which epoch's weights it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from .spec import AtLeast, Spec

__all__ = ["EarlyStopping"]


@dataclass(frozen=True)
class EarlyStopping(Spec):
    """End the training once `metric` has not improved for `patience` epochs, and keep the best epoch's weights.

    The best epoch is the last one that improved on the best before it by more than `min_delta`. Its
    weights are those that were evaluated: averages (EMA, SWA) and BatchNorm's statistics included. They
    are kept too if the training ends for another reason, unless it diverges, which early stopping does
    not hide.

    Attributes:
        metric: what is watched after each epoch.
        patience: epochs without an improvement after which the training ends.
        min_delta: by how much a value has to be better to be an improvement.
        restore: keep the weights of the best epoch; False keeps those of the last.
    """

    metric: Literal["val_loss", "val_accuracy"] = "val_loss"
    patience: Annotated[int, AtLeast(1)] = 5
    min_delta: Annotated[float, AtLeast(0)] = 0.0
    restore: bool = True

    def improves(self, history: Mapping[str, Sequence[float]], value: float) -> bool:
        """Whether an epoch with this `value` of the metric is better than the best of those in the history."""
        if not history.get("best_epoch"):
            return True
        best = history[self.metric][int(history["best_epoch"][-1]) - 1]
        return (value - best if self.metric == "val_accuracy" else best - value) > self.min_delta

    def over(self, row: Mapping[str, Any]) -> bool:
        """Whether the training ends after the epoch that `row` of the history is about."""
        return bool(row["epoch"] - row["best_epoch"] >= self.patience)
