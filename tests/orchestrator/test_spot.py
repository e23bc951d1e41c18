"""A notice that the cloud takes a node back becomes a drained node: a real Ray node, the cloud's answers from here."""

from __future__ import annotations

import datetime
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cluster import RayCluster

from orchestrator.spot import aws_notice, gcp_notice, wait_for_notice


class Metadata(http.server.BaseHTTPRequestHandler):
    """Both clouds' metadata services, as strict as they are: AWS wants a session token, Google its header."""

    seconds: float | None = None

    def do_PUT(self) -> None:
        fine = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer(200 if fine else 400, "token")

    def do_GET(self) -> None:
        if self.path == "/latest/meta-data/spot/instance-action":
            if self.headers["X-aws-ec2-metadata-token"] != "token":
                self._answer(401, "")
            elif self.seconds is None:
                self._answer(404, "")
            else:
                now = datetime.datetime.now(datetime.timezone.utc)
                end = now + datetime.timedelta(seconds=self.seconds)
                self._answer(200, json.dumps({"action": "terminate", "time": end.strftime("%Y-%m-%dT%H:%M:%SZ")}))
        elif self.path == "/computeMetadata/v1/instance/preempted" and self.headers["Metadata-Flavor"] == "Google":
            self._answer(200, "FALSE" if self.seconds is None else "TRUE")
        else:
            self._answer(403, "")

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[tuple[str, type[Metadata]]]:
    handler = type("Handler", (Metadata,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("notice", "least", "most"), [(aws_notice, 100, 120), (gcp_notice, 30, 30)])
def test_notices(service: tuple[str, type[Metadata]], notice: Any, least: float, most: float) -> None:
    url, handler = service
    assert notice(url) is None
    handler.seconds = 120
    assert least <= notice(url) <= most


def test_a_service_that_does_not_answer_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter([OSError("no route"), None, 42.0])

    def notice(_: str) -> float | None:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert wait_for_notice(notice, "http://metadata", every=0.0) == 42.0
    assert "no route" in capsys.readouterr().out


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """Without nodes; each test adds one, which is gone or to be left alone afterwards."""
    with RayCluster(nodes=0) as cluster:
        yield cluster


@pytest.mark.slow
def test_the_node_is_drained_as_preempted(
    cluster: RayCluster, service: tuple[str, type[Metadata]], tmp_path: Any
) -> None:
    url, handler = service
    cluster.add()
    env = {**cluster.env, "RAY_ADDRESS": cluster.address, "METADATA_SERVICE": url, "TMPDIR": str(tmp_path)}
    env["PATH"] = f"{os.path.dirname(sys.executable)}:{env['PATH']}"
    watcher = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.spot", "aws"], env=env, stdout=subprocess.PIPE, text=True
    )
    second = [sys.executable, "-m", "orchestrator.spot", "aws"]
    try:
        while not (tmp_path / "orchestrator-spot.lock").exists():
            time.sleep(0.05)
        assert subprocess.run(second, env=env, timeout=30, check=False).returncode == 0  # one a node is enough
        assert watcher.poll() is None
        handler.seconds = 120
        out, _ = watcher.communicate(timeout=60)
        assert watcher.returncode == 0 and "the node ends in" in out
    finally:
        watcher.kill()
        watcher.wait()
    look = "import ray; ray.init(logging_level='ERROR'); "
    look += "print([node['DeathReason'] for node in ray.nodes() if not node['Alive']])"
    until = time.monotonic() + 60
    seen = ""
    while "[3]" not in seen and time.monotonic() < until:  # AUTOSCALER_DRAIN_PREEMPTED, of gcs.proto
        seen = subprocess.run([sys.executable, "-c", look], env=env, capture_output=True, text=True, check=False).stdout
    assert "[3]" in seen


DRAIN = """
import subprocess, time, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from orchestrator.cluster import node_offers

@ray.remote(num_cpus=1)
class Busy:
    def node(self):
        return ray.get_runtime_context().get_node_id()

ray.init(logging_level="ERROR")
head = ray.get_runtime_context().get_node_id()
(other,) = {n.id for n in node_offers()} - {head}
busy = Busy.options(scheduling_strategy=NodeAffinitySchedulingStrategy(other, soft=False)).remote()
assert ray.get(busy.node.remote()) == other
words = ["--node-id", other, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "x"]
subprocess.run(["ray", "drain-node", *words, "--deadline-remaining-seconds", "100"], check=True)
until = time.monotonic() + 30
while len(node_offers()) > 1 and time.monotonic() < until:
    time.sleep(0.1)
assert [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeID"] != head] == [other], "still there"
assert ray.get(busy.node.remote()) == other
print([n.id == head for n in node_offers()])
"""


@pytest.mark.slow
def test_a_node_that_is_about_to_go_is_given_nothing_more(cluster: RayCluster) -> None:
    """Its workers are warm, and would be given one task after the other until its end."""
    cluster.add()
    env = {**cluster.env, "RAY_ADDRESS": cluster.address}
    env["PATH"] = f"{os.path.dirname(sys.executable)}:{env['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", DRAIN], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("[True]\n")
