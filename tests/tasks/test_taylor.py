"""First and second derivatives along a direction, against autograd's Hessian and two backward passes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from tasks.batchnorm import frozen_statistics
from tasks.models import MLP, DenseNet, ResNet18, SimpleCNN
from tasks.models.dropout import Dropout, seed_dropout
from tasks.taylor import Untraceable, derivatives


def numbers(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Block(nn.Module):
    """What torchvision's networks do in place, and what has no rule of its own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.next = nn.Conv2d(4, 4, 1, groups=2)
        self.group = nn.GroupNorm(2, 4)
        self.scale = nn.Parameter(numbers(4, 1, 1))
        self.drop = Dropout(0.3)
        self.layer = nn.LayerNorm(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        y = self.group(self.next(F.max_pool2d(x, 2)))
        y += F.avg_pool2d(x, 2)
        y = torch.cat([y[:, :2].tanh(), self.scale[2:] * y[:, 2:]], dim=1)
        y = self.drop(F.relu_(y)) @ y.softmax(-1)
        shifted = self.layer(y.flatten(1)) + y.detach().flatten(1).mean(1, keepdim=True)
        return F.linear(shifted, weight=self.head.weight, bias=self.head.bias) * 0.5 + torch.zeros_like(x[:, 0, 0, :3])


def dense(network, loss, direction):
    """f, f′ and f″ from the full gradient and the full Hessian matrix."""
    names = [name for name, _ in network.named_parameters()]
    shapes = [p.shape for p in network.parameters()]
    sizes = [s.numel() for s in shapes]

    def f(flat):
        pieces = [piece.view(s) for piece, s in zip(flat.split(sizes), shapes, strict=True)]
        return loss(lambda x: functional_call(network, dict(zip(names, pieces, strict=True)), (x,)))

    w = torch.cat([p.detach().flatten() for p in network.parameters()])
    v = torch.cat([d.flatten() for d in direction])
    gradient = torch.autograd.functional.jacobian(f, w)
    hessian = torch.autograd.functional.hessian(f, w)
    return f(w), gradient @ v, v @ hessian @ v


TARGETS = {
    "classes": (torch.arange(6) % 3, {}),
    "smoothed": (torch.arange(6) % 3, {"label_smoothing": 0.2}),
    "mixed": (numbers(6, 3, seed=3).softmax(1), {"reduction": "sum"}),
    "weighted": (torch.arange(6) % 3, {"weight": numbers(3, seed=4).exp()}),
}


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("kind", ["mlp", "block"])
def test_against_the_whole_hessian(kind, targets):
    network = {"mlp": nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))}.get(kind)
    network = (network or Block()).double().train()
    x = numbers(6, 5) if kind == "mlp" else numbers(6, 2, 4, 4)
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):
            p.copy_(numbers(*p.shape, seed=10 + i) * 0.5)
    direction = [numbers(*p.shape, seed=50 + i) for i, p in enumerate(network.parameters())]
    y, options = TARGETS[targets]

    def loss(forward):
        seed_dropout(network, 3)
        return F.cross_entropy(forward(x), y, **options)

    with frozen_statistics(network):
        found = derivatives(partial(loss, network), network.parameters(), direction)
        expected = dense(network, loss, direction)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert abs(expected[2]) > 0.1


@pytest.mark.parametrize(
    "model",
    [MLP(widths=(16, 8), dropout=0.4), SimpleCNN(), ResNet18(), DenseNet(depth=10, growth=4, norm="group")],
)
def test_of_the_models_here(model):
    """By two backward passes, in the nets' own layers."""
    network = model.build((3, 8, 8), 10, torch.Generator().manual_seed(0)).double().train()
    network.to(memory_format=torch.channels_last)
    x, y = numbers(8, 3, 8, 8).contiguous(memory_format=torch.channels_last), torch.arange(8)
    parameters = list(network.parameters())

    def loss():
        seed_dropout(network, 3)
        return F.cross_entropy(network(x), y)

    with frozen_statistics(network):
        gradient = torch.autograd.grad(loss(), parameters, create_graph=True)
        direction = [g.detach() for g in gradient]
        slope = sum((a * b).sum() for a, b in zip(gradient, direction, strict=True))
        product = torch.autograd.grad(slope, parameters)
        value, first, second = derivatives(loss, parameters, direction)
    torch.testing.assert_close(value, loss().detach())
    torch.testing.assert_close(first, slope.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(
        second, sum((a * b).sum() for a, b in zip(product, direction, strict=True)), rtol=1e-8, atol=0
    )


@pytest.mark.parametrize("change", [lambda x: x.exp_(), lambda x: x.view(-1).relu_()])
def test_changes_in_place_that_are_not_followed_are_refused(change):
    w = numbers(3).requires_grad_()

    def f():
        x = 2 * w
        change(x)
        return x.square().sum()

    with pytest.raises(Untraceable):
        derivatives(f, [w], [torch.ones_like(w)])


def test_a_function_that_does_not_depend_on_the_direction():
    w = numbers(3).requires_grad_()
    assert [float(d) for d in derivatives(lambda: torch.tensor(2.0), [w], [torch.ones_like(w)])] == [2, 0, 0]
    x = torch.ones(3, dtype=torch.float64)
    assert float(derivatives(lambda: (w * x).sum(), [w], [x])[2]) == 0
