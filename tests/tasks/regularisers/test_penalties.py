"""Penalties and projections against their closed forms on quadratics and small nets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tasks.errors import InvalidValue
from tasks.minibatch import Minibatch
from tasks.models import Model, SimpleCNN, TwoLayerLinear
from tasks.optimizers import SGD
from tasks.regularisers import L1, LastLayerL2, MaxNorm


@pytest.fixture(autouse=True)
def seeded():
    """For the layers that torch initialises itself."""
    torch.manual_seed(0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbers(*shape, seed=1):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


class Bowl(nn.Module):
    """½ (w − w*)ᵀ H (w − w*), w a matrix of one row from 0."""

    def __init__(self, h, centre):
        super().__init__()
        self.h, self.centre = h, centre
        self.w = nn.Parameter(torch.zeros(1, len(centre), dtype=torch.float64))

    def forward(self, x):
        d = self.w[0] - self.centre
        return d @ self.h @ d / 2


class Loss(Minibatch):
    """The output of the network is the loss."""

    def loss(self, outputs):
        return outputs


def descended(bowl, optimizer, steps, regulariser=None):
    """w after so many steps as a training takes them."""
    stepper = optimizer.build(bowl)
    batch = Loss(bowl, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64))
    for _ in range(steps):
        stepper.gradient(batch)
        if regulariser is not None:
            regulariser.on_gradient(bowl)
        stepper.step()
        if regulariser is not None:
            regulariser.on_step(bowl, stepper.lr)
    return bowl.w.detach()[0]


CENTRE = torch.tensor([1.5, -0.8, 0.3, -0.05, 0.02, 0.0], dtype=torch.float64)
CURVATURES = torch.tensor([2.0, 1.0, 0.5, 1.0, 3.0, 1.0], dtype=torch.float64)


def soft(strength):
    return CENTRE.sign() * (CENTRE.abs() - strength / CURVATURES).clamp(min=0)


def test_proximal_l1_on_a_diagonal_quadratic():
    """sign(w*)·max(|w*| − α/H, 0), with exact zeros."""
    w = descended(Bowl(CURVATURES.diag(), CENTRE), SGD(lr=0.2, momentum=0.0), 300, L1(0.2, proximal=True))
    expected = soft(0.2)
    torch.testing.assert_close(w, expected, rtol=1e-12, atol=1e-12)
    assert ((w == 0) == (expected == 0)).all() and (expected == 0).sum() == 4


def test_the_subgradient_comes_close_but_never_to_zero():
    lr, strength = 0.02, 0.2
    w = descended(Bowl(CURVATURES.diag(), CENTRE), SGD(lr=lr, momentum=0.0), 1000, L1(strength))
    torch.testing.assert_close(w, soft(strength), rtol=0, atol=2 * lr * strength)
    assert (w[:5] != 0).all()  # the last one starts at its minimum


@pytest.mark.parametrize("nesterov", [False, True])
def test_with_momentum_the_proximal_penalty_is_smaller(nesterov):
    """As the docstring says: that of (1 − μ)·strength. The subgradient goes through the momentum and is not."""
    rule = SGD(lr=0.05, momentum=0.5, nesterov=nesterov)
    w = descended(Bowl(CURVATURES.diag(), CENTRE), rule, 600, L1(0.4, proximal=True))
    torch.testing.assert_close(w, soft(0.2), rtol=1e-10, atol=1e-10)
    w = descended(Bowl(CURVATURES.diag(), CENTRE), rule, 400, L1(0.4))
    torch.testing.assert_close(w, soft(0.4), rtol=0, atol=0.05)


def test_l1_acts_on_weights_unless_told_otherwise():
    for strength, everywhere in [(0.3, False), (0.3, True)]:
        for proximal in (False, True):
            network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(3, 2))
            before = {name: p.detach().clone() for name, p in network.named_parameters()}
            rule = L1(strength, proximal=proximal, everywhere=everywhere)
            for p in network.parameters():
                p.grad = torch.ones_like(p)
            rule.on_gradient(network)
            rule.on_step(network, 0.5)
            for name, p in network.named_parameters():
                on = everywhere or name in ("0.weight", "2.weight")
                added = strength * before[name].sign() if on and not proximal else 0
                torch.testing.assert_close(p.grad, 1 + torch.zeros_like(p) + added)
                shrunk = F.softshrink(before[name], 0.15) if on and proximal else before[name]
                torch.testing.assert_close(p.detach(), shrunk)


def rotated():
    q, _ = torch.linalg.qr(numbers(4, 4))
    values = torch.tensor([3.0, 1.0, 0.3, 0.05], dtype=torch.float64)
    return q, values, numbers(4, seed=2)


def test_weight_decay_is_l2():
    """w̃ = Q (Λ + αI)⁻¹ Λ Qᵀ w*."""
    q, values, centre = rotated()
    w = descended(Bowl(q @ values.diag() @ q.T, centre), SGD(lr=0.3, momentum=0.0, weight_decay=0.1), 700)
    expected = q @ ((values / (values + 0.1)) * (q.T @ centre))
    torch.testing.assert_close(w, expected, rtol=1e-10, atol=1e-10)


def test_stopping_early_is_l2_of_another_strength_in_each_direction():
    """After τ steps of plain descent from 0: (1 − ελ)^τ = α/(λ + α) defines α(λ); α ≈ 1/(τε) where τελ is small."""
    q, values, centre = rotated()
    lr, steps = 0.1, 20
    stopped = descended(Bowl(q @ values.diag() @ q.T, centre), SGD(lr=lr, momentum=0.0), steps)
    for i, value in enumerate(values):
        left = (1 - lr * value) ** steps
        alpha = float(value * left / (1 - left))
        axis = q[:, i]
        decayed = descended(Bowl(value[None, None], (axis @ centre)[None]), SGD(lr=0.2, weight_decay=alpha), 250)
        torch.testing.assert_close(axis @ stopped, decayed[0], rtol=1e-9, atol=1e-9)
        if steps * lr * value < 0.15:
            assert alpha == pytest.approx(1 / (steps * lr), rel=0.06)
    assert steps * lr * values[-1] < 0.15


def test_max_norm_projects_every_unit():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5))
    with torch.no_grad():
        network[0].weight *= torch.linspace(0, 3, 8)[:, None, None, None]  # a filter of zeros too
        network[3].weight *= torch.linspace(0.2, 2, 5)[:, None]
    network.to(memory_format=torch.channels_last)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    limit = 0.5
    MaxNorm(limit).on_step(network, 0.1)
    for name, p in network.named_parameters():
        if p.ndim == 1:
            assert torch.equal(p, before[name])
            continue
        norms = before[name].flatten(1).norm(dim=1)
        assert (norms > limit).any() and (norms < limit).any()
        torch.testing.assert_close(p.detach(), torch.renorm(before[name], 2, 0, limit))
        torch.testing.assert_close(p.flatten(1).norm(dim=1), norms.clamp(max=limit))
        inside = norms < limit
        assert torch.equal(p[inside], before[name][inside])
    MaxNorm(math.inf).on_step(network, 0.1)


def step_of(network, x, y, *regularisers, **more):
    batch = Minibatch(network, x, y, classes=2, **more)
    for regulariser in regularisers:
        regulariser.on_batch(batch, generator())
    network.zero_grad()
    loss, _ = batch.backward()
    return loss, {name: p.grad.clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("micro", [None, 4])
def test_last_layer_l2_on_the_two_layer_linear_net(micro):
    """z = Wx: ∇_W gains activations · mean z xᵀ, ∇_v gains weights · v + activations · 0."""
    network = TwoLayerLinear(width=6, output="logistic").build((3,), 2, generator()).double()
    w, v = (p.detach() for p in network.parameters())
    x, y = numbers(10, 3), torch.arange(10) % 2
    plain, g = step_of(network, x, y)
    loss, penalised = step_of(network, x, y, LastLayerL2(activations=0.3, weights=0.2), micro=micro)
    z = x @ w.T
    torch.testing.assert_close(loss - plain, 0.15 * (z**2).sum(1).mean() + 0.1 * (v**2).sum())
    torch.testing.assert_close(penalised["1.weight"] - g["1.weight"], 0.3 * z.T @ x / 10)
    torch.testing.assert_close(penalised["2.weight"] - g["2.weight"], 0.2 * v)


def test_last_layer_l2_finds_the_last_dense_layer_of_a_network():
    network = SimpleCNN().build((1, 8, 8), 2, generator())
    x, y = numbers(5, 1, 8, 8).float(), torch.arange(5) % 2
    head, inputs = [m for m in network.modules() if isinstance(m, nn.Linear)][-1], []
    hook = head.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    loss, _ = step_of(network, x, y, LastLayerL2(activations=0.5, weights=2.0))
    hook.remove()
    expected = F.cross_entropy(network(x), y) + inputs[0].square().sum(1).mean() / 4 + head.weight.square().sum()
    torch.testing.assert_close(loss, expected.detach())


def test_last_layer_l2_without_a_dense_layer():
    class Convolutions(Model):
        def module(self, shape, classes):
            return nn.Sequential(nn.Conv2d(1, classes, 8), nn.Flatten())

    network = Convolutions().build((1, 8, 8), 2, generator())
    with pytest.raises(InvalidValue, match="Sequential has no dense layer"):
        step_of(network, torch.zeros(2, 1, 8, 8), torch.arange(2), LastLayerL2(1.0, 1.0))
