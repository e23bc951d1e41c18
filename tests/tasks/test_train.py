import dataclasses
import math
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tasks.data import Augment, Digits, Spirals, load_data
from tasks.errors import InvalidValue
from tasks.evaluation import evaluate
from tasks.models import MLP, Model, ResNet18, SimpleCNN
from tasks.optimizers import SAM, SGD, AdamW
from tasks.regularisers import Regulariser
from tasks.schedules import Cosine
from tasks.task import Artifact, Context, drain, execute
from tasks.train import Train

DIGITS = Digits(train_size=200)
SMALL = Train(dataset=DIGITS, model=MLP(widths=(16,)), optimizer=SGD(lr=0.1, momentum=0.9), epochs=2, batch_size=32)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return execute(DIGITS, folder=tmp_path_factory.mktemp("digits"))


@pytest.fixture
def train(digits, tmp_path):
    """Run a training on the digits with a seed for each stream (0 unless given)."""
    runs = iter(range(1000))

    def run(task=SMALL, dataset=digits, report=None, **seeds):
        folder = tmp_path / f"run{next(runs)}"
        folder.mkdir()
        seeds = dict.fromkeys(task.streams, 0) | seeds
        results = drain(task.run(Context(folder, seeds=seeds, device="cpu"), dataset), report)
        return Artifact(str(folder), task, folder, results, seeds, (dataset,))

    return run


def weights(artifact):
    return load_file(artifact.dir / "weights.safetensors")


def files(artifact):
    return {p.name: p.read_bytes() for p in artifact.dir.iterdir()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_against_a_plain_pytorch_loop(train, digits):
    """The same batches through torch's own SGD, cosine schedule and clipping."""
    task = dataclasses.replace(SMALL, schedule=Cosine(), clip_norm=0.3)
    artifact = train(task)

    ctx = Context(digits.dir, seeds=dict.fromkeys(Train.streams, 0))
    x, y = torch.from_numpy(digits.array("train_x").astype(np.float32)), torch.from_numpy(digits.array("train_y") + 0)
    x = (x - x.mean()) / x.std(correction=0)
    network = task.model.build((1, 8, 8), 10, ctx.generator("init"))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    norms = []
    for epoch in range(2):
        order = torch.randperm(200, generator=ctx.generator(f"order/{epoch}"))
        for rows in order[:192].split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            norms.append(nn.utils.clip_grad_norm_(network.parameters(), 0.3).item())
            optimizer.step()
            schedule.step()

    for name, value in weights(artifact).items():
        torch.testing.assert_close(value, network.state_dict()[name], rtol=1e-4, atol=1e-6)
    assert artifact.results["grad_norm"] == pytest.approx(np.mean(norms[6:]), rel=1e-4)
    assert max(norms) > 0.3  # the clipping mattered
    network.eval()
    loss = nn.functional.cross_entropy(network(x), y).item()
    assert artifact.results["train_loss"] == pytest.approx(loss, rel=1e-4)


def test_results_history_and_reports_agree(train):
    reports = []
    artifact = train(report=lambda row: reports.append(dict(row)))
    assert set(artifact.results) == set(Train.metrics)
    assert {*Train.headline} <= set(Train.metrics)
    table = pq.read_table(artifact.dir / "history.parquet").to_pydict()
    assert table["epoch"] == [1, 2]
    arrays = artifact.arrays("history")
    for curve in Train.curves[:2]:  # the others need label noise or a record
        assert {curve.x, *curve.y} <= set(arrays)
    assert [r["val_loss"] for r in reports] == table["val_loss"] == list(arrays["val_loss"])
    assert [r["train_loss"] for r in reports] == table["running_train_loss"]
    assert artifact.results["val_loss"] == table["val_loss"][-1]
    assert artifact.results["train_loss"] != table["running_train_loss"][-1]
    results = artifact.results
    assert results["generalisation_gap"] == results["test_loss"] - results["train_loss"]
    assert table["generalisation_gap"][0] == table["val_loss"][0] - table["running_train_loss"][0]
    assert results["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert results["diverged"] is False


def test_it_learns(tmp_path):
    digits = execute(Digits(), folder=tmp_path / "digits")
    task = Train(dataset=Digits(), model=MLP(), epochs=10, optimizer=SGD(lr=0.1, momentum=0.9))
    results = execute(task, digits, folder=tmp_path / "trained").results
    assert results["test_accuracy"] > 0.93
    assert results["train_loss"] < 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": AdamW(lr=0.01)},
        {"optimizer": SAM(lr=0.1, momentum=0.9, rho=0.1), "augment": Augment(padding=1, cutout=2), "label_noise": 0.2},
        {"optimizer": SAM(base=AdamW(), rho=0.1), "model": SimpleCNN()},
        {"precision": "bf16", "clip_norm": 1.0},
        {"precision": "tf32", "deterministic": False},
        {"model": ResNet18(), "dataset": Digits(train_size=32), "epochs": 1},
    ],
)
def test_same_seeds_same_bytes(train, tmp_path, changes):
    task = dataclasses.replace(SMALL, **changes)
    given = {} if task.dataset == DIGITS else {"dataset": execute(task.dataset, folder=tmp_path / "data")}
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    first = train(task, **given)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert flags == (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic)
    torch.manual_seed(2)
    second = train(task, **given)
    assert files(first) == files(second)
    assert first.results == second.results


