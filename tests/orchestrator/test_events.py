"""The record of a run, as its readers need it: what is no event, or lacks what they rely on, is passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.status import print_status
from orchestrator.events import Events, read_events
from orchestrator.store import Store

RUN = "runs/toy/r"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def test_events_are_recorded_and_heard(store: Store) -> None:
    heard: list[dict[str, Any]] = []
    events = Events(store, RUN)
    events.listeners.append(heard.append)
    events.emit("submitted", key="k", label="Fit", bundle="b")
    assert list(read_events(store, RUN)) == heard
    assert heard[0]["time"] > 0


WRONG = [
    {"event": "committed"},
    {"event": "committed", "time": "now", "key": "k", "label": "x", "seconds": 1, "worker": "w", "status": "done"},
    {"event": "committed", "time": 1.0, "key": 3, "label": "x", "seconds": 1, "worker": "w", "status": "done"},
    {"event": "committed", "time": 1.0, "key": "k", "label": "x", "seconds": "1", "worker": "w", "status": "done"},
    {"event": "failed", "time": 1.0, "key": "k"},
    {"event": "run_started", "time": 1.0, "tasks": None, "stored": 0, "slots": 1},
    {"event": "submitted", "time": 1.0, "key": ["k"], "label": "x"},
    {"event": 7, "time": 1.0},
    {"event": "run_finished", "time": float("nan")},
    {"event": "run_finished", "time": True},
    {"time": 1.0},
]


@pytest.mark.parametrize("wrong", WRONG, ids=json.dumps)
def test_what_is_no_event_is_passed_over(
    wrong: dict[str, Any], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    events = Events(store, RUN)
    events.emit("run_started", tasks=2, stored=0, slots=1, command=[])
    store.append(f"{RUN}/events.jsonl", json.dumps(wrong).encode() + b"\n")
    events.emit("committed", key="k", label="Fit", seconds=1.0, worker="w", status="done")
    assert [e["event"] for e in read_events(store, RUN)] == ["run_started", "committed"]
    print_status(store, RUN)
    assert "1 of 2 tasks" in capsys.readouterr().out
