"""Time of a step: this loop against a DataLoader loop, SAM against SGD, its family against SAM, SAM against its peers.

    python benchmarks/training.py [--model cnn|mlp|resnet] [--rows sgd,sam,asam] [--rounds N] [--clock cpu]

Same model, data, batch size and number of steps in each row; what is timed is training alone, without reading data,
validation or files. All rows stand ready at once, and in each round every row takes a few steps, in another order each
time: what else the machine does slows all alike. A ratio is the median over the rounds of the ratio within a round (in
brackets its quartiles). Runs on a GPU if there is one.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from noise import Noise
from peers import PeerASAM, PeerSAM
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from orchestrator.process import allocator
from tasks import train as training
from tasks.evaluation import arithmetic
from tasks.minibatch import Minibatch
from tasks.models import MLP, ResNet18, SimpleCNN
from tasks.models.model import Model
from tasks.optimizers import (
    ASAM,
    JSAM,
    SAM,
    SAME,
    SGD,
    ClampSAM,
    ClipSAM,
    CustomSAME,
    LogitSAM,
    Optimizer,
    SAMAgree,
    SAMAnatomy,
    SAMDirection,
    SAMMagnitude,
    SGDAgree,
    SharpnessAware,
)
from tasks.recording import Record
from tasks.task import Artifact, Context, execute
from tasks.train import Train

MODELS: dict[str, Model] = {"cnn": SimpleCNN(), "mlp": MLP(widths=(256, 256)), "resnet": ResNet18()}
FIELDS: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
WARM_UP = 2  # rounds
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Row(NamedTuple):
    """What is timed, and against which rows.

    Attributes:
        words: for people.
        fields: of the training; None for the DataLoader loop.
        against: the rows below the line of a ratio, each with the largest ratio that is good.
        period: steps after which the costs repeat.
    """

    words: str
    fields: dict[str, Any] | None
    against: dict[str, float]
    period: int = 1


def two(words: str, member: type[SharpnessAware]) -> Row:
    """A member of SAM's family with two gradients a step."""
    return Row(words, {"optimizer": member(**FIELDS)}, {"sam": 1.05})


ROWS = {
    "loader": Row("SGD, DataLoader loop", None, {}),
    "sgd": Row("SGD", {}, {"loader": 1.0}),
    "sam": Row("SAM", {"optimizer": SAM(**FIELDS)}, {"sgd": 2.05, "peersam": 1.0}),
    "peersam": Row("SAM as davda54/sam", {"optimizer": PeerSAM(**FIELDS)}, {}),
    "asam": Row("ASAM", {"optimizer": ASAM(**FIELDS, rho=0.5)}, {"sam": 1.05, "peerasam": 1.0}),
    "peerasam": Row("ASAM as SamsungLabs/ASAM", {"optimizer": PeerASAM(**FIELDS, rho=0.5)}, {}),
    "same": two("SAME-1", SAME),
    "customsame": two("CustomSAME", CustomSAME),
    "magnitude": two("SAM-magnitude", SAMMagnitude),
    "direction": two("SAM-direction", SAMDirection),
    "samagree": two("SAM-agree", SAMAgree),
    "sgdagree": two("SGD-agree", SGDAgree),
    "clamp": two("ClampSAM", ClampSAM),
    "clip": two("ClipSAM", ClipSAM),
    "jsam": two("J-SAM", JSAM),
    "logit": two("logit-SAM", LogitSAM),
    "anatomy": Row("SAM-anatomy", {"optimizer": SAMAnatomy(**FIELDS)}, {"sam": 1.55}),
    "1sam": Row("1-SAM", {"optimizer": SAM(**FIELDS, m=1)}, {"sgd": 4.0}),
    "1jsam": Row("J-SAM, m=1", {"optimizer": JSAM(**FIELDS, m=1)}, {"sgd": 4.0}),
    "1logit": Row("logit-SAM, m=1", {"optimizer": LogitSAM(**FIELDS, m=1)}, {"sgd": 4.0}),
    "record": Row("SGD, Record(every=50)", {"record": Record(every=50)}, {"sgd": 1.05}, period=50),
    "samrecord": Row(
        "SAM, Record(every=50)", {"optimizer": SAM(**FIELDS), "record": Record(every=50)}, {"sam": 1.05}, period=50
    ),
    "compiled": Row("SGD, compiled", {"compile": True}, {"sgd": 1.0}),
    "graphs": Row("SGD, CUDA graphs", {"compile": "reduce-overhead"}, {"sgd": 1.0, "compiled": 1.0}),
    "samgraphs": Row(
        "SAM, CUDA graphs", {"compile": "reduce-overhead", "optimizer": SAM(**FIELDS)}, {"sam": 1.0, "graphs": 2.05}
    ),
}
SLOW = ("record", "samrecord", "compiled", "graphs", "samgraphs")  # many steps, or a compiler: only where asked for
NO_BATCHNORM = ("1sam", "1jsam", "1logit")


def ours(task: Train, data: Artifact) -> Iterator[None]:
    """`Train.run` itself, an epoch at a time; its validation does nothing meanwhile (see `main`)."""
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context(Path(folder), seeds=dict.fromkeys(Train.streams, 0))
        yield from (None for _ in task.run(ctx, data))


