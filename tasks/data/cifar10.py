"""CIFAR-10 from its official Python archive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ._files import install, md5, reachable
from .dataset import Dataset, Source, data_root

__all__ = ["CIFAR10"]

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
FOLDER = "cifar-10-batches-py"
FILES_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}


@dataclass(frozen=True)
class CIFAR10(Dataset):
    """60,000 colour images of 32×32 pixels in 10 classes, 10,000 of them for testing.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009). Reads
    `cifar-10-batches-py/` or `cifar-10-python.tar.gz` in the data folder (`$ORCHESTRATOR_DATA`, else
    `~/.cache/orchestrator/data`); downloads the archive if neither is there. The files are pickles, so
    they are opened only if their MD5 is the published one.
    """

    def preflight(self) -> None:
        """Raises: DataError: files are damaged, or missing and the host does not answer."""
        if not _found() and not reachable(URL):
            raise DataError(_remedy("and its host does not answer"))

    def read(self) -> Source:
        import numpy as np

        from ._torchvision import torchvision_datasets

        datasets = torchvision_datasets()
        if not (found := _found()) or found.name == ARCHIVE:
            install(data_root() / FOLDER, lambda temporary: _unpack(found, temporary))
            _found()  # what was unpacked, checked
        parts = []
        for train in (True, False):  # torchvision compares the MD5 once more before it opens a file
            images = datasets.CIFAR10(str(data_root()), train=train, download=False)
            parts += [np.ascontiguousarray(images.data.transpose(0, 3, 1, 2)), np.asarray(images.targets)]
        return Source(*parts)


def _found() -> Path | None:
    """The folder or the archive, its checksums compared; None if neither is there."""
    folder, archive = data_root() / FOLDER, data_root() / ARCHIVE
    if folder.exists():
        for name, expected in FILES_MD5.items():
            if not (folder / name).is_file():
                raise DataError(f"{folder / name} is missing: delete the folder {folder} and start again.")
            if md5(folder / name) != expected:
                raise DataError(
                    f"{folder / name} is damaged (its MD5 is not {expected}): delete the folder {folder} "
                    f"and start again."
                )
        return folder
    if archive.exists():
        if md5(archive) != ARCHIVE_MD5:
            raise DataError(
                f"{archive} is damaged (its MD5 is not {ARCHIVE_MD5}): replace it by a fresh copy of {URL}."
            )
        return archive
    return None


def _unpack(archive: Path | None, temporary: Path) -> Path:
    """Unpack the archive, downloaded first if there is none, into `temporary`; returns the folder."""
    from ._torchvision import torchvision_datasets

    datasets = torchvision_datasets()
    try:
        if archive is None:
            datasets.CIFAR10(str(temporary), train=True, download=True)
        else:
            datasets.utils.extract_archive(str(archive), str(temporary))
    except (OSError, RuntimeError) as error:
        if archive is not None:
            raise
        raise DataError(_remedy(f"and could not be downloaded ({error})")) from error
    return temporary / FOLDER


def _remedy(why: str) -> str:
    return f"CIFAR-10 is not in {data_root()} {why}: put {URL} there as {data_root() / ARCHIVE}."
