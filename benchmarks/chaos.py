"""Does a sweep that is disturbed end as if nothing had happened?

    python benchmarks/chaos.py [--schedules 25] [--seed 0] [--short] [--out FILE]

The sweep of `chaos_sweep.py` runs on three Ray nodes of one CPU and a real S3 server, all on this
machine: first in peace, for reference, then once for every schedule, each time on an empty store. A
schedule is a list of faults at random times, drawn from its seed:

    driver   the command is killed (SIGKILL) and given again a second later
    worker   the process that is at work on some node is killed
    node     a node loses power: raylet, workers and agents are killed at once; a new node joins later
    pause    the S3 server stops answering for 3 to 15 s (SIGSTOP, SIGCONT): requests hang
    restart  the S3 server is killed, and started on the same folder after 3 to 15 s: requests are refused

The command is given until its exit code is 0. Faults whose time comes after that are not injected. Reported
for every schedule:

    re-executed  starts of a task after it was committed. Every task notes each of its starts, whoever
                 makes it run, in a file that no fault touches. A task is committed when its manifest is there:
                 the time of the commit is the time that the S3 server gives its manifest, or that at which
                 the watcher below saw it, whichever is earlier
    twice        tasks that the records of all its runs (events.jsonl) call committed more than once, or
                 submitted after they were committed
    differ       artifacts whose files (read and hashed) or results are not those of the reference, and
                 artifacts that the reference does not have
    torn         manifests that a careless reader found unreadable, or whose files were not all there with the right
                 content. It lists the store twice a second through a client of its own and at once reads all
                 that is new; what it could not read because the server was away it reads later
    changed      manifests that were written again, or went away, after the reader had seen them
    lost         artifacts of the reference that are not there in the end, or that the same command, given once more,
                 does not find
    snapshots    files left below snapshots/ in the end (a worker that is killed between a commit and the removal of
                 the task's snapshot leaves one; `gc` removes it)
    gave up      drivers that ended by themselves with an exit code that is not 0
    starts       starts of tasks, beyond one for each: work that was cut short, and begun or continued again
    time         from the first command to exit code 0, over that of the reference

The first six have to be 0; otherwise, or if a schedule does not end, the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import heapq
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "orchestrator")]

from cluster import RayCluster  # noqa: E402
from s3 import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server  # noqa: E402

SWEEP = HERE / "chaos_sweep.py"
NODES = 3
PATIENCE = 120
"""Seconds that a run waits for the store; longer than any outage."""

WEIGHTS = {"driver": 3, "worker": 4, "node": 2, "pause": 1.5, "restart": 1.5}
OUTAGE = (3.0, 15.0)
MOST_DRIVERS = 20
"""A schedule that needs more commands than this does not end."""


@dataclass(frozen=True)
class Fault:
    """One disturbance.

    Attributes:
        at: when, after the first command, in units of the time that the undisturbed run took.
        kind: see WEIGHTS.
        lasts: seconds until what was taken comes back (not for workers).
        pick: which of the victims, in [0, 1).
    """

    at: float
    kind: str
    lasts: float
    pick: float


def schedule(seed: int, index: int) -> list[Fault]:
    """The faults of one schedule, drawn."""
    rng = random.Random(f"chaos/{seed}/{index}")
    faults = []
    for _ in range(rng.randint(4, 8)):
        kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        lasts = {"driver": 1.0, "worker": 0.0, "node": rng.uniform(1, 5)}.get(kind, rng.uniform(*OUTAGE))
        faults.append(Fault(rng.uniform(0.02, 1.0), kind, lasts, rng.random()))
    return sorted(faults, key=lambda fault: fault.at)


@dataclass
class Outcome:
    """What became of one schedule; see the module for the words."""

    schedule: int
    injected: Counter[str] = field(default_factory=Counter)
    drivers: int = 0
    seconds: float = 0.0
    ratio: float = 0.0
    reexecuted: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    differ: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    snapshots: list[str] = field(default_factory=list)
    gave_up: list[str] = field(default_factory=list)
    starts: int = 0
    reads: int = 0
    trouble: str | None = None

    @property
    def well(self) -> bool:
        """It has ended, and as if nothing had happened."""
        return self.trouble is None and not any(getattr(self, name) for name in WRONG)


WRONG = ("reexecuted", "twice", "differ", "torn", "changed", "lost")
"""Fields of an outcome that have to be empty."""

ASIDE = ("snapshots", "gave_up")
"""Fields that are reported besides."""


# The store as a reader sees it that knows nothing of the orchestrator but the files


def client(server: S3Server) -> Any:
    """An S3 client that does not wait: what is away is tried again later."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    return S3FileSystem(
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        endpoint_override=server.endpoint,
        scheme="http",
        region=server.env["AWS_DEFAULT_REGION"],
        connect_timeout=2,
        request_timeout=5,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=1),
    )


