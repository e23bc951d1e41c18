"""The training loop against a plain PyTorch loop with a DataLoader, and SAM against SGD.

    python benchmarks/training.py [--model cnn|mlp|resnet] [--examples N] [--repetitions N]

Same model, data, batch size, optimizer and number of steps; what is timed is training alone, without
reading data, validation or files. Repetitions are interleaved and each ratio is the median of the
repetitions' ratios, so that a busy machine slows both sides. Runs on a GPU if there is one.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tasks import train as training
from tasks.data.dataset import Dataset, Source
from tasks.models import MLP, ResNet18, SimpleCNN
from tasks.optimizers import SAM, SGD
from tasks.task import Artifact, Context, execute
from tasks.train import Train

BATCH = 128
SGD_FIELDS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
clock = time.perf_counter


@dataclasses.dataclass(frozen=True)
class Noise(Dataset):
    """Random images and labels in CIFAR-10's format: what they show does not matter to the clock."""

    examples: int = 2560

    def read(self) -> Source:
        rng = np.random.default_rng(0)
        n = self.examples + BATCH
        x, y = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, n)
        return Source(x, y, x[:BATCH], y[:BATCH])


def synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def ours(task: Train, data: Artifact) -> float:
    """Seconds for the epochs after the first one (it warms up), from `Train.run` itself.

    The evaluation at each epoch's end is taken out of it, as the plain loop has none.
    """
    evaluate, marks = training.evaluate, []
    training.evaluate = lambda *a, **k: (0.0, 0.0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            ctx = Context(Path(folder), seeds=dict.fromkeys(Train.streams, 0))
            for _ in task.run(ctx, data):
                synchronise()
                marks.append(clock())
    finally:
        training.evaluate = evaluate
    return marks[-1] - marks[0]


def plain(task: Train, data: Artifact, workers: int) -> float:
    """The same with a DataLoader, as one would write it by hand; data in memory, normalised beforehand."""
    x = torch.from_numpy(data.array("train_x").astype(np.float32))
    mean, std = (torch.from_numpy(np.array(data.array(name)))[:, None, None] for name in ("mean", "std"))
    dataset = TensorDataset((x - mean) / std, torch.from_numpy(np.array(data.array("train_y"))))
    loader = DataLoader(
        dataset,
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=DEVICE.type == "cuda",
    )
    network = task.model.build((3, 32, 32), 10, torch.Generator().manual_seed(0)).to(DEVICE)
    optimizer = torch.optim.SGD(network.parameters(), **SGD_FIELDS)
    criterion = nn.CrossEntropyLoss()
    marks = []
    for _ in range(task.epochs):
        for inputs, targets in loader:
            inputs, targets = inputs.to(DEVICE, non_blocking=True), targets.to(DEVICE, non_blocking=True)
            optimizer.zero_grad()
            loss = criterion(network(inputs), targets)
            loss.backward()
            optimizer.step()
        synchronise()
        marks.append(clock())
    return marks[-1] - marks[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("cnn", "mlp", "resnet"), default="cnn")
    parser.add_argument("--examples", type=int, default=2560)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: time of this process only")
    parser.add_argument("--workers", type=int, default=0, help="processes of the DataLoader")
    given = parser.parse_args()
    global clock
    clock = time.perf_counter if given.clock == "wall" else time.process_time
    model = {"cnn": SimpleCNN(), "mlp": MLP(widths=(256, 256)), "resnet": ResNet18()}[given.model]
    spec = Noise(validation_size=BATCH, examples=given.examples)
    sgd = Train(dataset=spec, model=model, optimizer=SGD(**SGD_FIELDS), epochs=given.epochs + 1, batch_size=BATCH)
    sam = dataclasses.replace(sgd, optimizer=SAM(**SGD_FIELDS, rho=0.05))

    steps = given.epochs * (given.examples // BATCH)
    times: dict[str, list[float]] = {"plain": [], "sgd": [], "sam": []}
    with tempfile.TemporaryDirectory() as folder:
        data = execute(spec, folder=Path(folder) / "data")
        for repetition in range(given.repetitions):
            runs = [
                ("plain", lambda: plain(sgd, data, given.workers)),
                ("sgd", lambda: ours(sgd, data)),
                ("sam", lambda: ours(sam, data)),
            ]
            for name, run in runs if repetition % 2 else reversed(runs):
                times[name].append(run())

    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    print(f"{given.model}, batch {BATCH}, {steps} steps, {given.repetitions} repetitions, {given.clock} clock")
    print(f"{where}, torch {torch.__version__}")
    for name, words in (("plain", "DataLoader loop, SGD"), ("sgd", "this loop, SGD"), ("sam", "this loop, SAM")):
        print(f"  {words:22} {statistics.median(times[name]) / steps * 1000:9.2f} ms a step (median)")
    for words, above, below, target in (
        ("DataLoader / this loop", "plain", "sgd", "≥ 1"),
        ("SAM / SGD", "sam", "sgd", "≤ 2.1"),
    ):
        ratios = [a / b for a, b in zip(times[above], times[below], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"  {words:22} {statistics.median(ratios):9.2f} ({spread}; target {target})")


if __name__ == "__main__":
    main()
