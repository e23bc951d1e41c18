"""A tracker's own process: takes messages from standard input, a JSON object a line, and logs what they say.

The first names the tracker and the sweep. Then come, in any number and by the key of the training:

- `trial`: name, params, tags: a trial that is about to be spoken of
- `epoch`: epoch, values
- `results`: values, epochs (of the training, which says how many): of the training, or of a probe
- `end`: status
- `whole`: results, status, epochs, artifact, store, here (whether it was at work in this run): all that there is of
  a trial, to fill in what is missing
- `close`: nothing more will come; status, of the trials that have none yet

It answers with `say` (a sentence for the user) and at the end with `done` (how many trials it has told of).
Standard output is for these answers alone: what the trackers' packages print goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..store import Store, without_passwords
from .clients import Client, Seen, Trial, allowed, make_client

PAUSE = 20.0
"""Seconds for which a tracker is left alone that has not taken something."""

ATTEMPTS = 2
"""How often to try to reach one before it is left alone: a slow server may have done what it did not answer."""

LINGER = 60.0
"""Seconds this process may go on when the run that has started it is gone."""

LARGEST = 1e300
"""Numbers beyond this size are not told: databases refuse them."""

HISTORY = "history.npz"
"""The file of a training's artifact with a row for every epoch."""


class Book:
    """What is to be told to one tracker, and what was.

    Nothing that a tracker does raises from here: it is said once, and what is missing is told at the end.

    Args:
        make: makes the client; may raise whatever its package raises.
        say: takes a sentence for the user.
    """

    def __init__(self, name: str, make: Callable[[], Client], say: Callable[[str], None]) -> None:
        self._name = name
        self._make = make
        self._say = say
        self._client: Client | None = None
        self._seen: dict[str, Seen] = {}
        self._trials: dict[str, Trial] = {}
        self._told: dict[str, Mapping[str, Any]] = {}
        self._open: dict[str, None] = {}  # in the order of being opened
        self._away_until = 0.0
        self._filling = False
        self._complained: set[str] = set()
        self.touched: set[str] = set()
        """Keys of the trials of which something was told."""
        self.there: set[str] = set()
        """Keys of the trials that the tracker holds, as far as is known."""
        self.missed = 0
        """Messages that were not taken since the last ones came, which make up for those before."""

    def take(self, message: Mapping[str, Any]) -> None:
        """Tell the tracker, if it is there."""
        key = message.get("key", "")
        if message["op"] == "trial":
            self._told[key] = message
            return
        if message["op"] == "whole" and not self._filling:
            self._filling, self._away_until, self.missed = True, 0.0, 0
        if time.monotonic() < self._away_until:
            self.missed += 1
            return
        try:
            client = self._reached()
            if client is not None:
                getattr(self, f"_{message['op']}")(client, message)
        except Exception as error:  # whatever the package may raise
            self.missed += 1
            self._away_until = time.monotonic() + PAUSE
            self._complain(f"{self._name} did not take something ({_sentence(error)}): the run goes on.")

    def _reached(self) -> Client | None:
        for attempt in range(ATTEMPTS if self._client is None else 0):
            try:
                client = self._make()
                client.setup()
                self._seen = client.known()
                self.there = set(self._seen)
                self._client = client
                break
            except Exception as error:
                if attempt + 1 == ATTEMPTS:
                    self.missed += 1
                    self._away_until = time.monotonic() + PAUSE
                    told = f"{self._name} cannot be told of this run ({_sentence(error)})"
                    self._complain(f"{told}: the run goes on, and it is tried again.")
        return self._client

    def _complain(self, sentence: str) -> None:
        kind = sentence.partition("(")[0]
        if kind not in self._complained:
            self._complained.add(kind)
            self._say(without_passwords(sentence))

    # What the messages say

    def _reach(self, client: Client, message: Mapping[str, Any]) -> None:
        """Nothing: it has been reached."""

    def _epoch(self, client: Client, message: Mapping[str, Any]) -> None:
        key, epoch = message["key"], int(message["epoch"])
        values = _numbers(message["values"])
        if values and epoch not in self._seen.get(key, Seen()).epochs:
            trial, seen = self._opened(client, key)
            client.epoch(trial, epoch, values)
            seen.epochs.add(epoch)
            client.note(trial, seen)

    def _results(self, client: Client, message: Mapping[str, Any]) -> None:
        key = message["key"]
        known = self._seen.get(key, Seen()).names
        values = {name: value for name, value in _numbers(message["values"]).items() if name not in known}
        if values:
            trial, seen = self._opened(client, key)
            client.results(trial, max(1, message.get("epochs", 0), *seen.epochs), values)
            seen.names |= set(values)
            client.note(trial, seen)

    def _end(self, client: Client, message: Mapping[str, Any]) -> None:
        key = message["key"]
        if key not in self._open and self._seen.get(key, Seen()).status == message["status"]:
            return
        trial, seen = self._opened(client, key)
        seen.status = message["status"]
        client.note(trial, seen)
        self._shut(client, key)

    def _whole(self, client: Client, message: Mapping[str, Any]) -> None:
        key = message["key"]
        if key not in self._seen and not message["here"] and (message["artifact"] is None or not client.answers):
            return  # one that it cannot be asked for may be there from an earlier run
        if message["artifact"] is not None and message["epochs"] > len(self._seen.get(key, Seen()).epochs):
            for epoch, values in _history(message["store"], *message["artifact"]):
                self._epoch(client, {"key": key, "epoch": epoch, "values": values})
        self._results(client, {**message, "values": message["results"]})
        self._end(client, message)

    def _close(self, client: Client, message: Mapping[str, Any]) -> None:
        for key in list(self._open):
            seen = self._seen[key]
            seen.status = seen.status or message.get("status")
            client.note(self._trials[key], seen)
            self._shut(client, key)
        client.close()

    def _opened(self, client: Client, key: str) -> tuple[Trial, Seen]:
        if key not in self._open:
            if len(self._open) >= client.most_open:
                self._shut(client, next(iter(self._open)))
            if key not in self._trials:
                self._trials[key] = client.trial(self._told[key])
            client.start(self._trials[key])
            self._open[key] = None
            self._seen.setdefault(key, Seen())
            self.touched.add(key)
            self.there.add(key)
        return self._trials[key], self._seen[key]

    def _shut(self, client: Client, key: str) -> None:
        self._open.pop(key)
        client.end(self._trials[key], self._seen[key])


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """What a tracker can draw, by a name that it takes."""
    found = {allowed(name): value for name, value in values.items() if isinstance(value, (bool, int, float))}
    return {name: value for name, value in found.items() if not abs(value) >= LARGEST}  # nan is told