@dataclass(frozen=True)
class Seen:
    """An intact artifact: a digest of what its files contain, its results, and its commit."""

    files: str
    results: str
    committed: float
    folder: str


class Torn(Exception):
    """A manifest without the files that it promises."""


def look(files: Any, manifest: Any) -> Seen:
    """Read an artifact whole.

    Raises:
        Torn: it is not all there.
        OSError: the server does not answer.
    """
    folder = manifest.path.rpartition("/")[0]
    try:
        whole = json.loads(_read(files, manifest.path))
        promised, results = whole["files"], json.dumps(whole["results"], sort_keys=True)
    except (ValueError, TypeError, KeyError) as error:
        raise Torn(f"{manifest.path} is no manifest: {error}") from None
    digest = hashlib.sha256()
    inner = f"{folder}/{whole['folder']}" if whole.get("folder") else folder
    for name, about in sorted(promised.items()):
        data = _read(files, f"{inner}/{name}")
        sha256 = hashlib.sha256(data).hexdigest()
        if (len(data), sha256) != (about["size"], about["sha256"]):
            raise Torn(f"{inner}/{name} is not what its manifest says")
        digest.update(f"{name} {len(data)} {sha256}\n".encode())
    return Seen(digest.hexdigest(), results, manifest.mtime_ns / 1e9, inner)


def _read(files: Any, path: str) -> bytes:
    try:
        with files.open_input_stream(path) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        raise Torn(f"{path} is missing") from None


