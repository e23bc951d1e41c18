"""One artifact in a notebook: its results, its arrays and weights as they are asked for, its network.

Nothing is read before it is asked for, and of an artifact on an object store only the files that are.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DamagedArtifact, InvalidValue, StoreError, nearest
from .provenance import Lineage, Rebuilder, lineage, part
from .records import TaskRecord
from .store import Store

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from torch import nn

    from tasks.task import Task

WEIGHTS = ".safetensors"


class StoredArtifact:
    """What a task left, to be looked at.

    Attributes:
        key: its content address.
        label: for people: "Lanczos · rho=0.05 · seed 3".
        manifest: everything that is recorded of it, see docs/architecture.md.
    """

    def __init__(
        self, store: Store, task: TaskRecord, manifest: Mapping[str, Any], catalogue: Mapping[str, str]
    ) -> None:
        """
        Args:
            catalogue: name of the task class by key, of what it may have been made from.
        """
        self.key = task.key
        self.label = task.label
        self.manifest = manifest
        self._store = store
        self._name = task.name
        self._catalogue = catalogue
        self._hold = contextlib.ExitStack()  # copies of an object store's files stay as long as this lives
        weakref.finalize(self, self._hold.close)

    def __repr__(self) -> str:
        return f"<{self.label} ({self.key[:12]}): {', '.join(self.files) or 'no files'}>"

    @property
    def results(self) -> dict[str, Any]:
        """The scalar results."""
        return part(self.manifest, "results")

    @property
    def seeds(self) -> dict[str, int]:
        """The seed of each of its own streams of randomness."""
        return part(self.manifest, "seeds")

    @property
    def files(self) -> dict[str, int]:
        """Size in bytes by name of file."""
        return {name: int(about["size"]) for name, about in part(self.manifest, "files").items()}

    def path(self, name: str) -> Path:
        """A file of the artifact on this machine, to be read only; checked against its hash, fetched if need be.

        It stays there as long as this object does.

        Raises:
            StoreError: the artifact has no such file, or it was deleted to save space, or is damaged.
        """
        if name not in self.files:
            has = f"; it has {', '.join(self.files)}" if self.files else "; it has no files"
            raise StoreError(f"{self.label} ({self.key[:12]}) left no file {name!r}{nearest(name, self.files) or has}.")
        try:
            return self._store.fetch_file(self._name, self.key, name, self._hold)
        except DamagedArtifact:
            if name in self._store.dropped_files(self._name, self.key):
                raise StoreError(
                    f"{name} of {self.label} ({self.key[:12]}) was deleted to save space: run the sweep again with "
                    "--keep-weights last."
                ) from None
            raise

    def array(self, file: str, name: str | None = None) -> np.ndarray:
        """An array: of an npy file memory-mapped, read-only; of an npz file the one of this name, read when asked for.

        Args:
            file: with or without its ending: "spectrum.npz", "spectrum".
            name: which array of an npz file; may be left out if it holds one.

        Raises:
            StoreError, InvalidValue: there is no such file or array, or it holds Python objects, which are never read.
        """
        import numpy as np

        whole = next((f"{file}{end}" for end in (".npz", ".npy") if f"{file}{end}" in self.files), file)
        path = self.path(whole)
        try:
            found = np.load(path, mmap_mode="r" if whole.endswith(".npy") else None, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            with found:
                names = list(found.files)
                if name is None and len(names) == 1:
                    name = names[0]
                if name not in names:
                    which = f"has no array {name!r}{nearest(str(name), names)}" if name else "holds several arrays"
                    raise InvalidValue(f"{whole} of {self.label} {which}; it has {', '.join(names)}.")
                return np.asarray(found[name])
        except (ValueError, EOFError, AttributeError) as error:
            if isinstance(error, InvalidValue):
                raise
            raise InvalidValue(f"{whole} of {self.label} holds no plain arrays: {error}.") from None

    def arrays(self, file: str) -> list[str]:
        """Names of the arrays in an npz file."""
        import numpy as np

        whole = file if file.endswith(".npz") else f"{file}.npz"
        with np.load(self.path(whole), allow_pickle=False) as found:
            return list(found.files)

    def table(self, file: str) -> pd.DataFrame:
        """A parquet file as a DataFrame."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        whole = file if file.endswith(".parquet") else f"{file}.parquet"
        path = self.path(whole)
        try:
            return pq.read_table(path).to_pandas()
        except (pa.ArrowException, ValueError) as error:
            raise InvalidValue(f"{whole} of {self.label} holds no table: {error}.") from None

    def weights(self) -> dict[str, torch.Tensor]:
        """The parameters and buffers that a training ended with, by name, on the CPU.

        Raises:
            StoreError: it left none (it diverged, or is no training), or they were deleted to save space.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._weights_file()
        try:
            return dict(load_file(path))
        except (SafetensorError, ValueError, MemoryError) as error:
            raise StoreError(f"{path.name} of {self.label} holds no weights: {error}.") from None

    def _weights_file(self) -> Path:
        stored = [name for name in self.files if name.endswith(WEIGHTS)]
        if not stored:
            why = " since it diverged" if self.manifest.get("status") == "diverged" else ""
            raise StoreError(f"{self.label} ({self.key[:12]}) left no weights{why}.")
        return self.path(stored[0])

    # What takes the classes of the tasks

    def task(self, file: str | None = None) -> Task:
        """The specification that made it, built again from its manifest.

        Args:
            file: the sweep file, where a class of it is needed and it is not below the working folder. It is run.

        Raises:
            UserError: a class cannot be imported, or is another now.
        """
        return Rebuilder(self._store, file).task(lineage(self._store, self._name, self.key, self._catalogue))

    def trained(self, file: str | None = None) -> Any:
        """What a probe is given of a training: `tasks.trained.Trained`, with `model`, `data` and `loss`, on the CPU.

        Raises:
            UserError: as `task`; or it is no training, or one without weights.
        """
        from tasks.task import Context
        from tasks.trained import load_trained

        from .process import Input, input_artifact

        self._weights_file()  # says it better than a task would
        rebuilder = Rebuilder(self._store, file)
        origin = lineage(self._store, self._name, self.key, self._catalogue)

        def needed(one: Lineage) -> Input:
            if one.manifest is None:
                raise StoreError(f"{self.label} was made from {one.key}, which the store no longer holds.")
            seeds = part(one.manifest, "seeds")
            return Input(one.key, rebuilder.task(one), seeds, tuple(needed(i) for i in one.inputs))

        whole = input_artifact(needed(origin), self._store, self._hold)
        return load_trained(Context(whole.dir, seeds=whole.seeds, device="cpu"), whole)

    def model(self, file: str | None = None) -> nn.Module:
        """The trained network, in eval mode, on the CPU. Raises: as `trained`."""
        return self.trained(file).model