def _history(store: str, task: str, key: str) -> list[tuple[int, dict[str, float]]]:
    """What was measured in each epoch of a training that the store holds."""
    import numpy as np

    with contextlib.ExitStack() as hold:
        try:
            path = Store(store).fetch_file(task, key, HISTORY, hold)
        except Exception:  # a training of another kind has none, and a tracker is not worth more than that
            return []
        with np.load(path) as arrays:
            rows = {n.removeprefix("running_"): arrays[n].tolist() for n in arrays.files if arrays[n].ndim == 1}
    epochs = rows.get("epoch", [])
    return [(int(e), {n: v[i] for n, v in rows.items() if len(v) == len(epochs)}) for i, e in enumerate(epochs)]


def _sentence(error: BaseException) -> str:
    """Class and first line of an exception; of one about a server that is not there just that."""
    text = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    if isinstance(error, ConnectionError) or "Max retries exceeded" in text:
        return "the server does not answer"
    text = text if len(text) < 200 else text[:200] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def main() -> None:
    """Log until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    with contextlib.suppress(OSError):
        os.nice(10)

    def answer(**about: Any) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            print(json.dumps(about), file=answers, flush=True)

    first = json.loads(sys.stdin.readline())
    book = Book(
        first["name"],
        lambda: make_client(first["kind"], first["where"], first["sweep"]),
        lambda sentence: answer(say=sentence),
    )
    book.take({"op": "reach"})
    closed = False
    for line in sys.stdin:
        message = json.loads(line)
        book.take(message)
        closed = closed or message["op"] == "close"
    if not closed:  # the run has died
        end = threading.Timer(LINGER, os._exit, [1])
        end.daemon = True
        end.start()
        book.take({"op": "close", "status": "interrupted"})
    answer(done=len(book.touched), there=len(book.there), missed=book.missed)
    os._exit(0)  # whatever threads the trackers' packages have left, and would wait for


if __name__ == "__main__":
    main()
