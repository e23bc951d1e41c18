"""Regularisers within a training: one loss a step, off is off, the same seeds give the same bytes, early stopping."""

from __future__ import annotations

import dataclasses
import itertools
import math
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tasks.data import Augment, Digits
from tasks.errors import InvalidValue
from tasks.minibatch import Minibatch
from tasks.models import MLP, Model, dropout
from tasks.models.dropout import seed_dropout
from tasks.optimizers import EMA, JSAM, LBFGS, SAM, SGD, AdamW, LogitSAM
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
from tasks.task import Artifact, Context, drain, execute
from tasks.train import EarlyStopping, Train

DIGITS = Digits(train_size=200)
SMALL = Train(dataset=DIGITS, model=MLP(widths=(16,)), optimizer=SGD(lr=0.1, momentum=0.9), epochs=2, batch_size=32)
EVERY = (
    Mixup(0.4),
    InputNoise(0.1),
    WeightNoise(0.01),
    LabelSmoothing(0.1),
    AdversarialTraining(0.1),
    LastLayerL2(0.01, 0.02),
    L1(1e-4),
    MaxNorm(1.5),
)
OFF = (
    Mixup(0.0),
    InputNoise(0.0),
    WeightNoise(0.0),
    LabelSmoothing(0.0),
    AdversarialTraining(0.1, share=0.0),
    LastLayerL2(0.0, 0.0),
    L1(0.0),
    MaxNorm(math.inf),
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return execute(DIGITS, folder=tmp_path_factory.mktemp("digits"))


@pytest.fixture
def train(digits, tmp_path):
    """Run a training on the digits, all its streams under the seed 0 unless given."""
    runs = iter(range(1000))

    def run(task, report=None, **seeds):
        folder = tmp_path / f"run{next(runs)}"
        folder.mkdir()
        seeds = dict.fromkeys(task.streams, 0) | seeds
        results = drain(task.run(Context(folder, seeds=seeds, device="cpu"), digits), report)
        return Artifact(str(folder), task, folder, results, seeds, (digits,))

    return run


def with_(**changes):
    return dataclasses.replace(SMALL, **changes)


def weights(artifact):
    return load_file(artifact.dir / "weights.safetensors")


def same(a, b):
    a, b = weights(a), weights(b)
    return all(torch.equal(a[name], b[name]) for name in a)


def minibatch(*regularisers, micro=None, dropout=0.3):
    """A step's examples in float64, on a smooth network with dropout; the regularisers have done their part."""
    draws = torch.Generator().manual_seed(0)
    network = MLP(widths=(8, 8), activation="tanh", dropout=dropout).build((5,), 3, draws).double()
    x = torch.randn(12, 5, generator=draws, dtype=torch.float64)
    batch = Minibatch(network, x, torch.arange(12) % 3, classes=3, micro=micro)
    batch.before_forward.append(partial(seed_dropout, network, 3))
    for regulariser in regularisers:
        regulariser.on_batch(batch, draws)
    return batch


def gradient(batch):
    batch.network.zero_grad()
    loss, _ = batch.backward()
    return loss, [p.grad.clone() for p in batch.network.parameters()]


def move(network, direction, length):
    with torch.no_grad():
        for parameter, d in zip(network.parameters(), direction, strict=True):
            parameter += length * d


@pytest.mark.parametrize("micro", [None, 5])
@pytest.mark.parametrize("regularisers", [*((r,) for r in EVERY[:6]), EVERY], ids=lambda r: type(r[-1]).__name__)
def test_a_step_has_one_loss(regularisers, micro):
    """It repeats bit for bit, and its gradient is that of finite differences: what is drawn is drawn once."""
    batch = minibatch(*regularisers, micro=micro)
    loss, g = gradient(batch)
    again, same_g = gradient(batch)
    assert torch.equal(loss, again) and all(map(torch.equal, g, same_g))
    plain, plain_g = gradient(minibatch(micro=micro))
    assert not torch.equal(loss, plain) and not all(map(torch.equal, g, plain_g))
    norm = math.sqrt(sum(t.square().sum().item() for t in g))
    direction = [t / norm for t in g]
    losses = []
    for length in (1e-5, -2e-5):
        move(batch.network, direction, length)
        losses.append(gradient(batch)[0].item())
    assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("regulariser", EVERY[:6], ids=lambda r: type(r).__name__)
def test_both_gradients_of_sam_are_of_that_loss(regulariser):
    batch = minibatch(regulariser)
    w = [p.detach().clone() for p in batch.network.parameters()]
    _, g = gradient(batch)
    norm = math.sqrt(sum(t.square().sum().item() for t in g))
    move(batch.network, g, 0.3 / norm)
    loss_plus, g_plus = gradient(batch)
    with torch.no_grad():
        for parameter, before in zip(batch.network.parameters(), w, strict=True):
            parameter.copy_(before)
    seen = []
    SAM(rho=0.3).build(batch.network).gradient(batch, observe=seen.append)
    torch.testing.assert_close(seen[0].g, g)
    torch.testing.assert_close(seen[0].g_plus, g_plus)
    torch.testing.assert_close(seen[0].loss_plus, loss_plus)


@pytest.mark.parametrize("regulariser", EVERY[:5], ids=lambda r: type(r).__name__)
def test_one_perturbation_for_each_example(regulariser):
    """m=1 against SAM on the examples of the same step one by one."""
    batch = minibatch(regulariser, dropout=0.0)
    expected = [torch.zeros_like(p) for p in batch.network.parameters()]
    for i in range(len(batch)):
        SAM(rho=0.3).build(batch.network).gradient(batch.part(slice(i, i + 1)))
        for total, parameter in zip(expected, batch.network.parameters(), strict=True):
            total += parameter.grad / len(batch)
    SAM(rho=0.3, m=1).build(batch.network).gradient(batch)
    torch.testing.assert_close([p.grad for p in batch.network.parameters()], expected)


@pytest.mark.parametrize("optimizer", [SMALL.optimizer, SAM(lr=0.1, momentum=0.9, rho=0.1)], ids=["sgd", "sam"])
def test_off_is_the_same_training_to_the_byte(train, optimizer):
    task = with_(optimizer=optimizer, model=MLP(widths=(16,), dropout=0.2))
    plain, off = train(task), train(dataclasses.replace(task, regularisers=OFF))
    others = dataclasses.replace(task, regularisers=(L1(0.0, proximal=True), AdversarialTraining(0.0)))
    assert [p.name for p in plain.dir.iterdir()] == [p.name for p in off.dir.iterdir()]
    for file in plain.dir.iterdir():
        assert file.read_bytes() == (off.dir / file.name).read_bytes()
    assert same(plain, train(others))


@pytest.mark.parametrize("regulariser", [*EVERY, L1(1e-3, proximal=True), MaxNorm(0.3)], ids=lambda r: type(r).__name__)
def test_each_changes_the_training_and_draws_from_noise_alone(train, regulariser):
    task = with_(regularisers=(regulariser,), epochs=1)
    on = train(task)
    assert not same(on, train(with_(epochs=1))) or regulariser == MaxNorm(1.5)
    assert same(on, train(task))
    random = isinstance(regulariser, (Mixup, InputNoise, WeightNoise))
    assert same(on, train(task, noise=1)) is not random


def test_all_at_once(train):
    """On SAM, with dropout; they draw one apart from the other, so one more changes no draw of the others."""
    task = with_(optimizer=SAM(lr=0.05, momentum=0.9), model=MLP(widths=(32,), dropout=0.1), regularisers=EVERY)
    artifact = train(dataclasses.replace(task, epochs=8))
    assert artifact.results["val_accuracy"] > 0.75
    for name, tensor in weights(artifact).items():
        assert tensor.ndim == 1 or tensor.norm(dim=1).max() < 1.5 + 1e-5, name
    seen = []

    class Looking(MLP):
        def module(self, shape, classes):
            network = super().module(shape, classes)
            network.register_forward_pre_hook(lambda module, x: seen.append(x[0].detach()) if module.training else None)
            return network

    shown = []
    for regularisers in ((InputNoise(0.1),), (LabelSmoothing(0.1), WeightNoise(0.1), InputNoise(0.1))):
        train(with_(model=Looking(widths=(16,)), regularisers=regularisers, epochs=1))
        shown.append(torch.cat(seen))
        seen.clear()
    assert torch.equal(*shown)


def test_each_step_has_its_own_masks_and_each_epoch_its_own_noise_and_crops(train, monkeypatch):
    """Three steps an epoch, two epochs; SAM's second pass has the masks of the first."""
    masks, crops, noises = [], [], []
    seed, draw, on_batch = dropout.seed_dropout, Augment.draw, InputNoise.on_batch

    def seeded(network, number, part=0):
        masks.append(number)
        seed(network, number, part)

    def drawn(self, count, generator):
        crops.append(draw(self, count, generator))
        return crops[-1]

    def noisy(self, batch, generator):
        before = batch.x
        on_batch(self, batch, generator)
        noises.append(batch.x - before)

    monkeypatch.setattr(dropout, "seed_dropout", seeded)
    monkeypatch.setattr(Augment, "draw", drawn)
    monkeypatch.setattr(InputNoise, "on_batch", noisy)
    small = {"model": MLP(widths=(16,), dropout=0.5), "optimizer": SAM(lr=0.1), "batch_size": 60}
    train(with_(**small, regularisers=(InputNoise(0.1),), augment=Augment(padding=1)))
    assert masks[::2] == masks[1::2] and len(set(masks)) == len(noises) == 6
    assert len(crops) == 2 and not torch.equal(*crops)
    assert all(not torch.allclose(a, b, atol=0.05) for a, b in itertools.combinations(noises, 2))


def test_zeros_of_the_proximal_step(train):
    zeros = [
        float((weights(train(with_(regularisers=(L1(0.02, proximal=p),), epochs=8)))["1.weight"] == 0).float().mean())
        for p in (False, True)
    ]
    assert zeros[0] < 0.01 and zeros[1] > 0.15


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regularisers": (Mixup(0.1), Mixup(0.2))}, r"regularisers holds Mixup 2 times; it takes one of a class\."),
        ({"regularisers": (LastLayerL2(1.0, 0.0),), "compile": True}, "LastLayerL2 does not go with compile=True"),
        (
            {"regularisers": (L1(0.1, proximal=True),), "optimizer": EMA(SAM(base=LBFGS()))},
            r"L1\(proximal=True\) needs a step of a known size, which LBFGS does not take",
        ),
        (
            {"regularisers": (AdversarialTraining(0.1),), "optimizer": EMA(LogitSAM(lr=0.1, m=1))},
            "AdversarialTraining does not go with LogitSAM",
        ),
        ({"regularisers": (LastLayerL2(1.0, 0.0),), "optimizer": JSAM(lr=0.1)}, "LastLayerL2 does not go with JSAM"),
        ({"regularisers": (LastLayerL2(1.0, 0.0),), "optimizer": SAM(lr=0.1, m=1)}, r"go with SAM\(m=1\)"),
        ({"regularisers": (AdversarialTraining(0.1), L1(0.1), Mixup(0.1))}, r"Mixup after Adv.*: put Mixup first\."),
        ({"optimizer": EMA(SAM(lr=0.1, m=1)), "compile": True}, "m=1 does not go with compile=True"),
        ({"regularisers": Mixup(0.1)}, "regularisers must be a sequence of a Regulariser each"),
        ({"early_stopping": 3}, "early_stopping must be an EarlyStopping, not 3"),
    ],
)
def test_impossible_trainings(changes, words):
    with pytest.raises(InvalidValue, match=words):
        with_(**changes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: L1(-1.0), "L1: strength must be at least 0"),
        (lambda: MaxNorm(0.0), "MaxNorm: limit must be more than 0"),
        (lambda: LabelSmoothing(1.0), "LabelSmoothing: share must be below 1"),
        (lambda: AdversarialTraining(0.1, share=1.1), "share must be at most 1"),
        (lambda: EarlyStopping(metric="test_loss"), "metric must be one of 'val_loss', 'val_accuracy'"),
        (lambda: EarlyStopping(patience=0), "patience must be at least 1"),
    ],
)
def test_impossible_values(make, words):
    with pytest.raises(InvalidValue, match=words):
        make()


