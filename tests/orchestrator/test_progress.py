"""What is shown of a run while it goes on: on terminals of every size, in a pipe, and in a real pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from s3 import S3Server
from states import STATES, Told, failures, hundred, many, middle

import orchestrator.progress
from orchestrator.__main__ import main
from orchestrator.events import Events
from orchestrator.identity import this_process
from orchestrator.progress import NEWS_A_MINUTE, Progress
from orchestrator.screen import cut_alike, middle_cut, screen
from orchestrator.standing import Standing
from orchestrator.standing_words import summary
from orchestrator.store import Store
from orchestrator.telling import progress_in_words

ROOT = Path(__file__).parents[2]
RUN = "runs/study/2026-01-01T00-00-00.000000"


def shown(run: Told, width: int, height: int, **about: Any) -> list[str]:
    """The lines of a screen, as they are on a terminal without colours."""
    console = Console(file=io.StringIO(), width=width + 10, height=height)
    with console.capture() as text:
        console.print(screen(run.standing, run.now, width, height, **about))
    return [line.rstrip() for line in text.get().splitlines()]


SIZES = [(20, 4), (40, 12), (80, 23), (120, 39), (200, 49)]


@pytest.mark.parametrize("name", STATES)
def test_a_screen_is_never_larger_than_the_terminal(name: str) -> None:
    run = STATES[name]()
    for width, height in SIZES:
        lines = shown(run, width, height, title="sam_rho", note="no sign of life for a while")
        assert len(lines) <= height, (width, height)
        assert max(map(len, lines)) <= width, (width, height)
        assert "\x1b" not in "".join(lines)


WANTED = {
    "starting": ["starting"],
    "first": ["sam_rho  running on 4 slots  7 s", "end not known before the first CIFAR10", "gpu-0:3300  CIFAR10"],
    "middle": ["end not known before the first Interpolation is done", "epoch 3 of 12", "Train · rho=0.05 · seed 4"],
    "known": ["left, until about ", "best so far (exploratory): ", "val_accuracy 0.9", "2 of 5 seeds: two tell little"],
    "failures": ["4 failed, each with a log: python -m orchestrator logs KEY", "ValueError: the l", "(12 skipped)"],
    "memory": ["out of memory: once, run again with a larger slot", "epoch 1 of 12"],
    "lost": ["left out: gpu-7 takes no part: it has torch 2.4.0", "+3 more"],
    "away": ["waiting for the store for 42 s: The store s3://studies/sam does not answer"],
    "search": ["OptunaSearch has proposed 4 of 40 settings", "25+", "lr=0.055, weight_decay=0.0001, rho=0.02"],
    "stored": ["not run, stored already: 46 tasks", "5 of 5 seeds"],
    "interrupting": ["ending on 4 slots", "ending, what is running is saved: Interrupted."],
    "interrupted": ["interrupted", "Run the same command again to go on."],
    "halted": ["A disk of gpu-3 is full: make space and run the same command again."],
    "finished": ["finished"],
    "hundred": ["running on 100 slots", "more: ", "8 failed", "rho=0.02"],
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_a_small_terminal_shows_what_matters(name: str) -> None:
    text = "\n".join(shown(STATES[name](), 80, 23, title="sam_rho"))
    for words in WANTED[name]:
        assert words in text, text


def test_counts_stand_beside_each_kind() -> None:
    rows = {line.split("  ")[0]: re.findall(r"\d+", line.rpartition("━")[2]) for line in shown(failures(), 120, 39)}
    assert rows["all tasks"] == ["33", "201", "4", "4", "12"]
    assert rows["Train"] == ["12", "25", "3", "1"]
    assert rows["AutoNEB"] == ["1", "50", "3", "5"]


def test_of_a_hundred_workers_those_that_fit_are_shown_and_the_rest_is_counted() -> None:
    for width, height in SIZES[2:]:
        lines = shown(hundred(), width, height)
        named = [name for line in lines for name in re.findall(r"ip-10-0-3-(\d+):", line)]
        assert named == sorted(named, key=int) or width >= 150
        (fold,) = [line for line in lines if re.search(r"\+\d+ more: \d+ Train, \d+ Lanczos$", line)]
        assert len(named) + int(fold.split()[0]) == 100
    assert len(named) >= 20
    assert len(shown(many(1000, 3), 80, 23)) < 20


def test_a_screen_costs_the_same_however_many_tasks_there_are() -> None:
    """Counted, not timed: Python lines run for a screen, with 400 and with 8,000 tasks."""

    def steps(run: Told) -> int:
        counted = 0

        def trace(frame: Any, event: str, arg: Any) -> Any:
            nonlocal counted
            counted += 1
            return trace

        screen(run.standing, run.now, 120, 39)
        sys.settrace(trace)
        try:
            screen(run.standing, run.now, 120, 39)
        finally:
            sys.settrace(None)
        return counted

    small, large = steps(many(400, 20)), steps(many(8000, 20))
    assert large < 1.3 * small, (small, large)


def test_what_is_cut_keeps_what_tells_it_from_its_neighbours() -> None:
    ends = [f"rho={rho} · seed {seed}" for rho in (0.1, 0.2) for seed in (0, 1)]
    labels = [f"Train · depth=3, width=64, dataset=CIFAR10, {end}" for end in ends]
    assert cut_alike(labels, 80) == labels
    assert cut_alike(labels, 40)[1] == "Train · … rho=0.1 · seed 1"
    assert cut_alike(labels, 50)[1] == "Train · … dataset=CIFAR10, rho=0.1 · seed 1"
    for width in range(1, 70):
        assert all(len(text) <= width for text in cut_alike(labels, width))
    assert len(set(cut_alike(labels, 24))) == 4
    assert middle_cut("abcdefghij", 5) == "ab…ij"
    assert middle_cut("日本語日本語", 5) == "日…語"
    assert cut_alike([], 5) == []


def test_how_far_a_task_is_is_told_where_its_fields_say_of_how_much() -> None:
    class Task:
        epochs, cycles, name = 12, 3, "x"

    assert progress_in_words(Task(), {"loss": 0.5, "epoch": 3}) == "epoch 3 of 12"  # type: ignore[arg-type]
    assert progress_in_words(Task(), {"cycle": 1, "epoch": 3}) == "cycle 1 of 3"  # type: ignore[arg-type]
    assert progress_in_words(Task(), {"epoch": 3.5, "step": 2, "nam": 1}) == ""  # type: ignore[arg-type]


# Where there is no terminal


def test_a_pipe_gets_the_beginning_the_news_and_now_and_then_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestrator.progress, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(orchestrator.progress, "LINE_SECONDS", 0.05)
    out = io.StringIO()
    with Progress(Console(file=out, width=80), title="sam_rho") as progress:
        for event in failures().events:
            progress(event)
        until = time.monotonic() + 20
        while "tasks, 4 failed" not in out.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
        told = out.getvalue().count("201 tasks")
        time.sleep(0.3)  # many times a line's time, in which nothing happens
        assert out.getvalue().count("201 tasks") == told
        for number in range(3 * NEWS_A_MINUTE):
            progress({"time": 1.0, "event": "lost", "key": str(number), "label": f"Fit · {number}", "why": "gone"})
    lines = out.getvalue().splitlines()
    assert lines[0] == "201 tasks to run on 4 slots"
    assert [line for line in lines if line.startswith("failed: Train · rho=0.1 · seed 2: ValueError")]
    assert sum(line.startswith("lost: Fit") for line in lines) == NEWS_A_MINUTE
    assert lines[-1] == f"… and {2 * NEWS_A_MINUTE} more lost"
    (line,) = [line for line in lines if "49/201 tasks, 4 failed, 12 skipped" in line]
    assert re.match(r"\d\d:\d\d:\d\d  ", line)
    assert "; best so far (exploratory): rho=0.05: val_accuracy " in line
    assert "\x1b" not in out.getvalue() and "\r" not in out.getvalue()


def test_nothing_is_told_of_a_run_that_waits_but_for_a_line_in_a_long_while(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    progress = Progress(Console(file=out, width=200))
    progress.catch_up(middle().events)
    for _ in range(3):
        progress.tell()
    assert len(out.getvalue().splitlines()) == 1
    monkeypatch.setattr(orchestrator.progress, "QUIET_SECONDS", 0.0)
    progress.tell()
    assert len(out.getvalue().splitlines()) == 2


# From the store


@pytest.fixture(params=["folder", "bucket"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    if request.param == "folder":
        return str(tmp_path / "artifacts")
    server: S3Server = request.getfixturevalue("s3")
    return server.uri("watching")


def sign(store: Store, **about: Any) -> None:
    record = {**this_process(), "time": time.time(), "run": RUN, "beat": time.time(), "running": {}, **about}
    store.write(f"live/{RUN.replace('/', '.')}.json", json.dumps(record).encode())


def test_watching_follows_a_run_to_its_end_and_ends_like_it(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(uri)
    store.check_writable()
    events = Events(store, RUN)
    events._journal._seconds = 0.1
    told = [{k: v for k, v in e.items() if k != "time"} for e in failures().events if e["event"] != "at_work"]
    half = len(told) // 2
    for event in told[:half]:
        events.emit(**event)
    events.flush()
    sign(store)

    def go_on() -> None:
        time.sleep(0.5)
        for event in told[half:]:
            events.emit(**event)
            time.sleep(0.002)
        events.emit("run_finished", seconds=100.0, startup=1.0)
        events.close()

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        code = main(["status", "--watch", "0.2", "--store", uri])
    finally:
        writer.join()
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert code == 1
    assert re.match(r"\d\d:\d\d:\d\d  .* \d+/201 tasks", lines[0])
    assert Counter(line.split(":")[0] for line in lines if line.startswith("failed: "))["failed"] == 4
    assert f"{RUN}: finished" in lines
    assert "  Train: 12 of 25 done, 1 failed" in lines
    assert any(line.startswith("  best so far (exploratory): rho=0.05: val_accuracy ") for line in lines)
    assert "\x1b" not in out
    assert main(["status", "--store", uri]) == 0
    assert capsys.readouterr().out.splitlines() == lines[lines.index(f"{RUN}: finished") :]


ENDS = {"run_finished": 0, "run_interrupted": 130, "run_halted": 1, "": 1}


@pytest.mark.parametrize("end", ENDS)
def test_watching_a_run_that_has_ended_ends_at_once(
    end: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(tmp_path))
    events = Events(store, RUN)
    for event in middle().events[:20]:
        events.emit(**{k: v for k, v in event.items() if k != "time"})
    if end:
        events.emit(end, seconds=3.0, startup=1.0)
    else:
        sign(store, pid=2**22 + 1, begun="0")  # its process is gone
    assert main(["status", "study", "--watch", "--store", str(tmp_path)]) == ENDS[end]
    words = {"run_finished": "finished", "run_interrupted": "to go on", "run_halted": "to go on", "": "(killed?)"}
    assert words[end] in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "words"), [("soon", "is no number of seconds"), ("0", "at least 0.2 seconds")])
def test_watching_as_often_as_makes_no_sense_is_refused(
    seconds: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--watch", seconds, "--store", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert words in err and len(err.splitlines()) == 1


# A real run, seen in a real terminal and from a second process

SWEEP = """\
import time
from dataclasses import dataclass
from orchestrator import Sweep
from tasks.task import Probe, Task


