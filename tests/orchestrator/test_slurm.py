"""`clusters/slurm.sh` as a job of a real Slurm: a controller and two nodes on this machine, for this test alone.

Debian's packages slurmctld, slurmd, slurm-client and munge; daemons of the tester's own, with their files in a
temporary folder and ports that were free. Only root may start them.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli import LAST

from orchestrator.store import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Slurm is for Linux"),
]

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged")

STUDY = '''\
"""Trainings of some seconds, which can be continued; each says on which node it is."""

import os
import time
from dataclasses import dataclass

from orchestrator import Sweep
from tasks.task import Task


def seen():
    with open(os.environ["NOTES"]) as notes:
        return {line.split()[0] for line in notes}


@dataclass(frozen=True)
class Fit(Task):
    lr: float = 0.1
    epochs: int = 20
    streams = ("init",)

    def run(self, ctx):
        rng = ctx.rng("init")
        before = ctx.resume() or {"epoch": 0}
        draws = [rng.random() for _ in range(self.epochs)]
        for epoch in range(self.epochs):
            if epoch >= before["epoch"]:
                with open(os.environ["NOTES"], "a") as notes:
                    notes.write(f"{os.environ['SLURMD_NODENAME']} {ctx.seeds['init']} {epoch}\\n")
                time.sleep(0.1)
            while epoch == 10 and len(seen()) < 2:  # the other node may be slow to join
                time.sleep(0.1)
            ctx.snapshot(lambda: {"epoch": epoch + 1})
            yield {"epoch": epoch}
        (ctx.dir / "w.txt").write_text(repr(draws))
        return {"val_accuracy": sum(draws), "diverged": False}


sweep = Sweep(train=Fit(), seeds=range(4), snapshot_seconds=0)
'''


class Slurm:
    """A Slurm of two nodes with a CPU each; what it runs has `env`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: sockets have at most 107 letters
        for name in ("state", "d1", "d2", "log"):
            (self.folder / name).mkdir()
        (self.folder / "munge").mkdir(mode=0o700)
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        controller, first, second = free_ports(3)
        self.env = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        socket_file = self.folder / "munge" / "socket"
        lines = {
            "ClusterName": "test",
            "SlurmctldHost": host,
            "SlurmctldPort": controller,
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            # A job that queues again may begin when the credentials of its first time are void.
            "AuthInfo": f"socket={socket_file},cred_expire=5",
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": self.folder / "%n",
            "SlurmctldPidFile": self.folder / "slurmctld.pid",
            "SlurmdPidFile": self.folder / "%n.pid",
            "SlurmctldLogFile": self.folder / "log" / "slurmctld",
            "SlurmdLogFile": self.folder / "log" / "%n",
            "ProctrackType": "proctrack/linuxproc",  # a step's processes end with it, whatever session they are in
            "TaskPlugin": "task/none",
            "SelectType": "select/cons_tres",
            "SwitchType": "switch/none",
            "MpiDefault": "none",
            "KillWait": 5,
            "ReturnToService": 2,
        }
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        for name, port in (("d1", first), ("d2", second)):
            text += f"NodeName={name} NodeHostname={host} Port={port} CPUs=1 RealMemory=100 State=UNKNOWN\n"
        text += "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        (self.folder / "slurm.conf").write_text(text)
        self._log = open(self.folder / "log" / "output", "wb")  # noqa: SIM115 - closed by `close`
        self._daemons = [
            self._start(
                "munged", "--force", "--foreground", f"--key-file={key}", f"--socket={socket_file}",
                *(f"--{what}-file={self.folder}/munge/{what}" for what in ("log", "pid", "seed")),
            )
        ]  # fmt: skip
        try:
            wait(socket_file.exists, self.said)
            self._daemons.append(self._start("slurmctld", "-D"))
            self._daemons += [self._start("slurmd", "-D", "-N", name) for name in ("d1", "d2")]
            wait(lambda: self.ask("sinfo", "--noheader", "--format=%D %t").strip() == "2 idle", self.said)
        except BaseException:
            self.close()
            raise

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=self.env, stdout=self._log, stderr=self._log, start_new_session=True)

    def ask(self, *command: str, **env: str) -> str:
        """What a command of Slurm's prints; empty if it fails."""
        done = subprocess.run(
            command, env={**self.env, **env}, capture_output=True, text=True, timeout=30, cwd=self.folder
        )
        return done.stdout if done.returncode == 0 else ""

    def said(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"{p.name}: {p.read_text(errors='replace')[-1500:]}" for p in (self.folder / "log").iterdir())

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, FAILED, …"""
        found = re.search(r"JobState=(\w+)", self.ask("scontrol", "show", "job", job))
        return found[1] if found else "unknown"

    def close(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.ask("scancel", "--user=root")
            wait(lambda: not self.ask("squeue", "--noheader"), self.said, seconds=20)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as open_ones:
        sockets = [open_ones.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def wait(happens: Callable[[], bool], said: Callable[[], str], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < until, said()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    why = "only root may start Slurm's daemons" if os.getuid() else f"not installed: {', '.join(missing)}"
    if os.getuid() or missing:
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    cluster = Slurm()
    try:
        yield cluster
    finally:
        cluster.close()


def test_sweep_on_an_allocation_goes_on_after_its_time_limit(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(STUDY)
    notes, output = tmp_path / "notes", tmp_path / "output.txt"
    job = slurm.ask(
        "sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", f"--chdir={tmp_path}", f"--output={output}",
        str(ROOT / "clusters/slurm.sh"), "study.py", "--store", str(tmp_path / "store"),
        VENV=sys.prefix, NOTES=str(notes), PYTHONPATH=str(ROOT),
    ).strip()  # fmt: skip
    assert job, slurm.said()

    def told() -> str:
        logs = [output, *sorted(tmp_path.glob("ray-*.txt"))]
        return "\n".join(p.read_text() for p in logs if p.exists()) + slurm.said()

    def begun() -> list[list[str]]:
        return [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []

    wait(lambda: {node for node, _, epoch in begun() if int(epoch) >= 3} >= {"d1", "d2"}, told)
    # What Slurm sends when the time limit is near, to the shell of the job alone (--signal=B:USR1@120).
    slurm.ask("scancel", "--signal=USR1", "--batch", job)
    wait(lambda: slurm.state(job) in ("PENDING", "COMPLETED", "FAILED"), told)
    assert slurm.state(job) == "PENDING", told()
    assert "the job queues again" in output.read_text()
    wait(lambda: slurm.state(job) in ("COMPLETED", "FAILED"), told)
    assert slurm.state(job) == "COMPLETED", told()

    ends = [LAST.match(line) for line in output.read_text().splitlines()]
    assert [m[0] for m in ends if m][-1].endswith("0 failed, 0 skipped")
    epochs = [(seed, epoch) for _, seed, epoch in begun()]
    assert len(epochs) == len(set(epochs)) == 4 * 20  # not one was computed twice
    store = Store(str(tmp_path / "store"))
    manifests = [store.manifest(*found) for found in store.find("")]
    assert sum(m["resumed"] for m in manifests) in (1, 2)  # a worker may have been between two
    assert not Path(f"/tmp/ray-{job}").exists()


def test_mistake_in_the_sweep_ends_the_job_with_its_sentence(slurm: Slurm, tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    job = slurm.ask(
        "sbatch", "--parsable", "--nodes=1", "--cpus-per-task=1", f"--chdir={tmp_path}", f"--output={output}",
        str(ROOT / "clusters/slurm.sh"), "nowhere.py", VENV=sys.prefix, PYTHONPATH=str(ROOT),
    ).strip()  # fmt: skip
    wait(lambda: slurm.state(job) in ("COMPLETED", "FAILED"), slurm.said)
    assert "ExitCode=2:0" in slurm.ask("scontrol", "show", "job", job)
    assert "nowhere.py" in output.read_text().splitlines()[-1]
