"""What a training records, against numbers worked out in numpy from gradients and Hessians of the whole network."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from interruptions import files
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from tasks.batchnorm import frozen_statistics
from tasks.data import Digits
from tasks.errors import InvalidValue, UserError
from tasks.minibatch import Minibatch
from tasks.models import MLP, DenseNet, Model, SimpleCNN
from tasks.optimizers import LBFGS, SAM, SGD, AdamW
from tasks.optimizers.optimizer import Progress
from tasks.optimizers.ratio_groups import ratio_groups
from tasks.recording import Record, fitting, measures
from tasks.recording import record as recording
from tasks.regularisers import Mixup
from tasks.schedules import Cosine
from tasks.task import Context, drain, execute
from tasks.train import Train

DIGITS = Digits(train_size=200)
SMALL = Train(dataset=DIGITS, model=MLP(widths=(16,)), optimizer=SGD(lr=0.1, momentum=0.9), epochs=2, batch_size=32)


def numbers(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Normalised(nn.Sequential):
    """A convolution with BatchNorm, and a buffer that each forward pass in training mode changes."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 3)
        )
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen += 1
        return super().forward(x)


def network_and_data(kind):
    network = Normalised() if kind == "batchnorm" else nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    network.double()
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):
            p.copy_(numbers(*p.shape, seed=10 + i) * 0.6)
    x = numbers(20, 1, 4, 4) if kind == "batchnorm" else numbers(20, 4)
    return network, x, torch.arange(20) % 3


class Dense:
    """Loss, gradient and Hessian of a network on a batch as functions of one flat vector of weights, as numpy."""

    def __init__(self, network, x, y, penalty):
        self.network, self.x, self.y, self.penalty = network, x, y, penalty
        self.shapes = {name: p.shape for name, p in network.named_parameters()}

    @property
    def w(self):
        return torch.cat([p.detach().flatten() for p in self.network.parameters()])

    def logits(self, w):
        pieces = w.split([s.numel() for s in self.shapes.values()])
        weights = {name: piece.view(s) for (name, s), piece in zip(self.shapes.items(), pieces, strict=True)}
        return functional_call(self.network, weights, (self.x,))

    def loss(self, w, rows=slice(None)):
        losses = F.cross_entropy(self.logits(w), self.y, reduction="none")[rows].mean()
        return losses if rows != slice(None) else losses + self.penalty * self.logits(w).square().mean()

    def gradient(self, w, rows=slice(None)):
        return torch.autograd.functional.jacobian(lambda w: self.loss(w, rows), w).numpy()

    def hessian(self, w):
        return torch.autograd.functional.hessian(self.loss, w).numpy()


def groups_by_definition(g, plus):
    found = np.zeros(len(g), int)
    for i, (a, b) in enumerate(zip(g, plus, strict=True)):
        if a != 0:
            r = b / a
            found[i] = 1 if r >= 1 else 2 if r >= 0 else 3 if r <= -1 else 4
    return found


