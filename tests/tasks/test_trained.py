import numpy as np
import pytest
import torch

from tasks.data import Digits
from tasks.errors import InvalidValue, UserError
from tasks.models import MLP, ResNet18
from tasks.optimizers import SGD
from tasks.task import Context, execute
from tasks.train import Train
from tasks.trained import load_trained

DIGITS = Digits(train_size=100)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return execute(DIGITS, folder=tmp_path_factory.mktemp("digits"))


@pytest.fixture
def trained(digits, tmp_path):
    def make(seed=0, **changes):
        spec = {"model": MLP(widths=(8,)), "epochs": 1, "batch_size": 20} | changes
        task = Train(dataset=DIGITS, **spec)
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        artifact = execute(task, digits, folder=folder, seed=seed, device="cpu")
        return artifact, Context(tmp_path, device="cpu")

    return make


@pytest.mark.parametrize("model", [MLP(widths=(8,)), ResNet18()])
def test_the_loaded_model_gives_the_stored_results(trained, model):
    artifact, ctx = trained(model=model)
    t = load_trained(ctx, artifact)
    assert t.train == artifact.task
    assert not t.model.training
    assert all(p.requires_grad for p in t.model.parameters())
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        x, y = t.evaluation_set(split)
        assert x.dtype == torch.float32
        outputs = t.model(x)
        assert t.loss(outputs, y).item() == pytest.approx(artifact.results[f"{name}_loss"], rel=1e-5)
        accuracy = (outputs.argmax(1) == y).float().mean().item()
        assert accuracy == pytest.approx(artifact.results[f"{name}_accuracy"], abs=1e-6)


def test_loss_reductions(trained):
    t = load_trained(*trained()[::-1])
    x, y = t.evaluation_set("test", 10)
    outputs = t.model(x)
    each = t.loss(outputs, y, reduction="none")
    expected = -outputs.log_softmax(1)[range(10), y]
    torch.testing.assert_close(each, expected)
    assert t.loss(outputs, y, reduction="sum").item() == pytest.approx(expected.sum().item(), rel=1e-6)


def test_evaluation_set_is_the_same_for_all_seeds_and_nested(trained):
    a, b = (load_trained(*trained(seed=seed)[::-1]) for seed in (0, 1))
    xa, ya = a.evaluation_set("train", 30)
    xb, yb = b.evaluation_set("train", 30)
    assert torch.equal(xa, xb)
    assert torch.equal(ya, yb)
    x, y = a.evaluation_set("train")
    assert torch.equal(x[:30], xa)
    assert len(y) == 100
    assert torch.equal(x.flatten(1).sort(0).values, a.data.normalise(a.data.train.x).flatten(1).sort(0).values)
    assert not torch.equal(y, a.data.train.y)  # not simply the first ones


@pytest.mark.parametrize("examples", [0, -1, 101])
def test_evaluation_set_of_impossible_size(trained, examples):
    t = load_trained(*trained()[::-1])
    with pytest.raises(InvalidValue, match=f"examples={examples} is not between 1 and the 100 examples"):
        t.evaluation_set("train", examples)


@pytest.mark.parametrize(
    "changes", [{}, {"label_noise_kind": "asymmetric", "label_noise_map": ((1, 7), (7, 1), (2, 3))}]
)
def test_labels_are_those_trained_on(trained, digits, changes):
    artifact, ctx = trained(label_noise=0.5, **changes)
    noisy, clean = load_trained(ctx, artifact), load_trained(ctx, trained()[0])
    assert np.array_equal(noisy.data.train.y.numpy(), artifact.arrays("label_noise")["labels"])
    assert np.array_equal(clean.data.train.y.numpy(), digits.array("train_y"))
    x, y = noisy.evaluation_set("train")
    assert noisy.loss(noisy.model(x), y).item() == pytest.approx(artifact.results["train_loss"], rel=1e-5)


def test_models_are_not_shared(trained):
    artifact, ctx = trained()
    first, second = load_trained(ctx, artifact), load_trained(ctx, artifact)
    with torch.no_grad():
        next(first.model.parameters()).zero_()
    assert next(second.model.parameters()).any()


def test_without_weights(trained, digits):
    artifact, ctx = trained(optimizer=SGD(lr=1e30))
    assert artifact.results["diverged"]
    with pytest.raises(UserError, match=r"holds no weights\.safetensors"):
        load_trained(ctx, artifact)
    with pytest.raises(UserError, match=r"holds no weights\.safetensors"):
        load_trained(ctx, digits)
