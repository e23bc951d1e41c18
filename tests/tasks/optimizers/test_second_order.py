"""L-BFGS and Newton-CG against dense matrices in numpy, scipy's optimizers and torch's own."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse.linalg
import torch
from objectives import A, Objective, Quadratic, W
from torch import nn
from torch.func import hessian, jacrev
from torch.nn import functional as F

from tasks.data import Digits
from tasks.errors import InvalidValue
from tasks.minibatch import Minibatch
from tasks.models import MLP
from tasks.optimizers import LBFGS, SAM, NewtonCG
from tasks.optimizers.conjugate_gradients import conjugate_gradients
from tasks.snapshots import decode, encode
from tasks.task import execute
from tasks.train import Train

DECAY, RHO = 0.3, 0.2
a, start = A.numpy(), W.numpy()
EXACT = NewtonCG(curvature="hessian", damping=0, tolerance=1e-14)


def of_sam(w):
    g = a * w
    return a * (w + RHO * g / np.linalg.norm(g))


def bound(w, changed):
    """What is added to the curvature because the gradient was changed: ‖ĝ − g‖² / (2 L)."""
    return ((changed - a * w) ** 2).sum() / (a * w**2).sum()


def go(network, stepper, steps, scale=1.0):
    for _ in range(steps):
        stepper.gradient(network.batch)
        for p in network.parameters():
            p.grad *= scale
        stepper.step()
    return network.w.numpy()


def bfgs(gradient, w, steps, iterations, lr, history):
    """L-BFGS with dense matrices, on the objective of each step."""
    pairs, move = [], None
    for _ in range(steps):
        at, g, mu = w, gradient(w) + DECAY * w, bound(w, gradient(w))

        def slope(v, at=at, g=g, mu=mu):
            return g + (a + DECAY + mu) * (v - at)

        for _ in range(iterations):
            inverse = np.eye(3)
            if move is not None:
                pairs = [*pairs, (move, slope(w) - slope(w - move))][-history:]
                s, y = pairs[-1]
                inverse *= (s @ y) / (y @ y)
            for s, y in pairs:
                left = np.eye(3) - np.outer(s, y) / (s @ y)
                inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
            move = -inverse @ slope(w) * lr * (1 if pairs else min(1, 1 / np.abs(slope(w)).sum()))
            w = w + move
    return w


@pytest.mark.parametrize("history", [2, 10])
@pytest.mark.parametrize("iterations", [1, 3])
def test_lbfgs_steps(iterations, history):
    optimizer = LBFGS(lr=0.6, max_iter=iterations, history_size=history, line_search=None, weight_decay=DECAY)
    for spec, gradient in ((optimizer, lambda w: a * w), (SAM(base=optimizer, rho=RHO), of_sam)):
        network = Quadratic()
        found = go(network, spec.build(network), 3)
        np.testing.assert_allclose(found, bfgs(gradient, start, 3, iterations, 0.6, history), rtol=1e-10, atol=1e-14)


def test_lbfgs_with_a_line_search_is_torch_s_bit_for_bit():
    network, other = Quadratic(), Quadratic()
    go(network, LBFGS(max_iter=4).build(network), 1)
    reference = torch.optim.LBFGS(other.parameters(), max_iter=4, max_eval=15, line_search_fn="strong_wolfe")

    def closure():
        reference.zero_grad()
        loss = other.loss()
        loss.backward()
        return loss

    reference.step(closure)
    assert torch.equal(network.w, other.w)
    assert len(network.seen) == len(other.seen)  # the first evaluation is the stepper's own gradient


@pytest.mark.parametrize("optimizer", [LBFGS(max_iter=50, tolerance_change=0), EXACT], ids=["LBFGS", "NewtonCG"])
@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_one_step_reaches_the_minimum_of_a_quadratic_or_the_newton_step_along_a_changed_gradient(optimizer, decay):
    optimizer = dataclasses.replace(optimizer, weight_decay=decay)

    def step(spec, scale=1.0):
        network = Quadratic()
        return go(network, spec.build(network), 1, scale)

    def minimum(changed):
        return start - (changed + decay * start) / (a + decay + bound(start, changed))

    np.testing.assert_allclose(step(optimizer), 0, atol=1e-6)
    np.testing.assert_allclose(step(optimizer, 0.25), minimum(0.25 * a * start), atol=1e-6)
    np.testing.assert_allclose(step(SAM(base=optimizer, rho=RHO)), minimum(of_sam(start)), atol=1e-6)


def regression(dtype=torch.float64):
    """Logistic regression on three overlapping classes: convex, with its minimum at finite weights."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator, dtype=dtype)
    y = (x[:, :3] + torch.randn(60, 3, generator=generator, dtype=dtype)).argmax(1)
    network = nn.Linear(4, 3).to(dtype)
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(generator=generator)
    return network, x, y