@pytest.mark.parametrize("penalty", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["dense", "batchnorm"])
@pytest.mark.parametrize(
    "optimizer",
    [SGD(lr=0.5, momentum=0.9, weight_decay=0.1), SAM(lr=0.5, rho=0.3), SAM(base=AdamW(lr=0.02), rho=0.3), LBFGS()],
    ids=lambda o: type(o).__name__ + ("/AdamW" if getattr(o, "base", None) else ""),
)
def test_against_numpy(optimizer, kind, penalty):
    network, x, y = network_and_data(kind)
    if kind == "dense":
        network[0].bias.data[0] = -50  # ReLU makes the gradients of that unit exactly zero
    else:
        network[0].weight.data[0] = 0  # and so does BatchNorm
    noisy = torch.arange(40) % 4 == 1
    spec = Record(every=2, rho=0.2)
    recorder = recording.Recorder(spec, network, noisy)
    stepper = optimizer.build(network)
    expected = []
    for step in range(5):
        rows = torch.arange(step, step + 20)
        batch = Minibatch(network, x, y, rows=rows)
        if penalty:
            batch.penalties.append(lambda _, outputs: penalty * outputs.square().mean())
        dense, w = Dense(network, x, y, penalty), None
        if step % 2 == 0:
            w = dense.w
            with frozen_statistics(network):
                expected.append(by_numpy(dense, w, optimizer, noisy[rows].numpy(), spec.rho))
        progress = Progress(step, 5, 4)
        observe = recorder.at(progress)
        assert (observe is not None) == (step % 2 == 0)
        stepper.gradient(batch, progress, observe)
        factor = 1 - step / 10
        stepper.step(factor)
        recorder.stepped(stepper.lr)
        if w is not None:
            expected[-1] |= {"step": step, "epoch": step / 4, "lr": stepper.lr}
    found = recorder.arrays()
    assert found["layer"].tolist() == [name for name, _ in network.named_parameters()]
    for row in expected:
        lr, gg = row["lr"], row["gradient_norm"] ** 2
        row |= {"first_order": lr * gg, "second_order": lr**2 * row["curvature"] / 2}
        row["ill_conditioning"] = row["second_order"] / row["first_order"]
    for name in expected[0]:
        np.testing.assert_allclose(found[name], [row[name] for row in expected], rtol=1e-7, atol=1e-11, err_msg=name)
    assert set(found) == {*expected[0], "layer"}
    assert (found["share_zero"] > 0.05).all() and (found["group_share"][0, 1:3] > 0.05).all()
    assert found["share_negative"].max() > 0
    assert found["step"].dtype == np.int64 and not recorder._seen


def by_numpy(dense, w, optimizer, noisy, rho):
    g = dense.gradient(w)
    unit = g / np.linalg.norm(g)
    nearby = w + torch.from_numpy(rho * unit)
    point = w + torch.from_numpy(optimizer.rho * unit) if isinstance(optimizer, SAM) else nearby
    plus, loss = dense.gradient(point), float(dense.loss(w))
    norm, norm_plus = np.linalg.norm(g), np.linalg.norm(plus)
    group = groups_by_definition(g, plus)
    sizes = np.cumsum([s.numel() for s in dense.shapes.values()])[:-1]
    share = np.array([(group == k).mean() for k in range(5)])
    row = {
        "loss": loss,
        "loss_plus": float(dense.loss(point)),
        "sharpness": float(dense.loss(nearby)) - loss,
        "gradient_norm": norm,
        "norm_ratio": norm_plus / norm,
        "cosine": g @ plus / (norm * norm_plus),
        "weight_norm": np.linalg.norm(w.numpy()),
        "curvature": g @ dense.hessian(w) @ g,
        "group_share": share,
        "layer_share": [[(part == k).mean() for k in range(5)] for part in np.split(group, sizes)],
        "share_zero": share[0],
        "share_group_1": share[1],
        "share_group_2": share[2],
        "share_negative": share[3] + share[4],
    }
    for name, values in (("weight", w.numpy()), ("gradient", g)):
        inside = [values[group == k] for k in range(5)]
        row[f"{name}_mean"] = [v.mean() if len(v) else np.nan for v in inside]
        row[f"{name}_variance"] = [v.var() if len(v) else np.nan for v in inside]
    logits = dense.logits(w)
    for name, rows in (("clean", ~noisy), ("noisy", noisy)):
        rows = torch.from_numpy(rows)
        row[f"{name}_loss"] = float(F.cross_entropy(logits[rows], dense.y[rows]))
        row[f"{name}_accuracy"] = float((logits.argmax(1) == dense.y)[rows].double().mean())
        row[f"{name}_gradient_norm"] = np.linalg.norm(dense.gradient(w, rows))
    return row


