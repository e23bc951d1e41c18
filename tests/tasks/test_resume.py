"""A task that was interrupted ends as if it had not been: reports, results and files, to the byte."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from interruptions import Memory, Run, files, interrupted_after_every_report, start_in_a_process_of_its_own
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tasks.data import Augment, Digits
from tasks.errors import UserError
from tasks.models import MLP, Model, ResNet18, SimpleCNN
from tasks.models._initialise import initialise
from tasks.optimizers import EMA, LBFGS, SAM, SGD, SWA, AdamW, LogitSAM, NewtonCG, RMSProp
from tasks.recording import Record
from tasks.regularisers import (
    L1,
    AdversarialTraining,
    InputNoise,
    LabelSmoothing,
    LastLayerL2,
    MaxNorm,
    Mixup,
    WeightNoise,
)
from tasks.schedules import Cosine
from tasks.snapshots import decode
from tasks.task import Artifact, Context, Task, execute
from tasks.train import EarlyStopping, Train

DIGITS = Digits(train_size=200)
SMALL = Train(dataset=DIGITS, model=MLP(widths=(16,)), optimizer=SGD(lr=0.1, momentum=0.9), epochs=3, batch_size=32)


class Growing(nn.Module):
    """Its output depends on how often it was trained: in a buffer that the file of weights does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
        return x * (1 + 0.01 * self.seen)


@dataclass(frozen=True)
class Normalised(Model):
    """A convolution with BatchNorm."""

    def module(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        convolution = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        return nn.Sequential(
            convolution, nn.BatchNorm2d(8), nn.ReLU(), Growing(), nn.Flatten(), nn.Linear(512, classes)
        )

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        for module in network.children():
            if isinstance(module, Growing):
                module.seen.zero_()
            else:
                initialise(module, generator)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return execute(DIGITS, folder=tmp_path_factory.mktemp("digits"))


class Interruption(Exception):
    pass


def interrupted_in_step(n: int, run: Run) -> None:
    """Let the task run until an exception in the n-th step of its optimizer."""
    steps = []

    def before_step(*_: Any) -> None:
        steps.append(1)
        if len(steps) == n:
            raise Interruption

    hook = register_optimizer_step_pre_hook(before_step)
    try:
        with pytest.raises(Interruption):
            run.advance()
    finally:
        hook.remove()


DIVERGES = SGD(lr=1e3, momentum=0.9, weight_decay=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": SGD(lr=0.1), "model": SimpleCNN(), "channels_last": False},
        {"optimizer": SGD(lr=0.1, momentum=0.9, nesterov=True), "model": SimpleCNN(), "clip_norm": 0.5},
        {"optimizer": AdamW(lr=0.01), "model": SimpleCNN(), "augment": Augment(padding=1)},
        {"optimizer": SAM(lr=0.1, momentum=0.9), "schedule": Cosine(), "clip_norm": 0.5, "label_noise": 0.2},
        {
            "optimizer": SAM(base=AdamW(lr=0.01)),
            "model": Normalised(),
            "augment": Augment(padding=1, cutout=3),
            "label_noise": 0.4,
            "label_noise_kind": "asymmetric",
            "label_noise_map": ((1, 7), (7, 1)),
        },
        {"optimizer": SAM(lr=0.05, momentum=0.9), "model": Normalised(), "precision": "bf16"},
        {"optimizer": SAM(lr=0.05, momentum=0.9, m=8), "model": Normalised()},
        {"optimizer": SAM(lr=0.05, momentum=0.9, m=1), "model": SimpleCNN(dropout=0.2), "clip_norm": 0.5},
        {"optimizer": LogitSAM(base=AdamW(lr=0.01), m=1), "precision": "bf16"},
        {"optimizer": EMA(SAM(base=AdamW(lr=0.01)), decay=0.9), "model": Normalised(), "clip_norm": 0.5},
        {"optimizer": LBFGS(max_iter=2), "model": SimpleCNN(), "clip_norm": 0.5},
        {"optimizer": SAM(base=NewtonCG(max_iterations=5)), "model": Normalised()},
        {"optimizer": SWA(RMSProp(lr=0.001), start=0.5), "model": Normalised()},
        {
            "model": MLP(widths=(16,), dropout=0.2),
            "regularisers": (
                *(Mixup(0.4), InputNoise(0.1), WeightNoise(0.01), LabelSmoothing(0.1), AdversarialTraining(0.1)),
                *(LastLayerL2(0.01, 0.01), L1(1e-4, proximal=True), MaxNorm(1.5)),
            ),
        },
        {
            "optimizer": EMA(AdamW(lr=0.05), decay=0.8),
            "model": Normalised(),
            "epochs": 12,
            "early_stopping": EarlyStopping(patience=2, metric="val_accuracy"),
        },
        {"optimizer": DIVERGES, "epochs": 5},
        {"record": Record(every=4), "label_noise": 0.2},
        {"optimizer": SAM(lr=0.05), "record": Record(every=1), "model": Normalised()},
    ],
    ids=lambda changes: ",".join(map(str, changes)) or "small",
)
def test_a_training_interrupted_after_every_epoch(digits: Artifact, tmp_path: Path, changes: dict[str, Any]) -> None:
    task = dataclasses.replace(SMALL, **changes)
    undisturbed = Run(task, (digits,), tmp_path / "undisturbed").advance()
    assert undisturbed.results is not None and undisturbed.results["diverged"] is (task.optimizer == DIVERGES)
    assert len(undisturbed.reports) >= 2 and (task.early_stopping is None or len(undisturbed.reports) < task.epochs)
    for name, memory in {"due": Memory(), "abandoned": Memory(always=False)}.items():
        (tmp_path / name).mkdir()
        last = interrupted_after_every_report(task, (digits,), tmp_path / name, memory)
        assert last.outcome == undisturbed.outcome
        assert memory.saved == len(undisturbed.reports)


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"optimizer": AdamW(lr=0.01), "model": Normalised()}, 10),
        ({"optimizer": SAM(lr=0.1, momentum=0.9)}, 3),
        ({"optimizer": DIVERGES}, 15),
    ],
)
def test_a_training_interrupted_within_an_epoch(
    digits: Artifact, tmp_path: Path, changes: dict[str, Any], step: int
) -> None:
    """Six steps are an epoch."""
    task = dataclasses.replace(SMALL, **changes)
    undisturbed = Run(task, (digits,), tmp_path / "undisturbed").advance()
    memory = Memory()
    run = Run(task, (digits,), tmp_path / "interrupted", memory)
    interrupted_in_step(step, run)
    run.context.save_offered()  # has nothing to save: the state is in between
    assert memory.saved == (step - 1) // 6
    again = Run(task, (digits,), tmp_path / "again", memory)
    assert again.advance().outcome == undisturbed.outcome
    assert any("continued after epoch" in line for line in again.log) == (step > 6)


