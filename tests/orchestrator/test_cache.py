"""The cache of a node: one copy for all its processes, bounded, whatever is killed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metered import Meter, metered
from s3 import S3Server

from orchestrator import cache, node
from orchestrator.__main__ import main
from orchestrator.cache import Cache, entry_name, room_of
from orchestrator.errors import StoreError, StoreRefused, StoreUnavailable
from orchestrator.store import Store

spawn = multiprocessing.get_context("spawn")

SIZE = 40_000


def key_of(n: int) -> str:
    return f"{n:032x}"


def contents(n: int, size: int = SIZE) -> dict[str, bytes]:
    """The files of an artifact."""
    return {"a.npy": random.Random(n).randbytes(size // 2), "deep/b.npy": random.Random(-n - 1).randbytes(size // 2)}


def files_of(data: Mapping[str, bytes]) -> dict[str, Any]:
    return {name: {"size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for name, d in data.items()}


def writing(
    data: Mapping[str, bytes], *, seconds: float = 0.0, done: list[int] | None = None
) -> Callable[[Path], None]:
    """Brings files, one after the other."""

    def fetch(part: Path) -> None:
        for name, d in data.items():
            (part / name).parent.mkdir(exist_ok=True)
            (part / name).write_bytes(d)
            time.sleep(seconds / len(data))
        if done is not None:
            done.append(1)

    return fetch


@contextlib.contextmanager
def using(n: int, size: int = SIZE, **options: Any) -> Iterator[Path]:
    data = contents(n, size)
    with Cache().held(key_of(n), files_of(data), writing(data, **options), patience=0) as folder:
        yield folder


def there() -> set[int]:
    """The artifacts that have an entry."""
    return {int(name.partition("-")[0], 16) for name in Cache().sizes()}


ROOM = room_of(entry_name(key_of(0), files_of(contents(0))))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node of the test's own, with room for three artifacts and a half."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))  # for spawned processes, which import this module
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "disk"))
    monkeypatch.setenv("ORCHESTRATOR_CACHE_GB", str(3.5 * ROOM / 1e9))
    return tmp_path / "disk"


def test_what_was_used_longest_ago_goes(folder: Path) -> None:
    for n in (1, 2, 3):
        with using(n):
            pass
    with using(1):
        pass
    with using(4):
        assert there() == {1, 3, 4}
    assert {path.name for path in folder.iterdir()} == {f"orchestrator-{os.getuid()}"}
    assert ROOM - SIZE < 6 * 4096  # blocks, and the manifest


def test_what_is_in_use_stays_and_the_rest_goes_when_it_is_let_go() -> None:
    with using(1) as one, using(2), using(3), using(4) as four:
        assert there() == {1, 2, 3, 4}
        assert (one / "a.npy").read_bytes() == contents(1)["a.npy"]
        assert (four / "deep/b.npy").read_bytes() == contents(4)["deep/b.npy"]
    assert len(there()) == 3
    assert not (Cache().folder / "crowded").exists()


def test_a_forked_child_keeps_nothing_in_use_that_was_let_go() -> None:
    """Such as a process that loads data for a task and outlives it."""
    gone, over = os.pipe()
    with using(1):
        child = os.fork()
        if not child:
            os.close(over)
            os.read(gone, 1)  # until the test ends
            os._exit(0)
        os.close(gone)
    try:
        for n in range(2, 5):
            with using(n):
                pass
        assert there() == {2, 3, 4}
    finally:
        os.close(over)
        os.waitpid(child, 0)


def test_what_is_larger_than_the_bound_can_be_used_and_goes_first() -> None:
    with using(1):
        pass
    with using(2, 5 * SIZE) as large:
        assert len((large / "a.npy").read_bytes()) == 5 * SIZE // 2
    assert 2 not in there()
    with using(3):
        pass
    assert 3 in there()


def test_a_bound_of_nothing_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE_GB", "0")
    with using(1) as one:
        assert (one / "a.npy").exists()
    assert there() == set()


def test_a_mapped_file_outlives_its_entry() -> None:
    data = {"x.npy": b""}
    array = np.arange(10_000, dtype=np.int64)
    path = Path(os.environ["ORCHESTRATOR_CACHE"]) / "x.npy"
    path.parent.mkdir(exist_ok=True)
    np.save(path, array)
    data = {"x.npy": path.read_bytes()}
    with Cache().held(key_of(9), files_of(data), writing(data), patience=0) as folder:
        mapped = np.load(folder / "x.npy", mmap_mode="c")
    for n in range(4):
        with using(n):
            pass
    assert 9 not in there() and not folder.exists()
    assert (mapped == array).all()


def test_without_a_stated_bound_it_is_half_of_what_was_free_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORCHESTRATOR_CACHE_GB")
    first = Cache().bound
    free = shutil.disk_usage(Cache().folder).free
    assert first == cache.CAP or abs(first - free // 2) < 0.1 * free
    (Cache().folder / "bound").write_text("12345")
    assert Cache().bound == 12345
    assert "of at most 0.0 GB" in cache.describe()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ORCHESTRATOR_CACHE_GB", "much", "must be a number of at least 0, such as 50, not 'much'"),
        ("ORCHESTRATOR_CACHE_GB", "-1", "must be a number of at least 0"),
        ("ORCHESTRATOR_CACHE_GB", "nan", "must be a number of at least 0"),
        ("ORCHESTRATOR_CACHE_GB", "inf", "must be a number of at least 0"),
        ("ORCHESTRATOR_CACHE", "here", "must be the absolute path of a folder, not 'here'"),
        ("ORCHESTRATOR_CACHE", f"{__file__}/below", "is a file"),
    ],
)
def test_a_setting_that_is_no_good_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    store = Store("s3://bucket/study?scheme=http&endpoint_override=127.0.0.1%3A1&region=x")
    with pytest.raises(StoreRefused) as error:
        store.check_writable()  # before the network is
    assert f"${name} " in str(error.value) and words in str(error.value) and "\n" not in str(error.value)


def test_a_full_disk_lets_other_entries_go_before_it_gives_up() -> None:
    for n in (1, 2):
        with using(n):
            pass
    data = contents(3)

    def full(part: Path) -> None:
        if there():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        writing(data)(part)

    wanted = Cache().held(key_of(3), files_of(data), full, patience=0)
    with using(1), pytest.raises(OSError, match="No space left"), wanted:
        pass
    assert there() == {1}
    with Cache().held(key_of(3), files_of(data), full, patience=0):
        assert there() == {3}


def test_a_disk_that_is_really_full(folder: Path) -> None:
    """In a mount of its own: 4 MB, of which others fill more and more."""
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_cache import *
del os.environ["ORCHESTRATOR_CACHE_GB"]
cache.CAP = 10**9
(Cache().folder / "bound").write_text(str(10**9))
for n in range(200):
    with using(n): pass
assert 20 < len(there()) < 100, there()
with open(os.environ["ORCHESTRATOR_CACHE"] + "/other", "wb") as other:
    other.write(bytes(shutil.disk_usage(Cache().folder).free))
Cache().spare()
assert shutil.disk_usage(Cache().folder).free >= 200_000
with using(1000, 3_000_000): pass
assert 1000 in there()
"""
    folder.mkdir()
    mount = f'mount -t tmpfs -o size=4m none {folder} && exec {sys.executable} -c "$SCRIPT"'
    may = subprocess.run(["unshare", "-m", "true"], capture_output=True)
    if may.returncode:
        pytest.skip("this machine permits no mounts")
    done = subprocess.run(["unshare", "-m", "sh", "-c", mount], env={**os.environ, "SCRIPT": script}, text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


# Several processes


def use(n: int, notes: Any, seconds: float = 0.0) -> None:
    done: list[int] = []
    with using(n, seconds=seconds, done=done) as folder:
        notes.put((os.getpid(), len(done), (folder / "a.npy").read_bytes() == contents(n)["a.npy"]))


@pytest.mark.slow
def test_one_fetches_and_the_others_wait_and_a_killed_one_is_replaced() -> None:
    notes = spawn.Queue()
    first = spawn.Process(target=use, args=(1, notes, 600.0))
    first.start()
    part = Cache().folder / "parts" / entry_name(key_of(1), files_of(contents(1)))
    while not (part / "a.npy").exists():
        assert first.exitcode is None
        time.sleep(0.01)
    others = [spawn.Process(target=use, args=(1, notes, 0.3)) for _ in range(4)]
    for other in others:
        other.start()
    time.sleep(1.0)
    assert notes.empty()  # they wait
    assert there() == set()
    first.kill()
    first.join()
    told = [notes.get(timeout=60) for _ in others]
    for other in others:
        other.join()
    assert [whole for *_, whole in told] == [True] * 4
    assert sum(fetched for _, fetched, _ in told) == 1
    Cache().clean_up()
    assert not list((Cache().folder / "parts").iterdir())


def test_one_that_was_stopped_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "STILL", 1.5)
    name = entry_name(key_of(1), files_of(contents(1)))
    lock = Cache()._try(f"{name}.fill")
    assert lock is not None
    with pytest.raises(StoreUnavailable, match=r"Another process of this machine has held .* end it"), using(1):
        pass
    os.close(lock)
    with using(1):
        assert there() == {1}


