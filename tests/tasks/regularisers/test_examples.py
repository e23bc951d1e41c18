"""What is done to the examples and targets of a step, and to where its loss is taken, against hand loops."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from tasks.errors import InvalidValue
from tasks.minibatch import Minibatch
from tasks.models import Linear
from tasks.regularisers import AdversarialTraining, InputNoise, LabelSmoothing, Mixup, WeightNoise

CLASSES = 3


@pytest.fixture(autouse=True)
def seeded():
    """For the layers that torch initialises itself."""
    torch.manual_seed(0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbers(*shape, seed=1):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def softmax_regression(features=4):
    return Linear().build((features,), CLASSES, generator()).double()


def changed(batch, *regularisers, draws=None):
    for regulariser in regularisers:
        regulariser.on_batch(batch, draws or generator())
    return batch


def targets(n):
    return torch.arange(n) % CLASSES


def by_hand(outputs, probabilities):
    """Mean cross-entropy, element by element."""
    total = 0.0
    for row, wanted in zip(outputs.tolist(), probabilities.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(v) for v in row))
        total -= sum(p * (v - log_sum) for p, v in zip(wanted, row, strict=True))
    return total / len(outputs)


@pytest.mark.parametrize("probabilities", [False, True])
def test_label_smoothing(probabilities):
    network, y = softmax_regression(), targets(6)
    rows = F.one_hot(y, CLASSES).double()
    batch = changed(Minibatch(network, numbers(6, 4), rows if probabilities else y), LabelSmoothing(0.3))
    outputs = batch.outputs()
    assert batch.loss(outputs).item() == pytest.approx(by_hand(outputs, 0.7 * rows + 0.1), rel=1e-12)


def test_mixup_against_a_hand_loop():
    """The examples are unit vectors, so that what was mixed can be read off."""
    n = 8
    batch = changed(
        Minibatch(softmax_regression(n), torch.eye(n, dtype=torch.float64), targets(n), classes=CLASSES), Mixup(1.0)
    )
    mixed, total, outputs = batch.x.clone(), 0.0, batch.outputs()
    kept = min(v for row in mixed.tolist() for v in row if v > 0)
    kept = mixed[0, 0].item() if mixed[0, 0] > 0 else kept
    partners = []
    for i in range(n):
        mixed[i, i] -= kept
        partners.append(int(mixed[i].argmax()))
        torch.testing.assert_close(mixed[i], (1 - kept) * F.one_hot(torch.tensor(partners[i]), n).double())
        logs = outputs[i].log_softmax(0)
        total -= kept * logs[i % CLASSES].item() + (1 - kept) * logs[partners[i] % CLASSES].item()
    assert sorted(partners) == list(range(n)) != partners
    assert batch.loss(outputs).item() == pytest.approx(total / n, rel=1e-12)
    torch.testing.assert_close(batch.targets.sum(1), torch.ones(n, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_draws_from_the_beta_distribution(alpha):
    draws, x, y = generator(), torch.eye(2, dtype=torch.float64), torch.arange(2)
    found = []
    while len(found) < 300:
        mixed = changed(Minibatch(nn.Identity(), x, y, classes=2), Mixup(alpha), draws=draws).x
        if mixed[0, 1] > 0 or mixed[0, 0] < 1:  # two were swapped
            found.append(mixed[0, 0].item())
    assert stats.kstest(found, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_mixup_needs_the_number_of_classes():
    with pytest.raises(InvalidValue, match="how many classes"):
        changed(Minibatch(softmax_regression(), numbers(6, 4), targets(6)), Mixup(1.0))


def test_input_noise():
    x = numbers(400, 50)
    batch = changed(Minibatch(softmax_regression(50), x, targets(400)), InputNoise(0.3))
    noise = (batch.x - x).flatten()
    assert stats.kstest(noise.numpy() / 0.3, "norm").pvalue > 1e-3
    draws = generator()
    again = [changed(Minibatch(softmax_regression(50), x, targets(400)), InputNoise(0.3), draws=draws) for _ in "ab"]
    assert torch.equal(again[0].x, batch.x) and not torch.equal(again[1].x, batch.x)


@pytest.mark.parametrize("rule", [InputNoise(0.1), Mixup(1.0), AdversarialTraining(0.1)])
def test_images_keep_their_memory_format(rule):
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, CLASSES)).double()
    x = numbers(6, 2, 6, 6).contiguous(memory_format=torch.channels_last)
    kept = x.clone()
    batch = changed(Minibatch(network, x, targets(6), classes=CLASSES), rule)
    for changed_x in (batch.x, *batch.extra.values()):
        assert changed_x.is_contiguous(memory_format=torch.channels_last) and not changed_x.is_contiguous()
    assert torch.equal(x, kept)


class Squares(Minibatch):
    """½ (ŷ − y)², averaged."""

    def cross_entropy(self, outputs):
        return (outputs[:, 0] - self.targets).square().mean() / 2


class Squared(nn.Module):
    """ŷ = (w · x)², of which the second derivatives do not vanish."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(numbers(3, seed=4))

    def forward(self, x):
        return (x @ self.w).square()[:, None]


