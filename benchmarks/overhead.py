"""How much of the slots' time goes into tasks: the smoke sweep of sam_rho, run for real.

Prints the sum of task times over (slots × wall time after start-up), the start-up's own time, and the
longest gaps between two tasks of a worker. Start-up ends when the first task starts: until then Ray and
the worker processes come up.

    python benchmarks/overhead.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

SWEEP = "sweeps/sam_rho.py"


def measure(store: str) -> dict[str, float]:
    """Run the sweep into an empty store and read the manifests."""
    began = time.time()
    command = [sys.executable, "-m", "orchestrator", "sweep", SWEEP, "--smoke", "--store", store]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    total = time.time() - began
    manifests = [json.loads(path.read_text()) for path in Path(store).glob("artifacts/*/*/manifest.json")]
    record = next(Path(store).glob("runs/*/*/events.jsonl"))
    events = [json.loads(line) for line in record.read_text().splitlines()]
    slots = next(e["slots"] for e in events if e["event"] == "run_started")
    first = min(m["started"] for m in manifests)
    last = max(e["time"] for e in events if e["event"] == "committed")
    gaps = []
    for worker in {m["worker"] for m in manifests}:
        own = sorted((m["started"], m["started"] + m["seconds"]) for m in manifests if m["worker"] == worker)
        gaps += [b[0] - a[1] for a, b in pairwise(own)]
    return {
        "tasks": len(manifests),
        "efficiency": sum(m["seconds"] for m in manifests) / (slots * (last - first)),
        "start-up s": first - began,
        "tasks s": last - first,
        "report and end s": began + total - last,
        "median gap ms": 1000 * sorted(gaps)[len(gaps) // 2],
        "longest gap ms": 1000 * max(gaps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    for _ in range(parser.parse_args().repeats):
        with tempfile.TemporaryDirectory() as folder:
            print("  ".join(f"{name} {value:.4g}" for name, value in measure(folder).items()), flush=True)


if __name__ == "__main__":
    main()