class Watcher:
    """Reads a store all the time, from a thread.

    Attributes:
        seen: intact artifacts, by (task, key); first: when each manifest was first seen (Unix seconds).
        torn: descriptions of what was not whole; changed: of what did not stay as it was.
    """

    def __init__(self, server: S3Server, prefix: str, is_up: Callable[[], bool]) -> None:
        self._files = client(server)
        self._root = f"{BUCKET}/{prefix}/artifacts"
        self._is_up = is_up
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reader", daemon=True)
        self._stamps: dict[tuple[str, str], Any] = {}
        self.seen: dict[tuple[str, str], Seen] = {}
        self.first: dict[tuple[str, str], float] = {}
        self.torn: list[str] = []
        self.changed: list[str] = []
        self.reads = 0

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(timeout=60)

    def _watch(self) -> None:
        while not self._end.wait(0.5):
            with contextlib.suppress(OSError):
                self.look_around()

    def look_around(self) -> None:
        """Read what is new; raises OSError while the server is away."""
        from pyarrow.fs import FileSelector

        up = self._is_up()
        found = self._files.get_file_info(FileSelector(self._root, recursive=True, allow_not_found=True))
        now = time.time()
        self.reads += 1
        manifests = {tuple(i.path.split("/")[-3:-1]): i for i in found if i.base_name == "manifest.json"}
        for artifact, manifest in manifests.items():
            stamp = (manifest.mtime_ns, manifest.size)
            if self._stamps.get(artifact) == stamp:
                continue
            self.first.setdefault(artifact, now)
            try:
                seen = look(self._files, manifest)
            except Torn as error:
                # A server that is just going down or coming up may deny what it has: read again later.
                if up and self._is_up():
                    self.torn.append(str(error))
                    self._stamps[artifact] = stamp
                continue
            if artifact in self.seen:
                self.changed.append(f"{'/'.join(artifact)} was written again")
            self._stamps[artifact], self.seen[artifact] = stamp, seen
        if up and self._is_up():
            for artifact in self._stamps.keys() - manifests.keys():
                self.changed.append(f"{'/'.join(artifact)} went away")
                del self._stamps[artifact]

    def at_last(self) -> dict[tuple[str, str], Seen]:
        """Everything, read once more in peace."""
        from pyarrow.fs import FileSelector

        self.look_around()
        found = self._files.get_file_info(FileSelector(self._root, recursive=True, allow_not_found=True))
        whole = {}
        for manifest in (i for i in found if i.base_name == "manifest.json"):
            artifact = tuple(manifest.path.split("/")[-3:-1])
            try:
                whole[artifact] = look(self._files, manifest)
            except Torn as error:
                self.torn.append(f"in the end: {error}")
        return whole

    def below(self, folder: str) -> list[str]:
        """Files of the store below a folder."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(f"{self._root.rpartition('/')[0]}/{folder}", recursive=True, allow_not_found=True)
        return [i.path for i in self._files.get_file_info(selector) if i.type == FileType.File]


# The place where all happens


class Place:
    """Cluster, S3 server and the commands on them.

    Args:
        folder: for all that is written down: data of the server, output of the commands, ledger of starts.
        smoke: the sweep's small size.
    """

    def __init__(self, folder: Path, *, smoke: bool) -> None:
        self.folder = folder
        self.ledger = folder / "ledger.jsonl"
        self._scratch = folder / "tmp"
        self._scratch.mkdir()
        self._smoke = smoke
        self._drivers: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()  # one outage at a time
        self._up = True
        self._broken: BaseException | None = None
        self.server = S3Server(folder / "s3")
        self.cluster: RayCluster | None = None

    def __enter__(self) -> Place:
        try:
            self.server.start()
            self.renew()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for driver in self._drivers:
            if driver.poll() is None:
                _kill_group(driver)
        try:
            if self.cluster is not None:
                self.cluster.close()
        finally:
            self.server.kill()

    def renew(self) -> None:
        """A new cluster."""
        if self.cluster is not None:
            self.cluster.close()
            self.cluster = None
        env = {**self.server.env, "CHAOS_LEDGER": str(self.ledger), "TMPDIR": str(self._scratch)}
        self.cluster = RayCluster(NODES, env=env)

    def command(self, prefix: str) -> list[str]:
        assert self.cluster is not None
        words = [sys.executable, "-m", "orchestrator", "sweep", str(SWEEP), "--store", self.server.uri(prefix)]
        words += ["--address", self.cluster.address, "--patience", str(PATIENCE)]
        return [*words, "--smoke"] if self._smoke else words

    def start(self, prefix: str, log: Path) -> subprocess.Popen[bytes]:
        """Give the command."""
        assert self.cluster is not None
        env = {**self.cluster.env, **self.server.env, "PYTHONFAULTHANDLER": "1", "COLUMNS": "200"}
        with open(log, "ab") as output:
            output.write(f"\n--- {time.time():.3f} a new driver\n".encode())
            output.flush()
            driver = subprocess.Popen(
                self.command(prefix), cwd=ROOT, env=env, stdout=output, stderr=output, start_new_session=True
            )
        self._drivers.append(driver)
        return driver

    def calm(self) -> None:
        """All nodes are there and the server answers."""
        assert self.cluster is not None
        with self._lock:  # waits for the end of an outage
            if self._broken is not None:
                raise RuntimeError("The S3 server did not come back.") from self._broken
        while len(self.cluster.nodes) < NODES:
            self.cluster.add()

    def clean(self) -> None:
        """Calm, and nothing is left of what ran before: no ledger, no cached copies of artifacts."""
        self.calm()
        self.ledger.unlink(missing_ok=True)
        for left in self._scratch.glob("orchestrator-*"):
            shutil.rmtree(left, ignore_errors=True)

    def is_up(self) -> bool:
        """No outage of the server is going on."""
        return self._up

    def outage(self, kind: str, seconds: float) -> bool:
        """Let the server be away for a while, in the background; False if it is away already."""
        if not self._lock.acquire(blocking=False):
            return False
        self._up = False
        if kind == "pause":
            self.server.pause()
        else:
            self.server.kill()

        def mend() -> None:
            try:
                time.sleep(seconds)
                if kind == "pause":
                    self.server.resume()
                    self.server.wait_until_up()
                else:
                    self.server.start()
                self._up = True
            except BaseException as error:
                self._broken = error
            finally:
                self._lock.release()

        # A lock may be released by another thread than the one that took it.
        threading.Thread(target=mend, name="outage", daemon=True).start()
        return True

    def victims(self) -> list[int]:
        """Processes that are at work."""
        assert self.cluster is not None
        return [pid for node in self.cluster.nodes for pid in self.cluster.workers(node, busy=True)]

    def starts(self) -> list[dict[str, Any]]:
        """The ledger: every start of a task."""
        if not self.ledger.exists():
            return []
        return [json.loads(line) for line in self.ledger.read_text().splitlines()]


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the session that was started for it
    process.wait()


# A schedule


class Run:
    """One sweep on an empty store, disturbed by a schedule until it is done.

    Args:
        faults: none for the reference.
        calm: seconds that the undisturbed run took.
        limit: seconds after which it is given up.
    """

    def __init__(
        self, place: Place, index: int, prefix: str, faults: Iterable[Fault], calm: float, limit: float
    ) -> None:
        self.place = place
        self.prefix = prefix
        self.outcome = Outcome(index)
        self.log = place.folder / f"{prefix}.txt"
        self._limit = limit
        self._waiting = [dataclasses.replace(f, at=f.at * calm) for f in faults]
        self._due: list[tuple[float, int, str]] = []  # what comes back, and when
        self._driver: subprocess.Popen[bytes] | None = None

    def to_the_end(self) -> None:
        """Until exit code 0, or `outcome.trouble` says why not."""
        begun = time.monotonic()
        self._command()
        while True:
            now = time.monotonic() - begun
            if now > self._limit:
                self.outcome.trouble = f"it had not ended after {self._limit:.0f} s: {self._stacks()}"
                break
            if self._driver is not None and (code := self._driver.poll()) is not None:
                self._driver = None
                if code == 0:
                    self.outcome.seconds = time.monotonic() - begun
                    break
                self.outcome.gave_up.append(f"exit code {code}: {_last_lines(self.log)}")
                heapq.heappush(self._due, (now + 1.0, len(self._due), "driver"))
            if self.outcome.drivers > MOST_DRIVERS:
                self.outcome.trouble = f"{MOST_DRIVERS} commands did not bring it to its end: {_last_lines(self.log)}"
                break
            while self._due and self._due[0][0] <= now:
                what = heapq.heappop(self._due)[2]
                if what == "driver" and self._driver is None:
                    self._command()
                elif what == "node":
                    self._cluster.add()
            self._waiting = [f for f in self._waiting if f.at > now or not self._inject(f, now)]
            time.sleep(0.05)
        if self._driver is not None:
            _kill_group(self._driver)

    @property
    def _cluster(self) -> RayCluster:
        assert self.place.cluster is not None
        return self.place.cluster

    def _command(self) -> None:
        self.outcome.drivers += 1
        self._driver = self.place.start(self.prefix, self.log)

    def _inject(self, fault: Fault, now: float) -> bool:
        """False if there is nobody to be hit just now."""
        if fault.kind == "driver":
            if self._driver is None:
                return False
            self._driver.kill()
            self._driver.wait()
            self._driver = None
            heapq.heappush(self._due, (now + fault.lasts, len(self._due), "driver"))
        elif fault.kind == "worker":
            victims = self.place.victims()
            if not victims:
                return False
            with contextlib.suppress(ProcessLookupError):
                os.kill(victims[int(fault.pick * len(victims))], signal.SIGKILL)
        elif fault.kind == "node":
            nodes = self._cluster.nodes
            if len(nodes) < 2:
                return False
            self._cluster.kill(nodes[int(fault.pick * len(nodes))])
            heapq.heappush(self._due, (now + fault.lasts, len(self._due), "node"))
        elif not self.place.outage(fault.kind, fault.lasts):
            return False
        self.outcome.injected[fault.kind] += 1
        with open(self.log, "a") as log:
            log.write(f"\n--- {time.time():.3f} fault: {fault.kind}, {fault.lasts:.1f} s\n")
        return True

    def _stacks(self) -> str:
        """Where the driver stands: its stacks go to the log."""
        if self._driver is None:
            return "no driver was there"
        self._driver.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._driver.wait(timeout=10)
        return f"see {self.log}, which ends in the stacks of its driver"


def _last_lines(log: Path, n: int = 3) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-n:])[-600:]


def judge(run: Run, watcher: Watcher, keys: Mapping[str, str], reference: Mapping[Any, Seen] | None) -> dict[Any, Seen]:
    """Fill in the outcome of a run that has ended; returns the artifacts as they are in the end."""
    outcome, place = run.outcome, run.place
    place.calm()
    final = watcher.at_last()
    outcome.torn, outcome.changed, outcome.reads = watcher.torn, watcher.changed, watcher.reads
    starts = [(s["time"], keys[s["task"]]) for s in place.starts()]
    outcome.reexecuted = after_commit(starts, final, watcher.first)
    outcome.starts = len(starts) - len({k for _, k in starts})
    outcome.twice = sorted(set(told_twice(events(place, run.prefix))))
    outcome.snapshots = watcher.below("snapshots")
    if reference is not None:
        for artifact, seen in final.items():
            known = reference.get(artifact)
            if known is None or (known.files, known.results) != (seen.files, seen.results):
                outcome.differ.append("/".join(artifact))
        outcome.lost = ["/".join(artifact) for artifact in reference.keys() - final.keys()]
    if outcome.trouble is None:
        again = place.start(run.prefix, run.log)
        code = again.wait(timeout=300)
        last = _last_lines(run.log, 1)
        if code or f"{len(keys)} tasks: 0 ran, {len(keys)} stored, 0 failed, 0 skipped" not in last:
            outcome.lost.append(f"given once more, the command ended with exit code {code}: {last}")
    return final


def after_commit(
    starts: Iterable[tuple[float, str]], final: Mapping[Any, Seen], first: Mapping[Any, float]
) -> list[str]:
    """The keys of those starts that came after the commit; the server gives the time of a commit in whole seconds."""
    never = float("inf")
    committed = {key: min(seen.committed + 1.0, first.get((name, key), never)) for (name, key), seen in final.items()}
    return [key for time_, key in starts if time_ > committed.get(key, never)]


def events(place: Place, prefix: str) -> list[dict[str, Any]]:
    """The records of all runs, by time."""
    from orchestrator.events import read_events
    from orchestrator.store import Store

    os.environ.update(place.server.env)
    store = Store(place.server.uri(prefix))
    found: list[dict[str, Any]] = []
    for sweep in store.names("runs"):
        for name in store.names(f"runs/{sweep}"):
            if name != "latest":
                found += read_events(store, f"runs/{sweep}/{name}")
    return sorted(found, key=lambda event: float(event["time"]))


def told_twice(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Keys that are committed again, or submitted after they were committed."""
    committed: set[str] = set()
    for event in records:
        key = event.get("key")
        if event["event"] == "submitted" and key in committed:
            yield str(key)
        if event["event"] == "committed":
            if key in committed:
                yield str(key)
            committed.add(str(key))


