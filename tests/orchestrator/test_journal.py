"""Journals on a local store and on a real S3 server: nothing that was written is lost, damage costs one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from s3 import S3Server

from orchestrator.errors import StoreError, StoreFull
from orchestrator.events import Events, read_events
from orchestrator.journal import GROUP, Journal, read_journal
from orchestrator.store import Store

PATH = "runs/toy/r/events.jsonl"


@pytest.fixture
def remote(s3: S3Server, request) -> Store:
    return Store(s3.uri(request.node.name.replace("[", "-").replace("]", "")))


@pytest.fixture
def local(tmp_path) -> Store:
    return Store(str(tmp_path))


@pytest.fixture(params=["local", "remote"])
def store(request) -> Store:
    return request.getfixturevalue(request.param)


def numbers(store: Store) -> list[int]:
    return [record["n"] for record in read_journal(store, PATH).records]


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.02)


def test_records_come_back_in_order(store: Store) -> None:
    assert read_journal(store, PATH).records == []
    journal = Journal(store, PATH)
    for n in range(3):
        journal.add({"n": n, "text": "ä\n"}, durable=n == 2)
    assert numbers(store) == [0, 1, 2]
    journal.add({"n": 3})
    journal.close(merge=True)
    assert numbers(store) == [0, 1, 2, 3]
    assert len((store.read(PATH) or b"").splitlines()) == 4


def test_what_is_not_durable_is_seen_soon_without_anything_else_happening(remote: Store) -> None:
    journal = Journal(remote, PATH, seconds=0.1)
    journal.add({"n": 0})
    wait_until(lambda: numbers(remote) == [0])


def test_a_local_record_is_seen_at_once(local: Store) -> None:
    Journal(local, PATH).add({"n": 0})
    assert numbers(local) == [0]


def test_no_object_is_written_twice_and_few_are_left(remote: Store, monkeypatch) -> None:
    written: list[tuple[str, int]] = []
    write = Store.write

    def noting(self: Store, relative: str, data: bytes, **options: bool) -> None:
        written.append((relative, len(data)))
        write(self, relative, data, **options)

    monkeypatch.setattr(Store, "write", noting)
    journal = Journal(remote, PATH)
    count = GROUP * GROUP + GROUP + 3
    for n in range(count):
        journal.add({"n": n}, durable=True)
    assert numbers(remote) == list(range(count))
    assert len({name for name, _ in written}) == len(written)
    assert len(remote.names(f"{PATH}.parts")) == 1 + 1 + 3  # of 256 records, of 16, and the last
    journal.close(merge=True)
    assert numbers(remote) == list(range(count))
    assert remote.names(f"{PATH}.parts") == []


def test_a_part_that_is_merged_while_it_is_read(remote: Store, monkeypatch) -> None:
    journal = Journal(remote, PATH)
    for n in range(GROUP - 1):
        journal.add({"n": n}, durable=True)
    names, left = Store.names, [1]

    def stale(self: Store, relative: str) -> list[str]:
        found = names(self, relative)
        if left and left.pop():
            journal.add({"n": GROUP - 1}, durable=True)  # merges all that was listed
        return found

    monkeypatch.setattr(Store, "names", stale)
    assert numbers(remote) == list(range(GROUP))


def test_a_writer_that_died_between_merging_and_deleting(remote: Store, monkeypatch) -> None:
    journal = Journal(remote, PATH)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete", lambda self, relative: None)
        for n in range(GROUP + 2):
            journal.add({"n": n}, durable=True)
        journal.close(merge=True)
    assert len(remote.names(f"{PATH}.parts")) == GROUP + 3
    assert numbers(remote) == list(range(GROUP + 2))


def test_two_writers_do_no_harm(store: Store) -> None:
    one, two = Journal(store, PATH), Journal(store, PATH)
    for n in range(20):
        (one if n % 2 else two).add({"n": n}, durable=True)
    assert sorted(numbers(store)) == list(range(20))
    one.close(merge=True)
    assert sorted(numbers(store)) == list(range(20))
    two.add({"n": 20})
    two.close(merge=True)
    assert sorted(numbers(store)) == list(range(21))


def test_a_later_writer_comes_after_those_before_it(remote: Store) -> None:
    for n in range(12):
        Journal(remote, PATH).add({"n": n}, durable=True)
    assert numbers(remote) == list(range(12))


def test_processes_that_write_at_once_keep_each_others_lines(local: Store) -> None:
    code = f"""
