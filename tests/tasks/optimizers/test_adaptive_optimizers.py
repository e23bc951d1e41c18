"""Adam, AdaGrad and RMSProp, and SAM over each, against their papers' equations in plain numpy."""

import copy

import numpy as np
import pytest
from objectives import A, Quadratic, W

from tasks.errors import InvalidValue
from tasks.optimizers import SAM, AdaGrad, Adam, RMSProp

LR, DECAY, RHO = 0.05, 0.3, 0.2


def adam(gradient, w, steps):
    m = v = np.zeros(3)
    for t in range(1, steps + 1):
        d = gradient(w) + DECAY * w
        m, v = 0.8 * m + 0.2 * d, 0.95 * v + 0.05 * d**2
        w = w - LR * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6)
    return w


def adagrad(gradient, w, steps):
    s = np.full(3, 0.1)
    for t in range(1, steps + 1):
        d = gradient(w) + DECAY * w
        s = s + d**2
        w = w - LR / (1 + (t - 1) * 0.5) * d / (np.sqrt(s) + 1e-6)
    return w


def rmsprop(gradient, w, steps):
    v = b = mean = np.zeros(3)
    for _ in range(steps):
        d = gradient(w) + DECAY * w
        v, mean = 0.9 * v + 0.1 * d**2, 0.9 * mean + 0.1 * d
        b = 0.7 * b + d / (np.sqrt(v - mean**2) + 1e-6)
        w = w - LR * b
    return w


def plain_rmsprop(gradient, w, steps):
    v = np.zeros(3)
    for _ in range(steps):
        d = gradient(w) + DECAY * w
        v = 0.9 * v + 0.1 * d**2
        w = w - LR * d / (np.sqrt(v) + 1e-6)
    return w


CASES = [
    (Adam(lr=LR, betas=(0.8, 0.95), eps=1e-6, weight_decay=DECAY), adam),
    (AdaGrad(lr=LR, lr_decay=0.5, initial=0.1, eps=1e-6, weight_decay=DECAY), adagrad),
    (RMSProp(lr=LR, alpha=0.9, eps=1e-6, momentum=0.7, centered=True, weight_decay=DECAY), rmsprop),
    (RMSProp(lr=LR, alpha=0.9, eps=1e-6, weight_decay=DECAY), plain_rmsprop),
]


def gradient(w):
    return A.numpy() * w


def gradient_of_sam(w):
    g = gradient(w)
    return gradient(w + RHO * g / np.linalg.norm(g))


def go(network, stepper, steps, lr_factor=1.0):
    for _ in range(steps):
        stepper.gradient(network.batch)
        stepper.step(lr_factor)
    return network.w.numpy()


@pytest.mark.parametrize(("optimizer", "by_hand"), CASES)
def test_three_steps(optimizer, by_hand):
    network = Quadratic()
    np.testing.assert_allclose(go(network, optimizer.build(network), 3), by_hand(gradient, W.numpy(), 3), rtol=1e-12)
    network = Quadratic()
    sam = SAM(base=optimizer, rho=RHO).build(network)
    np.testing.assert_allclose(go(network, sam, 3), by_hand(gradient_of_sam, W.numpy(), 3), rtol=1e-12)


@pytest.mark.parametrize("optimizer", [optimizer for optimizer, _ in CASES])
def test_converges_and_continues_bit_for_bit(optimizer):
    optimizer = type(optimizer)(lr=0.02 if isinstance(optimizer, RMSProp) else 0.3)
    network, resumed = Quadratic(), Quadratic()
    stepper = optimizer.build(network)
    resumed.load_state_dict(dict(zip(resumed.state_dict(), go_halfway(network, stepper), strict=True)))
    continued = optimizer.build(resumed)
    continued.load_state_dict(copy.deepcopy(stepper.state_dict()))
    end = go(network, stepper, 200, 0.5)
    assert np.array_equal(end, go(resumed, continued, 200, 0.5))
    assert (A.numpy() * end**2).sum() / 2 < 1e-3 * (A.numpy() * W.numpy() ** 2).sum() / 2


def go_halfway(network, stepper):
    go(network, stepper, 200)
    return [p.detach().clone() for p in network.parameters()]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Adam(betas=(1.0, 0.9)), r"Adam: betas\[0\] must be below 1"),
        (lambda: AdaGrad(initial=-1), "AdaGrad: initial must be at least 0"),
        (lambda: RMSProp(alpha=1), "RMSProp: alpha must be below 1"),
    ],
)
def test_impossible_values(make, words):
    with pytest.raises(InvalidValue, match=words):
        make()
