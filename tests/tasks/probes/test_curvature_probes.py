"""Lanczos, GradientNoise and Perturbation on a trained network, against dense matrices."""

import numpy as np
import pytest
import torch

from tasks.errors import InvalidValue, UserError
from tasks.landscape import flatten
from tasks.per_example import per_example_gradients
from tasks.probes import GradientNoise, Lanczos, Perturbation
from tasks.task import Context
from tasks.trained import load_trained

EXAMPLES = 200


@pytest.fixture(scope="module")
def dense(trained, tmp_path_factory):
    """Hessian, gradient, loss and covariance of the first network on its first 200 examples, in float64."""
    trial = load_trained(Context(tmp_path_factory.mktemp("dense")), trained[0])
    model = trial.model.double()
    x, y = trial.evaluation_set("train", EXAMPLES)
    x = x.double()
    weights = dict(model.named_parameters())
    w = flatten([p.detach() for p in weights.values()])

    def f(w):
        pieces = w.split([p.numel() for p in weights.values()])
        values = {n: piece.view(p.shape) for (n, p), piece in zip(weights.items(), pieces, strict=True)}
        return trial.loss(torch.func.functional_call(model, values, (x,)), y)

    hessian = torch.func.hessian(f)(w)
    examples = per_example_gradients(model, trial.loss, x, y).detach()
    return {
        "hessian": hessian,
        "gradient": torch.func.grad(f)(w),
        "loss": float(f(w)),
        "examples": examples,
        "norm": float(w.norm()),
    }


def test_lanczos_matches_the_dense_spectrum(run, trained, dense):
    found = run(Lanczos(k=4, examples=EXAMPLES, save_vectors=True), trained[0])
    values, vectors = torch.linalg.eigh(dense["hessian"])
    spectrum = found.arrays("spectrum")
    expected = np.concatenate([values.numpy()[:-5:-1], values.numpy()[3::-1]])
    np.testing.assert_allclose(spectrum["eigenvalues"], expected, atol=2e-4 * expected[0])
    assert spectrum["rank"].tolist() == [1, 2, 3, 4, -4, -3, -2, -1]
    results = found.results
    assert results["lambda_max"] == pytest.approx(expected[0], rel=1e-4)
    assert results["condition_number"] == pytest.approx(abs(expected[0] / expected[-1]), rel=1e-2)
    assert results["train_loss"] == pytest.approx(dense["loss"], rel=1e-5)
    assert results["gradient_norm"] == pytest.approx(float(dense["gradient"].norm()), rel=1e-4)
    assert results["converged"] and spectrum["converged"].all() and results["examples"] == EXAMPLES
    assert 0 < results["negative_ritz_values"] <= int((values < -1e-7).sum())
    v = torch.from_numpy(found.arrays("vectors")["vectors"][0]).double()
    assert abs(float(v @ vectors[:, -1])) == pytest.approx(1, abs=1e-4)


def test_lanczos_in_micro_batches_is_the_same(run, trained):
    whole, parts = (run(Lanczos(examples=EXAMPLES, batch_size=b), trained[0]).results for b in (EXAMPLES, 33))
    for name in ("lambda_max", "lambda_min", "train_loss"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-3)


def test_lanczos_is_reproducible_and_takes_what_there_is(run, trained):
    a, b = (run(Lanczos(k=1, examples=10**6), trained[0]) for _ in range(2))
    assert dict(a.results) == dict(b.results)
    assert a.results["examples"] == 1150
    assert a.results["train_loss"] == pytest.approx(trained[0].results["train_loss"], rel=1e-6)


def test_lanczos_reports_what_has_not_converged(run, trained):
    results = run(Lanczos(examples=EXAMPLES, max_iterations=7), trained[0]).results
    assert not results["converged"] and results["residual"] > 1e-4