@pytest.mark.parametrize(
    "optimizer",
    [
        LBFGS(weight_decay=0.1, tolerance_change=1e-16),
        NewtonCG(weight_decay=0.1),
        NewtonCG(weight_decay=0.1, curvature="hessian"),
        NewtonCG(weight_decay=0.1, damping=0, backtracking=0, tolerance=1e-3),
    ],
)
def test_the_minimum_of_a_convex_problem_is_scipy_s(optimizer):
    network, x, y = regression()

    def objective(w):
        v = torch.from_numpy(w).requires_grad_()
        loss = F.cross_entropy(x @ v[:12].view(3, 4).T + v[12:], y) + 0.05 * v.square().sum()
        loss.backward()
        return loss.item(), v.grad.numpy()

    first = torch.cat([p.detach().flatten() for p in network.parameters()]).numpy()
    reference = scipy.optimize.minimize(objective, first, jac=True, method="L-BFGS-B", tol=1e-14).x
    stepper = optimizer.build(network)
    for _ in range(30):
        stepper.gradient(Minibatch(network, x, y))
        stepper.step()
    found = torch.cat([p.detach().flatten() for p in network.parameters()]).numpy()
    np.testing.assert_allclose(found, reference, atol=1e-6)


# Newton-CG


def small(kind):
    generator = torch.Generator().manual_seed(1)
    middle = [nn.BatchNorm1d(5)] if kind == "batchnorm" else []
    network = nn.Sequential(nn.Linear(4, 5), *middle, nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(generator=generator)
    x = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    batch = Minibatch(network, x, torch.arange(12) % 3, micro=5 if kind == "parts" else None)
    batch.label_smoothing = 0.1
    batch.penalties.append(lambda _, outputs: 0.2 * outputs.square().mean())
    return network, batch


def dense(network, batch, curvature):
    """w, ∇L and B by torch.func, with the network written out (its own batch_norm is wrong in second derivatives)."""
    shapes = [p.shape for p in network.parameters()]
    w = torch.cat([p.detach().flatten() for p in network.parameters()])

    def outputs(w):
        v = [p.view(s) for p, s in zip(w.split([s.numel() for s in shapes]), shapes, strict=True)]
        h = batch.x @ v[0].T + v[1]
        if len(v) == 6:
            h = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt() * v[2] + v[3]
        return h.tanh() @ v[-2].T + v[-1]

    def loss(z):
        return F.cross_entropy(z, batch.targets, label_smoothing=0.1) + 0.2 * z.square().mean()

    gradient = jacrev(lambda w: loss(outputs(w)))(w)
    if curvature == "hessian":
        matrix = hessian(lambda w: loss(outputs(w)))(w)
    else:
        jacobian = jacrev(outputs)(w).flatten(0, 1)
        inner = hessian(lambda z: loss(z.view(12, 3)))(outputs(w).flatten())
        matrix = jacobian.T @ inner @ jacobian
    return w.numpy(), gradient.numpy(), matrix.numpy()


@pytest.mark.parametrize("kind", ["plain", "parts", "batchnorm", "compiled"])
@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
def test_newton_step_is_the_dense_solution(kind, curvature):
    network, batch = small(kind)
    w, gradient, matrix = dense(network, batch, curvature)
    damping = 0.5 + max(0.0, -np.linalg.eigvalsh(matrix)[0])
    p = np.linalg.solve(matrix + (damping + 0.1) * np.eye(len(w)), -gradient - 0.1 * w)
    if kind == "compiled":
        batch._forward = torch.compile(network, backend="aot_eager")
    optimizer = NewtonCG(
        curvature=curvature,
        damping=damping,
        weight_decay=0.1,
        tolerance=1e-13,
        max_iterations=500,
        backtracking=0,
        lr=0.5,
    )
    stepper = optimizer.build(network)
    stepper.gradient(batch)
    stepper.step()
    found = torch.cat([q.detach().flatten() for q in network.parameters()]).numpy()
    np.testing.assert_allclose(found, w + 0.5 * p, rtol=1e-8, atol=1e-10)


def symmetric(eigenvalues, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2))
    return q @ np.diag(eigenvalues) @ q.T