def test_groups_are_those_of_ratio_groups(monkeypatch):
    monkeypatch.setitem(measures.CHUNK, "cpu", 7)
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-30, -1e-30, 1e-44, 3e38, -3e38, 0.5, -0.5])
    g = [special.repeat_interleave(11), numbers(4, 3, 5, 5).float().contiguous(memory_format=torch.channels_last)]
    plus = [special.repeat(11), numbers(4, 3, 5, 5, seed=2).float()]
    w = [numbers(*t.shape, seed=3).float() for t in g]
    counts, sums, _ = measures.moments(w, g, plus)
    for i, group in enumerate(ratio_groups(g, plus)):
        assert counts[i].tolist() == np.bincount(group.flatten(), minlength=5).tolist()
    _, sums, products = measures.moments(w[1:], g[1:], plus[1:])
    group = ratio_groups(g[1:], plus[1:])[0]
    expected = [[v[group == k].sum() for k in range(5)] for v in (w[1], g[1], w[1] ** 2, g[1] ** 2)]
    torch.testing.assert_close(sums, torch.tensor(expected).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        products, torch.stack([(plus[1] ** 2).sum(), (plus[1] * g[1]).sum()]).double(), rtol=1e-5, atol=1e-5
    )


# What a network may be made of


class Straight(torch.autograd.Function):
    """Rounded, but backwards as if it were not: its derivatives are autograd's own."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, v):
        return v


def distances(x):
    """|x − ½|, by an operation that PyTorch cannot differentiate twice."""
    return torch.cdist(x[:, :, None], torch.full((len(x), 1, 1), 0.5, dtype=x.dtype), p=3.0)[..., 0]


class Own(nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.inner, self.operation, self.outer = nn.Linear(4, 5), operation, nn.Linear(5, 3)

    def forward(self, x):
        return self.outer(self.operation(self.inner(x)))


def curvatures(network, precision="float32", **options):
    """gᵀHg as recorded, by the whole Hessian, and what was logged."""
    x, y = numbers(12, 4).to(next(network.parameters()).dtype), torch.arange(12) % 3
    log = []
    recorder = recording.Recorder(Record(**options), network, log=log.append)
    stepper = SGD(lr=0.1).build(network)
    stepper.gradient(Minibatch(network, x, y, precision=precision), Progress(), recorder.at(Progress()))
    stepper.step()
    recorder.stepped(stepper.lr)
    return recorder.arrays(), log


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (Straight.apply, "forward differentiation does not give the same"),
        (lambda x: F.instance_norm(x[:, None])[:, 0], "forward differentiation does not give the same"),
        (lambda x: (x * x).exp_(), "changes a tensor in place"),
        (torch.tanh, None),
    ],
    ids=["own function", "fused normalisation", "in place", "tanh"],
)
def test_the_curvature_is_right_whatever_the_network_does(operation, words):
    network = Own(operation).double()
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):
            p.copy_(numbers(*p.shape, seed=10 + i) * 0.6)
    dense = Dense(network, numbers(12, 4), torch.arange(12) % 3, 0.0)
    g = dense.gradient(dense.w)
    expected = g @ dense.hessian(dense.w) @ g
    found, log = curvatures(network)
    assert found["curvature"][0] == pytest.approx(expected, rel=1e-8)
    assert (words is None and not log) or words in log[0]


def test_without_second_derivatives_it_says_what_to_do():
    network = Own(distances)
    with pytest.raises(UserError, match=r"of Own has not .*: record with curvature=False"):
        curvatures(network)
    found, _ = curvatures(network, curvature=False)
    assert not {"curvature", "first_order", "second_order", "ill_conditioning"} & set(found)
    assert np.isfinite(found["norm_ratio"]).all()


def test_float32_and_bfloat16_record_the_curvature_in_float32():
    def network():
        own = Own(torch.relu)
        with torch.no_grad():
            for i, p in enumerate(own.parameters()):
                p.copy_(numbers(*p.shape, seed=10 + i) * 0.6)
        return own

    exact = curvatures(network().double())[0]["curvature"]
    np.testing.assert_allclose(curvatures(network())[0]["curvature"], exact, rtol=1e-4)
    np.testing.assert_allclose(curvatures(network(), precision="bf16")[0]["curvature"], exact, rtol=0.1)


# In a training


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return execute(DIGITS, folder=tmp_path_factory.mktemp("digits"))


@pytest.fixture
def train(digits, tmp_path):
    runs = iter(range(100))

    def run(task, dataset=digits):
        return execute(task, dataset, folder=tmp_path / f"run{next(runs)}", device="cpu")

    return run


@dataclasses.dataclass(frozen=True)
class Odd(Model):
    """A network whose forward passes change buffers, and draw from torch's global random state."""

    def module(self, shape, classes):
        class Drawing(Normalised):
            def forward(self, x):
                return super().forward(x) + 0.01 * torch.rand(1)

        network = Drawing()
        network[4] = nn.Linear(3 * 6 * 6, classes)
        return network

    def initialise(self, network, generator):
        for p in network.parameters():
            p.data = torch.randn(p.shape, generator=generator) * 0.3
        network[1].reset_running_stats()
        network.seen.zero_()


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1, momentum=0.9), SAM(lr=0.1, momentum=0.9, rho=0.1)])
@pytest.mark.parametrize(
    "changes",
    [
        {"label_noise": 0.2, "schedule": Cosine(), "clip_norm": 1.0},
        {"model": MLP(widths=(16,), dropout=0.5), "micro_batch_size": 10},
        {"model": Odd(), "epochs": 1},
        {"model": SimpleCNN(), "precision": "bf16", "epochs": 1},
        {"model": DenseNet(depth=7, growth=2), "epochs": 1},
    ],
    ids=["label noise", "dropout in parts", "buffers and global randomness", "bf16", "DenseNet"],
)
def test_recording_changes_nothing_else(train, optimizer, changes):
    task = dataclasses.replace(SMALL, optimizer=optimizer, **changes)
    torch.manual_seed(1)
    without = train(task)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    with_ = train(dataclasses.replace(task, record=Record(every=3 if task.epochs > 1 else 1)))
    assert torch.equal(state, torch.get_rng_state())
    found = files(with_.dir)
    assert "record.npz" in found and len(with_.arrays("record")["step"]) > 1
    del found["record.npz"]
    assert found == files(without.dir)
    same = {name: value for name, value in with_.results.items() if name not in recording.METRICS}
    assert same == {name: value for name, value in without.results.items() if name not in recording.METRICS}
    assert all(without.results[name] is None for name in recording.METRICS)
    assert all(math.isfinite(with_.results[name]) for name in recording.METRICS)


