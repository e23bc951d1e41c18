"""What can be said of a training before its data are read: whether its parts go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import InvalidValue
from .optimizers.sharpness_aware import SharpnessAware
from .regularisers.regulariser import optimizers_of

if TYPE_CHECKING:
    from .train import Train

__all__ = ["check_beforehand"]


def check_beforehand(train: Train) -> None:
    """
    Raises:
        InvalidValue: the model or the augmentation does not take the dataset's examples, or the optimizer finds an
            ε over more examples than a batch has, or over single ones that BatchNorm would mix.
    """
    shape, classes = train.dataset.example_shape, train.dataset.number_of_classes
    if shape is not None:
        if classes is not None:
            train.model.check(shape, classes)
        if train.augment is not None:
            train.augment.check(shape)
    for rule in optimizers_of(train):
        if not isinstance(rule, SharpnessAware) or rule.m is None or rule.rho == 0:
            continue
        name = type(rule).__name__
        if rule.m == 1 and train.model.has_batchnorm:
            raise InvalidValue(
                f"{name}: m=1 gives each example an ε of its own, but BatchNorm mixes the examples: "
                f"take {type(train.model).__name__}(norm='group') or norm='none', or an m above 1."
            )
        if train.batch_size is not None and rule.m > train.batch_size:
            raise InvalidValue(
                f"{name}: m={rule.m} is more than the batch of {train.batch_size}: take a smaller m, "
                f"or leave it out for an ε over the whole batch."
            )
