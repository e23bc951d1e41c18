"""What crosses the network: a sweep on three Ray nodes with a cache each, and a real S3 server behind a meter.

    python benchmarks/locality.py
    python benchmarks/locality.py --before 0a71b29     # also with the code of an earlier commit

Prints the bytes of artifacts (manifests left out) that the nodes fetched, with the preference for warm workers that
hold a task's inputs, and without; and how much crosses at least: the dataset to each node but the one that made it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/orchestrator"))

from cluster import RayCluster  # noqa: E402
from metered import Meter, metered  # noqa: E402
from s3 import S3Server, running  # noqa: E402

BLIND = """
from orchestrator import locality
locality.Locality.preference = lambda self: None
locality.Locality.nearest = lambda self, bundle, tasks, nodes: 0
"""
COMMAND = """
import sys
from orchestrator.__main__ import main
sys.exit(main())
"""


def measure(tree: Path, how: str, server: S3Server, meter: Meter, options: argparse.Namespace, n: int) -> list[float]:
    """Seconds of the command, and megabytes fetched of the dataset, of checkpoints, of both."""
    here = {**server.env, "PYTHONPATH": str(tree)}
    meter.clear()
    top = tempfile.mkdtemp(prefix="locality-")
    try:
        with RayCluster(0, cpus=options.cpus, env=here) as cluster:
            for i in range(options.nodes):
                disk = Path(top) / str(i)
                disk.mkdir()
                cluster.add({"TMPDIR": str(disk), "ORCHESTRATOR_CACHE": str(disk)})
            driver = Path(top) / "driver"
            driver.mkdir()
            code = (BLIND if how == "blind" else "") + COMMAND
            command = [sys.executable, "-c", code, "sweep", str(ROOT / "benchmarks/locality_sweep.py")]
            command += ["--address", cluster.address, "--store", meter.uri(f"{how}-{n}")]
            command += ["--smoke"] if options.smoke else []
            began = time.perf_counter()
            done = subprocess.run(
                command, cwd=driver, env={**cluster.env, **here, "TMPDIR": str(driver)}, capture_output=True, text=True
            )
            seconds = time.perf_counter() - began
    finally:
        shutil.rmtree(top)
    if done.returncode:
        raise SystemExit(f"{how}: the sweep ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    data, weights = (meter.fetched(name, meter.sent) / 1e6 for name in ("examples.bin", "weights.safetensors"))
    return [seconds, data, weights, data + weights]


@contextlib.contextmanager
def trees(before: str | None) -> Iterator[dict[str, Path]]:
    """The code of each way, in the order in which they take turns."""
    ways = {"preferring": ROOT, "blind": ROOT}
    if before is None:
        yield ways
        return
    with tempfile.TemporaryDirectory(prefix="before-") as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(tree), before], cwd=ROOT, check=True)
        try:
            yield {**ways, "before": tree}
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="COMMIT", help="compare with the code of this commit too")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=2, help="of each node")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="a small sweep")
    options = parser.parse_args()
    for name in ("RAY_ADDRESS", "ORCHESTRATOR_STORE"):
        os.environ.pop(name, None)
    with (
        tempfile.TemporaryDirectory(prefix="s3-") as folder,
        running(Path(folder)) as server,
        metered(server.endpoint) as meter,
        trees(options.before) as ways,
    ):
        rows: dict[str, list[list[float]]] = {way: [] for way in ways}
        for n in range(options.repetitions):
            for way, tree in ways.items():
                rows[way].append(measure(tree, way, server, meter, options, n))
    print(f"{'':12}{'seconds':>9}{'dataset MB':>12}{'checkpoints MB':>16}{'both MB':>9}{'/ preferring':>14}")
    sums = {way: [sum(column) / len(found) for column in zip(*found, strict=True)] for way, found in rows.items()}
    for way, (seconds, data, weights, both) in sums.items():
        ratio = both / sums["preferring"][3]
        print(f"{way:12}{seconds:9.1f}{data:12.1f}{weights:16.1f}{both:9.1f}{ratio:14.2f}")
    print(f"one dataset crosses {options.nodes - 1} times at least")


if __name__ == "__main__":
    main()
