"""Hessian-vector products and gradient covariances against dense matrices."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tasks.curvature import GradientCovariance, Hessian, per_example_gradients
from tasks.errors import UserError
from tasks.landscape import Landscape, filter_normalised, flatten


def loss(outputs, targets, reduction="mean"):
    return F.cross_entropy(outputs, targets, reduction=reduction)


def problem(m=23, inputs=5, classes=4, hidden=6, activation=nn.Tanh, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, hidden), activation(), nn.Linear(hidden, classes)).to(dtype).eval()
    x = torch.randn(m, inputs, dtype=dtype)
    return model, x, torch.randint(classes, (m,))


def dense_hessian(model, x, y):
    names, values = zip(*model.named_parameters(), strict=True)
    shapes = [v.shape for v in values]

    def f(w):
        pieces = w.split([s.numel() for s in shapes])
        weights = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        return loss(torch.func.functional_call(model, weights, (x,)), y)

    return torch.func.hessian(f)(flatten([v.detach() for v in values]))


def example_gradients(model, x, y):
    """One backward pass an example."""
    return torch.stack(
        [
            flatten(list(torch.autograd.grad(loss(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))))
            for i in range(len(x))
        ]
    )


@pytest.mark.parametrize("batch_size", [100, 7])
@pytest.mark.parametrize("keep", [None, 0])
def test_products_match_the_dense_hessian(batch_size, keep):
    model, x, y = problem()
    hessian = Hessian(model, loss, x, y, batch_size=batch_size, keep=keep)
    assert hessian.keeps_graph is (keep is None)
    dense = dense_hessian(model, x, y)
    v = torch.randn(hessian.size, dtype=torch.float64)
    for _ in range(2):  # the graph serves more than once
        torch.testing.assert_close(hessian(v), dense @ v, atol=1e-13, rtol=1e-12)
    whole = loss(model(x), y)
    torch.testing.assert_close(hessian.gradient, flatten(list(torch.autograd.grad(whole, list(model.parameters())))))
    assert hessian.loss == pytest.approx(float(whole.detach()), abs=1e-14)


def test_kept_and_fresh_graphs_give_the_same_bits():
    model, x, y = problem(dtype=torch.float32, m=64)
    v = torch.randn(sum(p.numel() for p in model.parameters()))
    kept, fresh = (Hessian(model, loss, x, y, batch_size=16, keep=k) for k in (None, 0))
    assert torch.equal(kept(v), fresh(v))


def test_convolutions_batchnorm_in_eval_mode_and_unused_parameters():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    ).double()
    model.register_parameter("unused", nn.Parameter(torch.zeros(2, dtype=torch.float64)))
    x, y = torch.randn(9, 1, 6, 6, dtype=torch.float64), torch.randint(3, (9,))
    with pytest.raises(UserError, match="BatchNorm"):
        Hessian(model, loss, x, y)
    model.eval()
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    torch.testing.assert_close(Hessian(model, loss, x, y, batch_size=4)(v), dense_hessian(model, x, y) @ v)


def test_a_start_in_batches_is_the_same_and_leans_on_the_top():
    model, x, y = problem(m=200)
    starts = [Hessian(model, loss, x, y, batch_size=b).start(torch.Generator().manual_seed(0)) for b in (200, 33)]
    torch.testing.assert_close(*starts)
    top = torch.linalg.eigh(dense_hessian(model, x, y)).eigenvectors[:, -5:]
    assert float((starts[0] @ top).norm() / starts[0].norm()) > 2 * (5 / len(top)) ** 0.5


def test_a_loss_without_curvature():
    model = nn.Linear(3, 1, bias=False)

    def linear(outputs, targets, reduction="mean"):
        return outputs.sum() if reduction == "sum" else outputs.mean()

    hessian = Hessian(model, linear, torch.randn(4, 3), torch.zeros(4))
    assert torch.equal(hessian(torch.ones(3)), torch.zeros(3))


def test_per_example_gradients_match_a_loop():
    model, x, y = problem()
    torch.testing.assert_close(per_example_gradients(model, loss, x, y), example_gradients(model, x, y))


@pytest.mark.parametrize("memory", [1 << 30, 4 * 8 * 64 * 5, 1])
def test_covariance_matches_the_dense_matrix(memory):
    model, x, y = problem()
    g = example_gradients(model, x, y)
    direction = torch.randn(2, g.shape[1], dtype=torch.float64)
    noise = GradientCovariance(model, loss, x, y, memory=memory, directions=direction)
    torch.testing.assert_close(noise.mean, g.mean(0))
    for m in (23, 11, 5):
        dense = torch.cov(g[:m].T)  # centred, divisor m − 1
        values, vectors = torch.linalg.eigh(dense)
        found, weights = noise.spectrum(m)
        torch.testing.assert_close(found[: m - 1], values.flip(0)[: m - 1], atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(found.sum(), dense.trace())
        v = noise.combine(weights)
        assert abs(float(v @ vectors[:, -1])) == pytest.approx(1, abs=1e-9)
        assert float(v.norm()) == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(noise.along.var(0), (direction @ torch.cov(g.T) @ direction.T).diagonal())


def test_with_labels_from_the_model_the_uncentred_covariance_is_the_gauss_newton():
    """E over y ~ softmax(f(x)) of the mean of gᵢ gᵢᵀ equals the mean of Jᵀ(diag p − p pᵀ)J, exactly."""
    model, x, _ = problem(m=6)
    p = model(x).softmax(1).detach()
    size = sum(q.numel() for q in model.parameters())
    second = torch.zeros(size, size, dtype=torch.float64)
    for c in range(4):
        g = per_example_gradients(model, loss, x, torch.full((6,), c))
        second += (g * p[:, c : c + 1]).T @ g / 6
    ggn = torch.zeros_like(second)
    for i in range(6):
        rows = [
            flatten(list(torch.autograd.grad(model(x[i : i + 1])[0, c], list(model.parameters())))) for c in range(4)
        ]
        j = torch.stack(rows)
        ggn += j.T @ (p[i].diag() - torch.outer(p[i], p[i])) @ j / 6
    torch.testing.assert_close(second, ggn, atol=1e-13, rtol=1e-10)
    # And what GradientCovariance computes from labels drawn once: centred + mean meanᵀ, within sampling error.
    draws = 4000
    torch.manual_seed(1)
    labels = torch.multinomial(p.float(), draws, replacement=True).flatten()
    noise = GradientCovariance(model, loss, x.repeat_interleave(draws, 0)[::20], labels[::20])
    m = len(noise.gram)
    uncentred = noise.gram.trace() / m + noise.mean @ noise.mean
    assert float(uncentred) == pytest.approx(float(ggn.trace()), rel=0.08)


def test_covariance_refuses_what_has_no_meaning():
    model, x, y = problem(m=1)
    with pytest.raises(UserError, match="at least 2"):
        GradientCovariance(model, loss, x, y)
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
    with pytest.raises(UserError, match="BatchNorm"):
        GradientCovariance(model, loss, torch.randn(4, 5), torch.zeros(4, dtype=torch.long))


def test_landscape_leaves_the_network_alone():
    model, x, y = problem()
    before = [p.clone() for p in model.parameters()]
    land = Landscape(model, loss, batch_size=5)
    assert land.evaluate(land.origin, x, y)[0] == pytest.approx(float(loss(model(x), y).detach()), abs=1e-14)
    w = land.origin + 1
    value, gradient = land.gradient(w, x, y)
    assert value == pytest.approx(land.evaluate(w, x, y)[0])
    with torch.no_grad():
        for p in model.parameters():
            p += 1
    torch.testing.assert_close(gradient, Hessian(model, loss, x, y).gradient)
    with torch.no_grad():
        for p in model.parameters():
            p -= 1
    assert all(torch.allclose(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(land.origin, flatten(before))


def test_reestimated_statistics_are_those_of_the_data():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3, affine=True), nn.Linear(3, 2))
    x = torch.randn(64, 3) * 2 + 1
    land = Landscape(model, loss, batch_size=16)
    land.reestimate(land.origin, x)
    norm = land.model[0]
    torch.testing.assert_close(norm.running_mean, x.mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([b.var(0) for b in x.split(16)]).mean(0))
    assert norm.momentum == 0.1 and not norm.training and float(model[0].running_mean.abs().max()) == 0


def test_filter_normalised_directions_have_the_norms_of_the_filters():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))
    land = Landscape(model, loss)
    direction = land.split(filter_normalised(land, torch.Generator().manual_seed(0)))
    for d, w in zip(direction, land.split(land.origin), strict=True):
        if w.dim() == 1:
            assert not d.any()
        else:
            torch.testing.assert_close(d.flatten(1).norm(dim=1), w.flatten(1).norm(dim=1))