def test_files_and_results_of_a_training(train):
    task = dataclasses.replace(SMALL, record=Record(every=5), label_noise=0.2, schedule=Cosine())
    artifact = train(task)
    found = artifact.arrays("record")
    assert found["step"].tolist() == [0, 5, 10] and found["epoch"].tolist() == [0, 5 / 6, 10 / 6]
    factors = [Cosine().factor(step, 12) for step in (0, 5, 10)]
    np.testing.assert_allclose(found["lr"], 0.1 * np.array(factors))
    for name in recording.METRICS:
        assert artifact.results[name] == pytest.approx(found[name][2])
    for curve in Train.curves:
        arrays = artifact.arrays(curve.file)
        for name in curve.y:
            assert arrays[name].shape == arrays[curve.x].shape
    assert not any(curve.y == other.y for i, curve in enumerate(Train.curves) for other in Train.curves[:i])


def test_mixed_targets_are_neither_clean_nor_noisy(train):
    found = train(dataclasses.replace(SMALL, record=Record(), label_noise=0.2, regularisers=(Mixup(0.2),)))
    assert not any(name.startswith(("clean", "noisy")) for name in found.arrays("record"))


def test_a_diverged_training_has_a_record(train):
    artifact = train(dataclasses.replace(SMALL, optimizer=SGD(lr=1e25), record=Record(every=1)))
    assert artifact.results["diverged"] and artifact.results["share_negative"] is None
    share = artifact.arrays("record")["group_share"]
    assert np.isfinite(share[0]).all() and np.isnan(share[-1]).all()


