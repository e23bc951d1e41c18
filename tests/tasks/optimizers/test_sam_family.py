"""The SAM family, one step at a time, against numpy on L(w) = ½ wᵀHw − bᵀw, whose gradient is Hw − b.

H couples the coordinates and is indefinite, so r = g⁺/g takes values of every group; all numbers are integers, so one
coordinate of g is exactly 0.
"""

import dataclasses

import numpy as np
import pytest
import torch
from objectives import Objective, Quadratic
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from tasks.data import Digits
from tasks.errors import InvalidValue
from tasks.minibatch import Minibatch
from tasks.models import MLP
from tasks.optimizers import (
    ASAM,
    SAM,
    SAME,
    SGD,
    AdamW,
    ClampSAM,
    ClipSAM,
    CustomSAME,
    Progress,
    SAMAgree,
    SAMAnatomy,
    SAMDirection,
    SAMMagnitude,
    SGDAgree,
    SignMagnitude,
)
from tasks.optimizers.blocks import BLOCK, blocks
from tasks.optimizers.ratio_groups import ratio_groups
from tasks.schedules import Cosine, Schedule
from tasks.snapshots import decode, encode
from tasks.task import Context, execute
from tasks.train import Train

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
    counts = [torch.bincount(group.flatten(), minlength=5).tolist() for group in found]
    assert counts == [[2, 2, 4, 2, 2], [0, 2, 1, 1, 1]]


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


def wanted(name, **changes):
    return dataclasses.replace(MEMBERS[name][0], **changes)


def run(network, stepper, steps, first=0):
    for i in range(first, first + steps):
        stepper.gradient(network.batch, Progress(i, 100))
        stepper.step(1 / (i + 1))


@dataclasses.dataclass(frozen=True)
class EveryOther(Schedule):
    """0 at even steps, 1 at odd ones."""

    def factor(self, step, steps):
        return float(step % 2)


@dataclasses.dataclass(frozen=True)
class Half(Schedule):
    """½ throughout."""

    def factor(self, step, steps):
        return 0.5


BASES = [SGD(lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1), AdamW(lr=0.01)]
bases = pytest.mark.parametrize("base", BASES, ids=["SGD", "AdamW"])


@bases
@members
def test_without_rho_it_is_the_base_optimizer_bit_for_bit_and_at_its_cost(name, base):
    plain, off, now_and_then = Coupled(), Coupled(), Coupled()
    run(plain, base.build(plain), 3)
    run(off, wanted(name, base=base, rho=0.0).build(off), 3)
    assert np.array_equal(off.w, plain.w) and off.evaluations == plain.evaluations

    plain, (member, _) = Coupled(), MEMBERS[name]
    stepper = dataclasses.replace(member, base=base, rho=RHO, rho_schedule=EveryOther()).build(now_and_then)
    run(plain, base.build(plain), 1)
    run(now_and_then, stepper, 1)
    assert np.array_equal(now_and_then.w, plain.w) and now_and_then.evaluations == 1
    run(now_and_then, stepper, 1, first=1)
    assert now_and_then.evaluations == 1 + {"SAMAnatomy": 3, "g, g": 1}.get(name, 2)


@bases
@members
def test_it_continues_from_its_state_bit_for_bit(name, base):
    member = wanted(name, base=base, rho=RHO)
    straight = Coupled()
    stepper = member.build(straight)
    run(straight, stepper, 3)
    kept = encode({"network": straight.state_dict(), "stepper": stepper.state_dict()})
    run(straight, stepper, 3, first=3)
    continued, state = Coupled(), decode(kept)
    continued.load_state_dict(state["network"])
    stepper = member.build(continued)
    stepper.load_state_dict(state["stepper"])
    run(continued, stepper, 3, first=3)
    assert np.array_equal(continued.w, straight.w)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SignMagnitude(sign_from="g_plus", magnitude_from="g_plus"), SAM()),
        (SignMagnitude(sign_from="g", magnitude_from="g_plus"), SAMMagnitude()),
        (SignMagnitude(sign_from="g_plus", magnitude_from="g"), SAMDirection()),
        (SAME(c=1), SAM()),
        (CustomSAME(c=1), SAM()),
        (ClampSAM(tau=RHO), SAM()),
    ],
    ids=str,
)
def test_the_same_bit_for_bit(one, other):
    first, second = Coupled(), Coupled()
    for network, member in ((first, one), (second, other)):
        run(network, dataclasses.replace(member, lr=0.01, momentum=0.9, rho=RHO).build(network), 3)
    assert np.array_equal(first.w, second.w)


@members
def test_where_the_gradient_is_zero_it_stays(name):
    network = Quadratic(torch.zeros(3, dtype=torch.float64))
    stepper = wanted(name, rho=0.5).build(network)
    for _ in range(2):
        stepper.gradient(network.batch)
        stepper.step()
    assert torch.equal(network.w, torch.zeros(3, dtype=torch.float64))


