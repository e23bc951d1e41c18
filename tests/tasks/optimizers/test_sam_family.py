"""The SAM family, one step at a time, against numpy on L(w) = ½ wᵀHw − bᵀw, whose gradient is Hw − b.

H couples the coordinates and is indefinite, so r = g⁺/g takes values of every group; all numbers are integers, so one
coordinate of g is exactly 0.
"""

import dataclasses

import numpy as np
import pytest
import torch
from objectives import Objective
from torch import nn

from tasks.errors import InvalidValue
from tasks.optimizers import (
    ASAM,
    SAM,
    SAME,
    SGD,
    AdamW,
    ClampSAM,
    ClipSAM,
    CustomSAME,
    SAMAgree,
    SAMAnatomy,
    SAMDirection,
    SAMMagnitude,
    SGDAgree,
    SignMagnitude,
)
from tasks.optimizers.ratio_groups import group_counts, ratio_groups

RHO = 3.0
D = 24
WEIGHTS = np.r_[np.ones(12, bool), np.zeros(6, bool), np.ones(6, bool)]  # weight (3, 4), bias (6,), norm.weight (6,)


def problem():
    rng = np.random.default_rng(38)
    h = rng.integers(-3, 4, (D, D))
    h = h + h.T
    w, b = rng.integers(-4, 5, D), rng.integers(-4, 5, D)
    b[7] = (h @ w)[7]
    return h.astype(float), w.astype(float), b.astype(float)


H, W, B = problem()


def gradient(w):
    return H @ w - B


class Coupled(nn.Module):
    def __init__(self, w=W):
        super().__init__()
        first, second, third = torch.from_numpy(w.copy()).split([12, 6, 6])
        self.weight, self.bias = nn.Parameter(first.reshape(3, 4)), nn.Parameter(second)
        self.norm = nn.Module()
        self.norm.weight = nn.Parameter(third)
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.evaluations = 0
        self.batch = Objective(self, self.loss)

    def loss(self):
        self.evaluations += 1
        w = torch.cat([self.weight.flatten(), self.bias, self.norm.weight])
        return w @ torch.from_numpy(H) @ w / 2 - torch.from_numpy(B) @ w

    @property
    def w(self):
        return torch.cat([self.weight.flatten(), self.bias, self.norm.weight]).detach().numpy().copy()


def unit(v):
    return v / np.linalg.norm(v)


def ratio(g, plus):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(g != 0, plus / g, np.nan)


def groups(g, plus):
    r = ratio(g, plus)
    return np.select([g == 0, r >= 1, r >= 0, r <= -1], [0, 1, 2, 3], 4)


def sam(w, g):
    return gradient(w + RHO * unit(g))


def same(k, c):
    return lambda w, g: sam(w, g) * np.where(groups(g, sam(w, g)) == k, c, 1)


def custom(c):
    return lambda w, g: sam(w, g) * np.array([1, c, 1, 1 / c, c])[groups(g, sam(w, g))]


def asam(t):
    return lambda w, g: gradient(w + RHO * t(w) ** 2 * g / np.linalg.norm(t(w) * g))


def agree(w, g):
    return ratio(g, sam(w, g)) > 0


# Each member, and its gradient as a function of w and g = ∇L(w).
MEMBERS = {
    "SAM": (SAM(), sam),
    "SAM, not normalised": (SAM(normalise=False), lambda w, g: gradient(w + RHO * g)),
    "ASAM": (ASAM(), asam(lambda w: np.where(WEIGHTS, np.abs(w) + 0.01, 1))),
    "ASAM, eta": (ASAM(eta=0.5), asam(lambda w: np.where(WEIGHTS, np.abs(w) + 0.5, 1))),
    "ASAM, everywhere": (ASAM(everywhere=True), asam(np.abs)),
    "ASAM, everywhere, eta": (ASAM(everywhere=True, eta=0.5), asam(lambda w: np.abs(w) + 0.5)),
    "SAME-1": (SAME(), same(1, 2)),
    "SAME-2": (SAME(group=2), same(2, 2)),
    "SAME-3": (SAME(group=3, c=0.3), same(3, 0.3)),
    "SAME-4": (SAME(group=4, c=5), same(4, 5)),
    "CustomSAME": (CustomSAME(), custom(2)),
    "CustomSAME, c": (CustomSAME(c=3), custom(3)),
    "g, g": (SignMagnitude(sign_from="g", magnitude_from="g"), lambda w, g: g),
    "g, g_plus": (
        SignMagnitude(sign_from="g", magnitude_from="g_plus"),
        lambda w, g: np.abs(sam(w, g)) * np.sign(g),
    ),
    "g_plus, g": (
        SignMagnitude(sign_from="g_plus", magnitude_from="g"),
        lambda w, g: np.abs(g) * np.sign(sam(w, g)),
    ),
    "SAMMagnitude": (SAMMagnitude(), lambda w, g: np.abs(sam(w, g)) * np.sign(g)),
    "SAMDirection": (SAMDirection(), lambda w, g: np.abs(g) * np.sign(sam(w, g))),
    "SAMAgree": (SAMAgree(), lambda w, g: sam(w, g) * agree(w, g)),
    "SGDAgree": (SGDAgree(), lambda w, g: g * agree(w, g)),
    "SAMAnatomy": (SAMAnatomy(), lambda w, g: gradient(w + RHO * unit(g * agree(w, g)))),
    "ClampSAM": (ClampSAM(tau=0.5), lambda w, g: gradient(w + np.clip(RHO * unit(g), -0.5, 0.5))),
    "ClipSAM": (ClipSAM(), lambda w, g: np.minimum(np.abs(sam(w, g)), np.abs(g)) * np.sign(sam(w, g))),
    "ClipSAM, kappa": (
        ClipSAM(kappa=0.4),
        lambda w, g: np.minimum(np.abs(sam(w, g)), 0.4 * np.abs(g)) * np.sign(sam(w, g)),
    ),
}
members = pytest.mark.parametrize("name", MEMBERS)