@pytest.mark.slow
def test_a_resnet_interrupted(tmp_path: Path) -> None:
    dataset = Digits(train_size=32)
    task = dataclasses.replace(SMALL, dataset=dataset, model=ResNet18(), epochs=2)
    inputs = (execute(dataset, folder=tmp_path / "digits"),)
    undisturbed = Run(task, inputs, tmp_path / "undisturbed").advance()
    memory = Memory()
    Run(task, inputs, tmp_path / "interrupted", memory).advance(1).close()
    assert Run(task, inputs, tmp_path / "resumed", memory).advance().outcome == undisturbed.outcome


def test_the_memory_format_comes_back(digits: Artifact, tmp_path: Path) -> None:
    memory = Memory()
    task = dataclasses.replace(SMALL, model=SimpleCNN())
    Run(task, (digits,), tmp_path / "run", memory).advance(1).close()
    assert memory.data is not None
    state = decode(memory.data)["state"]
    for tensor in (state["network"]["2.weight"], state["stepper"]["state"][2]["momentum_buffer"]):
        assert tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_killed_in_the_middle_of_an_epoch_and_gone_on_with_in_another_process(digits: Artifact, tmp_path: Path) -> None:
    task = dataclasses.replace(
        SMALL, model=SimpleCNN(), optimizer=SAM(lr=0.05, momentum=0.9), augment=Augment(padding=1), schedule=Cosine()
    )
    undisturbed = Run(task, (digits,), tmp_path / "undisturbed").advance()
    start_in_a_process_of_its_own(task, (digits,), tmp_path / "killed", die_in_step=10)
    assert (tmp_path / "snapshot").exists()
    found = start_in_a_process_of_its_own(task, (digits,), tmp_path / "resumed")
    assert found is not None and found["steps"] == 2 * 6  # of 3 · 6
    assert (found["reports"], found["results"]) == (undisturbed.reports, undisturbed.results)
    assert files(tmp_path / "resumed") == files(tmp_path / "undisturbed")
    assert not (tmp_path / "snapshot").exists()


# By hand