def test_a_full_batch_in_parts_is_a_step_on_all_examples(train):
    whole = dataclasses.replace(SMALL, batch_size=None, optimizer=SAM(lr=0.1, rho=0.1))
    parts = dataclasses.replace(whole, micro_batch_size=64)
    a, b = train(whole), train(parts)
    for name, value in weights(a).items():
        torch.testing.assert_close(value, weights(b)[name], rtol=1e-4, atol=1e-6)
    assert not same(weights(a), weights(train(dataclasses.replace(whole, batch_size=64))))


def test_parts_are_refused_where_they_would_change_the_statistics(train):
    with pytest.raises(InvalidValue, match="micro_batch_size=16 would give BatchNorm less than the batch of 32"):
        train(dataclasses.replace(SMALL, model=ResNet18(), micro_batch_size=16))


@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9), SAM(momentum=0.9, rho=0.1)])
def test_channels_last_computes_the_same(train, optimizer):
    task = dataclasses.replace(SMALL, model=SimpleCNN(), optimizer=optimizer, epochs=1)
    a, b, c = (weights(train(dataclasses.replace(task, channels_last=c))) for c in (False, True, None))
    assert same(b, c)  # the default on the CPU
    assert all(b[k].is_contiguous() for k in b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5)


# Streams


def test_unused_streams_change_nothing(train):
    assert same(weights(train()), weights(train(augmentation=1, label_noise=1)))


@dataclasses.dataclass(frozen=True)
class Jitter(Regulariser):
    def on_batch(self, batch, generator):
        batch.x = batch.x + torch.randn(batch.x.shape, generator=generator)


def test_each_used_stream_changes_the_outcome(train):
    task = dataclasses.replace(SMALL, augment=Augment(padding=1), label_noise=0.2, regularisers=[Jitter()])
    reference = weights(train(task))
    for stream in Train.streams:
        assert not same(reference, weights(train(task, **{stream: 1}))), stream


def test_initial_parameters_depend_on_init_alone(train):
    still = dataclasses.replace(
        SMALL, optimizer=SGD(lr=1e-30), augment=Augment(padding=1), label_noise=0.2
    )  # steps too small to change any weight
    reference = weights(train(still))
    others = weights(train(still, order=1, augmentation=1, label_noise=1))
    assert same({k: v for k, v in reference.items() if "weight" in k}, others)
    assert not same(reference, weights(train(still, init=1)))


def test_order_only_permutes(train):
    """With the whole training set in each batch, the order cannot matter beyond rounding."""
    whole = dataclasses.replace(SMALL, batch_size=200)
    a, b = weights(train(whole)), weights(train(whole, order=1))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(weights(train())["1.weight"], weights(train(order=1))["1.weight"], atol=1e-3)


def test_labels_depend_on_label_noise_alone(train):
    task = dataclasses.replace(SMALL, label_noise=0.2)
    reference = train(task).arrays("label_noise")["labels"]
    assert np.array_equal(reference, train(task, init=1, order=1, augmentation=1).arrays("label_noise")["labels"])
    assert not np.array_equal(reference, train(task, label_noise=1).arrays("label_noise")["labels"])


# Label noise


ASYMMETRIC = {"label_noise_kind": "asymmetric", "label_noise_map": ((1, 7), (3, 8), (8, 3))}