N, PROCESSES = 10, 5


def live(seed: int, until: float, notes: Any) -> None:
    """Use artifacts at random, and look at every byte."""
    draw = random.Random(seed)
    while time.time() < until:
        n = draw.randrange(N)
        with using(n, seconds=draw.choice([0, 0, 0.01])) as folder:
            for look in range(2):
                for name, data in contents(n).items():
                    if (folder / name).read_bytes() != data:
                        notes.put(f"{n}/{name} is torn at look {look}")
                time.sleep(draw.choice([0, 0.02]))
        if draw.random() < 0.2:
            made = Path(os.environ["ORCHESTRATOR_CACHE"]) / f"made-{os.getpid()}"
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            m = draw.randrange(N)
            writing(contents(m))(made)
            Cache().adopt([(key_of(m), made, files_of(contents(m)))])


@pytest.mark.slow
def test_nothing_is_torn_nor_left_locked_whoever_is_killed(folder: Path) -> None:
    notes, draw = spawn.Queue(), random.Random(0)
    until = time.time() + 12
    seeds = iter(range(10_000))
    mine = Cache()

    def another() -> Any:
        process = spawn.Process(target=live, args=(next(seeds), until, notes))
        process.start()
        return process

    living = [another() for _ in range(PROCESSES)]
    killed, most, seen = 0, 0, set()
    while time.time() < until:
        time.sleep(draw.uniform(0, 0.02))
        sizes = mine.sizes()
        seen |= set(sizes)
        most = max(most, sum(sizes.values()))
        if time.time() < until - 3 and draw.random() < 0.03:
            victim = draw.randrange(PROCESSES)
            living[victim].kill()
            living[victim].join()
            living[victim] = another()
            killed += 1
    for process in living:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert notes.empty(), notes.get()
    assert killed >= 5 and len(seen) == N
    assert most <= mine.bound + PROCESSES * ROOM  # each uses one
    with using(N):
        pass
    assert sum(mine.sizes().values()) <= mine.bound
    mine.clean_up()
    assert sorted(path.name for path in mine.folder.iterdir()) == ["entries", "gone", "locks", "parts"]
    assert not list((mine.folder / "parts").iterdir()) and not list((mine.folder / "gone").iterdir())
    for name in os.listdir(mine.folder / "locks"):
        assert name == "room" or name.removesuffix(".use") in mine.sizes()
        lock = mine._try(name)
        assert lock is not None, f"{name} is locked"
        os.close(lock)
    for name in mine.sizes():
        n = int(name.partition("-")[0], 16)
        assert {f: (mine.folder / "entries" / name / f).read_bytes() for f in contents(n)} == contents(n)