@pytest.mark.parametrize("iterations", [1, 4, 100])
def test_conjugate_gradients_are_scipy_s(iterations):
    matrix = symmetric(np.geomspace(0.1, 10, 12))
    b = np.random.default_rng(1).standard_normal(12)
    counted = []
    expected, _ = scipy.sparse.linalg.cg(matrix, b, rtol=1e-2, atol=0, maxiter=iterations, callback=counted.append)
    m = torch.from_numpy(matrix)
    found = conjugate_gradients(m.mv, torch.from_numpy(b), tolerance=1e-2, max_iterations=iterations)
    np.testing.assert_allclose(found.x, expected, rtol=1e-6)
    assert found.iterations == len(counted) and not found.negative
    assert found.curvature == pytest.approx(expected @ matrix @ expected, rel=1e-6)
    if iterations == 100:
        assert np.linalg.norm(b - matrix @ expected) <= 1e-2 * np.linalg.norm(b) and found.iterations < 20


def test_conjugate_gradients_stop_before_negative_curvature():
    """x is the minimum of ½xᵀAx − bᵀx over the Krylov space that the products have spanned until then."""
    matrix = symmetric([-0.05, 0.3, 0.5, 1.0, 2.0, 5.0, 8.0])
    b = np.random.default_rng(3).standard_normal(7)
    found = conjugate_gradients(torch.from_numpy(matrix).mv, torch.from_numpy(b), tolerance=0, max_iterations=50)
    assert found.negative and found.iterations > 2
    krylov = np.stack([np.linalg.matrix_power(matrix, k) @ b for k in range(found.iterations)], axis=1)
    basis = np.linalg.qr(krylov)[0]
    assert np.linalg.eigvalsh(basis.T @ matrix @ basis)[0] < 0  # the last direction was one too many
    basis = basis[:, :-1]
    assert np.linalg.eigvalsh(basis.T @ matrix @ basis)[0] > 0
    x = basis @ np.linalg.solve(basis.T @ matrix @ basis, basis.T @ b)
    np.testing.assert_allclose(found.x, x, rtol=1e-8)
    assert found.curvature == pytest.approx(x @ matrix @ x)

    negative = conjugate_gradients(lambda v: -2 * v, torch.tensor([3.0, 4.0]), tolerance=0.1, max_iterations=9)
    assert negative.negative and negative.x.tolist() == [3, 4] and negative.curvature == -50
    nothing = conjugate_gradients(lambda v: v, torch.zeros(2), tolerance=0.1, max_iterations=9)
    assert nothing.x.tolist() == [0, 0] and nothing.iterations == 0