def test_asymmetric_noise_follows_the_map(train, digits):
    true = digits.array("train_y")
    saved = train(dataclasses.replace(SMALL, label_noise=0.4, **ASYMMETRIC)).arrays("label_noise")
    changed = saved["changed"]
    assert len(changed) == round(0.4 * np.isin(true, [1, 3, 8]).sum())
    pairs = {*zip(true[changed].tolist(), saved["labels"][changed].tolist(), strict=True)}
    assert pairs == {(1, 7), (3, 8), (8, 3)}


def test_label_noise_follows_the_datasets_own_map(train, digits):
    @dataclasses.dataclass(frozen=True)
    class Confusing(Digits):
        confusions = ((0, 6),)

    task = dataclasses.replace(SMALL, dataset=Confusing(), label_noise=1.0, label_noise_kind="asymmetric")
    true, saved = digits.array("train_y"), train(task).arrays("label_noise")
    assert np.array_equal(saved["labels"], np.where(true == 0, 6, true))


@pytest.mark.parametrize(
    ("changes", "count"), [({}, lambda y: 60), (ASYMMETRIC, lambda y: round(0.3 * np.isin(y, [1, 3, 8]).sum()))]
)
def test_label_noise_is_recorded_and_touches_training_labels_only(train, digits, changes, count):
    artifact = train(dataclasses.replace(SMALL, label_noise=0.3, **changes))
    saved, true = artifact.arrays("label_noise"), digits.array("train_y")
    assert len(saved["changed"]) == count(true)
    assert np.array_equal(np.flatnonzero(saved["labels"] != true), saved["changed"])
    data = load_data(Context(digits.dir, device="cpu"), digits)
    assert np.array_equal(data.train.y.numpy(), true)  # shared data is untouched
    assert not (train().dir / "label_noise.npz").exists()


# SAM


def test_sam_with_rho_zero_is_sgd_to_the_byte(train):
    base = SGD(lr=0.1, momentum=0.9, weight_decay=1e-3)
    sam = SAM(lr=0.1, momentum=0.9, weight_decay=1e-3, rho=0.0)
    a, b = (train(dataclasses.replace(SMALL, optimizer=o, clip_norm=0.5)) for o in (base, sam))
    assert files(a) == files(b)


# Divergence


def test_divergence_is_a_result(train):
    reports = []
    task = dataclasses.replace(SMALL, optimizer=SGD(lr=1e25), epochs=5)
    artifact = train(task, report=reports.append)
    assert artifact.results["diverged"] is True
    assert artifact.results["epochs"] < 5
    assert artifact.results["val_loss"] is None
    assert set(artifact.results) == set(Train.metrics)
    table = pq.read_table(artifact.dir / "history.parquet").to_pydict()
    assert not math.isfinite(table["val_loss"][-1] + table["running_train_loss"][-1])
    assert all(math.isfinite(v) for row in reports for v in row.values())
    assert not (artifact.dir / "weights.safetensors").exists()


def test_divergence_is_seen_before_the_epoch_ends(train, monkeypatch):
    steps = []

    class Counting(MLP):
        def module(self, shape, classes):
            network = super().module(shape, classes)
            network.register_forward_hook(lambda module, *_: steps.append(module.training))
            return network

    train(dataclasses.replace(SMALL, model=Counting(), optimizer=SGD(lr=1e25), batch_size=1))
    assert sum(steps) == 50  # of 200


def test_weights_of_a_diverged_training_are_kept_if_finite(train):
    class Overflowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x):
            outputs = self.linear(x.flatten(1))
            return outputs if self.training else outputs * math.inf

    class Odd(Model):
        def module(self, shape, classes):
            return Overflowing()

    artifact = train(dataclasses.replace(SMALL, model=Odd()))
    assert artifact.results["diverged"] is True
    assert artifact.results["epochs"] == 1
    assert (artifact.dir / "weights.safetensors").exists()


# Odds and ends


def test_a_training_set_smaller_than_a_batch_is_one_batch(train):
    assert same(
        weights(train(dataclasses.replace(SMALL, batch_size=200))),
        weights(train(dataclasses.replace(SMALL, batch_size=5000))),
    )