def test_who_is_fitted_first(train, digits):
    """Running accuracies by hand: a training whose steps are too small to change what is classified as what."""
    task = dataclasses.replace(SMALL, label_noise=0.3, optimizer=SGD(lr=1e-30), epochs=1)
    artifact = train(task)
    saved, history = artifact.arrays("label_noise"), artifact.arrays("history")
    ctx = Context(artifact.dir, seeds=dict.fromkeys(Train.streams, 0))
    x = torch.from_numpy(digits.array("train_x").astype(np.float32))
    network = task.model.build((1, 8, 8), 10, ctx.generator("init"))
    right = network((x - x.mean()) / x.std(correction=0)).argmax(1).numpy() == saved["labels"]
    seen = torch.randperm(200, generator=ctx.generator("order/0"))[:192].numpy()
    noisy = np.isin(seen, saved["changed"])
    assert history["running_noisy_accuracy"] == [right[seen][noisy].mean()]
    assert history["running_clean_accuracy"] == [right[seen][~noisy].mean()]
    assert artifact.results["noisy_accuracy"] == history["running_noisy_accuracy"][-1]


def test_epochs_at_which_half_is_fitted():
    history = {
        "epoch": [1, 2, 3],
        "running_clean_accuracy": [0.2, 0.5, 0.9],
        "running_noisy_accuracy": [0.1, 0.2, 0.3],
    }
    expected = {"clean_accuracy": 0.9, "noisy_accuracy": 0.3, "clean_half_epoch": 2, "noisy_half_epoch": None}
    assert fitting.results(history) == expected
    assert set(fitting.results({"epoch": [1]}).values()) == {None}


def test_reports_tell_clean_and_noisy_apart(train, digits, tmp_path):
    reports = []
    task = dataclasses.replace(SMALL, label_noise=0.2)
    drain(task.run(Context(tmp_path, seeds=dict.fromkeys(Train.streams, 0), device="cpu"), digits), reports.append)
    assert all({"clean_accuracy", "noisy_accuracy"} <= set(row) for row in reports)
    for share in (0.0, 1.0):
        history = train(dataclasses.replace(SMALL, label_noise=share)).arrays("history")
        assert not any("noisy" in name for name in history)


@pytest.mark.parametrize("changes", [{"every": 0}, {"rho": 0.0}, {"every": 1.5}])
def test_impossible_values(changes):
    with pytest.raises(InvalidValue, match=f"Record: {next(iter(changes))} must be"):
        Record(**changes)


def test_with_m_sharpness_the_loss_is_that_of_the_groups_each_with_its_own_masks(tmp_path):
    """So all but g⁺ is what plain descent records that goes through the same groups as parts."""
    data = execute(DIGITS, folder=tmp_path / "data")
    task = dataclasses.replace(
        SMALL, model=MLP(widths=(64,), dropout=0.5), label_noise=0.4, epochs=1, record=Record(every=99)
    )
    found = []
    for i, changes in enumerate(({"optimizer": SAM(lr=0.1, m=8, rho=0.05)}, {"micro_batch_size": 8})):
        found.append(execute(dataclasses.replace(task, **changes), data, folder=tmp_path / str(i)).arrays("record"))
    groups, parts = found
    for name in ("loss", "sharpness", "gradient_norm", "curvature", "clean_gradient_norm", "noisy_gradient_norm"):
        np.testing.assert_allclose(groups[name], parts[name], rtol=1e-4, err_msg=name)
    assert groups["loss_plus"][0] - groups["loss"][0] > 1.2 * groups["sharpness"][0]  # each group's own ε goes higher