def test_the_problem_has_every_group():
    g = gradient(W)
    counts = np.bincount(groups(g, sam(W, g)), minlength=5)
    assert (counts >= [1, 2, 2, 2, 2]).all()


@members
def test_two_steps_over_sgd_with_momentum_and_decay(name):
    """Decay is in neither gradient; it and momentum act at w on what the member makes of them."""
    member, expected = MEMBERS[name]
    lr, momentum, decay = 0.01, 0.9, 0.1
    member = dataclasses.replace(member, lr=lr, momentum=momentum, weight_decay=decay, rho=RHO)
    network = Coupled()
    stepper = member.build(network)
    w, b = W, 0.0
    for _ in range(2):
        stepper.gradient(network.batch)
        stepper.step()
        b = momentum * b + expected(w, gradient(w)) + decay * w
        w = w - lr * b
    np.testing.assert_allclose(network.w, w, rtol=1e-12, atol=1e-12)
    assert network.evaluations == 2 * {"SAMAnatomy": 3, "g, g": 1}.get(name, 2)
    assert network.unused.grad is None and torch.equal(network.unused.detach(), torch.ones(2, dtype=torch.float64))


@members
def test_a_step_over_adamw(name):
    member, expected = MEMBERS[name]
    network = Coupled()
    stepper = dataclasses.replace(member, base=AdamW(lr=0.01, eps=1e-3, weight_decay=0.1), rho=RHO).build(network)
    stepper.gradient(network.batch)
    stepper.step()
    d = expected(W, gradient(W))
    np.testing.assert_allclose(network.w, W * (1 - 0.01 * 0.1) - 0.01 * d / (np.abs(d) + 1e-3), rtol=1e-12, atol=1e-12)


def test_groups_and_their_counts():
    g = torch.tensor([[0.0, -0.0, 1, -1], [2, 2, -2, 2], [-2, 2, -2, 2]], dtype=torch.float32)
    p = torch.tensor([[3.0, 0.0, 1, -5], [0, 1.5, -1.5, -0.0], [2, -3, 1, -1]], dtype=torch.float32)
    expected = [[0, 0, 1, 1], [2, 2, 2, 2], [3, 3, 4, 4]]
    tiny = torch.tensor([1e-30, 1e-30, -1e-30, 1e30, 1e-38])  # products and ratios of these leave float32
    tiny_plus = torch.tensor([2e-30, 1e-31, 1e-30, -1e-30, 1e38])
    found = ratio_groups([g, tiny], [p, tiny_plus])
    assert found[0].tolist() == expected and found[1].tolist() == [1, 2, 3, 4, 1]
    assert group_counts(found).tolist() == [[2, 2, 4, 2, 2], [0, 2, 1, 1, 1]]


def test_the_smallest_difference_counts():
    """r = 1 is in group 1, and the next smaller number in group 2; likewise −1 in group 3 and the next in 4."""
    g = torch.rand(1000, generator=torch.Generator().manual_seed(0)) + 0.1
    below = torch.nextafter(g, torch.zeros(()))
    for plus, group in ((g, 1), (below, 2), (-g, 3), (-below, 4)):
        assert (ratio_groups([g], [plus])[0] == group).all()
        stepped = SAME(group=group, c=4.0).combination([g.clone()], [plus.clone()])[0]
        assert torch.equal(stepped, 4 * plus)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SAME(group=5), r"SAME: group must be one of 1, 2, 3, 4, not 5\."),
        (lambda: SAME(c=0), r"SAME: c must be more than 0, not 0"),
        (lambda: CustomSAME(c=-1), "CustomSAME: c must be more than 0"),
        (lambda: SignMagnitude(sign_from="w"), "SignMagnitude: sign_from must be one of 'g', 'g_plus', not 'w'"),
        (lambda: ASAM(eta=-1), "ASAM: eta must be at least 0"),
        (lambda: ClampSAM(tau=0), "ClampSAM: tau must be more than 0"),
        (lambda: ClipSAM(kappa=0), "ClipSAM: kappa must be more than 0"),
        (lambda: ASAM(base=SAME()), "ASAM: base is SAME, which is of the SAM family itself"),
        (lambda: SAME(base=AdamW(), lr=0.1), r"SAME: lr=0\.1 is SGD's, but the base is AdamW"),
        (lambda: dataclasses.replace(SAM(momentum=0.9), base=SGD()), r"momentum=0\.9 is SGD's, but the base is SGD"),
    ],
)
def test_impossible_values(make, words):
    with pytest.raises(InvalidValue, match=words):
        make()
