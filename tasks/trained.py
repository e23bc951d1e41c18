"""A trained trial, loaded for a probe."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .data.dataset import Data, Split, load_data
from .errors import InvalidValue, UserError
from .task import Artifact, Context

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .train import Train

__all__ = ["Trained", "load_trained"]


@dataclass(frozen=True)
class Trained:
    """A trained network and the data it was trained on, on the task's device.

    Attributes:
        model: the network, in eval mode; its parameters require gradients. The caller's own copy.
        data: the dataset; the training labels are those trained on, noise included. Shared: never write.
        train: the training's specification.
    """

    model: nn.Module
    data: Data
    train: Train

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        """The trial's own loss, without weight decay: cross-entropy of logits (n, classes), targets (n,).

        Args:
            reduction: "mean", "sum", or "none" for one value an example, shape (n,).
        """
        from torch.nn import functional as F

        return F.cross_entropy(outputs, targets, reduction=reduction)

    def evaluation_set(self, split: str = "train", examples: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The first `examples` of a fixed permutation of a split: normalised x (float32) and y.

        The permutation depends on the dataset alone, never on a seed of the study, so all trials on a
        dataset are measured on one and the same examples. A smaller set is a part of a larger one.

        Args:
            split: "train", "validation" or "test".
            examples: how many; None takes all.

        Raises:
            InvalidValue: the split has fewer examples, or there is no such split.
        """
        import torch

        part = self.data.split(split)
        n = len(part.y)
        count = n if examples is None else examples
        if not 0 < count <= n:
            raise InvalidValue(f"examples={examples} is not between 1 and the {n} examples of the {split} set.")
        rows = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:count].to(part.y.device)
        return self.data.normalise(part.x[rows]), part.y[rows]


def load_trained(ctx: Context, artifact: Artifact) -> Trained:
    """The trained trial that `artifact` holds.

    Raises:
        UserError: the artifact is not that of a training, or one that kept no weights (it diverged).
    """
    import torch
    from safetensors.torch import load_file

    train: Any = artifact.task
    weights = artifact.dir / "weights.safetensors"
    if not weights.is_file():
        raise UserError(f"The artifact {artifact.key} holds no weights.safetensors: the training diverged, or is none.")
    data = load_data(ctx, artifact.input("dataset"))
    if train.label_noise > 0:
        labels = torch.from_numpy(artifact.arrays("label_noise")["labels"]).to(ctx.device)
        data = dataclasses.replace(data, train=Split(data.train.x, labels))
    # The initial values are replaced at once, so it does not matter what they are drawn from.
    model = train.model.build(data.shape, data.classes, torch.Generator().manual_seed(0))
    model.load_state_dict(load_file(weights))
    return Trained(model.to(ctx.device).eval().requires_grad_(True), data, train)