def test_evaluate_by_hand(digits):
    data = load_data(Context(digits.dir, device="cpu"), digits)
    network = MLP().build((1, 8, 8), 10, torch.Generator().manual_seed(0))
    loss, accuracy = evaluate(network, data, data.test, batch=100)
    outputs = network(data.normalise(data.test.x)).log_softmax(1)
    assert loss == pytest.approx(-outputs[range(len(outputs)), data.test.y].mean().item(), rel=1e-6)
    assert accuracy == np.mean(outputs.argmax(1).numpy() == data.test.y.numpy())
    assert network.training


def test_features_train_too(tmp_path):
    spirals = Spirals(examples=500, noise=0.0)
    dataset = execute(spirals, folder=tmp_path / "spirals")
    task = Train(dataset=spirals, model=MLP(widths=(64, 64)), optimizer=AdamW(lr=0.01), epochs=60, batch_size=50)
    assert execute(task, dataset, folder=tmp_path / "trained").results["train_accuracy"] > 0.9


def test_cutout_takes_out_what_the_network_would_see(train):
    """Against the same training without: the same crops and flips, and up to nine pixels at the mean."""
    shown = []

    class Looking(MLP):
        def module(self, shape, classes):
            network = super().module(shape, classes)
            network.register_forward_pre_hook(lambda module, x: shown.append(x[0]) if module.training else None)
            return network

    task = dataclasses.replace(SMALL, model=Looking(), epochs=1)
    for side in (0, 3):
        train(dataclasses.replace(task, augment=Augment(padding=1, cutout=side)))
    whole, cut = torch.cat(shown[:6]), torch.cat(shown[6:])
    holes = cut != whole
    assert not cut[holes].any()  # 0 after the normalisation: the mean of the training set
    assert holes.flatten(1).any(1).float().mean() > 0.9
    assert holes.sum((1, 2, 3)).max() <= 9
    assert torch.equal(cut[~holes], whole[~holes])


def test_dropout_is_refused(train):
    class Dropping(Model):
        def module(self, shape, classes):
            return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, classes))

    with pytest.raises(InvalidValue, match="layer '1' is a dropout"):
        train(dataclasses.replace(SMALL, model=Dropping()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, r"Train: epochs must be at least 1, not 0\."),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": 1.5}, "batch_size must be an integer"),
        ({"label_noise": 1.5}, r"label_noise must be at most 1, not 1\.5"),
        ({"label_noise": -0.1}, "label_noise must be at least 0"),
        ({"label_noise_kind": "random"}, "label_noise_kind must be one of 'symmetric', 'asymmetric'"),
        ({"label_noise_kind": "asymmetric"}, "Digits has no published map of classes"),
        ({"label_noise_map": ((1, 7),)}, "label_noise_kind is 'symmetric'"),
        ({"label_noise_kind": "asymmetric", "label_noise_map": ((1, 10),)}, r"\(1, 10\) is not a pair of classes of"),
        ({"label_noise_map": ((1, 2, 3),)}, r"label_noise_map\[0\] must have 2 elements, not 3"),
        ({"clip_norm": 0}, "clip_norm must be more than 0"),
        ({"precision": "fp16"}, "precision must be one of"),
        ({"optimizer": "sgd"}, "optimizer must be an Optimizer"),
        ({"model": MLP}, "model must be a Model"),
        ({"dataset": "digits"}, "dataset must be a Dataset"),
        ({"augment": True}, "augment must be an? Augment"),
        ({"schedule": 0.1}, "schedule must be a Schedule"),
    ],
)
def test_impossible_values(changes, words):
    with pytest.raises(InvalidValue, match=words):
        dataclasses.replace(SMALL, **changes)


def test_augmenting_features_is_refused_where_their_shape_is_known_from_the_data_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(Spirals, "example_shape", None)
    spirals = Spirals(examples=20, test_examples=4)
    dataset = execute(spirals, folder=tmp_path / "spirals")
    task = Train(dataset=spirals, model=MLP(), augment=Augment(), batch_size=4)
    with pytest.raises(InvalidValue, match="Augment takes images"):
        execute(task, dataset, folder=tmp_path / "trained")


def test_specifications_import_nothing_heavy():
    code = (
        "import sys, tasks.data, tasks.models, tasks.optimizers, tasks.schedules, tasks.train, tasks.trained\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'sklearn', 'pyarrow', 'safetensors', 'matplotlib', 'ray'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
