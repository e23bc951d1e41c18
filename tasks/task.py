"""Tasks: the nodes of a study's graph, and the context in which one runs.

A task knows torch and numpy, never Ray nor the orchestrator: `execute` below runs any task by hand,
in a notebook or a test::

    digits = execute(Digits(), folder="out/digits")
    trained = execute(Train(dataset=Digits(), model=MLP(), epochs=3), digits, seed=0, folder="out/t0")
    execute(Lanczos(k=3), trained, folder="out/l0").results
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from . import snapshots, streams
from .errors import UserError
from .spec import Spec

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = [
    "Artifact",
    "Context",
    "Curve",
    "GroupProbe",
    "PairProbe",
    "Probe",
    "Results",
    "Scalar",
    "Task",
    "execute",
    "input_fields",
]

Scalar = bool | int | float | str | None
Results = Mapping[str, Scalar]
T = TypeVar("T")


@dataclass(frozen=True)
class Curve:
    """A picture that a probe's arrays make: the report draws it for every setting, over its seeds.

    Attributes:
        file: name of the npz file that `Context.save_arrays` wrote, without its ending.
        x: name of the array of abscissae, shape (n,).
        y: names of the arrays of ordinates, shape (n,) or (m, n): m curves each (directions, say).
        title, xlabel, ylabel: words for the picture, with units.
        kind: "line" joins the points; "points" does not (a spectrum); "density": x are places and y their weights,
            both (m, n), to be drawn as the mean of m smoothed densities; "surface": y are (n, k),
            heights over x and `across`.
        log_y: logarithmic ordinate.
        dashed: those of `y` to draw dashed (a prediction beside a measurement).
        each: what one of m curves is, in the singular ("eigenvector"): the legend counts "eigenvector 1",
            "eigenvector 2". Without it the legend counts quantities ("loss 1", "loss 2").
        across: of a surface, the name of the array of its second coordinates, shape (k,).
    """

    file: str
    x: str
    y: tuple[str, ...]
    title: str
    xlabel: str
    ylabel: str
    kind: str = "line"
    log_y: bool = False
    dashed: tuple[str, ...] = ()
    each: str = ""
    across: str = ""


@dataclass(frozen=True)
class Task(Spec):
    """A unit of work that leaves an artifact: a folder of files and a few scalar results.

    Subclass it as a frozen dataclass. The fields are the parameters; together with the inputs, the
    seeds and the code they make up the task's key. A field that holds another Task is an input: that
    task runs first and its artifact is handed to `run`.
    """

    streams: ClassVar[tuple[str, ...]] = ()
    """Names of the streams of randomness that the sweep's seeds drive (see `Context.rng`)."""

    metrics: ClassVar[Mapping[str, str]] = {}
    """What each scalar result means, in words with units, for tables and axes: {"lambda_max": "…"}."""

    headline: ClassVar[tuple[str, ...]] = ()
    """The scalar results that belong in the summary table; empty means all numeric ones."""

    curves: ClassVar[tuple[Curve, ...]] = ()
    """Pictures the report draws from the arrays this task saves."""

    proportional_to: ClassVar[tuple[str, ...]] = ()
    """Fields in whose proportion the work grows, so that one epoch tells how long two hundred take (see `plan`).

    None in such a field stands for what the trainings have that the task works on. A result of the same name says
    what the task came to, where it may end before.
    """

    def run(self, ctx: Context, *inputs: Artifact) -> Any:
        """Do the work; return the scalar results, a mapping from names to bool, int, float or str.

        A long task is a generator: each `yield {...}` reports progress (an epoch, a cycle) as a
        mapping of scalars, and its `return` value is the results. Files go to `ctx.dir`.
        `last: True` in a report says that only evaluation and saving remain: no scheduler stops it then.
        A generator that calls `ctx.snapshot` and `ctx.resume` continues where it was interrupted.

        The result `diverged: True` is reserved: it says that the work ended in a non-finite loss.
        That is an outcome, not an error; the artifact is kept and what depends on it is skipped.
        """
        raise NotImplementedError(f"{type(self).__name__} must define run().")

    def preflight(self) -> None:
        """Check cheaply, before anything is scheduled, that the task can run at all.

        Called once where the run is started, if the task has to run. Raises:
            UserError: something is missing or damaged; the sentence says what to do.
        """


