"""SpectralDensity and LossSurface, against a dense spectrum and a network evaluated by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special

from tasks.errors import InvalidValue
from tasks.linalg import quadrature
from tasks.probes import LossSurface, SpectralDensity
from tasks.task import Context
from tasks.trained import load_trained

sys.path.insert(0, str(Path(__file__).parents[1]))
from interruptions import Memory, Run, interrupted_after_every_report

EXAMPLES = 150


def test_quadrature_has_the_moments_of_the_operator():
    rng = np.random.default_rng(0)
    values = np.concatenate([np.linspace(-0.5, 1, 37), [8.0, 20.0, 20.0]])
    basis, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    matrix = torch.from_numpy(basis * values @ basis.T)
    start = torch.from_numpy(rng.normal(size=40))
    v = start / start.norm()
    nodes, weights = quadrature(lambda u: matrix @ u, start, 9)
    assert len(nodes) == 9
    assert weights.sum() == pytest.approx(1)
    w = v.clone()
    for power in range(18):  # exact up to the degree 2 · 9 − 1
        assert (weights * nodes**power).sum() == pytest.approx(float(v @ w), rel=1e-9, abs=1e-9)
        w = matrix @ w
    nodes, weights = quadrature(lambda u: matrix @ u, start, 60)
    nodes, weights = nodes[weights > 1e-12], weights[weights > 1e-12]
    assert len(nodes) == 39  # every distinct eigenvalue, once: no ghosts
    np.testing.assert_allclose(nodes, np.unique(values), atol=1e-9)
    seen = (basis.T @ v.numpy()) ** 2
    np.testing.assert_allclose(weights, [seen[values == value].sum() for value in np.unique(values)], atol=1e-9)


def test_quadrature_of_what_is_not_finite():
    with pytest.raises(FloatingPointError):
        quadrature(lambda u: u * float("nan"), torch.ones(5), 3)


@pytest.fixture(scope="module")
def spectrum(trained, tmp_path_factory):
    """All eigenvalues of the first network's Hessian on its first examples, in float64, and the loss there."""
    trial = load_trained(Context(tmp_path_factory.mktemp("dense")), trained[0])
    model = trial.model.double()
    x, y = trial.evaluation_set("train", EXAMPLES)
    names, weights = zip(*model.named_parameters(), strict=True)
    flat = torch.cat([p.detach().reshape(-1) for p in weights])

    def loss(w):
        pieces = w.split([p.numel() for p in weights])
        values = {n: piece.view(p.shape) for n, piece, p in zip(names, pieces, weights, strict=True)}
        return trial.loss(torch.func.functional_call(model, values, (x.double(),)), y)

    return torch.linalg.eigvalsh(torch.func.hessian(loss)(flat)).numpy(), float(loss(flat))


def test_the_density_is_that_of_the_dense_spectrum(run, trained, spectrum):
    values, loss = spectrum
    found = run(SpectralDensity(vectors=12, steps=50, examples=EXAMPLES), trained[0])
    results, arrays = found.results, found.arrays("density")
    assert arrays["nodes"].shape == arrays["weights"].shape == (12, 50)
    np.testing.assert_allclose(arrays["weights"].sum(axis=1), 1, rtol=1e-12)
    for name, truth in (
        ("trace", values.sum()),
        ("norm", np.sqrt((values**2).sum())),
        ("negative_share", (values < -0.01 * np.abs(values).max()).mean()),
    ):
        assert 0 < results[f"{name}_error"] < 0.35 * truth
        assert abs(results[name] - truth) < 3.5 * results[f"{name}_error"], name
    assert results["node_max"] == pytest.approx(values[-1], rel=1e-4)
    assert results["node_min"] == pytest.approx(values[0], rel=1e-3)
    assert results["train_loss"] == pytest.approx(loss, rel=1e-5)
    assert results["products"] == 12 * 50
    # The whole distribution, blurred by 1 % of its range.
    width = 0.01 * (values[-1] - values[0])
    for place in np.linspace(values[0], values[-1], 40):
        share = (arrays["weights"] * special.ndtr((place - arrays["nodes"]) / width)).sum(axis=1)
        truth = special.ndtr((place - values) / width).mean()
        assert abs(share.mean() - truth) < 4 * share.std(ddof=1) / np.sqrt(12) + 0.005


def test_as_many_steps_as_parameters_are_enough(run, trained):
    parameters = 12 * 64 + 12 + 12 * 10 + 10
    few = run(SpectralDensity(vectors=2, steps=10**6, examples=3), trained[0])
    assert few.arrays("density")["nodes"].shape == (2, parameters)
    assert few.results["products"] < 2 * parameters  # the Hessian of 3 examples has a small rank
    assert np.isfinite(few.results["trace"])


