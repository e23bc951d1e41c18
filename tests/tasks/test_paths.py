"""The elastic band on surfaces whose saddles are known."""

import math

import numpy as np
import pytest
import torch

from tasks.paths import along, autoneb, barrier, lengths


def run(surface, start, end, noise=0.0, **options):
    def value(w):
        return float(surface(w))

    def gradient(w, step):
        w = w.clone().requires_grad_()
        loss = surface(w)
        return float(loss.detach()), torch.autograd.grad(loss, w)[0] + noise * math.sin(step)

    options = {"steps": 200, "generator": torch.Generator().manual_seed(0), "samples": 7, **options}
    ends = [torch.tensor(p, dtype=torch.float64) for p in (start, end)]
    return list(autoneb(*ends, loss=value, gradient=gradient, **options))


def double_well(w):
    """Minima at (±1, 0) of height 0; on the straight line a maximum of height 1 + 2 at the origin.

    The ridge along y falls off from the centre: saddles at (0, ±1.5) of height 1.
    """
    x, y = w[0], w[1]
    return (
        (x**2 - 1) ** 2
        + 2 * torch.exp(-8 * x**2) * ((y / 1.5) ** 2 - 1) ** 2
        + 0.05 * (1 - torch.exp(-8 * x**2)) * y**2
    )


def mueller_brown(w):
    a, b = torch.tensor([-1.0, -1, -6.5, 0.7]), torch.tensor([0.0, 0, 11, 0.6])
    c, d = torch.tensor([-10.0, -10, -6.5, 0.7]), torch.tensor([-200.0, -100, -170, 15])
    x, y = w[0] - torch.tensor([1.0, 0, -0.5, -1]), w[1] - torch.tensor([0.0, 0.5, 1.5, 1])
    return (d * torch.exp(a * x**2 + b * x * y + c * y**2)).sum() / 100


def test_leaves_a_symmetric_ridge_and_finds_the_saddle():
    bands = run(
        double_well, (-1.0, 0.0), (1.0, 0.0), step_sizes=(0.03, 0.01, 0.01, 0.003), max_pivots=15, absolute=1e-3
    )
    assert bands[0].saddle == pytest.approx(3, abs=1e-6)
    assert bands[-1].saddle == pytest.approx(1, abs=0.02)
    assert bands[-1].saddle >= 1 - 1e-9  # no path can stay below the saddle
    assert len(bands) == 5 and len(bands[-1].path) > len(bands[0].path)


def test_without_the_perturbation_it_would_stay_on_the_ridge():
    bands = run(double_well, (-1.0, 0.0), (1.0, 0.0), step_sizes=(0.03, 0.01), perturbation=0.0)
    assert bands[-1].saddle == pytest.approx(3, abs=1e-6)


def test_mueller_brown():
    """Lowest path between the deep minima: its highest saddle is at −40.66, (−0.822, 0.624)."""
    bands = run(
        mueller_brown, (-0.55822363, 1.44172584), (0.62349942, 0.02803776),
        step_sizes=(0.002, 0.001, 0.001, 0.0005, 0.0005), steps=300, pivots=7, max_pivots=25, absolute=1e-4,
    )  # fmt: skip
    assert bands[0].saddle > 0.1
    assert bands[-1].saddle == pytest.approx(-0.4066, abs=0.005)
    top = list(along(bands[-1].path, bands[-1].sampled))[int(np.argmax(bands[-1].losses))]
    assert torch.linalg.vector_norm(top - torch.tensor([-0.822, 0.624])) < 0.08


def test_at_most_one_node_a_gap_and_never_more_than_allowed():
    bands = run(
        mueller_brown, (-0.558, 1.441), (0.623, 0.028), step_sizes=(0.001,) * 8, steps=5, max_pivots=9, absolute=0
    )
    counts = [len(b.path) - 2 for b in bands]
    assert counts == sorted(counts) and counts[-1] == 9
    assert all(b.inserted <= n + 1 for n, b in zip(counts, bands[1:], strict=False))
    for b in bands:
        assert (np.diff(b.fractions) > 0).all()
        stretch = lengths(b.path)
        np.testing.assert_allclose(np.cumsum(stretch) / stretch.sum(), b.fractions[1:], atol=0.02)