def loader(task: Train, data: Artifact, workers: int) -> Iterator[None]:
    """The same with a DataLoader, as one would write it by hand; data in memory, normalised beforehand."""
    x = torch.from_numpy(data.array("train_x").astype(np.float32))
    mean, std = (torch.from_numpy(np.array(data.array(name)))[:, None, None] for name in ("mean", "std"))
    dataset = TensorDataset((x - mean) / std, torch.from_numpy(np.array(data.array("train_y"))))
    batches = DataLoader(
        dataset,
        task.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=DEVICE.type == "cuda",
    )
    network = task.model.build((3, 32, 32), 10, torch.Generator().manual_seed(0)).to(DEVICE)
    optimizer = torch.optim.SGD(network.parameters(), **FIELDS)
    criterion = nn.CrossEntropyLoss()
    while True:
        for inputs, targets in batches:
            inputs, targets = inputs.to(DEVICE, non_blocking=True), targets.to(DEVICE, non_blocking=True)
            optimizer.zero_grad()
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=task.precision == "bf16"):
                loss = criterion(network(inputs), targets)
            loss.backward()
            optimizer.step()
        yield


def timed(row: Iterator[None], clock: Callable[[], float]) -> float:
    """Seconds of the row's next epoch."""
    began = clock()
    next(row)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def apart(a: Optimizer, b: Optimizer) -> float:
    """‖w_a − w_b‖ over the way that the weights have gone, after three steps of each from the same weights."""
    ends = []
    for optimizer in (a, b):
        generator = torch.Generator().manual_seed(0)
        network = MLP(widths=(64,)).build((3, 32, 32), 10, generator)
        start = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
        stepper = optimizer.build(network)
        for _ in range(3):
            x, y = torch.randn(16, 3, 32, 32, generator=generator), torch.randint(10, (16,), generator=generator)
            stepper.gradient(Minibatch(network, x, y))
            stepper.step()
        ends.append(nn.utils.parameters_to_vector(network.parameters()).detach())
    return float((ends[0] - ends[1]).norm() / (ends[0] - start).norm())


def ratio(above: list[float], below: list[float], rounds: int) -> str:
    """The median of the ratios, each over some rounds together, and their quartiles."""
    sums = [[sum(times[i : i + rounds]) for i in range(0, len(times) - rounds + 1, rounds)] for times in (above, below)]
    ratios = [a / b for a, b in zip(*sums, strict=True)]
    if len(ratios) < 3:
        return ", ".join(f"{r:.3f}" for r in ratios) or f"needs {rounds} rounds"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(MODELS), default="cnn")
    parser.add_argument("--rows", help=f"comma-separated, of {', '.join(ROWS)}; by default all but {', '.join(SLOW)}")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=4, help="of each row in a round")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), default="float32", help="of all rows")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: time of this process only")
    parser.add_argument("--workers", type=int, default=0, help="processes of the DataLoader")
    given = parser.parse_args()
    chosen = given.rows.split(",") if given.rows else [name for name in ROWS if name not in SLOW]
    if unknown := set(chosen) - set(ROWS):
        parser.error(f"--rows: there is no row {', '.join(sorted(unknown))}")
    if given.model == "resnet":  # whose BatchNorm gives no example a gradient of its own
        chosen = [name for name in chosen if name not in NO_BATCHNORM]
    clock = time.perf_counter if given.clock == "wall" else time.process_time
    spec = Noise(examples=given.steps * given.batch)
    base = Train(
        dataset=spec,
        model=MODELS[given.model],
        optimizer=SGD(**FIELDS),
        epochs=WARM_UP + given.rounds + 1,  # the last one is never asked for
        batch_size=given.batch,
        precision=given.precision,
    )

    times: dict[str, list[float]] = {name: [] for name in chosen}
    allocator()  # as workers do
    training.evaluate = lambda *a, **k: (0.0, 0.0)  # validation is not timed
    with tempfile.TemporaryDirectory() as folder, arithmetic(given.precision, deterministic=True):
        data = execute(spec, folder=Path(folder) / "data")
        rows: dict[str, Any] = {}
        for name in chosen:
            fields = ROWS[name].fields
            rows[name] = (
                loader(base, data, given.workers) if fields is None else ours(dataclasses.replace(base, **fields), data)
            )
            for _ in range(WARM_UP):
                timed(rows[name], clock)
        for count in range(given.rounds):
            turned = chosen[count % len(chosen) :] + chosen[: count % len(chosen)]
            for name in turned if count % 2 else reversed(turned):
                times[name].append(timed(rows[name], clock))
        for row in rows.values():
            row.close()

    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    print(f"{given.model}, batch {given.batch}, {given.rounds} rounds of {given.steps} steps, {given.clock} clock")
    print(f"{where}, torch {torch.__version__}, {given.precision}")
    for name in chosen:
        row = ROWS[name]
        print(f"  {row.words:28}{statistics.median(times[name]) / given.steps * 1000:9.2f} ms a step")
        for other, target in row.against.items():
            if other in times:
                found = ratio(times[name], times[other], -(-row.period // given.steps))
                print(f"    / {ROWS[other].words:24}{found}, to reach ≤ {target:.2f}")
    for mine, peer in (("sam", "peersam"), ("asam", "peerasam")):
        if peer in chosen:
            way = apart(*(ROWS[name].fields["optimizer"] for name in (mine, peer)))  # type: ignore[index]
            print(f"  {ROWS[peer].words} goes where ours does: {way:.1e} of the way apart after three steps")


if __name__ == "__main__":
    main()
