"""Fashion-MNIST from IDX files."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..errors import DataError
from ._files import install, reachable
from .dataset import Dataset, Source, data_root

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FashionMNIST"]

URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz"
FOLDER = Path("FashionMNIST/raw")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class FashionMNIST(Dataset):
    """70,000 grey images of clothes, 28×28 pixels in 10 classes, 10,000 of them for testing.

    Source: H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST (2017). Reads the four IDX files, gzipped or
    not, from `FashionMNIST/raw` in the data folder (torchvision's layout; `$ORCHESTRATOR_DATA`, else
    `~/.cache/orchestrator/data`), else from where Debian's package dataset-fashion-mnist puts them;
    downloads them if they are nowhere.
    """

    number_of_classes: ClassVar[int] = 10
    example_shape: ClassVar[tuple[int, ...] | None] = (1, 28, 28)

    def preflight(self) -> None:
        """Raises: DataError: files are damaged, or missing and the host does not answer."""
        if _found():
            self.read()
        elif not reachable(URL):
            raise DataError(_remedy("and its host does not answer"))

    def read(self) -> Source:
        if not (found := _found()):
            install(data_root() / FOLDER, _download)
            found = _found()
        if not found:
            raise DataError(_remedy("after its download"))
        train_x, train_y, test_x, test_y = (read_idx(path) for path in found)
        for x, y, path in ((train_x, train_y, found[0]), (test_x, test_y, found[2])):
            if x.ndim != 3 or y.ndim != 1 or not len(x) == len(y) > 0:
                raise DataError(
                    f"{path} holds an array of shape {x.shape}, its labels one of shape {y.shape}: "
                    "replace both by fresh copies."
                )
            if y.max() >= self.number_of_classes:
                raise DataError(
                    f"The labels of {path} go up to {y.max()}, not to {self.number_of_classes - 1}: replace the file."
                )
        return Source(train_x[:, None], train_y, test_x[:, None], test_y)


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file, gzipped if its name ends in .gz.

    The format: two zero bytes, 8 for unsigned bytes, the number of dimensions, each size as a big-endian
    32-bit integer, the data.

    Raises:
        DataError: the file cannot be read, or is not what its header says.
    """
    import numpy as np

    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}): replace it by a fresh copy.") from error
    if len(content) >= 4 and content[:3] == b"\x00\x00\x08":
        start = 4 + 4 * content[3]
        shape = tuple(int(size) for size in np.frombuffer(content[4:start], dtype=">u4"))
        if len(shape) == content[3] and len(content) - start == math.prod(shape):
            return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
    raise DataError(f"{path} is damaged (not the IDX file that its header says): replace it by a fresh copy.")


def _found() -> list[Path]:
    """Paths of the four files, in the order of FILES, from the first folder that has them all; else []."""
    for folder in (data_root() / FOLDER, DEBIAN):
        paths = [next((p for p in (folder / f, folder / f"{f}.gz") if p.is_file()), None) for f in FILES]
        if all(paths):
            return [p for p in paths if p is not None]
    return []


def _download(temporary: Path) -> Path:
    from ._torchvision import torchvision_datasets

    try:
        torchvision_datasets().FashionMNIST(str(temporary), train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(_remedy(f"and could not be downloaded ({error})")) from error
    return temporary / FOLDER


def _remedy(why: str) -> str:
    return (
        f"Fashion-MNIST is not in {data_root() / FOLDER} {why}: put the four files {FILES[0]}.gz, … there, "
        f"or install Debian's package dataset-fashion-mnist."
    )
