import hashlib
import pickle
import tarfile

import numpy as np
import pytest

from tasks.data import CIFAR10, CIFAR100, cifar
from tasks.data._torchvision import torchvision_datasets
from tasks.errors import DataError
from tasks.task import execute

BOTH = pytest.mark.parametrize("dataset", [CIFAR10, CIFAR100])


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty data folder, and no way out."""
    monkeypatch.setenv("ORCHESTRATOR_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(cifar, "reachable", lambda url: False)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@BOTH
def test_torchvision_imports_beside_any_torch_and_what_it_publishes_is_ours(dataset):
    theirs, ours = getattr(torchvision_datasets(), dataset.__name__), dataset.published
    assert getattr(torchvision_datasets(), dataset.__name__) is theirs
    files = dict([*theirs.train_list, *theirs.test_list, (theirs.meta["filename"], theirs.meta["md5"])])
    assert files == ours.files
    assert (theirs.url, theirs.filename) == (ours.url, ours.archive.name)
    assert (theirs.tgz_md5, theirs.base_folder) == (ours.md5, ours.folder)


@pytest.mark.parametrize(("dataset", "name", "file"), [(CIFAR10, "CIFAR-10", "10"), (CIFAR100, "CIFAR-100", "100")])
def test_missing(dataset, name, file, root):
    with pytest.raises(DataError) as error:
        dataset().preflight()
    assert str(error.value) == (
        f"{name} is not in {root} and its host does not answer: put "
        f"https://www.cs.toronto.edu/~kriz/cifar-{file}-python.tar.gz there as {root}/cifar-{file}-python.tar.gz."
    )


@BOTH
def test_damaged_archive(dataset, root):
    dataset.published.archive.write_bytes(b"half a download")
    for attempt in (dataset().preflight, dataset().read):
        with pytest.raises(DataError, match=r"cifar-100?-python\.tar\.gz is damaged .*replace it by a fresh copy of"):
            attempt()


@BOTH
def test_damaged_or_missing_file(dataset, root):
    folder = root / dataset.published.folder
    folder.mkdir()
    first = next(iter(dataset.published.files))
    with pytest.raises(DataError, match=rf"{first} is missing: delete the folder"):
        dataset().preflight()
    (folder / first).write_bytes(pickle.dumps("never opened"))
    for attempt in (dataset().preflight, dataset().read):
        with pytest.raises(DataError, match=rf"{first} is damaged .*delete the folder"):
            attempt()


def make_small(dataset, root, folder, monkeypatch):
    """An archive in the official layout with 4 images a file, and its checksums in the place of the real ones."""
    rng = np.random.default_rng(0)
    published = dataset.published
    folder = folder / published.folder
    folder.mkdir(parents=True)
    contents = {}
    for name in published.files:
        images = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        contents[name] = {"data": images, "labels": [0, 3, 5, 9]}
        if dataset is CIFAR100:
            contents[name] = {"data": images, "fine_labels": [0, 51, 99, 7], "coarse_labels": [4, 4, 13, 7]}
        if "meta" in name:
            contents[name] = {"label_names": list("0123456789"), "fine_label_names": [str(i) for i in range(100)]}
        (folder / name).write_bytes(pickle.dumps(contents[name]))
    archive = published.archive
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, published.folder)
    md5s = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in contents}
    made = published._replace(files=md5s, md5=hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(dataset, "published", made)
    theirs = getattr(torchvision_datasets(), dataset.__name__)
    for names in ("train_list", "test_list"):
        monkeypatch.setattr(theirs, names, [[name, md5s[name]] for name, _ in getattr(theirs, names)])
    monkeypatch.setattr(theirs, "meta", theirs.meta | {"md5": md5s[theirs.meta["filename"]]})
    return contents


@pytest.mark.parametrize(
    ("dataset", "train", "test", "labels"),
    [
        (CIFAR10, [f"data_batch_{i}" for i in range(1, 6)], "test_batch", [0, 3, 5, 9]),
        (CIFAR100, ["train"], "test", [0, 51, 99, 7]),
    ],
)
def test_from_the_archive_and_then_from_the_folder(dataset, train, test, labels, root, tmp_path, monkeypatch):
    contents = make_small(dataset, root, tmp_path / "made", monkeypatch)
    dataset().preflight()
    first = dataset().read()
    dataset.published.archive.unlink()
    second = dataset().read()
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    expected = np.concatenate([contents[name]["data"] for name in train])
    assert first.train_x.shape == (4 * len(train), 3, 32, 32)
    assert np.array_equal(first.train_x.reshape(len(expected), -1), expected)
    assert np.array_equal(first.test_x.reshape(4, -1), contents[test]["data"])
    assert list(first.train_y) == labels * len(train)
    assert list(first.test_y) == labels
    assert [p.name for p in root.iterdir()] == [dataset.published.folder]  # no temporary folder is left
    artifact = execute(dataset(validation_size=1), folder=tmp_path / "out")
    assert artifact.results["classes"] == dataset.number_of_classes


@BOTH
def test_failed_download_is_one_sentence(dataset, root, monkeypatch):
    def refuse(self):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision_datasets().CIFAR10, "download", refuse)
    with pytest.raises(DataError, match=r"CIFAR-100? is not in .*could not be downloaded \(no route to host\): put"):
        dataset().read()
    assert list(root.iterdir()) == []


# Which class is mistaken for which

NAMES10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COARSE = [
    *[4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7],
    *[6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10],
    *[16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16],
    *[12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13],
]
"""The coarse label of each fine one, as the archive pairs them."""


def test_cifar10_confusions_are_those_of_patrini():
    assert {(NAMES10[a], NAMES10[b]) for a, b in CIFAR10.confusions} == {
        ("truck", "automobile"),
        ("bird", "airplane"),
        ("deer", "horse"),
        ("cat", "dog"),
        ("dog", "cat"),
    }


def test_cifar100_confusions_go_round_in_each_superclass():
    expected = []
    for superclass in range(20):
        members = [fine for fine in range(100) if COARSE[fine] == superclass]
        expected += zip(members, [*members[1:], members[0]], strict=True)
    assert list(CIFAR100.confusions) == sorted(expected)