@pytest.mark.parametrize("along", ["random", "eigenvectors"])
def test_a_surface_is_the_loss_at_the_stated_points(run, trained, along, tmp_path):
    probe = LossSurface(along=along, steps=(5, 3), radius=(0.8, 0.3), examples=EXAMPLES, tol=1e-6)
    before = {p.name: p.read_bytes() for p in trained[0].dir.iterdir()}
    found = run(probe, trained[0], seed=3)
    arrays = found.arrays("surface")
    assert arrays["loss"].shape == arrays["accuracy"].shape == (5, 3)
    assert arrays["a"].tolist() == [-0.8, -0.4, 0.0, 0.4, 0.8]
    assert arrays["b"].tolist() == [-0.3, 0.0, 0.3]
    trial = load_trained(Context(tmp_path), trained[0])
    x, y = trial.evaluation_set("train", EXAMPLES)
    assert arrays["loss"][2, 1] == pytest.approx(float(trial.loss(trial.model(x), y).detach()), rel=1e-6)
    weights = [p.detach().clone() for p in trial.model.parameters()]
    first, second = _directions(along, trial, x, y, found.seeds)
    for i, a in enumerate(arrays["a"]):
        for j, b in enumerate(arrays["b"]):
            with torch.no_grad():
                for p, w, d, e in zip(trial.model.parameters(), weights, first, second, strict=True):
                    p.copy_(w + float(a) * d + float(b) * e)
                outputs = trial.model(x)
            assert arrays["loss"][i, j] == pytest.approx(float(trial.loss(outputs, y)), rel=2e-4)
            assert arrays["accuracy"][i, j] == pytest.approx(float((outputs.argmax(1) == y).double().mean()), abs=0.01)
    edge = [arrays["loss"][i, j] for i in range(5) for j in range(3) if i in (0, 4) or j in (0, 2)]
    assert found.results["rise_edge"] == pytest.approx(np.mean(edge) - arrays["loss"][2, 1])
    assert found.results["lowest"] <= 0
    assert abs(found.results["cosine"]) < (1e-3 if along == "eigenvectors" else 0.2)
    assert {p.name: p.read_bytes() for p in trained[0].dir.iterdir()} == before


def _directions(along, trial, x, y, seeds):
    """The two directions, parameter by parameter, as the docstring defines them."""
    parameters = list(trial.model.parameters())
    if along == "eigenvectors":
        flat = torch.cat([p.detach().reshape(-1) for p in parameters])

        def loss(w):
            pieces = w.split([p.numel() for p in parameters])
            names = [n for n, _ in trial.model.named_parameters()]
            values = {n: q.view(p.shape) for n, q, p in zip(names, pieces, parameters, strict=True)}
            return trial.loss(torch.func.functional_call(trial.model, values, (x,)), y)

        gradient = torch.func.grad(loss)(flat)
        _, vectors = torch.linalg.eigh(torch.func.hessian(loss)(flat).double())
        top = [vectors[:, -1].float(), vectors[:, -2].float()]
        chosen = [v * flat.norm() * (1 if v @ gradient >= 0 else -1) for v in top]
    else:
        generator = Context(Path(), seeds=seeds).generator("directions")
        raw = [[torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters] for _ in range(2)]
        chosen = []
        for direction in raw:
            scaled = [
                torch.zeros_like(p) if p.dim() < 2 else (d.float().T * (p.norm(dim=1) / d.float().norm(dim=1))).T
                for p, d in zip(parameters, direction, strict=True)
            ]
            chosen.append(torch.cat([d.reshape(-1) for d in scaled]).detach())
    sizes = [p.numel() for p in parameters]
    return [[q.view(p.shape) for q, p in zip(v.split(sizes), parameters, strict=True)] for v in chosen]


@pytest.mark.parametrize(
    "probe", [SpectralDensity(vectors=3, steps=5, examples=20), LossSurface(steps=(3, 3), examples=20)]
)
def test_interrupted_they_leave_the_same(trained, tmp_path, probe):
    (tmp_path / "parts").mkdir()
    whole = Run(probe, (trained[0],), tmp_path / "whole").advance().outcome
    assert interrupted_after_every_report(probe, (trained[0],), tmp_path / "parts", Memory()).outcome == whole


def test_an_even_number_of_steps_has_no_centre():
    with pytest.raises(InvalidValue, match=r"steps must be odd, .* not \(5, 4\)"):
        LossSurface(steps=(5, 4))
