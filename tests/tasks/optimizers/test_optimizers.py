"""Each optimizer against numbers worked out by hand on L(w) = ½ Σ aᵢ wᵢ², whose gradient is a ⊙ w."""

import copy

import pytest
import torch
from objectives import A, Objective, Quadratic, W
from torch import nn

from tasks.errors import InvalidValue
from tasks.models import ResNet18
from tasks.optimizers import SAM, SGD, AdamW, SAMAnatomy, Stepper
from tasks.snapshots import decode, encode


def after(optimizer, steps, w=W, lr_factor=1.0):
    network = Quadratic(w)
    stepper = optimizer.build(network)
    for _ in range(steps):
        stepper.gradient(network.batch)
        stepper.step(lr_factor)
    return network.w


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_sgd_step():
    close(after(SGD(lr=0.1), 1), W - 0.1 * A * W)


def test_lr_factor_scales_each_step_anew():
    close(after(SGD(lr=0.1), 2, lr_factor=0.5), W * (1 - 0.05 * A) ** 2)


def test_sgd_weight_decay():
    close(after(SGD(lr=0.1, weight_decay=0.3), 1), W - 0.1 * (A + 0.3) * W)


def test_momentum_two_steps():
    b1 = A * W
    w1 = W - 0.1 * b1
    b2 = 0.9 * b1 + A * w1
    close(after(SGD(lr=0.1, momentum=0.9), 2), w1 - 0.1 * b2)


def test_nesterov_two_steps():
    b1 = A * W
    w1 = W - 0.1 * (A * W + 0.9 * b1)
    b2 = 0.9 * b1 + A * w1
    close(after(SGD(lr=0.1, momentum=0.9, nesterov=True), 2), w1 - 0.1 * (A * w1 + 0.9 * b2))


def test_adamw_two_steps():
    lr, b1, b2, eps, decay = 0.01, 0.8, 0.95, 1e-6, 0.1
    w, m, v = W.clone(), torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for t in (1, 2):
        g = A * w
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        w = w * (1 - lr * decay) - lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)
    close(after(AdamW(lr=lr, betas=(b1, b2), eps=eps, weight_decay=decay), 2), w)


def sam_gradient(w, rho):
    g = A * w
    return A * (w + rho * g / g.norm())


def test_sam_two_steps_with_momentum_and_decay():
    """Decay is in neither gradient; it and momentum act on g⁺ at w."""
    lr, momentum, decay, rho = 0.1, 0.9, 0.3, 0.2
    b1 = sam_gradient(W, rho) + decay * W
    w1 = W - lr * b1
    b2 = momentum * b1 + sam_gradient(w1, rho) + decay * w1
    close(after(SAM(lr=lr, momentum=momentum, weight_decay=decay, rho=rho), 2), w1 - lr * b2)


def test_sam_over_adamw():
    g = sam_gradient(W, 0.2)
    expected = W * (1 - 0.01 * 0.1) - 0.01 * g / (g.abs() + 1e-8)
    close(after(SAM(base=AdamW(lr=0.01, weight_decay=0.1), rho=0.2), 1), expected)


def test_sam_perturbation_has_length_rho_and_returns_the_loss_at_w():
    network = Quadratic()
    stepper = SAM(rho=0.7).build(network)
    loss, _ = stepper.gradient(network.batch)
    assert loss.item() == pytest.approx((A * W**2).sum().item() / 2)
    assert len(network.seen) == 2
    assert (network.seen[1] - network.seen[0]).norm().item() == pytest.approx(0.7, rel=1e-12)


def test_sam_at_a_stationary_point_stays():
    zero = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(after(SAM(lr=0.1, momentum=0.9, rho=0.5), 3, w=zero), zero)


def test_sam_restores_the_parameters_exactly():
    generator = torch.Generator().manual_seed(0)
    network = nn.Linear(100, 100)
    x = torch.randn(10, 100, generator=generator)
    before = network.weight.detach().clone()
    stepper = SAM(rho=0.05).build(network)
    stepper.gradient(Objective(network, lambda: (network(x) ** 2).sum()))
    assert torch.equal(network.weight, before)


@pytest.mark.parametrize(
    ("sam", "base"),
    [
        (
            SAM(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1, rho=0.0),
            SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        ),
        (SAM(base=AdamW(lr=0.1), rho=0.0), AdamW(lr=0.1)),
    ],
)
def test_rho_zero_is_the_base_optimizer_bit_for_bit_and_costs_one_gradient(sam, base):
    assert torch.equal(after(sam, 5), after(base, 5))
    network = Quadratic()
    sam.build(network).gradient(network.batch)
    assert len(network.seen) == 1