def test_the_end_points_do_not_move_and_no_end_is_lost():
    bands = run(mueller_brown, (-0.558, 1.441), (0.623, 0.028), step_sizes=(0.001,), steps=20)
    for b in bands:
        assert b.path[0].tolist() == [-0.558, 1.441] and b.path[-1].tolist() == [0.623, 0.028]


def test_takes_back_a_cycle_whose_steps_explode():
    bands = run(lambda w: (w**4).sum() + w[0], (-1.0, 0.5), (1.0, 1.0), step_sizes=(0.01, 1e6, 10, 0.01), steps=50)
    assert [b.cycle for b in bands] == [0, 1, 2, 3, 4]
    assert [b.failed for b in bands] == [False, False, True, True, False]
    assert bands[1].step == 50 and 50 < bands[2].step < 100 and bands[4].step == bands[3].step + 50
    assert torch.equal(bands[1].path, bands[3].path) and bands[4].saddle <= bands[1].saddle + 1e-6


@pytest.mark.parametrize(
    ("surface", "start", "step_sizes", "failed"),
    [
        (mueller_brown, (-0.558, 1.441), (0.001, 0.001, 0.0005), []),
        # From the first cycles, which fail, the perturbed line must be found again.
        (lambda w: (w**4).sum() + w[0], (-1.0, 0.5), (1e6, 1e6, 0.01, 10, 0.01), [1, 2, 4]),
    ],
)
def test_goes_on_after_any_band_as_if_in_one_go(surface, start, step_sizes, failed):
    options = {"steps": 20, "step_sizes": step_sizes, "momentum": 0.5, "absolute": 1e-3, "noise": 0.1}
    bands = run(surface, start, (0.623, 0.028), **options)
    assert [b.cycle for b in bands if b.failed] == failed
    assert [b.origin for b in bands] == [max(c for c in range(b.cycle + 1) if c not in failed) for b in bands]
    for i, band in enumerate(bands):
        for a, b in zip(run(surface, start, (0.623, 0.028), after=band, **options), bands[i + 1 :], strict=True):
            assert vars(a).keys() == vars(b).keys()
            for name, value in vars(a).items():
                assert np.array_equal(value, vars(b)[name]), name


def test_steps_are_numbered_through():
    """So that a minibatch that depends on the step is another one in every step, and the same for all nodes."""
    seen = []

    def gradient(w, step):
        seen.append(step)
        return 0.0, torch.zeros_like(w)

    ends = torch.zeros(2), torch.ones(2)
    bands = list(autoneb(*ends, loss=lambda w: 0.0, gradient=gradient, step_sizes=(0.1, 0.1), steps=3, pivots=2))
    assert seen == [i // 2 for i in range(12)] and [b.step for b in bands] == [0, 3, 6]


def test_along_hits_the_ends_exactly_and_keeps_distances():
    path = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0]])
    points = torch.stack(list(along(path, [0, 0.5, 0.75, 0.875, 1])))
    torch.testing.assert_close(points, torch.tensor([[0.0, 0], [2, 0], [3, 0], [3, 0.5], [3, 1]]))


def test_barrier():
    a = np.linspace(-0.5, 1.5, 41)
    assert barrier(a, 4 * a + 1) == pytest.approx(0, abs=1e-12)
    assert barrier(a, a * (1 - a) + a) == pytest.approx(0.25)
    assert barrier(a, a**2) == 0  # convex: below its chord inside, whatever it does outside
    assert math.isnan(barrier(np.array([0, 0.5, 1]), np.array([0, np.nan, 0])))
