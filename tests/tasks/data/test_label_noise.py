import numpy as np
import pytest
import torch
from scipy import stats

from tasks.data import CIFAR10, CIFAR100, Digits, FashionMNIST, Spirals
from tasks.data.label_noise import class_map, noisy_labels
from tasks.errors import InvalidValue

SHARES = pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
KINDS = pytest.mark.parametrize("confusions", [None, CIFAR10.confusions], ids=["symmetric", "asymmetric"])
P = 1e-4  # the level of each test of a distribution


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def check_changed(labels, noisy, changed):
    """`changed` holds the sorted places, and all of them, where the labels differ."""
    assert torch.equal(changed, (noisy != labels).nonzero()[:, 0])


@SHARES
def test_symmetric_noise_changes_the_share_to_other_classes_uniformly(share):
    classes, n = 5, 20_000
    labels = torch.arange(n) % classes
    noisy, changed = noisy_labels(labels, classes, share, generator())
    check_changed(labels, noisy, changed)
    assert len(changed) == round(share * n)
    if share:
        for c in range(classes):
            counts = torch.bincount(noisy[changed][labels[changed] == c], minlength=classes)
            assert stats.chisquare(counts[torch.arange(classes) != c]).pvalue > P
    if 0 < share < 1:  # no class is hit more than another
        assert stats.chisquare(torch.bincount(labels[changed])).pvalue > P


@SHARES
def test_asymmetric_noise_changes_the_share_of_the_mapped_classes_as_mapped(share):
    n = 20_000
    labels = torch.randint(0, 10, (n,), generator=generator(1))
    noisy, changed = noisy_labels(labels, 10, share, generator(), CIFAR10.confusions)
    check_changed(labels, noisy, changed)
    mapped = dict(CIFAR10.confusions)
    of_mapped = sum(int((labels == c).sum()) for c in mapped)
    assert len(changed) == round(share * of_mapped)
    assert noisy[changed].tolist() == [mapped[true] for true in labels[changed].tolist()]
    if 0 < share < 1:
        hit = [int((labels[changed] == c).sum()) for c in mapped]
        size = np.array([int((labels == c).sum()) for c in mapped])
        assert stats.chi2_contingency([hit, size - hit]).pvalue > P


@pytest.mark.parametrize(("confusions", "classes"), [(CIFAR10.confusions, 10), (CIFAR100.confusions, 100)])
def test_with_a_share_of_one_every_label_of_a_mapped_class_is_mapped(confusions, classes):
    labels = torch.arange(3 * classes) % classes
    noisy, changed = noisy_labels(labels, classes, 1.0, generator(), confusions)
    assert noisy.tolist() == [dict(confusions).get(label, label) for label in labels.tolist()]
    assert len(changed) == 3 * len(confusions)


@KINDS
def test_less_noise_is_a_part_of_more(confusions):
    labels = torch.arange(1000) % 10
    (few, some), (many, more) = (noisy_labels(labels, 10, s, generator(3), confusions) for s in (0.1, 0.4))
    assert set(some.tolist()) < set(more.tolist())
    assert torch.equal(few[some], many[some])


@KINDS
def test_the_generator_decides_alone_and_the_labels_given_are_left_alone(confusions):
    labels = torch.arange(1000) % 10
    before = torch.get_rng_state()
    first, second, other = (noisy_labels(labels, 10, 0.3, generator(seed), confusions)[0] for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(labels, torch.arange(1000) % 10)


def test_symmetric_noise_of_a_generator_is_what_it_always_was():
    """The order of the draws is part of what a seed means: first who, then what."""
    labels = torch.arange(100) % 10
    g = generator(5)
    who, what = torch.randperm(100, generator=g), torch.randint(1, 10, (100,), generator=g)
    expected = labels.clone()
    for i in who[:30].tolist():
        expected[i] = (labels[i] + what[i]) % 10
    assert torch.equal(noisy_labels(labels, 10, 0.3, generator(5))[0], expected)


# Maps


def test_the_map_is_the_users_else_the_published_one():
    own = ((1, 7), (7, 1))
    assert class_map("symmetric", None, Digits()) is None
    assert class_map("asymmetric", None, CIFAR10()) == CIFAR10.confusions
    assert class_map("asymmetric", own, CIFAR10()) == class_map("asymmetric", own, Digits(), 10) == own


@pytest.mark.parametrize(
    ("kind", "pairs", "dataset", "classes", "words"),
    [
        ("symmetric", ((1, 7),), CIFAR10(), None, r"label_noise_kind is 'symmetric': set it to 'asymmetric', or"),
        ("asymmetric", None, Digits(), None, r"Digits has no published map .* give one, such as label_noise_map=\(\("),
        ("asymmetric", None, FashionMNIST(), None, "FashionMNIST has no published map"),
        ("asymmetric", ((3, 3),), CIFAR10(), None, r"label_noise_map: \(3, 3\) takes a class for itself"),
        ("asymmetric", ((0, 2),), Spirals(), None, r"\(0, 2\) is not a pair of classes of Spirals, .* from 0 to 1\."),
        ("asymmetric", ((-1, 2),), CIFAR10(), None, r"\(-1, 2\) is not a pair of classes of CIFAR10"),
        ("asymmetric", ((0, 10),), CIFAR100(), 10, r"\(0, 10\) is not a pair of classes .* from 0 to 9\."),
        ("asymmetric", ((3, 5), (3, 4)), CIFAR10(), None, r"must name each class .* once, not \(\(3, 5\), \(3, 4\)\)"),
        ("asymmetric", (), CIFAR10(), None, "must name each class that is mistaken for another once"),
    ],
)
def test_what_is_no_map(kind, pairs, dataset, classes, words):
    with pytest.raises(InvalidValue, match=words):
        class_map(kind, pairs, dataset, classes)