@pytest.mark.parametrize("optimizer", [SAM(rho=0.5), SAMAnatomy(rho=0.5)], ids=["SAM", "three gradients"])
def test_batch_norm_statistics_move_in_the_first_pass_only(optimizer):
    generator = torch.Generator().manual_seed(0)
    network = ResNet18().build((3, 8, 8), 10, generator)
    x = torch.randn(4, 3, 8, 8, generator=generator)
    once = copy.deepcopy(network)
    once(x)
    optimizer.build(network).gradient(Objective(network, lambda: network(x).square().mean()))
    for (name, buffer), (_, expected) in zip(network.named_buffers(), once.named_buffers(), strict=True):
        assert torch.equal(buffer, expected), name
    assert all(m.track_running_stats for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_sam_second_gradient_uses_batch_statistics():
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    reference = copy.deepcopy(network)

    def loss(net):
        return (net(x) - 1).square().mean()

    SAM(rho=0.3).build(network).gradient(Objective(network, lambda: loss(network)))
    loss(reference).backward()
    norm = torch.cat([p.grad.flatten() for p in reference.parameters()]).norm()
    with torch.no_grad():
        for p in reference.parameters():
            p += 0.3 * p.grad / norm
            p.grad = None
    loss(reference).backward()
    for p, q in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9), AdamW(), SAM(momentum=0.9), SAM(base=AdamW())])
def test_state_dict_continues_bit_for_bit(optimizer):
    network = Quadratic()
    stepper = optimizer.build(network)
    for _ in range(3):
        stepper.gradient(network.batch)
        stepper.step()
    copied = Quadratic(network.w)
    continued = optimizer.build(copied)
    continued.load_state_dict(copy.deepcopy(stepper.state_dict()))
    for n, s in ((network, stepper), (copied, continued)):
        for _ in range(3):
            s.gradient(n.batch)
            s.step(0.5)
    assert torch.equal(network.w, copied.w)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SGD(lr=-0.1), r"SGD: lr must be more than 0, not -0\.1\."),
        (lambda: SGD(lr=0), "lr must be more than 0"),
        (lambda: SGD(lr=float("nan")), "lr must be a number, not nan"),
        (lambda: SGD(momentum=1), "momentum must be below 1"),
        (lambda: SGD(nesterov=True), "nesterov needs a momentum above 0"),
        (lambda: SGD(weight_decay=-1e-4), "weight_decay must be at least 0"),
        (lambda: AdamW(betas=(0.9, 1.0)), r"betas\[1\] must be below 1"),
        (lambda: AdamW(eps=0), "eps must be more than 0"),
        (lambda: SAM(rho=-0.05), "SAM: rho must be at least 0"),
        (lambda: SAM(nesterov=True), "SAM: nesterov needs"),
    ],
)
def test_impossible_values(make, words):
    with pytest.raises(InvalidValue, match=words):
        make()


class Accumulating(torch.optim.Optimizer):
    """Steps along a running sum in float64, which PyTorch would load in float32; counts in several ways."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1, "rates": (0.5, 0.25), "seen": 0})

    def step(self):
        for group in self.param_groups:
            group["seen"] += 1
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state |= {"sum": torch.zeros_like(p, dtype=torch.float64), "steps": 0, "last": [None, None]}
                state["sum"] += p.grad.double() / 3
                state["steps"] += 1
                state["last"] = [state["last"][1], state["sum"].clone()]
                p.data -= (group["lr"] * group["rates"][0] / group["seen"] * state["sum"] / state["steps"]).float()
                if state["last"][0] is not None:
                    p.data -= 0.01 * state["last"][0].float()


def test_a_stepper_continues_from_its_state_exactly():
    def network():
        torch.manual_seed(0)
        return nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)

    def step(network, stepper, i):
        x = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(i))
        stepper.gradient(Objective(network, lambda: (network(x) ** 2).sum()))
        stepper.step(1 / (i + 1))

    straight = network()
    first = Stepper(straight, Accumulating(straight.parameters()))
    for i in range(3):
        step(straight, first, i)
    resumed = network()
    resumed.load_state_dict(decode(encode(straight.state_dict())))
    second = Stepper(resumed, Accumulating(resumed.parameters()))
    second.load_state_dict(decode(encode(first.state_dict())))
    held = second.base.state[resumed.weight]["sum"]
    assert held.dtype == torch.float64 and held.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(held, first.base.state[straight.weight]["sum"])
    for i in range(3, 6):
        step(straight, first, i)
        step(resumed, second, i)
    assert torch.equal(straight.weight, resumed.weight) and torch.equal(straight.bias, resumed.bias)
