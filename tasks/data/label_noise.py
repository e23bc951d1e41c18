"""Label noise: training labels replaced by wrong ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..errors import InvalidValue

if TYPE_CHECKING:
    import torch

    from .dataset import Dataset

__all__ = ["class_map", "noisy_labels"]


def class_map(
    kind: Literal["symmetric", "asymmetric"],
    pairs: tuple[tuple[int, int], ...] | None,
    dataset: Dataset,
    classes: int | None = None,
) -> tuple[tuple[int, int], ...] | None:
    """Which class is mistaken for which by asymmetric noise: pairs (true, wrong); None for symmetric noise.

    Args:
        pairs: the user's own map; None for the one published for the dataset.
        classes: how many there are; None for what is known before the data are read.

    Raises:
        InvalidValue: the dataset has no published map and none is given, or the map given is none.
    """
    if kind == "symmetric":
        if pairs is not None:
            raise InvalidValue(
                "label_noise_map says which class is mistaken for which, but label_noise_kind is 'symmetric': "
                "set it to 'asymmetric', or leave label_noise_map out."
            )
        return None
    if pairs is None:
        if dataset.confusions is None:
            raise InvalidValue(
                f"{type(dataset).__name__} has no published map of classes for label_noise_kind='asymmetric': "
                f"give one, such as label_noise_map=((3, 5), (5, 3)) for the classes 3 and 5 mistaken for each other."
            )
        return dataset.confusions
    classes = classes or dataset.number_of_classes
    for true, wrong in pairs:
        if true == wrong:
            raise InvalidValue(f"label_noise_map: ({true}, {wrong}) takes a class for itself; leave it out.")
        if min(true, wrong) < 0 or (classes is not None and max(true, wrong) >= classes):
            known = "" if classes is None else f" to {classes - 1}"
            raise InvalidValue(
                f"label_noise_map: ({true}, {wrong}) is not a pair of classes of {type(dataset).__name__}, "
                f"which are numbered from 0{known}."
            )
    if len({true for true, _ in pairs}) < max(len(pairs), 1):
        raise InvalidValue(f"label_noise_map must name each class that is mistaken for another once, not {pairs}.")
    return pairs


def noisy_labels(
    labels: torch.Tensor,
    classes: int,
    share: float,
    generator: torch.Generator,
    confusions: tuple[tuple[int, int], ...] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels of which some are replaced by wrong ones.

    Symmetric noise (without `confusions`) changes round(share · n) of all n labels, each to one of the
    other classes, uniformly: the share is that of wrong labels. Some papers draw from all classes, the
    true one included; their share r is r · (1 − 1/classes) here.

    Asymmetric noise changes round(share · m) of the m labels of the classes that `confusions` maps, each
    to the class it is mapped to. That is the share of the literature: 0.4 on CIFAR-10, where five of ten
    classes are mapped, makes 20 % of all labels wrong. With a share over 0.5 most examples of a mapped
    class carry the wrong label.

    Which labels are changed is drawn from all that may be, so the numbers are exact over all classes and
    random in each. With the same generator, a smaller share changes some of the labels that a larger one
    changes, and in the same way.

    Args:
        labels: the true ones, 0 … classes − 1, int64 of shape (n,), on the generator's device.
        confusions: pairs (true class, wrong class), a true class at most once.

    Returns:
        the labels, int64 of shape (n,), and the sorted indices of those changed.
    """
    import torch

    order = torch.randperm(len(labels), generator=generator)
    if confusions is None:
        wrong = (labels + torch.randint(1, classes, (len(labels),), generator=generator)) % classes
    else:
        table = torch.arange(classes)
        table[[true for true, _ in confusions]] = torch.tensor([to for _, to in confusions])
        wrong = table[labels]
        order = order[wrong[order] != labels[order]]
    changed = order[: round(share * len(order))].sort().values
    noisy = labels.clone()
    noisy[changed] = wrong[changed]
    return noisy, changed