@dataclass(frozen=True)
class Probe(Task):
    """A task on one trained trial: `run(ctx, trained)`."""


@dataclass(frozen=True)
class PairProbe(Task):
    """A task on two trained trials: `run(ctx, a, b)`."""


@dataclass(frozen=True)
class GroupProbe(Task):
    """A task on all seeds of one setting: `run(ctx, *trained)`, in the order of the seeds."""


def input_fields(task: Task) -> dict[str, Task]:
    """The fields of `task` that hold other tasks: they are its first inputs, in this order."""
    return {f.name: v for f in dataclasses.fields(task) if isinstance(v := getattr(task, f.name), Task)}


@dataclass(frozen=True)
class Artifact:
    """A task's committed output, readable from a local folder.

    Attributes:
        key: the task's content address.
        task: the specification that made it.
        dir: local folder with its files. Read only.
        results: its scalar results.
        seeds: seed of each stream of randomness that it used.
        inputs: the artifacts it was made from, in the order `run` received them.
    """

    key: str
    task: Task
    dir: Path
    results: Results
    seeds: Mapping[str, int] = field(default_factory=dict)
    inputs: tuple[Artifact, ...] = ()

    def input(self, field_name: str) -> Artifact:
        """The artifact of the task that stands in the field `field_name` (e.g. "dataset")."""
        return self.inputs[list(input_fields(self.task)).index(field_name)]

    def array(self, name: str) -> np.ndarray:
        """The array in `name`.npy, memory-mapped read-only; never unpickles."""
        import numpy as np

        return np.load(self.dir / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays in `name`.npz; never unpickles."""
        import numpy as np

        with np.load(self.dir / f"{name}.npz", allow_pickle=False) as file:
            return {k: file[k] for k in file.files}


class Context:
    """What a running task may use: its folder, its device, its streams of randomness, its log.

    Attributes:
        dir: an empty local folder; the files left in it become the artifact's files.
        seeds: the seed of every stream that the sweep drives; a task that names no streams of its
            own inherits those of its inputs, so the same seed draws the same directions.
        cache: what the worker keeps in memory between tasks (see `cached`).
        resumed: whether the task has gone on from a snapshot.

    A long task survives an interruption if it is a generator written like this::

        state = ctx.resume() or {"done": 0, "rows": [], "w": start()}
        for row in state["rows"]:
            yield row  # those of before, once more
        while state["done"] < self.cycles:
            ...  # a cycle: changes the state, appends a row
            ctx.snapshot(lambda: state)
            yield row
        ...  # write files to ctx.dir, return results

    Interrupted anywhere and started again, with an empty `dir`, as often as need be, it makes the same
    reports from the first on, leaves the same bytes and returns the same results as if undisturbed.
    So the state holds whatever the rest depends on: parameters and the optimizer's state, generators
    that go on from cycle to cycle (`get_state()`; those made anew from a stream's name need no
    keeping), what is reported and written at the end.
    """

    def __init__(
        self,
        dir: Path,
        *,
        seeds: Mapping[str, int] | None = None,
        device: str | None = None,
        cache: dict[str, Any] | None = None,
        log: Callable[[str], None] | None = None,
        snapshots: snapshots.Snapshots | None = None,
        origin: str = "",
    ) -> None:
        """
        Args:
            origin: names the bytes of the inputs. A snapshot of another origin is not resumed: an input that was
                made anew, on another machine, may be another network.
        """
        self.dir = dir
        self.seeds = dict(seeds or {})
        self.cache: dict[str, Any] = {} if cache is None else cache
        self.resumed = False
        self._device = device
        self._log = log
        self._snapshots = snapshots
        self._origin = origin
        self._offer: Callable[[], Mapping[str, Any]] | None = None

    @property
    def device(self) -> torch.device:
        """The device to compute on: the one asked for, else CUDA where there is one, else the CPU."""
        import torch

        return torch.device(self._device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def log(self, message: str) -> None:
        """Write a line to the task's log, shown by `orchestrator logs KEY`."""
        if self._log is not None:
            self._log(message)

    def rng(self, stream: str) -> np.random.Generator:
        """A fresh numpy generator for the named stream; the same name gives the same numbers.

        "order" is driven by the seed of that name if the sweep drives one, "order/3" is a part of it;
        any other name depends on all seeds (see `tasks.streams`).
        """
        return streams.numpy_generator(stream, self.seeds)

    def generator(self, stream: str) -> torch.Generator:
        """A fresh torch generator on the CPU for the named stream.

        Draw on the CPU and move: the numbers are then the same on every device.
        """
        return streams.torch_generator(stream, self.seeds)

    def snapshot(self, make: Callable[[], Mapping[str, Any]]) -> None:
        """Offer a state from which this task can be resumed. Call it right before every `yield`, or before none.

        Between two yields it may be called too, where the state stays true until the next call.

        Args:
            make: gives the state (see `snapshots.encode` for what it may hold). Called now if a snapshot is
                due, which is decided by whoever runs the task; or while the task waits at the `yield`, if
                it is abandoned there; or never. What it returns is copied at once.
        """
        if self._snapshots is None:
            return
        self._offer = make
        if self._snapshots.due():
            self.save_offered()

    def resume(self) -> dict[str, Any] | None:
        """The state of this task's last snapshot; None if there is none.

        One that is damaged, or from when the inputs were others, is none, and is logged. Tensors are on the CPU.
        """
        data = self._snapshots.load() if self._snapshots is not None else None
        if data is None:
            return None
        beginning = "The task starts from its beginning, because its snapshot cannot be used"
        try:
            saved = snapshots.decode(data)
        except snapshots.DamagedSnapshot as damage:
            self.log(f"{beginning}: {damage}")
            return None
        state = saved.get("state")
        if saved.get("origin") != self._origin or not isinstance(state, dict):
            self.log(f"{beginning}: its inputs were made anew meanwhile, with other bytes.")
            return None
        self.resumed = True
        return state

    def advance(self, steps: Generator[Results, None, Any]) -> Results:
        """The next report of the task's generator. For whoever runs the task.

        What the task offered at the `yield` before is withdrawn: it moves on and changes its state.
        Raises: StopIteration: the task has ended, with its results in `value`.
        """
        self._offer = None
        return next(steps)

    def save_offered(self) -> None:
        """Save the state offered at the `yield` where the task waits, if it is not saved yet.

        For whoever runs the task, with `advance`, and abandons it at a `yield`. Nothing is saved of a task
        that was interrupted on its way from one to the next: its state is in between.
        """
        if self._offer is not None and self._snapshots is not None:
            make, self._offer = self._offer, None
            self._snapshots.save(snapshots.encode({"origin": self._origin, "state": make()}))

    def cached(self, key: str, make: Callable[[], T]) -> T:
        """`make()`, kept in the worker's memory under `key` for the tasks that follow.

        For what is costly to load and never changed, like a dataset on the GPU. The key must name the
        content (an artifact's key) and the device.
        """
        if key not in self.cache:
            while len(self.cache) >= 4:  # datasets are large and few
                self.cache.pop(next(iter(self.cache)))
            self.cache[key] = make()
        return self.cache[key]

    def save_arrays(self, name: str, **arrays: Any) -> None:
        """Write the arrays (numpy, or torch on any device) to `name`.npz in the task's folder."""
        import numpy as np

        plain = {k: v.detach().cpu().numpy() if hasattr(v, "detach") else np.asarray(v) for k, v in arrays.items()}
        for key, array in plain.items():
            if array.dtype.hasobject:
                raise TypeError(f"{name}.npz: {key} holds Python objects, which cannot be stored.")
        np.savez(self.dir / f"{name}.npz", **plain)  # type: ignore[arg-type]

    def save_table(self, name: str, columns: Mapping[str, Any]) -> None:
        """Write equally long columns (lists or 1-D arrays) to `name`.parquet in the task's folder."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(dict(columns)), self.dir / f"{name}.parquet")


def inherited_seeds(inputs: tuple[Artifact, ...] | list[Artifact]) -> dict[str, int]:
    """The seeds that a task without streams of its own works under: those of its inputs.

    One input hands on its own; of several, each name gets the input's position as a prefix.
    """
    if len(inputs) == 1:
        return dict(inputs[0].seeds)
    return {f"{i}.{name}": seed for i, a in enumerate(inputs) for name, seed in sorted(a.seeds.items())}


def drain(work: Any, report: Callable[[Results], None] | None = None) -> dict[str, Scalar]:
    """Run what `Task.run` returned to its end: a generator, or the results themselves."""
    if isinstance(work, Generator):
        while True:
            try:
                progress = next(work)
            except StopIteration as stop:
                return check_results(stop.value)
            if report is not None:
                report(progress)
    return check_results(work)


def check_results(results: Any) -> dict[str, Scalar]:
    """Results as a plain dict of plain scalars (numpy and torch scalars are unwrapped)."""
    plain: dict[str, Scalar] = {}
    for name, value in dict(results or {}).items():
        if not isinstance(value, (bool, int, float, str, type(None))) and hasattr(value, "item"):
            value = value.item()
        if not isinstance(name, str) or not isinstance(value, (bool, int, float, str, type(None))):
            raise TypeError(f"run() returned {name!r}: {type(value).__name__}; a result is a bool, int, float or str.")
        plain[name] = value
    return plain


def execute(
    task: Task,
    *inputs: Artifact,
    folder: str | Path,
    seed: int = 0,
    device: str | None = None,
    report: Callable[[Results], None] | None = None,
    snapshot: str | Path | None = None,
) -> Artifact:
    """Run one task here and now, without the orchestrator; its files go to `folder`.

    Args:
        inputs: artifacts of the tasks in the task's fields, then those it probes.
        seed: drives every stream that the task names.
        snapshot: file for the task's state, written at every report and deleted at the end. Where it is
            there already, the task continues from it (with a new folder): a long task thus survives being
            interrupted. It must come from the same task, of the same code.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise UserError(f"The folder {path} is not empty: give execute() a new one.")
    seeds = dict.fromkeys(task.streams, seed) if task.streams else inherited_seeds(inputs)
    if len(inputs) < len(inspect.signature(task.run).parameters) - 1 and not _takes_any(task):
        raise TypeError(f"{type(task).__name__}.run() needs more inputs than the {len(inputs)} given.")
    kept = None if snapshot is None else _SnapshotFile(Path(snapshot), repr((task, seeds, [a.task for a in inputs])))
    results = drain(task.run(Context(path, seeds=seeds, device=device, snapshots=kept), *inputs), report)
    if kept is not None:
        kept.path.unlink(missing_ok=True)
    return Artifact(key=str(path), task=task, dir=path, results=results, seeds=seeds, inputs=inputs)


class _SnapshotFile:
    """Snapshots in a file, one at every report; the digest of what they belong to stands before them."""

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        self.owner = hashlib.sha256(owner.encode()).digest()

    def due(self) -> bool:
        return True

    def save(self, data: bytes) -> None:
        new = self.path.with_name(self.path.name + ".new")
        new.write_bytes(self.owner + data)
        new.replace(self.path)

    def load(self) -> bytes | None:
        if not self.path.exists():
            return None
        data = self.path.read_bytes()
        if not data.startswith(self.owner):
            raise UserError(f"The file {self.path} is no snapshot of this task: delete it, or name another.")
        return data[len(self.owner) :]


def _takes_any(task: Task) -> bool:
    return any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(task.run).parameters.values())
