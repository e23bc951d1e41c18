import gzip
import math

import numpy as np
import pytest
import torch

from tasks.data import Dataset, Digits, FashionMNIST, Source, Spirals, fashion_mnist, load_data
from tasks.data._files import reachable
from tasks.errors import DataError, InvalidValue
from tasks.task import Context, execute


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty data folder, and no way out."""
    monkeypatch.setenv("ORCHESTRATOR_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(fashion_mnist, "reachable", lambda url: False)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


class Numbers(Dataset):
    """Example i has the feature i and the class i mod 3; the test examples count down from −1."""

    def read(self):
        x = np.arange(20, dtype=np.float32)[:, None]
        return Source(x, np.arange(20) % 3, -1 - x[:5], np.arange(5) % 3)


def test_digits_are_scikit_learns(tmp_path):
    from sklearn.datasets import load_digits

    artifact = execute(Digits(), folder=tmp_path / "out")
    x = np.concatenate([artifact.array(f"{s}_x") for s in ("train", "validation", "test")])
    y = np.concatenate([artifact.array(f"{s}_y") for s in ("train", "validation", "test")])
    assert x.dtype == np.uint8
    assert x.shape == (1797, 1, 8, 8)
    assert y.dtype == np.int64
    images, targets = load_digits(return_X_y=True)
    ours = sorted((bytes(image), int(label)) for image, label in zip(x, y, strict=True))
    theirs = sorted((bytes(i.astype(np.uint8)), int(label)) for i, label in zip(images, targets, strict=True))
    assert ours == theirs
    assert artifact.results["classes"] == 10
    assert artifact.results["test_examples"] == 359
    assert artifact.results["validation_examples"] == 288


def test_same_parameters_same_content_and_another_split_another_content(tmp_path):
    shas = [
        execute(dataset, folder=tmp_path / str(i)).results["sha256"]
        for i, dataset in enumerate([Digits(), Digits(), Digits(split_seed=1)])
    ]
    assert shas[0] == shas[1] != shas[2]


def test_splits_are_disjoint_and_smaller_training_sets_are_parts_of_larger_ones(tmp_path):
    full = execute(Numbers(validation_size=4), folder=tmp_path / "full")
    train, validation = full.array("train_x")[:, 0], full.array("validation_x")[:, 0]
    assert sorted([*train, *validation]) == list(range(20))
    assert np.array_equal(full.array("train_y"), train.astype(int) % 3)
    assert np.array_equal(full.array("test_x")[:, 0], -1 - np.arange(5))
    for size in (1, 7, 16):
        part = execute(Numbers(validation_size=0.2, train_size=size), folder=tmp_path / str(size))
        assert np.array_equal(part.array("train_x")[:, 0], train[:size])
        assert np.array_equal(part.array("train_y"), train[:size].astype(int) % 3)
        for name in ("validation_x", "validation_y", "test_x", "test_y"):
            assert np.array_equal(part.array(name), full.array(name)), name
        assert part.results["classes"] == 3  # also where one example cannot show them
        assert part.array("mean") == pytest.approx(train[:size].mean())  # of the examples kept, not of all
        assert part.array("std") == pytest.approx(train[:size].std() if size > 1 else 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Numbers(validation_size=0), "validation_size must be more than 0"),
        (lambda: Numbers(validation_size=2.5), "fraction below 1 or a whole number"),
        (lambda: Numbers(validation_size=20).run(None), "leaves 20 validation and 0 training examples of 20"),
        (lambda: Numbers(validation_size=0.01).run(None), "leaves 0 validation"),
        (lambda: Numbers(validation_size=4, train_size=17).run(None), "train_size=17 is more than the 16"),
        (lambda: Numbers(train_size=0), "train_size must be at least 1"),
        (lambda: Numbers(split_seed=-1), "split_seed must be at least 0"),
        (lambda: Digits(test_size=1.0), "test_size must be below 1"),
        (lambda: Spirals(noise=-1), "noise must be at least 0"),
        (lambda: Spirals(examples=1), "examples must be at least 4"),
    ],
)
def test_impossible_values(make, words):
    with pytest.raises(InvalidValue, match=words):
        make()


# Normalisation


def check_normalised(data, training_x):
    """Against numpy, over all axes but the second."""
    x = data.normalise(data.train.x)
    assert x.dtype == torch.float32
    assert np.array_equal(data.train.x.numpy(), training_x)  # the shared tensor is left alone
    axes = (0, *range(2, training_x.ndim))
    mean, std = training_x.astype(np.float64).mean(axes), training_x.astype(np.float64).std(axes)
    np.testing.assert_allclose(data.mean.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(data.std.numpy(), std, rtol=1e-6)
    expected = (np.moveaxis(training_x.astype(np.float64), 1, -1) - mean) / std
    np.testing.assert_allclose(np.moveaxis(x.numpy(), 1, -1), expected, atol=1e-5)


class Colours(Dataset):
    def read(self):
        rng = np.random.default_rng(0)
        x = (rng.random((50, 3, 4, 5)) * np.array([10, 100, 255])[:, None, None]).astype(np.uint8)
        return Source(x, np.arange(50) % 4, x[:7], np.arange(7) % 4)


@pytest.mark.parametrize("dataset", [Colours(), Spirals(examples=60, test_examples=10)])
def test_normalisation_is_per_channel_over_the_training_set(dataset, tmp_path):
    artifact = execute(dataset, folder=tmp_path / "out")
    data = load_data(Context(tmp_path, device="cpu"), artifact)
    check_normalised(data, np.array(artifact.array("train_x")))


def test_constant_channel_stays_at_zero(tmp_path):
    class Flat(Dataset):
        def read(self):
            x = np.full((10, 1, 2, 2), 7, np.uint8)
            return Source(x, np.arange(10) % 2, x, np.arange(10) % 2)

    data = load_data(Context(tmp_path, device="cpu"), execute(Flat(), folder=tmp_path / "out"))
    assert (data.normalise(data.train.x) == 0).all()


def test_load_data_is_cached_and_cannot_damage_the_artifact(tmp_path):
    artifact = execute(Numbers(), folder=tmp_path / "out")
    ctx = Context(tmp_path, device="cpu")
    data = load_data(ctx, artifact)
    assert load_data(ctx, artifact) is data
    assert (data.shape, data.classes) == ((1,), 3)
    before = artifact.array("train_x").copy()
    data.train.x.zero_()
    assert np.array_equal(artifact.array("train_x"), before)
    with pytest.raises(InvalidValue, match="split must be one of"):
        data.split("val")


# Spirals


def test_spirals_without_noise_lie_on_the_curves():
    x, y, *_ = Spirals(examples=500, noise=0).read()
    radius = np.hypot(*x.T)
    angle = radius / 1.5  # n, since the point is 1.5 n (∓cos n, ±sin n)
    sign = np.where(y == 0, 1, -1)
    np.testing.assert_allclose(x[:, 0], -1.5 * angle * np.cos(angle) * sign, atol=1e-4)
    np.testing.assert_allclose(x[:, 1], 1.5 * angle * np.sin(angle) * sign, atol=1e-4)
    assert angle.max() <= 600 * 2 * math.pi / 360
    # n = √U · n_max, so (n / n_max)² is uniform: mean ½, variance 1/12.
    u = (angle / (600 * 2 * math.pi / 360)) ** 2
    assert u.mean() == pytest.approx(0.5, abs=0.05)
    assert u.var() == pytest.approx(1 / 12, abs=0.02)
    assert (y == 0).sum() == 250


def test_spirals_noise_and_seed():
    clean, noisy, again, other = (
        Spirals(examples=4000, noise=noise, seed=seed).read().train_x
        for noise, seed in ((0, 0), (0.7, 0), (0.7, 0), (0.7, 1))
    )
    assert np.array_equal(noisy, again)
    assert not np.array_equal(noisy, other)
    assert (noisy - clean).std() == pytest.approx(0.7, rel=0.05)
    source = Spirals(noise=0.7).read()
    assert not np.array_equal(source.train_x, source.test_x)


# Classes


@pytest.mark.parametrize("dataset", [Digits(), Spirals(examples=20, test_examples=4)])
def test_the_number_of_classes_known_beforehand_is_the_one_read(dataset, tmp_path):
    assert execute(dataset, folder=tmp_path / "out").results["classes"] == dataset.number_of_classes


# Fashion-MNIST


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def fashion(root):
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (30, 28, 28)),
        "train-labels-idx1-ubyte": np.arange(30) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (10, 28, 28)),
        "t10k-labels-idx1-ubyte": np.arange(10),
    }
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for i, (name, array) in enumerate(arrays.items()):  # some gzipped, some not
        if i % 2:
            (folder / name).write_bytes(idx(array))
        else:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return folder, arrays


def test_fashion_mnist_from_idx_files(fashion, tmp_path):
    _, arrays = fashion
    dataset = FashionMNIST(validation_size=5)
    dataset.preflight()
    source = dataset.read()
    assert np.array_equal(source.train_x[:, 0], arrays["train-images-idx3-ubyte"])
    assert np.array_equal(source.test_y, arrays["t10k-labels-idx1-ubyte"])
    artifact = execute(dataset, folder=tmp_path / "out")
    assert artifact.array("train_x").shape == (25, 1, 28, 28)
    assert artifact.array("train_x").dtype == np.uint8


@pytest.mark.parametrize("cut", [0, 3, 10, 500, -1])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"])
def test_fashion_mnist_damaged_file_is_named(fashion, name, cut):
    path = fashion[0] / name
    path.write_bytes(path.read_bytes()[:cut])
    if name.endswith("ubyte") and cut == 500:
        path.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=rf"{name} is damaged .*replace it"):
        FashionMNIST().preflight()


def test_fashion_mnist_missing(root):
    with pytest.raises(
        DataError, match=r"Fashion-MNIST is not in .*FashionMNIST/raw and its host does not answer: put"
    ):
        FashionMNIST().preflight()


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_from_debians_package(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_DATA", str(tmp_path))
    FashionMNIST().preflight()
    source = FashionMNIST().read()
    assert source.train_x.shape == (60_000, 1, 28, 28)
    assert source.test_x.shape == (10_000, 1, 28, 28)
    assert np.array_equal(np.bincount(source.train_y), [6000] * 10)
    assert np.array_equal(np.bincount(source.test_y), [1000] * 10)
    assert source.train_x.mean() / 255 == pytest.approx(0.2860, abs=1e-4)  # the figures in common use
    assert source.train_x.std() / 255 == pytest.approx(0.3530, abs=1e-4)


# Reaching a host


def test_reachable(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    import http.server
    import socket
    import threading
    import time

    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert reachable(f"http://127.0.0.1:{server.server_port}/no-such-file")
    finally:
        server.shutdown()
        server.server_close()
    assert not reachable(f"http://127.0.0.1:{server.server_port}/")  # closed now
    with socket.socket() as silent:  # accepts and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        assert not reachable(f"http://127.0.0.1:{silent.getsockname()[1]}/", seconds=0.3)
        assert time.monotonic() - start < 2