# Early stopping

OVERFITS = with_(optimizer=AdamW(lr=0.03), model=MLP(widths=(64,)), epochs=30)


def history(artifact):
    return {name: values.tolist() for name, values in artifact.arrays("history").items()}


@pytest.mark.parametrize(
    ("changes", "stopping"),
    [
        ({}, EarlyStopping(patience=3)),
        ({}, EarlyStopping(metric="val_accuracy", patience=2)),
        ({}, EarlyStopping(patience=4, min_delta=0.05)),
        ({"epochs": 6}, EarlyStopping(patience=30)),  # the training ends first
    ],
)
def test_the_weights_of_the_best_epoch_are_those_of_a_training_that_ends_there(train, changes, stopping):
    task = dataclasses.replace(OVERFITS, **changes)
    reports = []
    stopped = train(dataclasses.replace(task, early_stopping=stopping), lambda row: reports.append(dict(row)))
    whole = history(train(task))
    values, best, waited = whole[stopping.metric], 0, 0
    sign = 1 if stopping.metric == "val_accuracy" else -1
    for epoch, value in enumerate(values):  # a plain loop, as the rule is told
        if epoch and sign * value > sign * values[best] + stopping.min_delta:
            best, waited = epoch, 0
        else:
            waited += epoch > 0
        if waited == stopping.patience:
            break
    results = stopped.results
    assert (results["epochs"], results["best_epoch"]) == (epoch + 1, best + 1)
    assert best < epoch and (epoch + 1 < task.epochs) is (not changes)
    assert [row["last"] for row in reports] == [False] * epoch + [True]
    assert history(stopped)["val_loss"] == whole["val_loss"][: epoch + 1]
    assert [row["best_epoch"] for row in reports] == history(stopped)["best_epoch"]
    ended = train(dataclasses.replace(task, epochs=best + 1))
    assert same(stopped, ended)
    for name in ("val_loss", "val_accuracy", "train_loss", "test_accuracy", "generalisation_gap"):
        assert results[name] == ended.results[name]
    assert ended.results["best_epoch"] is None