# With an object store


@pytest.fixture
def meter(s3: S3Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meter]:
    monkeypatch.setenv("ORCHESTRATOR_CACHE_GB", "1")
    with metered(s3.endpoint) as meter:
        yield meter


def commit(store: Store, n: int) -> None:
    workspace = store.workspace()
    writing(contents(n))(workspace)
    store.commit("Job", key_of(n), workspace, {"results": {}})


def read(uri: str, n: int, disk: str, start: Any, notes: Any) -> None:
    os.environ["ORCHESTRATOR_CACHE"] = disk
    store = Store(uri, patience=60)
    store.manifest("Job", key_of(n))
    start.wait()
    with contextlib.ExitStack() as hold:
        folder = store.fetch("Job", key_of(n), hold)
        notes.put({name: (folder / name).read_bytes() for name in contents(n)} == contents(n))


def readers(uri: str, n: int, disks: list[Path], each: int) -> None:
    start, notes = spawn.Barrier(each * len(disks)), spawn.Queue()
    processes = [
        spawn.Process(target=read, args=(uri, n, str(disk), start, notes)) for disk in disks for _ in range(each)
    ]
    for process in processes:
        process.start()
    assert [notes.get(timeout=120) for _ in processes] == [True] * len(processes)
    for process in processes:
        process.join()