from orchestrator.journal import Journal
from orchestrator.store import Store
import sys
journal = Journal(Store(sys.argv[1]), {PATH!r})
for n in range(300):
    journal.add({{"n": n, "who": sys.argv[2], "text": "x" * (n % 50)}})
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, str(local.local), who]) for who in "ab"]
    assert [w.wait() for w in writers] == [0, 0]
    found = read_journal(local, PATH)
    assert found.damaged == 0
    for who in "ab":
        assert [r["n"] for r in found.records if r["who"] == who] == list(range(300))


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_a_writer_that_is_killed_leaves_what_it_wrote(kind, request) -> None:
    store = request.getfixturevalue(kind)
    code = f"""
import os, signal, sys
from orchestrator.journal import Journal
from orchestrator.store import Store
journal = Journal(Store(sys.argv[1]), {PATH!r})
for n in range(40):
    journal.add({{"n": n}}, durable=n % 4 == 3)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, store.address])
    assert done.returncode == -signal.SIGKILL
    assert numbers(store) == list(range(40))


GARBAGE = {
    "garbage": b"}{ not json\n",
    "half a line": b'{"n": 7, "te\n',
    "noise": bytes(range(256)).replace(b"\n", b"") + b"\n",
    "zeros": bytes(100) + b"\n",
    "a list": b"[1, 2]\n",
    "a number": b"17\n",
    "a string": b'"n"\n',
    "null": b"null\n",
    "brackets without end": b"[" * 200_000 + b"\n",
    "a huge number": b"9" * 10_000 + b"\n",
    "not UTF-8": b'{"n": "\xff\xfe"}\n',
    "another encoding": '{"n": 7}'.encode("utf-16") + b"\n",
}


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("what", GARBAGE)
def test_a_damaged_line_costs_that_line(what, where, local: Store) -> None:
    journal = Journal(local, PATH)
    for n in range(4):
        journal.add({"n": n})
    lines = (local.read(PATH) or b"").splitlines(keepends=True)
    lines.insert({"first": 0, "middle": 2, "last": 4}[where], GARBAGE[what])
    data = b"".join(lines)
    local.write(PATH, data[:-1] if where == "last" else data)
    found = read_journal(local, PATH)
    assert [r["n"] for r in found.records] == [0, 1, 2, 3]
    assert found.damaged >= 1
    journal.add({"n": 4})  # goes on behind it
    assert numbers(local)[-1] == 4


def test_half_a_line_at_the_end_spoils_nothing_that_follows(local: Store) -> None:
    Journal(local, PATH).add({"n": 0})
    whole = local.read(PATH) or b""
    local.write(PATH, whole + b'{"n": 1, "wo')
    Journal(local, PATH).add({"n": 2}, durable=True)
    assert numbers(local) == [0, 2]


def test_a_damaged_part_costs_its_lines(remote: Store) -> None:
    journal = Journal(remote, PATH)
    for n in range(3):
        journal.add({"n": n}, durable=True)
    parts = remote.names(f"{PATH}.parts")
    remote.write(f"{PATH}.parts/{parts[1]}", b"\x00noise")
    remote.write(f"{PATH}.parts/stranger", b'{"n": 99}')
    assert numbers(remote) == [0, 2]


def test_a_store_that_is_away_loses_nothing_and_stops_nobody(s3: S3Server, remote: Store) -> None:
    journal = Journal(remote, PATH, seconds=0.05)
    journal.add({"n": 0}, durable=True)
    s3.stop()
    try:
        for n in range(1, 5):
            journal.add({"n": n})
        wait_until(lambda: journal.trouble is not None)
        assert str(journal.trouble).endswith(".")
        journal.add({"n": 5})
        with pytest.raises(StoreError):
            journal.add({"n": 6}, durable=True)
    finally:
        s3.start()
    wait_until(lambda: numbers(remote) == list(range(7)))
    wait_until(lambda: journal.trouble is None)
    journal.close(merge=True)
    assert numbers(remote) == list(range(7))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_told_and_nothing_is_lost_when_there_is_room_again(local: Store) -> None:
    local.path("runs").parent.mkdir(exist_ok=True)
    local.path("runs").symlink_to("/dev")
    journal = Journal(local, "runs/full")
    journal.add({"n": 0})
    assert isinstance(journal.trouble, StoreFull)
    journal.add({"n": 1})
    with pytest.raises(StoreFull):
        journal.flush()
    local.path("runs").unlink()
    journal.close()
    assert journal.trouble is None
    assert [r["n"] for r in read_journal(local, "runs/full").records] == [0, 1]


def test_events_of_a_run_end_as_one_file(store: Store) -> None:
    events = Events(store, "runs/toy/r")
    events.emit("run_started", tasks=3, stored=0, slots=2, command=[])
    events.flush()
    reader = Store(store.address)  # another machine's
    assert [e["event"] for e in read_events(reader, "runs/toy/r")] == ["run_started"]
    events.emit("run_finished")
    events.close()
    assert store.names("runs/toy/r") in (["events.jsonl"], ["events.jsonl", "events.jsonl.parts"])
    lines = (store.read(PATH) or b"").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["run_started", "run_finished"]
