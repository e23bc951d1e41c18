"""A Ray cluster of several nodes on this machine, whose parts can be killed.

The cluster lives in a process of its own, so that a sweep is run on it like on any other: by
`python -m orchestrator sweep … --address` as a process that can be killed too. It shares nothing with
other Ray instances of the machine: temporary folder, ports and token are its own. All its processes
carry a mark in their environment, and at the end those that carry it, and no others, are made to end.

    with RayCluster(nodes=3) as cluster:
        subprocess.run([…, "--address", cluster.address], env=cluster.env)
        cluster.kill(cluster.nodes[0])

Linux only: processes are looked up in /proc.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MARK = "ORCHESTRATOR_TEST_CLUSTER"
"""Environment variable that marks the processes of a cluster."""

NOTICED = {
    # A node whose raylet is gone is looked for every half second and given up after six times: 3 s instead of 13.
    # One that hangs still has 10 s a time, so a busy machine loses no node by being slow.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "6",
    "RAY_health_check_timeout_ms": "10000",
}

AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
OBJECT_STORE = 80 * 1024 * 1024


class RayCluster:
    """A head without CPUs and worker nodes with some each.

    Args:
        nodes: how many worker nodes to begin with, or what each has, see `add`.
        cpus: of each that does not say.
        env: environment variables for the nodes, and so for what runs on them.

    Attributes:
        address: for `--address`.
        env: environment of a driver that may join.
    """

    def __init__(
        self,
        nodes: int | Sequence[Mapping[str, Any]] = 3,
        *,
        cpus: int = 1,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._cpus = cpus
        self._mark = secrets.token_hex(8)
        self._folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))  # short: sockets have at most 107 letters
        base = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_TMPDIR")}
        self.env = {**base, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        marked = {
            **self.env,
            **NOTICED,
            **(env or {}),
            MARK: self._mark,
            "RAY_TMPDIR": str(self._folder),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._nodes: dict[str, dict[str, Any]] = {}
        self._log = self._folder / "cluster.txt"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env=marked,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C at the test is not meant for the cluster
            )
        try:
            self.address: str = self._ask("head")["address"]
            for has in [{}] * nodes if isinstance(nodes, int) else nodes:
                self.add(**has)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def nodes(self) -> list[str]:
        """Names of the worker nodes that are there."""
        return list(self._nodes)

    def add(self, env: Mapping[str, str] | None = None, **has: Any) -> str:
        """A new node; returns its name once the cluster knows it.

        Args:
            env: environment variables for it alone.
            has: `cpus`, `gpus` (declared, whatever the machine has), `labels` and other `resources` of it.
        """
        node = self._ask("add", **{"cpus": self._cpus, "env": dict(env or {}), **has})
        self._nodes[node["name"]] = node
        return str(node["name"])

    def id(self, node: str) -> str:
        """What Ray calls the node."""
        return str(self._nodes[node]["id"])

    def raylet(self, node: str) -> int:
        """Process id of the node's raylet."""
        return int(self._nodes[node]["raylet"])

    def workers(self, node: str, *, busy: bool = False) -> list[int]:
        """Process ids of the node's workers: children of its raylet that run tasks or actors.

        Args:
            busy: only those that have an actor or a task.
        """
        found = []
        for pid in children(self.raylet(node)):
            title = command(pid)
            if title.startswith("ray::") and not title.startswith(AGENTS) and not (busy and "IDLE" in title):
                found.append(pid)  # what has no such title is still starting
        return found

    def node_of(self, pid: int) -> str | None:
        """The node that a worker process belongs to."""
        return next((n for n in self.nodes if pid in children(self.raylet(n))), None)

    def kill(self, node: str) -> None:
        """The power of a node fails: raylet, workers and agents are gone at once (SIGKILL)."""
        raylet = self.raylet(node)
        family = descendants(raylet)
        for pid in (raylet, *family):
            _signal(pid, signal.SIGKILL)
        self._gone(node, (raylet, *family))

    def terminate(self, node: str) -> None:
        """A node is shut down in order (SIGTERM to its raylet, which says goodbye and ends its workers)."""
        raylet = self.raylet(node)
        family = descendants(raylet)
        _signal(raylet, signal.SIGTERM)
        until = time.monotonic() + 20
        while is_alive(raylet) and time.monotonic() < until:
            time.sleep(0.05)
        for pid in (raylet, *family):
            _signal(pid, signal.SIGKILL)
        self._gone(node, (raylet, *family))

    def preempt(self, node: str, seconds: float) -> None:
        """A spot machine is taken away: announced to the cluster as a preemption, and gone `seconds` later."""
        self._ask("drain", name=node, seconds=seconds)
        time.sleep(seconds)
        self.kill(node)

    def close(self) -> None:
        """End all processes of the cluster and remove its folder.

        Raises:
            RuntimeError: a process is left.
        """
        with contextlib.suppress(OSError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.close()  # which ends the process that holds the cluster, and its nodes
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
            until = time.monotonic() + seconds
            while time.monotonic() < until and (left := self.processes()):
                for pid in left:
                    _signal(pid, number)
                time.sleep(0.1)
        self._process.wait(timeout=10)
        if self._process.stdout is not None:
            self._process.stdout.close()
        left = self.processes()
        shutil.rmtree(self._folder, ignore_errors=True)
        if left:
            raise RuntimeError(f"Processes of the cluster are left: {', '.join(f'{p} {command(p)}' for p in left)}.")

    def processes(self) -> list[int]:
        """All live processes of this cluster."""
        wanted = f"{MARK}={self._mark}".encode()
        found = []
        for pid in _pids():
            with contextlib.suppress(OSError):
                if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") and is_alive(pid):
                    found.append(pid)
        return found

    def _gone(self, node: str, pids: tuple[int, ...]) -> None:
        self._nodes.pop(node)
        self._ask("gone", name=node)  # so that its parent takes note of its end
        until = time.monotonic() + 10
        while any(is_alive(p) for p in pids):
            if time.monotonic() > until:
                raise RuntimeError(f"Processes of the node {node} do not die: {pids}.")
            time.sleep(0.02)

    def _ask(self, what: str, **about: Any) -> dict[str, Any]:
        """Have the cluster's own process do something."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **about}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"The Ray cluster has ended:\n{self._log.read_text()[-3000:]}")
        told: dict[str, Any] = json.loads(answer)
        if "error" in told:
            raise RuntimeError(f"The Ray cluster could not do {what!r}: {told['error']}")
        return told


# Processes, from /proc


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _stat(pid: int) -> tuple[str, int] | None:
    """(state, parent) of a process."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return words[0], int(words[1])


def is_alive(pid: int) -> bool:
    """There is such a process, and it is not just waiting for its parent to take note of its end."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def command(pid: int) -> str:
    """Its command line, or the title that it has given itself."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """Live processes whose parent it is."""
    found = []
    for other in _pids():
        stat = _stat(other)
        if stat is not None and stat[1] == pid and stat[0] not in "ZX":
            found.append(other)
    return found


def descendants(pid: int) -> list[int]:
    """Its children, their children, and so on."""
    found = children(pid)
    for child in list(found):
        found += descendants(child)
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# The process that holds the cluster: reads what to do, line by line, and ends with its input


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")  # Ray may print
    os.dup2(2, 1)
    import ray._raylet
    from ray.cluster_utils import Cluster
    from ray.core.generated import autoscaler_pb2

    cluster = Cluster(shutdown_at_exit=True)
    nodes: dict[str, Any] = {}
    numbers = itertools.count()

    def head() -> dict[str, Any]:
        cluster.add_node(num_cpus=0, include_dashboard=False, object_store_memory=OBJECT_STORE)
        return {"address": cluster.address}

    def add(
        cpus: int,
        env: dict[str, str],
        gpus: int = 0,
        labels: Mapping[str, str] | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        name = f"node-{next(numbers)}"
        has = {"num_cpus": cpus, "num_gpus": gpus, "labels": labels or {}, "resources": resources or {}}
        nodes[name] = node = cluster.add_node(**has, object_store_memory=OBJECT_STORE, env_vars=env)
        return {"name": name, "raylet": node.all_processes["raylet"][0].process.pid, "id": node.node_id}

    def gone(name: str) -> dict[str, Any]:
        cluster.remove_node(nodes.pop(name), allow_graceful=False)
        return {}

    def drain(name: str, seconds: float) -> dict[str, Any]:
        accepted, why = ray._raylet.GcsClient(address=cluster.address).drain_node(
            nodes[name].node_id,
            autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION,
            "taken away by a test",
            int(1000 * (time.time() + seconds)),
        )
        return {} if accepted else {"error": why}

    verbs = {"head": head, "add": add, "gone": gone, "drain": drain}
    try:
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                told = verbs[asked.pop("do")](**asked)
            except Exception as error:
                told = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(told), file=answers, flush=True)
    finally:
        with contextlib.suppress(Exception):
            cluster.shutdown()


if __name__ == "__main__":
    _serve()