@dataclass(frozen=True)
class Fit(Task):
    lr: float = 0.1
    epochs: int = 16
    streams = ("init",)
    metrics = {"val_accuracy": "validation accuracy"}

    def run(self, ctx):
        for epoch in range(self.epochs):
            time.sleep(0.5)
            yield {"epoch": epoch + 1}
        return {"val_accuracy": self.lr + ctx.rng("init").random() / 100}


@dataclass(frozen=True)
class Look(Probe):
    def run(self, ctx, trained):
        if trained.seeds["init"] == 1 and trained.task.lr == 0.2:
            raise RuntimeError("no such thing")
        return {"last": 1.0}


sweep = Sweep(train=Fit(lr={"grid_search": [0.1, 0.2]}), seeds=range(2), probes=[Look()])
"""


WANTED_OF_ALL = [
    "all tasks", "at work", "Fit · lr=0.1 · seed", "best so far (exploratory): lr=0.2", "of 2 seeds",
    "1 failed, each with a log: python -m orchestrator logs KEY",
]  # fmt: skip


class Terminal:
    """A command in a pseudo-terminal."""

    def __init__(self, *argv: str, folder: Path, width: int = 80, height: int = 24) -> None:
        self.text = b""
        self.pid, self._file = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell ignores it for what it starts in the background
            os.chdir(folder)
            os.environ.update({"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"})
            for name in ("COLUMNS", "LINES", "NO_COLOR", "CI"):
                os.environ.pop(name, None)
            os.execv(sys.executable, [sys.executable, "-m", "orchestrator", *argv])
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        """A terminal that is not read holds up whoever writes to it."""
        with contextlib.suppress(OSError):  # how the end of a pseudo-terminal shows
            while data := os.read(self._file, 65536):
                self.text += data

    def read(self, until: str = "", seconds: float = 180.0) -> str:
        """Its output so far, once it holds these words, or has ended."""
        end = time.monotonic() + seconds
        while self._listener.is_alive() and not (until and until in self.plain()):
            assert time.monotonic() < end, self.plain()[-3000:]
            self._listener.join(0.2)
        return self.plain()

    def plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text.decode(errors="replace"))

    def code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.slow
def test_a_run_is_seen_in_its_terminal_and_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(SWEEP)
    sweep = Terminal("sweep", "study.py", folder=tmp_path)
    sweep.read(until="study  running on")
    command = [sys.executable, "-m", "orchestrator", "status", "--watch", "0.5"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    other = Terminal("status", "study", "--watch", folder=tmp_path, width=120, height=40)
    impatient = Terminal("status", "--watch", folder=tmp_path)
    impatient.read(until="at work")
    os.kill(impatient.pid, signal.SIGINT)
    assert "No longer watching; the run goes on." in impatient.read() and impatient.code() == 130

    own, seen = sweep.read(), other.read()
    out, err = pipe.communicate(timeout=60)
    assert (sweep.code(), other.code(), pipe.returncode) == (1, 1, 1), (own[-2000:], seen[-2000:], out, err)
    for text in (own, seen):
        for words in WANTED_OF_ALL:
            assert words in text, (words, text[-3000:])
        # Host and process of a worker, and how far it is.
        assert re.search(r"\S+:\d+  Fit · lr=0\.[12] · seed \d +epoch \d+ of 16", text)
    assert "8 tasks: 7 ran, 0 stored, 1 failed, 0 skipped" in own
    assert own.rstrip().endswith("0 skipped")
    assert max(len(line) for line in sweep.plain().splitlines() if "seed" in line) <= 80
    assert ": finished" in seen and ": finished" in out and "\x1b" not in out
    assert "  Look: 3 of 4 done, 1 failed" in out.splitlines()
    assert "Traceback" not in own + seen + out + err


def test_the_summary_of_nothing_is_that_it_starts() -> None:
    assert summary(Standing(), 0.0) == "starting"