class Bowl(nn.Module):
    """L(w) = √(1 + w²): from |w| > 1 a Newton step, −w (1 + w²), goes too far."""

    def __init__(self, w):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([w], dtype=torch.float64))
        self.batch = Objective(self, lambda: (1 + self.weight**2).sqrt().sum())

    @property
    def w(self):
        return self.weight.detach()


@pytest.mark.parametrize(
    ("w", "damping", "backtracking", "ratio"), [(3.0, 0.01, 5, "low"), (3.0, 0.01, 0, "low"), (0.2, 0.01, 5, "high")]
)
def test_damping_follows_the_reduction_ratio_and_steps_are_halved_by_hand(w, damping, backtracking, ratio):
    f, g, h = math.sqrt(1 + w**2), w / math.sqrt(1 + w**2), (1 + w**2) ** -1.5
    p = -g / (h + damping)
    r = (math.sqrt(1 + (w + p) ** 2) - f) / (g * p + h * p**2 / 2)
    assert (r < 0.25) == (ratio == "low") and (r > 0.75) == (ratio == "high")
    alpha = 1.0
    while backtracking and math.sqrt(1 + (w + alpha * p) ** 2) > f + 1e-4 * alpha * g * p:
        alpha /= 2
    assert (alpha < 1) == (ratio == "low" and backtracking > 0)
    network = Bowl(w)
    stepper = NewtonCG(curvature="hessian", damping=damping, damping_factor=2, backtracking=backtracking).build(network)
    go(network, stepper, 1)
    assert network.w.item() == pytest.approx(w + alpha * p, rel=1e-12)
    assert stepper.damping == (2 * damping if ratio == "low" else damping / 2) and stepper.lr == alpha


def test_a_step_that_no_halving_makes_good_is_not_taken():
    network = Bowl(30.0)
    stepper = NewtonCG(curvature="hessian", damping=1e-9, backtracking=2).build(network)
    go(network, stepper, 1)
    assert network.w.item() == 30 and stepper.damping == pytest.approx(1.5e-9) and stepper.lr == 0
    go(network, stepper, 60)
    assert abs(network.w.item()) < 1e-6


def test_negative_curvature_at_once_is_a_step_down_the_gradient():
    """L = cos(w): at 0.5 its curvature is negative."""
    network = Bowl(0.5)
    network.batch = Objective(network, lambda: network.weight.cos().sum())
    go(network, NewtonCG(curvature="hessian", damping=0.1, damping_factor=1).build(network), 1)
    assert network.w.item() == pytest.approx(0.5 + math.sin(0.5), rel=1e-12)


# Both


@pytest.mark.parametrize("optimizer", [LBFGS(max_iter=3), NewtonCG(), SAM(base=NewtonCG()), SAM(base=LBFGS())])
def test_state_dict_continues_bit_for_bit(optimizer):
    network, x, y = regression(torch.float32)
    stepper = optimizer.build(network)

    def epoch(network, stepper):
        for i in (0, 20, 40):
            stepper.gradient(Minibatch(network, x[i : i + 20], y[i : i + 20]))
            stepper.step()
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    epoch(network, stepper)
    resumed = copy.deepcopy(network)
    continued = optimizer.build(resumed)
    continued.load_state_dict(decode(encode(stepper.state_dict())))
    assert torch.equal(epoch(network, stepper), epoch(resumed, continued))


@pytest.mark.parametrize("optimizer", [LBFGS(max_iter=4), NewtonCG(), SAM(base=LBFGS()), SAM(base=NewtonCG())])
def test_batch_norm_statistics_move_once_a_step(optimizer):
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))
    x, y = torch.randn(8, 3, generator=generator), torch.arange(8) % 2
    once = copy.deepcopy(network)
    once(x)
    before = network[0].weight.detach().clone()
    stepper = optimizer.build(network)
    stepper.gradient(Minibatch(network, x, y))
    stepper.step()
    assert not torch.equal(network[0].weight, before)
    for (name, buffer), (_, expected) in zip(network.named_buffers(), once.named_buffers(), strict=True):
        assert torch.equal(buffer, expected), name


