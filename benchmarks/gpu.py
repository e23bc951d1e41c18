"""One GPU: an epoch against a DataLoader loop, and trainings an hour in slots of 1, 1/2, 1/4 and 1/8 of it.

    python benchmarks/gpu.py [--models SimpleCNN,ResNet18] [--epochs 5] [--waves 4] [--skip-steps]
    python benchmarks/gpu.py --cpu      # a small run of the same code in slots of CPUs: shows that it works, no more

First `training.py`: steps of an epoch of CIFAR-10's size against a DataLoader loop with worker processes; SAM, 1-SAM;
compiled, and as CUDA graphs. Then sweeps of `gpu_sweep.py` through the orchestrator, each into an empty store: as many
trainings as `--waves` fill all slots, with and without CUDA graphs. Counted is from when each slot has begun its first
training until one has ended its last; of a training that is partly within, its share. Compiling is part of a training.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
EPOCH = 390  # steps of 128 examples in CIFAR-10's 50,000


def steps(models: list[str], workers: int) -> None:
    """Let training.py print what steps cost."""
    names = {"SimpleCNN": "cnn", "ResNet18": "resnet", "MLP": "mlp"}
    for model in models:
        for rows, rounds, of in (("loader,sgd", 3, EPOCH), ("sgd,sam,peersam,1sam,compiled,graphs,samgraphs", 8, 50)):
            command = [sys.executable, str(HERE / "training.py"), "--model", names[model], "--rows", rows]
            command += ["--rounds", str(rounds), "--steps", str(of), "--workers", str(workers)]
            subprocess.run(command, check=True)
            print(flush=True)


def an_hour(slot: dict[str, float], share: int, waves: int, sets: dict[str, str]) -> float:
    """Trainings an hour, of a sweep into an empty store, with `share` slots and `waves` trainings for each."""
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, "-m", "orchestrator", "sweep", str(HERE / "gpu_sweep.py"), "--store", store]
        command += ["--seeds", str(waves * share), "--set", f"slot={slot}"]
        for path, value in sets.items():
            command += ["--set", f"{path}={value}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout[-3000:]}")
        manifests = [json.loads(path.read_text()) for path in Path(store).glob("artifacts/Train/*/manifest.json")]
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)  # of each worker
    for manifest in manifests:
        spans[manifest["worker"]].append((manifest["started"], manifest["started"] + manifest["seconds"]))
    if len(spans) != share:
        sys.exit(f"{len(spans)} processes trained in {share} slots of {slot}: take more --waves or --epochs.")
    return 3600 * rate(list(spans.values()))


def rate(workers: list[list[tuple[float, float]]]) -> float:
    """Tasks a second while all workers were at work, from each worker's spans of begin and end."""
    begin = max(min(start for start, _ in spans) for spans in workers)
    end = min(max(stop for _, stop in spans) for spans in workers)
    if end <= begin:
        sys.exit("The slots were never all at work: take more --waves.")
    within = [
        max(0.0, min(stop, end) - max(start, begin)) / (stop - start) for spans in workers for start, stop in spans
    ]
    return sum(within) / (end - begin)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="SimpleCNN,ResNet18", help="of SimpleCNN, ResNet18, MLP")
    parser.add_argument("--epochs", type=int, default=5, help="of each training")
    parser.add_argument("--waves", type=int, default=4, help="trainings for each slot")
    parser.add_argument("--slots", default="1,2,4,8", help="how many share the GPU")
    parser.add_argument("--skip-steps", action="store_true", help="only trainings an hour")
    parser.add_argument("--cpu", action="store_true", help="slots of CPUs, and few small trainings")
    given = parser.parse_args()

    models, shares = given.models.split(","), [int(n) for n in given.slots.split(",")]
    sets = {"train.epochs": str(given.epochs)}
    if given.cpu:
        models, shares = ["MLP"], [1, 2]
        sets |= {"train.dataset.examples": "2560"}
    else:
        import torch

        if not torch.cuda.is_available():
            print("There is no GPU here that torch can use: --cpu runs the same code in slots of CPUs.")
            return 2
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n", flush=True)
        if not given.skip_steps:
            steps(models, workers=min(8, (os.cpu_count() or 1) - 1))
    for model in models:
        first = None
        for graphs in (False, True):
            for share in shares:
                slot = {"cpu": max((os.cpu_count() or 1) // share, 1)} if given.cpu else {"cpu": 1, "gpu": 1 / share}
                compile_ = "'reduce-overhead'" if graphs else "False"
                own = {**sets, "train.model": f"{model}()", "train.compile": compile_}
                found = an_hour(slot, share, given.waves, own)
                first = first or found
                words = f"{model}{', CUDA graphs' if graphs else ''}, slot {slot}"
                print(f"{words}: {found:,.0f} an hour, {found / first:.2f} of the first", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
