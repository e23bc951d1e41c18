"""Signs of life and claims: two runs on one store, in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator import live
from orchestrator.live import FOLDER, Live, is_dead, live_records, this_process
from orchestrator.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path))


def record_of(store: Store, run: str) -> dict[str, object]:
    data = store.read(f"{FOLDER}/{run.replace('/', '.')}.json")
    assert data is not None
    return dict(json.loads(data))


def test_the_earlier_claim_goes_ahead_whoever_asks(store: Store) -> None:
    with Live(store, "runs/a/1") as first, Live(store, "runs/b/2") as second:
        assert first.claim(["x", "y"]) == set()
        assert second.claim(["y", "z"]) == {"y"}
        assert second.claim(["y"]) == {"y"}
        assert first.claim(["z"]) == {"z"}
        second._beat()
        assert set(record_of(store, "runs/b/2")["running"]) == {"z"}  # type: ignore[call-overload]
        first.release(["y"])
        assert first.claim([]) == set()
        assert second.claim(["y"]) == set()


def test_claims_made_at_the_same_moment_go_to_one(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(live.time, "time", lambda: 1000.0)
    monkeypatch.setattr(live, "is_dead", lambda record: False)
    with Live(store, "runs/a/1") as first, Live(store, "runs/b/2") as second:
        first._claims["x"] = second._claims["x"] = 1000.0
        first._beat()
        second._beat()
        assert [first.claim(["x"]), second.claim(["x"])] == [set(), {"x"}]


def test_what_others_do_is_seen_and_ends_with_them(store: Store) -> None:
    with Live(store, "runs/a/1") as mine:
        with Live(store, "runs/b/2") as other:
            other.claim(["x"])
            mine.claim([])
            assert mine.elsewhere() == {"x"}
        mine._read = float("-inf")
        assert mine.elsewhere() == set()
    assert store.names(FOLDER) == []


def test_a_killed_driver_on_this_host_is_dead_at_once(store: Store) -> None:
    code = (
        "import sys, time; from orchestrator.live import Live; from orchestrator.store import Store\n"
        "live = Live(Store(sys.argv[1]), 'runs/b/2').__enter__(); live.claim(['x']); print('up', flush=True)\n"
        "time.sleep(60)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(store.local)], stdout=subprocess.PIPE)
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"up\n"
    with Live(store, "runs/a/1") as mine:
        assert mine.claim(["x"]) == {"x"}
        driver.kill()
        driver.wait()
        assert mine.claim(["x"]) == set()
    driver.stdout.close()


def test_a_driver_elsewhere_is_dead_when_its_record_stands_still(store: Store, monkeypatch) -> None:
    """Its clock does not matter: here it is an hour ahead."""
    there = {"time": time.time() + 3600, "host": "elsewhere", "pid": 1, "run": "runs/b/2", "running": {"x": 1.0}}
    store.write(f"{FOLDER}/b.json", json.dumps({**there, "beat": 1}).encode())
    seen: dict[str, tuple[object, float]] = {}
    assert set(live_records(store, seen)) == {"b.json"}
    now = time.monotonic()
    monkeypatch.setattr(live.time, "monotonic", lambda: now + live.SILENCE + 1)
    assert live_records(store, seen) == {}
    store.write(f"{FOLDER}/b.json", json.dumps({**there, "beat": 2}).encode())
    assert set(live_records(store, seen)) == {"b.json"}


def test_a_process_is_known_by_more_than_its_number() -> None:
    me = {**this_process(), "time": time.time()}
    assert not is_dead(me)
    assert is_dead({**me, "begun": "1"})  # the number was used again
    other = {**me, "boot": "another machine of that name, or before this one was started again", "begun": "1"}
    assert not is_dead(other)  # nobody here can tell; its record will stand still
    assert is_dead({**other, "time": time.time() - live.STALE - 1})
    assert is_dead({**me, "pid": None})
    assert is_dead({**me, "host": "elsewhere", "time": time.time() - live.STALE - 1})


@pytest.mark.parametrize("noise", [b"", b"{", b"[]", b'{"time": "x", "running": {}}', b'{"time": 1}', b"\xff\x00"])
def test_nonsense_among_the_signs_of_life_is_no_run(store: Store, noise: bytes) -> None:
    store.write(f"{FOLDER}/b.json", noise)
    with Live(store, "runs/a/1") as mine:
        assert mine.claim(["x"]) == set()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_store_that_takes_no_sign_is_told_once(store: Store) -> None:
    told: list[bool] = []
    with Live(store, "runs/a/1", on_store=lambda answers, why: told.append(answers)) as mine:
        os.chmod(Path(store.address) / FOLDER, 0o500)
        mine._beat()
        mine._beat()
        os.chmod(Path(store.address) / FOLDER, 0o700)
        mine._beat()
    assert told == [False, True]


def test_a_run_alone_writes_many_claims_together(store: Store, monkeypatch) -> None:
    with Live(store, "runs/a/1") as mine:
        mine.claim(["x"])
        beats = mine._beats
        for key in "abcdefgh":
            assert mine.claim([key]) == set()
        assert mine._beats <= beats + 1
        mine._beat()
        assert set(record_of(store, "runs/a/1")["running"]) == set("xabcdefgh")  # type: ignore[call-overload]