@pytest.mark.parametrize("kind", ["linear", "squared"])
def test_weight_noise_in_the_mean(kind):
    """½sd²·mean‖∇ŷ‖² + ½sd²·mean (ŷ − y)·tr ∇²ŷ is added to the loss; exactly so for a linear model."""
    sd, x, y = 0.05, numbers(5, 3), numbers(5, seed=3)
    network = nn.Linear(3, 1).double() if kind == "linear" else Squared()
    with torch.no_grad():
        if kind == "linear":
            network.weight.copy_(numbers(1, 3, seed=4))
        clean = Squares(network, x, y)
        before, residuals = clean.loss(clean.outputs()).item(), network(x)[:, 0] - y
        if kind == "linear":
            squares, traces = x.square().sum(1) + 1, torch.zeros(5)
        else:
            squares, traces = (2 * (x @ network.w)[:, None] * x).square().sum(1), 2 * x.square().sum(1)
        expected = sd**2 / 2 * (squares + residuals * traces).mean().item()
        draws, losses = generator(), []
        for _ in range(1500):
            batch = changed(Squares(network, x, y), WeightNoise(sd), draws=draws)
            losses.append(batch.loss(batch.outputs()) - before)
            # −ξ is as likely as ξ: what is odd in it has no mean, but most of the variance
            batch.weight_noise = {name: -noise for name, noise in batch.weight_noise.items()}
            losses[-1] = (losses[-1] + batch.loss(batch.outputs()) - before) / 2
    found = torch.stack(losses)
    error = found.std().item() / math.sqrt(len(found))
    assert error < 0.1 * expected
    assert abs(found.mean().item() - expected) < 4 * error + (20 * sd**4 if kind == "squared" else 0)


@pytest.mark.parametrize("micro", [None, 2])
def test_adversarial_examples_of_softmax_regression(micro):
    """∇ₓ of the mean cross-entropy is Wᵀ(p − y)/n."""
    network, x, y = softmax_regression(), numbers(6, 4), targets(6)
    clean = Minibatch(network, x, y, micro=micro)
    batch = changed(Minibatch(network, x, y, micro=micro), AdversarialTraining(0.25, share=0.4))
    weight = network[1].weight.detach()
    gradient = (network(x).softmax(1) - F.one_hot(y, CLASSES)) @ weight / 6
    attacked = x + 0.25 * gradient.sign()
    torch.testing.assert_close(batch.extra["attacked"], attacked.detach())
    loss, outputs = batch.backward()
    found = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    expected = 0.6 * F.cross_entropy(network(x), y) + 0.4 * F.cross_entropy(network(attacked.detach()), y)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(outputs, network(x).detach())  # the accuracy is that of the clean examples
    torch.testing.assert_close(found, [p.grad for p in network.parameters()])
    assert loss > clean.loss(clean.outputs())


def test_an_attack_leaves_the_statistics_of_batchnorm_to_the_clean_examples():
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)).double()
    x = numbers(6, 4)
    network(x)
    once = network[1].running_mean.clone()
    network[1].reset_running_stats()
    batch = changed(Minibatch(network, x, targets(6)), AdversarialTraining(0.5))
    assert network[1].num_batches_tracked == 0
    assert all(p.grad is None for p in network.parameters())
    batch.backward()
    assert network[1].num_batches_tracked == 1
    torch.testing.assert_close(network[1].running_mean, once)
