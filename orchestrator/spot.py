"""Nodes that the cloud may take back: which node type to ask for, and a notice turned into a drained node.

Both are for cluster files. `score` is for the head's RAY_AUTOSCALER_UTILIZATION_SCORER. On a worker

    python -m orchestrator.spot aws|gcp

waits for the cloud's notice and tells Ray, which then places nothing on the node and counts what dies there as
preempted.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

MARGIN = 10
"""Seconds before the end at which Ray may give up on what is still running."""


def score(
    node_resources: Any, resources: Any, node_type: str, *, node_availability_summary: Any
) -> tuple[Any, ...] | None:
    """How well a node type suits what waits, as Ray's own autoscaler (v1) rates it, but last if it was refused lately.

    Ray remembers refusals for half an hour and makes no use of that: it would ask for spot nodes for ever.
    """
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer

    rated = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    if rated is None:
        return None
    record = node_availability_summary.node_availabilities.get(node_type)
    spares_gpus, *rest = rated
    return (spares_gpus, record is None or record.is_available, *rest)


def aws_notice(metadata: str) -> float | None:
    """Seconds until AWS takes this instance back; None if it does not say so."""
    ask = urllib.request.Request(
        f"{metadata}/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    )
    with urllib.request.urlopen(ask, timeout=5) as answer:
        token = answer.read().decode()
    ask = urllib.request.Request(
        f"{metadata}/latest/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token}
    )
    try:
        with urllib.request.urlopen(ask, timeout=5) as answer:
            notice = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    end = datetime.datetime.fromisoformat(notice["time"].replace("Z", "+00:00"))
    return (end - datetime.datetime.now(datetime.timezone.utc)).total_seconds()


def gcp_notice(metadata: str) -> float | None:
    """Seconds until Google takes this instance back; None if it does not say so."""
    ask = urllib.request.Request(
        f"{metadata}/computeMetadata/v1/instance/preempted", headers={"Metadata-Flavor": "Google"}
    )
    with urllib.request.urlopen(ask, timeout=5) as answer:
        return 30.0 if answer.read().strip() == b"TRUE" else None


CLOUDS: dict[str, tuple[Callable[[str], float | None], str]] = {
    "aws": (aws_notice, "http://169.254.169.254"),
    "gcp": (gcp_notice, "http://metadata.google.internal"),
}
"""How to look for a notice, and where."""


def wait_for_notice(notice: Callable[[str], float | None], metadata: str, every: float = 5.0) -> float:
    """Return the seconds left as soon as there is a notice; a metadata service that does not answer is asked again."""
    while True:
        try:
            left = notice(metadata)
        except (OSError, ValueError, KeyError) as error:
            print(f"{metadata}: {error}", flush=True)
        else:
            if left is not None:
                return left
        time.sleep(every)


def drain(seconds: float) -> bool:
    """Tell Ray that this node ends in so many seconds; whether Ray has accepted that."""
    command = ["ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "the cloud takes the node back"]
    command += ["--deadline-remaining-seconds", str(max(int(seconds) - MARGIN, 1))]
    done = subprocess.run(command, check=False)
    return done.returncode == 0


def main(cloud: str) -> int:
    """Wait for the notice, then drain; only one process a node does."""
    notice, metadata = CLOUDS[cloud]
    with open(os.path.join(tempfile.gettempdir(), "orchestrator-spot.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return 0
        left = wait_for_notice(notice, os.environ.get("METADATA_SERVICE", metadata))
        print(f"notice: the node ends in {left:.0f} s", flush=True)
        end = time.monotonic() + left
        while end > time.monotonic():
            if drain(end - time.monotonic()):
                return 0
            time.sleep(2)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