@pytest.mark.parametrize("optimizer", [LBFGS(max_iter=4), NewtonCG()])
def test_a_gradient_that_another_has_found_is_stepped_along_all_the_same(optimizer):
    """The base of a stepper that finds its gradients by itself is told of the batch by `begin` alone."""
    networks = [regression()[0] for _ in range(2)]
    _, x, y = regression()
    for network, itself in zip(networks, (True, False), strict=True):
        stepper, batch = optimizer.build(network), Minibatch(network, x, y)
        if itself:
            stepper.gradient(batch)
        else:
            stepper.gradient(Minibatch(network, x[:7], y[:7]))  # of a step before
            stepper.begin(batch, stepper.progress)
            stepper.base.zero_grad()
            batch.backward()
        for p in network.parameters():
            p.grad *= 0.5
        stepper.step()
    assert torch.equal(networks[0].weight, networks[1].weight)


@pytest.mark.parametrize(
    ("optimizer", "epochs", "batch_size"),
    [
        (LBFGS(max_iter=5), 8, None),
        (NewtonCG(damping=0.1), 8, None),
        (NewtonCG(damping=0.1, curvature="hessian"), 12, None),
        (LBFGS(max_iter=5), 3, 256),
        (NewtonCG(), 3, 256),
    ],
)
def test_trains_a_network_on_digits_in_a_few_steps(tmp_path, optimizer, epochs, batch_size):
    data = execute(Digits(), folder=tmp_path / "data")
    train = Train(Digits(), MLP(widths=(32,)), optimizer, epochs=epochs, batch_size=batch_size, clip_norm=5.0)
    results = execute(train, data, folder=tmp_path / "train").results
    assert results["train_loss"] < (0.1 if batch_size is None else 0.3) and results["val_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("optimizer", "diverges"),
    [
        (LBFGS(lr=1e38, max_iter=3), False),  # the line search comes back from where the loss is not finite
        (LBFGS(lr=1e38, max_iter=200, line_search=None), True),
        (NewtonCG(lr=1e30), False),
        (NewtonCG(lr=1e30, backtracking=0), True),
    ],
)
def test_steps_that_are_far_too_long(tmp_path, optimizer, diverges):
    data = execute(Digits(train_size=100), folder=tmp_path / "data")
    train = Train(Digits(train_size=100), MLP(widths=(8,)), optimizer, epochs=3, batch_size=50)
    results = execute(train, data, folder=tmp_path / "train").results
    assert results["diverged"] is diverges


@pytest.mark.parametrize("base", [LBFGS(max_iter=20), NewtonCG()], ids=["LBFGS", "NewtonCG"])
def test_sam_with_the_curvature_of_the_loss_stays_in_bounds(tmp_path, base):
    """Without the bound L-BFGS's line search follows the linear term: to losses of 1e8 and more, for this ρ."""
    data = execute(Digits(), folder=tmp_path / "data")
    train = Train(Digits(), MLP(widths=(32,)), SAM(base=base, rho=0.2), epochs=10, batch_size=None)
    results = execute(train, data, folder=tmp_path / "train").results
    assert results["train_loss"] < 0.5 and results["test_loss"] < 0.5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LBFGS(max_iter=0), "LBFGS: max_iter must be at least 1"),
        (lambda: LBFGS(line_search="armijo"), "LBFGS: line_search must be"),
        (lambda: NewtonCG(curvature="fisher"), "NewtonCG: curvature must be one of 'gauss-newton', 'hessian'"),
        (lambda: NewtonCG(damping_factor=0.5), "damping_factor must be at least 1"),
        (lambda: NewtonCG(tolerance=1), "tolerance must be below 1"),
    ],
)
def test_impossible_values(make, words):
    with pytest.raises(InvalidValue, match=words):
        make()