def test_what_a_recorder_sees_of_anatomy():
    seen = []

    def observe(found):
        g, g_plus = (torch.cat([t.flatten() for t in tensors]).numpy() for tensors in (found.g, found.g_plus))
        seen.extend([g.copy(), g_plus.copy(), found.loss.item(), found.loss_plus.item()])

    network = Coupled()
    wanted("SAMAnatomy", rho=RHO).build(network).gradient(network.batch, observe=observe)
    g, g_plus, loss, loss_plus = seen
    at = W + RHO * unit(gradient(W) * agree(W, gradient(W)))
    np.testing.assert_array_equal(g, gradient(W))
    np.testing.assert_allclose(g_plus, gradient(at), rtol=1e-12)
    np.testing.assert_allclose([loss, loss_plus], [v @ H @ v / 2 - B @ v for v in (W, at)], rtol=1e-12)


def test_a_schedule_of_rho():
    network = Quadratic()
    stepper = SAM(rho=0.7, rho_schedule=Cosine(warmup=0.5)).build(network)
    for i in range(4):
        stepper.gradient(network.batch, Progress(i, 4))
    lengths = [(b - a).norm().item() for a, b in zip(network.seen[::2], network.seen[1::2], strict=True)]
    assert lengths == pytest.approx([0.35, 0.7, 0.7, 0.35], rel=1e-12)


def blobs(precision="float32", forward=None):
    """Three classes of points around three corners, a few of them on the wrong side, and a small network."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    x = 2 * nn.functional.one_hot(y, 4) + 0.5 * torch.randn(90, 4, generator=generator)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    return net, Minibatch(net, x, y, precision=precision, forward=forward and forward(net))


@members
def test_it_learns(name):
    network, batch = blobs()
    stepper = wanted(name, lr=0.1, momentum=0.9, rho=0.05, rho_schedule=Cosine()).build(network)
    losses = []
    for i in range(40):
        loss, outputs = stepper.gradient(batch, Progress(i, 40))
        stepper.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert (outputs.argmax(1) == batch.targets).float().mean() > 0.95


@members
def test_bf16_autocast(name):
    """The gradient is float32, and about that of float32 arithmetic."""
    found = []
    for precision in ("float32", "bf16"):
        network, batch = blobs(precision)
        wanted(name, rho=0.05).build(network).gradient(batch)
        found.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    full, half = found
    assert half.dtype == torch.float32 and not torch.equal(full, half)
    assert nn.functional.cosine_similarity(full, half, dim=0) > 0.9


@pytest.mark.parametrize("name", ["SAM", "SAMAnatomy"])
def test_a_compiled_network_sees_the_moved_parameters_and_is_compiled_once(name):
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    plain, compiled = blobs(), blobs(forward=lambda net: torch.compile(net, backend=counter))
    counts = []
    steppers = [wanted(name, lr=0.1, rho=0.5).build(network) for network, _ in (plain, compiled)]
    for _ in range(4):
        for stepper, (_, batch) in zip(steppers, (plain, compiled), strict=True):
            stepper.gradient(batch)
            stepper.step()
        counts.append(counter.frame_count)
    assert counts[0] == counts[-1] == 2  # BatchNorm's statistics move, or do not
    for p, q in zip(plain[0].state_dict().values(), compiled[0].state_dict().values(), strict=True):
        torch.testing.assert_close(q, p)


@pytest.mark.parametrize("name", ["SAMAnatomy", "CustomSAME"])
def test_clipping_and_the_schedule_of_the_step_size_act_on_the_combination(name, tmp_path):
    """A training of one step, at half the step size, of which the gradient's norm is clipped."""
    data = Digits(train_size=50)
    task = Train(
        data,
        MLP(widths=(8,)),
        wanted(name, lr=0.3, rho=0.05),
        schedule=Half(),
        epochs=1,
        batch_size=None,
        clip_norm=0.01,
        precision="bf16",
    )
    trained = execute(task, execute(data, folder=tmp_path / "data"), folder=tmp_path / "trained")
    start = task.model.build((1, 8, 8), 10, Context(tmp_path, seeds=dict.fromkeys(Train.streams, 0)).generator("init"))
    end = load_file(trained.dir / "weights.safetensors")
    moved = torch.cat([(end[name] - p.detach()).flatten() for name, p in start.named_parameters()])
    assert moved.norm().item() == pytest.approx(0.5 * 0.3 * 0.01, rel=1e-3)
    assert trained.results["grad_norm"] > 0.01


def test_large_tensors_in_blocks():
    """In pieces or whole, and however the tensors are stored, each number is worked on once."""
    generator = torch.Generator().manual_seed(0)

    def gradients():
        drawn = [
            torch.randn(shape, generator=generator) for shape in ((64, 40, 5, 5), (64, 40, 5, 5), (7,), (), (300, 200))
        ]
        return [drawn[0].contiguous(memory_format=torch.channels_last), *drawn[1:]]

    g, g_plus = gradients(), gradients()
    g_plus[1] = g_plus[1].contiguous(memory_format=torch.channels_last)  # stored in another order than g
    sizes = [sum(t.numel() for t in a) for a, _ in blocks(g, g_plus)]
    assert sum(sizes) == sum(t.numel() for t in g) and sorted(sizes)[-2] <= BLOCK < sorted(sizes)[-1] == g[1].numel()
    factors = torch.tensor([1.0, 3, 1, 1 / 3, 3])
    expected = [p * factors[r.long()] for p, r in zip(g_plus, ratio_groups(g, g_plus), strict=True)]
    for found, right in zip(CustomSAME(c=3).combination(g, g_plus), expected, strict=True):
        torch.testing.assert_close(found, right)
