"""Lanczos against dense eigenvalues; isotonic regression against scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.linalg import isotonic, lanczos


def symmetric(eigenvalues, seed=0, dtype=torch.float64):
    """A dense symmetric matrix with the given eigenvalues."""
    g = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))
    return ((q * torch.as_tensor(np.asarray(eigenvalues, dtype=float))) @ q.T).to(dtype)


def solve(matrix, seed=1, **options):
    n = len(matrix)
    options = {"top": 3, "bottom": 3, "dtype": matrix.dtype, **options}
    return lanczos(lambda v: matrix @ v, n, generator=torch.Generator().manual_seed(seed), **options)


def expected(eigenvalues, top, bottom):
    s = np.sort(np.asarray(eigenvalues, dtype=float))[::-1]
    return np.concatenate([s[:top], s[len(s) - bottom :]])


BULK = np.random.default_rng(0).uniform(-1, 1, size=300)
SPECTRA = {
    "bulk only": BULK,
    "separated": np.r_[100, 50, 25, BULK, -20],
    "clustered": np.r_[5, 5 - 1e-5, 5 - 2e-5, 5 - 3e-5, BULK, -3, -3 + 1e-6],
    "multiple": np.r_[5, 5, 5, 4, BULK, -3, -3],
    "double, then single": np.r_[5, 5, 4, BULK, -3, -3, -3],
    "low rank": np.r_[3, 2, 1, np.zeros(200)],
    "identity": np.ones(40),
    "zero": np.zeros(40),
    "tiny": [3.0, 1.0, -1.0],
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("basis", [20, 64])
def test_both_ends_match_the_dense_spectrum(name, basis):
    values = SPECTRA[name]
    matrix = symmetric(values)
    found = solve(matrix, tol=1e-8, basis=basis, max_products=2000)
    scale = max(np.abs(values).max(), 1e-12)
    assert found.converged.all()
    np.testing.assert_allclose(found.values, expected(values, 3, 3), atol=1e-7 * scale)
    actual = found.vectors @ matrix - torch.as_tensor(found.values)[:, None] * found.vectors
    np.testing.assert_allclose(found.residuals, actual.norm(dim=1), atol=1e-12 * scale)
    assert found.basis <= basis + 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_ghosts_of_a_dominant_eigenvalue_after_many_products(dtype):
    values = np.r_[1000.0, np.random.default_rng(1).uniform(0, 1, size=400)]
    found = solve(symmetric(values, dtype=dtype), top=4, bottom=0, tol=0.0, max_products=150, basis=160)
    assert found.products >= 150
    assert np.sum(found.ritz > 500) == 1
    np.testing.assert_allclose(found.values, expected(values, 4, 0), atol=1e-3)


def test_restarted_equals_unrestarted():
    matrix = symmetric(np.r_[9, 8, BULK, -4])
    once, often = solve(matrix, tol=1e-10, basis=300), solve(matrix, tol=1e-10, basis=16, max_products=2000)
    assert often.basis < 20 < once.basis
    np.testing.assert_allclose(once.values, often.values, atol=1e-9)
    np.testing.assert_allclose(np.abs(np.sum(once.vectors.numpy() * often.vectors.numpy(), axis=1)), 1, atol=1e-6)


def test_the_second_chain_is_what_finds_a_multiple_eigenvalue():
    matrix = symmetric(SPECTRA["multiple"])
    assert abs(solve(matrix, tol=1e-3, bottom=0, verify=0).values[2] - 5) > 0.5
    np.testing.assert_allclose(solve(matrix, tol=1e-3, bottom=0).values, 5, atol=1e-4)


@pytest.mark.parametrize("where", [0, -1])
def test_a_start_that_is_itself_an_eigenvector(where):
    matrix = symmetric(SPECTRA["separated"])
    start = torch.linalg.eigh(matrix).eigenvectors[:, where]
    found = solve(matrix, tol=1e-8, start=start)
    np.testing.assert_allclose(found.values, expected(SPECTRA["separated"], 3, 3), atol=1e-5)


def test_gives_up_honestly():
    found = solve(symmetric(BULK), tol=1e-12, max_products=12)
    assert found.products == 12 and not found.converged.any() and (found.residuals > 1e-6).all()


def test_counts_of_negative_ritz_values_never_exceed_the_truth():
    values = np.r_[5, 4, 3, np.linspace(0.1, 1, 50), -1, -2]
    assert np.sum(solve(symmetric(values)).ritz < -1e-9) == 2


@settings(max_examples=200, deadline=None)
@example(values=[-2.0, -2.0, 0.0, 0.5], top=0, bottom=2, seed=0)
@given(
    values=st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 1.0 + 1e-3, 3.0]), min_size=1, max_size=30),
    top=st.integers(0, 4),
    bottom=st.integers(0, 4),
    seed=st.integers(0, 5),
)
def test_any_small_spectrum(values, top, bottom, seed):
    top, bottom = min(top, len(values)), min(bottom, len(values))
    if top + bottom == 0:
        top = 1
    found = solve(symmetric(values, seed), seed, top=top, bottom=bottom, tol=1e-9, verify=30, max_products=3000)
    np.testing.assert_allclose(found.values, expected(values, top, bottom), atol=1e-7)


def test_refuses_more_pairs_than_there_are():
    with pytest.raises(ValueError, match="size 3"):
        solve(symmetric([1.0, 2.0, 3.0]), top=4)


def test_says_when_a_product_is_not_finite():
    with pytest.raises(FloatingPointError):
        lanczos(lambda v: v * float("nan"), 10, top=1)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40))
def test_isotonic_matches_scikit_learn(y):
    from sklearn.isotonic import isotonic_regression

    np.testing.assert_allclose(isotonic(np.array(y)), isotonic_regression(y), atol=1e-9)
