"""Eigenvalues of a symmetric operator that is known only by its products with vectors; isotonic regression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Eigenpairs", "isotonic", "lanczos", "quadrature"]


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs of a symmetric operator of size n: first the largest, then the smallest, descending.

    Attributes:
        values: float64, shape (top + bottom,), on the CPU.
        vectors: shape (top + bottom, n): row i belongs to values[i], unit norm.
        residuals: ‖A v − λ v‖ of every pair as the projection tells it, shape (top + bottom,).
        converged: residual ≤ tol · max |λ|, shape (top + bottom,).
        products: how many products with the operator were spent.
        ritz: every Ritz value of the last projection, ascending. By Cauchy's interlacing theorem the
            operator has at least as many negative eigenvalues as there are negative Ritz values.
        basis: the most basis vectors that were held at once.
    """

    values: np.ndarray
    vectors: Tensor
    residuals: np.ndarray
    converged: np.ndarray
    products: int
    ritz: np.ndarray
    basis: int


def lanczos(
    product: Callable[[Tensor], Tensor],
    size: int,
    *,
    top: int,
    bottom: int = 0,
    tol: float = 1e-4,
    max_products: int = 500,
    basis: int = 48,
    verify: int = 8,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Eigenpairs:
    """The `top` largest and `bottom` smallest eigenpairs by Lanczos' method.

    Every new vector is orthogonalised against the whole basis, twice, as matrix products (classical
    Gram–Schmidt; "twice is enough", Giraud et al. 2005), so that no eigenvalue comes back as a ghost.
    When the basis is full it shrinks to the Ritz vectors at both ends and goes on from there
    (thick restart, Wu & Simon 2000), so memory is bounded by `basis` vectors.

    One Krylov space shows one vector of each eigenspace only. Once all pairs have converged the search
    therefore starts a second chain from a fresh random vector, orthogonal to what was found, for
    `verify` products; a copy of a multiple eigenvalue, or one that the first start missed, comes up as
    a new, unconverged pair and the search goes on.

    Args:
        product: v ↦ A v for v of shape (size,), A symmetric.
        tol: a pair is converged when ‖A v − λ v‖ ≤ tol · max |λ|.
        max_products: give up after this many; what has not converged is said so in the result.
        basis: most vectors held; raised to top + bottom + 8 if smaller.
        verify: products spent on the second chain; 0 leaves it out.
        start: first vector, shape (size,); None draws one.
        generator: of the starting vectors (drawn on the CPU).

    Raises:
        ValueError: top + bottom is 0, or top or bottom exceeds size.
        FloatingPointError: a product is not finite.
    """
    if top < 0 or bottom < 0 or top + bottom == 0 or max(top, bottom) > size:
        raise ValueError(f"cannot find {top} + {bottom} eigenpairs of an operator of size {size}")
    wanted = min(size, top + bottom)
    capacity = min(size, max(basis, wanted + 8))
    v = torch.empty(capacity + 2, size, dtype=dtype, device=device)  # + 2: vectors still to be expanded
    t = np.zeros((capacity + 2, capacity + 2))  # v A vᵀ; its columns are known for expanded vectors
    m, pending = 0, 0  # rows [0, m) of v are expanded, rows [m, m + pending) are not
    theta, s, scale = np.zeros(0), np.zeros((0, 0)), 0.0
    products, most, check = 0, 0, -1  # check: products left in the second chain, −1 when none is running
    eps = torch.finfo(dtype).eps
    every = 3 if size < 50_000 else 1

    def orthogonalise(w: Tensor, rows: int) -> tuple[np.ndarray, float]:
        """Take from w (in place) its components along the first rows of v; those, and what norm is left."""
        known = v[:rows]
        h = known @ w
        w -= h @ known
        again = known @ w
        w -= again @ known
        out = torch.cat([h + again, torch.linalg.vector_norm(w)[None]]).double().cpu().numpy()
        return out[:-1], float(out[-1])

    def add_random() -> bool:
        """Append a random vector orthogonal to all others; False if there is no room for one."""
        nonlocal pending
        for _ in range(3):
            if m + pending >= size:
                return False
            w = torch.randn(size, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)
            w /= torch.linalg.vector_norm(w)
            _, norm = orthogonalise(w, m + pending)
            if norm > 100 * eps:
                w /= norm
                orthogonalise(w, m + pending)
                v[m + pending] = w / torch.linalg.vector_norm(w)
                t[m + pending, :m] = 0
                pending += 1
                return True
        return False

    if start is not None and float(torch.linalg.vector_norm(start)) > 0:
        v[0] = start.to(v) / torch.linalg.vector_norm(start.to(v))
        pending = 1

    while True:
        # Rayleigh–Ritz on the expanded vectors; not after every product where that is cheaper than this.
        start_chain = False
        due = check == 0 or (check < 0 and (m % every == 0 or pending != 1))
        if due or m + pending >= capacity or products >= max_products:
            theta, s = _eigh(t[:m, :m])
            coupling = t[m : m + pending, :m] @ s  # what A leaves outside of the expanded vectors
            residuals = np.linalg.norm(coupling, axis=0)
            scale = float(np.abs(theta).max(initial=0.0))
            ends = np.unique(np.concatenate([np.arange(max(m - top, 0), m), np.arange(min(bottom, m))]))
            # A margin, so that a residual computed afresh still passes.
            settled = m >= wanted and bool((residuals[ends] <= 0.9 * tol * scale).all())
            if settled and check <= 0:
                if check == 0 or verify == 0 or pending > 5 or m >= size or products >= max_products:
                    break
                if m + pending < size:  # else what is pending completes the basis and shows all that is left
                    check, start_chain = verify, True
            elif check == 0:
                check = -1  # the second chain found something
            if products >= max_products and m >= wanted:
                break

        # Which vector to expand next: the one that the worst wanted pair lacks most.
        if m + pending >= capacity and m + pending < size and m > wanted:
            keep = _kept(m, top, bottom, max(wanted, min(m - 2, (m + wanted) // 2)))
            p = len(keep)
            rotate = torch.from_numpy(s[:, keep].T.copy()).to(device=device, dtype=dtype)
            for c in range(0, size, 1 << 20):
                v[:p, c : c + (1 << 20)] = rotate @ v[:m, c : c + (1 << 20)]
            v[p : p + pending] = v[m : m + pending].clone()
            b = t[m : m + pending, :m] @ s[:, keep]
            t[:] = 0
            t[:p, :p] = np.diag(theta[keep])
            t[p : p + pending, :p] = b
            m = p
            theta, s, coupling, ends = theta[keep], np.eye(p), b, np.flatnonzero(np.isin(keep, ends))
            residuals = np.linalg.norm(coupling, axis=0)
        if (pending == 0 or start_chain) and not add_random():
            break  # the basis spans everything: the projection is exact
        if check > 0:
            nxt = pending - 1  # the newest vector of the second chain
            check -= 1
        elif pending > 1 and m:
            nxt = int(np.argmax(np.abs(coupling[:, ends[np.argmax(residuals[ends])]])))
        else:
            nxt = 0
        if nxt:
            v[[m, m + nxt]] = v[[m + nxt, m]]
            t[[m, m + nxt], :m] = t[[m + nxt, m], :m]

        w = product(v[m]).to(dtype).clone()
        products += 1
        h, beta = orthogonalise(w, m + pending)
        if not (np.isfinite(h).all() and np.isfinite(beta)):
            raise FloatingPointError("a product with the operator is not finite")
        t[: m + pending, m] = h
        t[m, :m] = h[:m]
        size_now = max(scale, float(np.abs(h).max()), beta)
        if beta > 10 * eps * size_now and m + pending < size:
            v[m + pending] = w / beta
            t[m + pending, :] = 0
            t[m + pending, m] = beta
        else:
            pending -= 1  # an invariant subspace, up to rounding
        m += 1
        most = max(most, m + pending)

    picked = np.concatenate([np.arange(m - 1, m - 1 - top, -1), np.arange(bottom - 1, -1, -1)])
    vectors = torch.from_numpy(s[:, picked].T.copy()).to(device=device, dtype=dtype) @ v[:m]
    vectors /= torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return Eigenpairs(
        values=theta[picked],
        vectors=vectors,
        residuals=residuals[picked],
        converged=residuals[picked] <= tol * scale,
        products=products,
        ritz=theta,
        basis=most,
    )


def quadrature(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss quadrature of a symmetric operator's spectral measure as one vector sees it.

    `steps` steps of Lanczos' method from v = start/‖start‖, every new vector orthogonalised against all others twice.
    The eigenvalues θᵢ of the tridiagonal projection are the nodes, the squared first components τᵢ² of its eigenvectors
    the weights: Σ τᵢ² f(θᵢ) = vᵀ f(A) v for polynomials up to degree 2·steps − 1 (Golub & Meurant 2010, theorem 6.2).

    Args:
        product: v ↦ A v for v of shape (n,), A symmetric.
        start: shape (n,), not zero; its dtype and device are those of the basis.

    Returns:
        nodes, ascending, and weights, which sum to one: float64, shape (m,), m ≤ steps; fewer where the
        vectors span a space that A does not leave.

    Raises:
        FloatingPointError: a product is not finite.
    """
    size = start.numel()
    steps = min(steps, size)
    v = torch.empty(steps, size, dtype=start.dtype, device=start.device)
    v[0] = start / torch.linalg.vector_norm(start)
    t = np.zeros((steps, steps))
    eps = torch.finfo(start.dtype).eps
    m = 0
    while True:
        w = product(v[m]).to(start.dtype).clone()
        known = v[: m + 1]
        h = known @ w
        w -= h @ known
        again = known @ w
        w -= again @ known
        diagonal, beta = float((h + again)[m]), float(torch.linalg.vector_norm(w))
        if not (np.isfinite(diagonal) and np.isfinite(beta)):
            raise FloatingPointError("a product with the operator is not finite")
        t[m, m] = diagonal
        m += 1
        if m == steps or beta <= 10 * eps * float(np.abs(t).max()):
            break
        t[m, m - 1] = t[m - 1, m] = beta
        v[m] = w / beta
    theta, s = _eigh(t[:m, :m])
    return theta, s[0] ** 2 / (s[0] ** 2).sum()


def _eigh(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Torch's, since numpy's own threads would fight with torch's over the cores.
    values, vectors = torch.linalg.eigh(torch.from_numpy(a))
    return values.numpy(), vectors.numpy()


def _kept(m: int, top: int, bottom: int, count: int) -> np.ndarray:
    """Which of m ascending Ritz vectors survive a restart: `count` from both ends, as `top` is to `bottom`."""
    high = min(max(top, round(count * top / (top + bottom))), count - bottom)
    return np.concatenate([np.arange(count - high), np.arange(m - high, m)])


def isotonic(y: np.ndarray) -> np.ndarray:
    """The non-decreasing sequence nearest to y, shape (n,), in least squares (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []  # mean and length of each level stretch
    for value in np.asarray(y, dtype=float):
        mean, count = float(value), 1
        while blocks and blocks[-1][0] >= mean:
            before, n = blocks.pop()
            mean, count = (before * n + mean * count) / (n + count), n + count
        blocks.append((mean, count))
    return np.concatenate([np.full(n, mean) for mean, n in blocks]) if blocks else np.zeros(0)