def identities(smoke: bool) -> dict[str, str]:
    """The key of every task, by what the ledger calls it."""
    from orchestrator.plan import make_plan
    from orchestrator.sweep_file import load_sweep

    nodes = make_plan(load_sweep(SWEEP, smoke=smoke), None).nodes.values()
    identity = sys.modules[type(next(iter(nodes)).task).__module__].identity
    return {identity(n.task, n.seeds, n.inputs): n.key for n in nodes}


def chaos(
    schedules: Sequence[Sequence[Fault]], *, smoke: bool = False, folder: Path, say: Callable[[str], None] = print
) -> tuple[Outcome, list[Outcome]]:
    """Run the reference and all schedules; what became of it and of each.

    Raises:
        RuntimeError: the undisturbed run is not well.
    """
    keys = identities(smoke)
    outcomes: list[Outcome] = []
    with Place(folder, smoke=smoke) as place:
        say(f"the reference, undisturbed: {len(keys)} tasks; what is written down lies in {folder}")
        first = Run(place, -1, "reference", (), calm=0.0, limit=900)
        with Watcher(place.server, first.prefix, place.is_up) as watcher:
            first.to_the_end()
            reference = judge(first, watcher, keys, None)
        if not first.outcome.well or first.outcome.gave_up or len(reference) != len(keys):
            raise RuntimeError(f"The undisturbed run is not well, see {first.log}: {'; '.join(trouble(first.outcome))}")
        calm = first.outcome.seconds
        say(f"it took {calm:.1f} s\n\n{HEAD}")
        for index, faults in enumerate(schedules):
            place.clean()
            run = Run(place, index, f"schedule-{index}", faults, calm=calm, limit=300 + 8 * calm)
            with Watcher(place.server, run.prefix, place.is_up) as watcher:
                run.to_the_end()
                judge(run, watcher, keys, reference)
            run.outcome.ratio = run.outcome.seconds / calm
            outcomes.append(run.outcome)
            say(line_of(run.outcome))
            for words in trouble(run.outcome):
                say(f"    {words}")
            if run.outcome.trouble:
                place.renew()
    say(f"\n{HEAD}\n{line_of(total(outcomes))}")
    return first.outcome, outcomes