def test_without_restoring_the_last_weights_are_kept(train):
    rule = EarlyStopping(patience=2, restore=False)
    stopped = train(dataclasses.replace(OVERFITS, early_stopping=rule))
    assert stopped.results["best_epoch"] < stopped.results["epochs"] < 30
    ended = train(dataclasses.replace(OVERFITS, epochs=stopped.results["epochs"]))
    assert same(stopped, ended) and stopped.results["val_loss"] == ended.results["val_loss"]


def test_a_training_that_diverges_is_not_rescued(train):
    task = with_(optimizer=SGD(lr=1e3, momentum=0.9, weight_decay=1e-3), epochs=8, early_stopping=EarlyStopping())
    results = train(task).results
    assert results["diverged"] is True
    assert results["best_epoch"] is None and results["val_loss"] is None


@dataclasses.dataclass(frozen=True)
class Normalised(Model):
    def module(self, shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, classes))


@pytest.mark.parametrize("optimizer", [AdamW(lr=0.03), EMA(AdamW(lr=0.03), decay=0.8)], ids=["adamw", "ema"])
def test_what_was_evaluated_is_restored(train, optimizer):
    """BatchNorm's statistics, and averages of weights."""
    task = with_(optimizer=optimizer, model=Normalised(), epochs=30)
    stopped = train(dataclasses.replace(task, early_stopping=EarlyStopping(patience=2)))
    best = stopped.results["best_epoch"]
    assert best < stopped.results["epochs"] < 30
    ended = train(dataclasses.replace(task, epochs=best))
    assert "2.running_mean" in weights(ended) and same(stopped, ended)
    assert stopped.results["test_loss"] == ended.results["test_loss"]
