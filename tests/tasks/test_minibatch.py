"""The loss of a step: one function of the parameters, whole or in parts, whatever is random in it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tasks.minibatch import Minibatch
from tasks.models import MLP
from tasks.models.dropout import seed_dropout


def numbers(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def minibatch(dropout=0.0, n=12, **more):
    network = MLP(widths=(16, 8), dropout=dropout).build((4,), 3, torch.Generator().manual_seed(0))
    batch = Minibatch(network, numbers(n, 4), torch.arange(n) % 3, rows=torch.arange(n), classes=3, **more)
    batch.before_forward.append(partial(seed_dropout, network, 7))
    return batch


def gradient(batch):
    batch.network.zero_grad()
    loss, outputs = batch.backward()
    return loss, outputs, [p.grad.clone() for p in batch.network.parameters()]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_masks_of_a_step_are_the_same_in_every_pass(precision):
    batch = minibatch(dropout=0.5, precision=precision)
    loss, outputs, first = gradient(batch)
    again, same, second = gradient(batch)
    assert torch.equal(loss, again) and torch.equal(outputs, same)
    assert all(map(torch.equal, first, second))


def test_parts_have_masks_of_their_own_the_same_in_every_pass():
    batch = minibatch(dropout=0.5, micro=4)
    batch.x, batch.targets = batch.x[:4].repeat(3, 1), batch.targets[:4].repeat(3)
    _, outputs, first = gradient(batch)
    a, b, c = outputs.split(4)
    assert not torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(b, c)
    assert all(map(torch.equal, first, gradient(batch)[2]))
    torch.testing.assert_close(batch.part(slice(4, 8)).outputs(), b)
    torch.testing.assert_close(batch.part(slice(2, 12)).part(slice(6, 10)).outputs(), c)  # a part of a part


def test_parts_add_up():
    whole, parts = minibatch(), minibatch(micro=5)
    for batch in (whole, parts):
        batch.label_smoothing = 0.1
        batch.extra["scale"] = numbers(12, seed=2)
        batch.penalties.append(lambda part, outputs: (part.extra["scale"] * outputs.square().sum(1)).mean())
    assert [len(part) for part in parts.parts()] == [5, 5, 2] and whole.parts() == [whole]
    assert [part.rows.tolist() for part in parts.parts()] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    (loss, outputs, g), (total, logits, summed) = gradient(whole), gradient(parts)
    torch.testing.assert_close(total, loss)
    torch.testing.assert_close(logits, outputs)
    torch.testing.assert_close(summed, g)
    expected = (
        F.cross_entropy(outputs, whole.targets, label_smoothing=0.1)
        + (whole.extra["scale"] * outputs.square().sum(1)).mean()
    )
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("compiled", [False, True])
def test_weight_noise_is_the_gradient_at_another_place(compiled):
    """Against moving the parameters themselves; BatchNorm's statistics move once a pass, as without."""
    torch.manual_seed(0)  # nothing here draws from it but the layers
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    batch = Minibatch(
        network,
        numbers(12, 4),
        torch.arange(12) % 3,
        forward=torch.compile(network, backend="eager") if compiled else None,
    )
    batch.backward()  # compiled without
    network[1].reset_running_stats()
    noise = {name: 0.1 * numbers(*p.shape, seed=3) for name, p in network.named_parameters()}
    batch.weight_noise = noise
    w = [p.detach().clone() for p in network.parameters()]
    loss, _, g = gradient(batch)
    assert all(map(torch.equal, w, network.parameters()))
    assert network[1].num_batches_tracked == 1
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter += noise[name]
    network.zero_grad()
    expected = F.cross_entropy(network(batch.x), batch.targets)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(g, [p.grad for p in network.parameters()], rtol=1e-4, atol=1e-6)


def test_the_input_of_a_layer():
    batch = minibatch()
    batch.head = batch.network[3]
    outputs = batch.outputs()
    torch.testing.assert_close(batch.features, batch.network[:3](batch.x))
    kept = batch.features
    batch.outputs(batch.x + 1)
    assert batch.features is kept and not batch.head._forward_pre_hooks
    torch.testing.assert_close(outputs, batch.network(batch.x))