WORDS = {"reexecuted": "re-executed", "gave_up": "gave up"}
COLUMNS = [*WEIGHTS, *(WORDS.get(name, name) for name in (*WRONG, *ASIDE)), "starts", "time"]
HEAD = f"{'schedule':>9} " + " ".join(f"{c:>{max(5, len(c))}}" for c in COLUMNS)


def line_of(o: Outcome) -> str:
    """A row of the table."""
    cells = [*(o.injected[k] for k in WEIGHTS), *(len(getattr(o, name)) for name in (*WRONG, *ASIDE)), o.starts]
    name = "total" if o.schedule < 0 else str(o.schedule)
    texts = [*map(str, cells), f"{o.ratio:.2f}" if o.trouble is None else "—"]
    return f"{name:>9} " + " ".join(f"{t:>{max(5, len(c))}}" for t, c in zip(texts, COLUMNS, strict=True))


def total(outcomes: list[Outcome]) -> Outcome:
    """All together; its ratio is the mean."""
    whole = Outcome(-1)
    for o in outcomes:
        whole.injected += o.injected
        whole.starts += o.starts
        whole.trouble = whole.trouble or o.trouble
        for name in (*WRONG, *ASIDE):
            getattr(whole, name).extend(getattr(o, name))
    whole.ratio = sum(o.ratio for o in outcomes) / max(1, len(outcomes))
    return whole


def trouble(outcome: Outcome) -> Iterator[str]:
    """What is wrong, in words."""
    if outcome.trouble:
        yield outcome.trouble
    for name in (*WRONG, *ASIDE):
        found = getattr(outcome, name)
        for words in found[:5]:
            yield f"{WORDS.get(name, name)}: {words}"
        if len(found) > 5:
            yield f"{WORDS.get(name, name)}: … and {len(found) - 5} more"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="two schedules of the sweep's small size")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--keep", action="store_true", help="keep the folder with stores and output")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleaned up
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    schedules = [schedule(options.seed, i) for i in range(2 if options.short else options.schedules)]
    well = False
    try:
        calm, outcomes = chaos(schedules, smoke=options.short, folder=folder, say=lambda s: print(s, flush=True))
        well = all(o.well for o in outcomes)
        if options.out:
            found = {
                "undisturbed": vars(calm),
                "schedules": [vars(o) for o in outcomes],
                "total": vars(total(outcomes)),
            }
            options.out.write_text(json.dumps(found, indent=1))
    finally:
        if well and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"kept: {folder}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
