"""CIFAR-10 and CIFAR-100 from their official Python archives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ..errors import DataError
from ._files import install, md5, reachable
from .dataset import Dataset, Source, data_root

__all__ = ["CIFAR10", "CIFAR100"]

SUPERCLASSES = (
    ("beaver", "dolphin", "otter", "seal", "whale"),
    ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    ("orchid", "poppy", "rose", "sunflower", "tulip"),
    ("bottle", "bowl", "can", "cup", "plate"),
    ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    ("clock", "keyboard", "lamp", "telephone", "television"),
    ("bed", "chair", "couch", "table", "wardrobe"),
    ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    ("bear", "leopard", "lion", "tiger", "wolf"),
    ("bridge", "castle", "house", "road", "skyscraper"),
    ("cloud", "forest", "mountain", "plain", "sea"),
    ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    ("fox", "porcupine", "possum", "raccoon", "skunk"),
    ("crab", "lobster", "snail", "spider", "worm"),
    ("baby", "boy", "girl", "man", "woman"),
    ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
)
"""The classes of each of CIFAR-100's 20 superclasses. Classes are numbered in alphabetical order over all of them."""


def _next_of_superclass() -> tuple[tuple[int, int], ...]:
    """(class, the next class of its superclass, cyclically) for each class of CIFAR-100."""
    number = {name: i for i, name in enumerate(sorted(name for group in SUPERCLASSES for name in group))}
    pairs = ((group[i], group[(i + 1) % len(group)]) for group in SUPERCLASSES for i in range(len(group)))
    return tuple(sorted((number[a], number[b]) for a, b in pairs))


class Published(NamedTuple):
    """What is published about a dataset.

    Attributes:
        name: as people write it.
        reader: name of torchvision's class.
        url: of the archive.
        md5: of the archive.
        folder: what the archive unpacks to.
        files: MD5 of each file in the folder.
    """

    name: str
    reader: str
    url: str
    md5: str
    folder: str
    files: Mapping[str, str]

    @property
    def archive(self) -> Path:
        """Where the archive is looked for."""
        return data_root() / self.url.rpartition("/")[2]


@dataclass(frozen=True)
class _CIFAR(Dataset):
    example_shape: ClassVar[tuple[int, ...] | None] = (3, 32, 32)
    published: ClassVar[Published]

    def preflight(self) -> None:
        """Raises: DataError: files are damaged, or missing and the host does not answer."""
        if not _found(self.published) and not reachable(self.published.url):
            raise DataError(_remedy(self.published, "and its host does not answer"))

    def read(self) -> Source:
        import numpy as np

        published = self.published
        folder = data_root() / published.folder
        if (found := _found(published)) != folder:
            install(folder, lambda temporary: _unpack(published, found, temporary))
            _found(published)  # what was unpacked, checked
        parts = []
        for train in (True, False):  # torchvision compares the MD5 once more before it opens a file
            images = _reader(published)(str(data_root()), train=train, download=False)
            parts += [np.ascontiguousarray(images.data.transpose(0, 3, 1, 2)), np.asarray(images.targets)]
        return Source(*parts)


@dataclass(frozen=True)
class CIFAR10(_CIFAR):
    """60,000 colour images of 32×32 pixels in 10 classes, 10,000 of them for testing.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009). Reads
    `cifar-10-batches-py/` or `cifar-10-python.tar.gz` in the data folder (`$ORCHESTRATOR_DATA`, else
    `~/.cache/orchestrator/data`); downloads the archive if neither is there. The files are pickles, so
    they are opened only if their MD5 is the published one.

    Confusions: truck → automobile, bird → airplane, deer → horse, cat ↔ dog (G. Patrini et al., Making
    Deep Neural Networks Robust to Label Noise, 2017).
    """

    number_of_classes: ClassVar[int | None] = 10
    confusions: ClassVar[tuple[tuple[int, int], ...] | None] = ((2, 0), (3, 5), (4, 7), (5, 3), (9, 1))
    published: ClassVar[Published] = Published(
        name="CIFAR-10",
        reader="CIFAR10",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        files={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
    )


@dataclass(frozen=True)
class CIFAR100(_CIFAR):
    """60,000 colour images of 32×32 pixels in 100 classes (the "fine" labels), 10,000 of them for testing.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009). Reads
    `cifar-100-python/` or `cifar-100-python.tar.gz` in the data folder (`$ORCHESTRATOR_DATA`, else
    `~/.cache/orchestrator/data`); downloads the archive if neither is there. The files are pickles, so
    they are opened only if their MD5 is the published one.

    Confusions: each class → the next of the five in its superclass, in alphabetical order, the last → the
    first (G. Patrini et al., Making Deep Neural Networks Robust to Label Noise, 2017). The code that went
    around with later papers takes five classes with consecutive numbers for a superclass, which they are
    not; to compare with it, give its map, ((i, i // 5 * 5 + (i + 1) % 5) for i in range(100)).
    """

    number_of_classes: ClassVar[int | None] = 100
    confusions: ClassVar[tuple[tuple[int, int], ...] | None] = _next_of_superclass()
    published: ClassVar[Published] = Published(
        name="CIFAR-100",
        reader="CIFAR100",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        files={
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
    )


def _reader(published: Published) -> Any:
    """torchvision's class."""
    from ._torchvision import torchvision_datasets

    return getattr(torchvision_datasets(), published.reader)


def _found(published: Published) -> Path | None:
    """The folder or the archive, its checksums compared; None if neither is there."""
    folder, archive = data_root() / published.folder, published.archive
    if folder.exists():
        for name, expected in published.files.items():
            if not (folder / name).is_file():
                raise DataError(f"{folder / name} is missing: delete the folder {folder} and start again.")
            if md5(folder / name) != expected:
                raise DataError(
                    f"{folder / name} is damaged (its MD5 is not {expected}): delete the folder {folder} "
                    f"and start again."
                )
        return folder
    if archive.exists():
        if md5(archive) != published.md5:
            raise DataError(
                f"{archive} is damaged (its MD5 is not {published.md5}): replace it by a fresh copy of {published.url}."
            )
        return archive
    return None


def _unpack(published: Published, archive: Path | None, temporary: Path) -> Path:
    """Unpack the archive, downloaded first if there is none, into `temporary`; returns the folder."""
    from ._torchvision import torchvision_datasets

    try:
        if archive is None:
            _reader(published)(str(temporary), train=True, download=True)
        else:
            torchvision_datasets().utils.extract_archive(str(archive), str(temporary))
    except (OSError, RuntimeError) as error:
        if archive is not None:
            raise
        raise DataError(_remedy(published, f"and could not be downloaded ({error})")) from error
    return temporary / published.folder


def _remedy(published: Published, why: str) -> str:
    return f"{published.name} is not in {data_root()} {why}: put {published.url} there as {published.archive}."
