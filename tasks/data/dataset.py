"""Datasets: the first task of every study. It reads or generates, checks, splits, and commits arrays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from ..errors import DataError, InvalidValue
from ..spec import AtLeast, MoreThan
from ..task import Artifact, Context, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["Data", "Dataset", "Source", "Split", "data_root", "load_data"]

SPLITS = ("train", "validation", "test")


def data_root() -> Path:
    """The folder with downloaded datasets: `$ORCHESTRATOR_DATA`, else `~/.cache/orchestrator/data`.

    Where the files lie does not change what they hold, so the folder is not part of any key.
    """
    return Path(os.environ.get("ORCHESTRATOR_DATA") or "~/.cache/orchestrator/data").expanduser()


class Source(NamedTuple):
    """What a dataset is before its training examples are split into training and validation.

    Attributes:
        train_x, test_x: images as uint8 of shape (n, channels, height, width), or features as float32
            of shape (n, d).
        train_y, test_y: classes 0, 1, …, as integers of shape (n,).
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


@dataclass(frozen=True)
class Dataset(Task):
    """A labelled dataset, split into training, validation and test examples. Subclasses define `read`.

    The validation examples are drawn from the training examples, by a permutation that depends on
    `split_seed` alone; `train_size` then takes the first of the rest. So the validation and test sets
    are the same for every `train_size`, and a smaller training set is a part of a larger one.

    The artifact holds `{train,validation,test}_{x,y}.npy`, and `mean.npy` and `std.npy`: those of each
    channel (images) or feature over the training examples, in the units of x. Only over those that
    `train_size` keeps, since they are all that a training on so few would know. So the pixels of the
    validation and test sets are the same for every size, but not to the last digit what a network is
    shown: on Fashion-MNIST the mean over 500 images is off by about 0.014 standard deviations.

    Attributes:
        validation_size: below 1, the fraction of the training examples held out; else their number.
        split_seed: seed of the split. A study's seeds do not touch it.
        train_size: number of training examples to keep; None keeps all.
    """

    validation_size: Annotated[float, MoreThan(0)] = 0.1
    split_seed: Annotated[int, AtLeast(0)] = 0
    train_size: Annotated[int, AtLeast(1)] | None = None

    number_of_classes: ClassVar[int | None] = None
    """How many classes there are, where that is known before the data are read."""

    example_shape: ClassVar[tuple[int, ...] | None] = None
    """The shape of an example, (channels, height, width) or (d,), where that is known before the data are read."""

    confusions: ClassVar[tuple[tuple[int, int], ...] | None] = None
    """Pairs (class, class it is mistaken for) of the label noise usual on this dataset; None if none is."""

    metrics: ClassVar[Mapping[str, str]] = {
        "train_examples": "training examples",
        "validation_examples": "validation examples",
        "test_examples": "test examples",
        "classes": "number of classes",
    }
    headline: ClassVar[tuple[str, ...]] = ("train_examples", "validation_examples", "test_examples", "classes")

    def validate(self) -> None:
        if self.validation_size >= 1 and not self.validation_size.is_integer():
            raise InvalidValue(
                f"{type(self).__name__}: validation_size must be a fraction below 1 or a whole number of examples, "
                f"not {self.validation_size}."
            )

    def read(self) -> Source:
        """Read or generate the examples, always in the same order.

        Raises:
            DataError: files are missing or damaged.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read().")

    def run(self, ctx: Context) -> Any:
        import numpy as np

        source = self.read()
        order = np.random.default_rng([self.split_seed, 0]).permutation(len(source.train_y))
        held_out, kept = self._split(order)
        arrays = {
            "train_x": source.train_x[kept],
            "train_y": source.train_y[kept].astype(np.int64),
            "validation_x": source.train_x[held_out],
            "validation_y": source.train_y[held_out].astype(np.int64),
            "test_x": source.test_x,
            "test_y": source.test_y.astype(np.int64),
        }
        arrays["mean"], arrays["std"] = _moments(arrays["train_x"])
        digest = hashlib.sha256()
        for name, array in arrays.items():
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
            np.save(ctx.dir / f"{name}.npy", array, allow_pickle=False)
        sizes = {f"{split}_examples": len(arrays[f"{split}_y"]) for split in SPLITS}
        ctx.log(f"{type(self).__name__}: " + ", ".join(f"{n} {split}" for split, n in sizes.items()))
        return {
            **sizes,
            "classes": int(max(source.train_y.max(), source.test_y.max())) + 1,
            "sha256": digest.hexdigest(),
        }

    def _split(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the validation and of the training examples."""
        n, name = len(order), type(self).__name__
        held_out = round(self.validation_size * n) if self.validation_size < 1 else int(self.validation_size)
        if not 0 < held_out < n:
            raise InvalidValue(
                f"{name}: validation_size={self.validation_size:g} leaves {held_out} validation and "
                f"{n - held_out} training examples of {n}; both need at least one."
            )
        size = n - held_out if self.train_size is None else self.train_size
        if size > n - held_out:
            raise InvalidValue(
                f"{name}: train_size={size} is more than the {n - held_out} training examples there are "
                f"beside {held_out} for validation."
            )
        return order[:held_out], order[held_out : held_out + size]


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel or feature, as float32 of shape (x.shape[1],)."""
    import numpy as np

    if x.dtype == np.uint8:  # from counts: exact, and without a float64 copy of the images
        counts = np.stack([np.bincount(x[:, c].reshape(-1), minlength=256) for c in range(x.shape[1])])
        values, total = np.arange(256), counts.sum(1)
        mean = counts @ values / total
        variance = counts @ values**2 / total - mean**2
    else:
        axes = (0, *range(2, x.ndim))
        mean, variance = x.mean(axes, dtype=np.float64), x.var(axes, dtype=np.float64)
    std = np.sqrt(np.maximum(variance, 0))
    std[std < 1e-6] = 1  # a constant channel stays at 0
    return mean.astype(np.float32), std.astype(np.float32)


class Split(NamedTuple):
    """Examples on a device: x of shape (n, *shape), uint8 or float32, not normalised; y int64, (n,)."""

    x: torch.Tensor
    y: torch.Tensor


@dataclass(frozen=True)
class Data:
    """A dataset on a device. The tensors are shared between tasks: never write into them.

    Attributes:
        train, validation, test: the examples.
        classes: number of classes.
        shape: shape of one example, (channels, height, width) or (d,).
        mean, std: of each channel or feature over the training examples, shape (shape[0],).
    """

    train: Split
    validation: Split
    test: Split
    classes: int
    shape: tuple[int, ...]
    mean: torch.Tensor
    std: torch.Tensor

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """`(x - mean) / std` per channel, as float32 of the same shape."""
        import torch

        per_channel = (-1, *[1] * (len(self.shape) - 1))
        fresh = x.to(torch.float32, copy=True)  # in place from here: four times as fast as with temporaries
        return fresh.sub_(self.mean.view(per_channel)).div_(self.std.view(per_channel))

    def split(self, name: str) -> Split:
        """The split called "train", "validation" or "test"."""
        if name not in SPLITS:
            raise InvalidValue(f"split must be one of {', '.join(map(repr, SPLITS))}, not {name!r}.")
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


def load_data(ctx: Context, artifact: Artifact) -> Data:
    """The dataset that `artifact` holds, on the task's device; the worker keeps it for later tasks.

    On the CPU the arrays stay memory-mapped, so the workers of a node share one copy.
    """
    import numpy as np
    import torch

    def tensor(name: str) -> torch.Tensor:
        # Copy-on-write: torch wants writable memory, and a stray write must not reach the file.
        array = np.load(artifact.dir / f"{name}.npy", mmap_mode="c", allow_pickle=False)
        return torch.from_numpy(array).to(ctx.device)

    def load() -> Data:
        train, validation, test = (Split(tensor(f"{s}_x"), tensor(f"{s}_y")) for s in SPLITS)
        classes = artifact.results["classes"]
        if not isinstance(classes, int):
            raise DataError(f"The artifact {artifact.key} is not that of a dataset.")
        return Data(train, validation, test, classes, tuple(train.x.shape[1:]), mean=tensor("mean"), std=tensor("std"))

    return ctx.cached(f"data:{artifact.key}:{ctx.device}", load)