@dataclass(frozen=True)
class Sum(Task):
    """Of random numbers, with two generators that go on from step to step; breaks once at `breaks`."""

    steps: int = 5

    streams: ClassVar[tuple[str, ...]] = ("numbers",)
    breaks: ClassVar[int | None] = None

    def run(self, ctx: Context) -> Any:
        rng, generator = ctx.rng("numbers"), ctx.generator("numbers")
        state = ctx.resume() or {"sums": [], "arrays": [np.zeros(3), torch.zeros(2)]}
        if state["sums"]:
            rng.bit_generator.state = state["rng"]
            generator.set_state(state["generator"])
        for i, value in enumerate(state["sums"]):
            yield {"step": i, "sum": value}
        for i in range(len(state["sums"]), self.steps):
            if i == type(self).breaks:
                raise Interruption
            numbers = state["arrays"]
            numbers[0] += rng.standard_normal(3)
            numbers[1] += torch.randn(2, generator=generator)
            state["sums"].append(float(numbers[0].sum()) + float(numbers[1].sum()))
            ctx.snapshot(lambda: {**state, "rng": rng.bit_generator.state, "generator": generator.get_state()})
            yield {"step": i, "sum": state["sums"][-1]}
        ctx.save_arrays("sums", sums=state["sums"])
        return {"sum": state["sums"][-1]}


def test_execute_goes_on_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Any] = []
    undisturbed = execute(Sum(), folder=tmp_path / "undisturbed", report=reports.append)
    file = tmp_path / "sum.snapshot"
    for i, at in enumerate([0, 2, 2, 4]):
        monkeypatch.setattr(Sum, "breaks", at)
        with pytest.raises(Interruption):
            execute(Sum(), folder=tmp_path / f"start{i}", snapshot=file)
        assert file.exists() == (at > 0)
    with pytest.raises(UserError, match=r"sum.snapshot is no snapshot of this task: delete it, or name another."):
        execute(Sum(), folder=tmp_path / "other seed", seed=1, snapshot=file)
    with pytest.raises(UserError, match="no snapshot of this task"):
        execute(Sum(steps=6), folder=tmp_path / "other field", snapshot=file)
    monkeypatch.setattr(Sum, "breaks", None)
    again: list[Any] = []
    resumed = execute(Sum(), folder=tmp_path / "resumed", report=again.append, snapshot=str(file))
    assert (again, resumed.results, files(resumed.dir)) == (reports, undisturbed.results, files(undisturbed.dir))
    assert not file.exists() and not list(tmp_path.glob("*.new"))


def test_a_damaged_snapshot_is_none_and_is_logged(tmp_path: Path) -> None:
    undisturbed = Run(Sum(), (), tmp_path / "undisturbed").advance()
    memory = Memory()
    Run(Sum(), (), tmp_path / "first", memory).advance(3).close()
    assert memory.data is not None
    memory.data = memory.data[:-1]
    run = Run(Sum(), (), tmp_path / "second", memory).advance()
    assert run.outcome == undisturbed.outcome
    assert len(run.log) == 1 and "starts from its beginning, because its snapshot cannot be used" in run.log[0]


def test_an_offer_holds_until_the_task_moves_on() -> None:
    memory = Memory(always=False)
    made: list[int] = []

    def state(i: int) -> dict[str, int]:
        made.append(i)
        return {"i": i}

    def steps(ctx: Context) -> Any:
        ctx.snapshot(lambda: state(0))
        yield {}
        yield {}
        ctx.snapshot(lambda: state(1))
        yield {}
        yield {}
        ctx.snapshot(lambda: state(2))
        ctx.snapshot(lambda: state(3))
        yield {}
        ctx.snapshot(lambda: state(4))
        raise Interruption

    ctx = Context(Path(), snapshots=memory)
    ctx.save_offered()
    work = steps(ctx)
    ctx.advance(work)
    ctx.advance(work)
    ctx.save_offered()
    assert made == []  # what was offered at the first report does not hold at the second
    ctx.advance(work)
    ctx.save_offered()
    ctx.save_offered()
    assert made == [1] and memory.saved == 1  # once is enough
    ctx.advance(work)
    ctx.save_offered()
    assert made == [1]  # nothing was offered at the fourth report
    ctx.advance(work)
    ctx.save_offered()
    assert made == [1, 3] and ctx.resume() == {"i": 3}
    memory.always = True
    with pytest.raises(Interruption):
        ctx.advance(work)
    assert ctx.resume() == {"i": 4}


def test_without_snapshots_nothing_is_made() -> None:
    ctx = Context(Path())
    ctx.snapshot(lambda: pytest.fail("nobody keeps it"))
    ctx.save_offered()
    assert ctx.resume() is None