@pytest.mark.slow
def test_an_artifact_crosses_the_network_once_a_node_and_not_to_where_it_was_made(
    meter: Meter, folder: Path, tmp_path: Path
) -> None:
    uri = meter.uri("nodes")
    commit(Store(uri), 1)
    assert list((folder / f"orchestrator-{os.getuid()}" / "work").iterdir()) == []
    readers(uri, 1, [folder, tmp_path / "b"], 4)
    assert (meter.fetched("a.npy"), meter.fetched("b.npy")) == (1, 1)
    readers(uri, 1, [folder, tmp_path / "b", tmp_path / "c"], 2)
    assert (meter.fetched("a.npy"), meter.fetched("b.npy")) == (2, 2)


@pytest.mark.slow
def test_what_this_node_made_is_in_its_cache_and_what_gave_way_is_not(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_told", set())
    cache.news()
    store, other = Store(meter.uri("made")), Store(meter.uri("made"))
    commit(store, 1)
    told = cache.news()
    assert told == {"here": {key_of(1): ROOM}}
    assert (store.fetch_file("Job", key_of(1), "a.npy").parent / "deep/b.npy").exists()  # no entry of its own
    shutil.rmtree(node.node_folder("cache"))
    commit(other, 1)  # which is there
    assert there() == set()
    path = other.fetch("Job", key_of(1)) / "a.npy"
    assert path.stat().st_mode & 0o777 == 0o444
    assert meter.fetched("a.npy") == 1
    # Damage is noticed, and mended while another uses the entry.
    with contextlib.ExitStack() as hold:
        store.fetch("Job", key_of(1), hold)
        os.chmod(path, 0o600)
        path.write_bytes(b"HELLO")
        assert (other.fetch("Job", key_of(1)) / "a.npy").read_bytes() == contents(1)["a.npy"]
    assert meter.fetched("a.npy") == 2


@pytest.mark.slow
def test_doctor_shows_the_cache(s3: S3Server, folder: Path, capsys) -> None:
    commit(Store(s3.uri("doctor")), 1)
    assert main(["doctor", "--store", s3.uri("doctor")]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("cache "))
    assert line.split() == [
        "cache",
        f"{folder}/orchestrator-{os.getuid()}/cache:",
        "0.0",
        "of",
        "at",
        "most",
        "0.0",
        "GB",
    ]


@pytest.mark.slow
def test_a_cache_that_cannot_be_had_spoils_no_commit(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(meter.uri("spoilt"))
    workspace = store.workspace()
    writing(contents(1))(workspace)
    monkeypatch.setenv("ORCHESTRATOR_CACHE", "nowhere")
    store.commit("Job", key_of(1), workspace, {"results": {}})
    assert not workspace.exists() and store.verify("Job", key_of(1)) == []
    with pytest.raises(StoreError, match="must be the absolute path"):
        store.fetch("Job", key_of(1))