def test_gradient_noise_matches_the_dense_covariance(run, trained, dense):
    found = run(GradientNoise(examples=EXAMPLES), trained[0]).results
    g, (_, h_vectors) = dense["examples"], torch.linalg.eigh(dense["hessian"])
    covariance = torch.cov(g.T)
    values, vectors = torch.linalg.eigh(covariance)
    v_h = h_vectors[:, -1]
    assert found["lambda_c"] == pytest.approx(float(values[-1]), rel=1e-4)
    for name, n in (("lambda_c_half", 100), ("lambda_c_quarter", 50)):
        assert found[name] == pytest.approx(float(torch.linalg.eigvalsh(torch.cov(g[:n].T))[-1]), rel=1e-4)
    assert found["trace"] == pytest.approx(float(covariance.trace()), rel=1e-4)
    assert found["noise_along_h"] == pytest.approx(float(v_h @ covariance @ v_h), rel=1e-2)
    assert found["alignment"] == pytest.approx(abs(float(vectors[:, -1] @ v_h)), abs=1e-2)
    assert found["noise_ratio"] == pytest.approx(found["lambda_c"] / found["lambda_h"])
    assert found["converged"]


def test_gradient_noise_in_blocks_is_the_same(run, trained):
    whole = run(GradientNoise(examples=64), trained[0])
    blocks = run(GradientNoise(examples=64, memory=1e-4), trained[0])
    for name in ("lambda_c", "lambda_c_quarter", "trace", "noise_along_h", "alignment"):
        assert blocks.results[name] == pytest.approx(whole.results[name], rel=1e-4)
    assert np.isnan(whole.arrays("noise")["quarter"][15:]).all()  # 16 centred gradients span 15 dimensions


def test_perturbation_predicts_from_the_derivatives(run, trained, dense):
    found = run(Perturbation(k=2, directions=2, examples=EXAMPLES, radius=1e-2, random_radius=2e-2), trained[0])
    values, vectors = torch.linalg.eigh(dense["hessian"])
    eigen, random = found.arrays("eigen"), found.arrays("random")
    np.testing.assert_allclose(eigen["length"], dense["norm"], rtol=1e-5)
    np.testing.assert_allclose(eigen["curvature"], values.numpy()[:-3:-1], rtol=1e-3)
    slopes = (vectors[:, [-1, -2]].T @ dense["gradient"]).abs().numpy()
    np.testing.assert_allclose(eigen["slope"], slopes, atol=1e-3 * np.abs(slopes).max())
    assert eigen["loss"].shape == (2, 21) and random["prediction"].shape == (2, 21)
    for lines in (eigen, random):
        assert lines["epsilon"][10] == 0
        np.testing.assert_allclose(lines["epsilon"], -lines["epsilon"][::-1])
        np.testing.assert_allclose(lines["loss"][:, 10], dense["loss"], rtol=1e-5)
        np.testing.assert_allclose(lines["prediction"][:, 10], dense["loss"], rtol=1e-5)
        rise = np.abs(lines["prediction"] - dense["loss"]).max()
        np.testing.assert_allclose(lines["loss"], lines["prediction"], atol=0.05 * rise)
    # Curvature of the measured curve at 0, by a fit: smooth activations.
    s = eigen["epsilon"] * eigen["length"][0]
    for loss, curvature in zip(eigen["loss"], eigen["curvature"], strict=True):
        assert 2 * np.polyfit(s, loss, 4)[2] == pytest.approx(curvature, rel=0.02)
    assert found.results["rise_ratio"] == pytest.approx(1, abs=0.05)


def test_perturbation_draws_directions_from_the_seed(run, trained):
    probe = Perturbation(k=1, directions=1, steps=3, examples=50)
    a, b, c = (run(probe, t).arrays("random")["loss"] for t in (trained[0], trained[0], trained[1]))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Lanczos(k=0), "Lanczos: k must be at least 1, not 0."),
        (lambda: Lanczos(tol=0), "Lanczos: tol must be more than 0, not 0.0."),
        (lambda: Lanczos(k=2.5), "Lanczos: k must be an integer, not 2.5."),
        (lambda: GradientNoise(examples=2), "GradientNoise: examples must be at least 8, not 2."),
        (lambda: Perturbation(steps=10), "Perturbation: steps must be odd"),
        (lambda: Perturbation(radius=-1), "Perturbation: radius must be more than 0, not -1.0."),
    ],
)
def test_impossible_values(make, sentence):
    with pytest.raises(InvalidValue) as error:
        make()
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("probe", [Lanczos(k=10**6), Perturbation(k=10**6)])
def test_more_eigenpairs_than_parameters(run, trained, probe):
    with pytest.raises(UserError, match="network has only 910 parameters"):
        run(probe, trained[0])
