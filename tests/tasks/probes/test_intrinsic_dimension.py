"""Random subspaces and where they suffice."""

import dataclasses

import numpy as np
import pytest
import torch
from interruptions import Memory, Run, files, interrupted_after_every_report, start_in_a_process_of_its_own

from tasks.errors import InvalidValue, UserError
from tasks.optimizers import EMA, SAM, AdamW, NewtonCG
from tasks.probes import IntrinsicDimension
from tasks.probes.intrinsic_dimension import _within, crossing
from tasks.projections import Dense, Fastfood, hadamard
from tasks.task import execute


@pytest.mark.parametrize("kind", [Dense, Fastfood])
@pytest.mark.parametrize(("size", "d"), [(500, 1), (500, 7), (4096, 64), (1000, 33)])
def test_projections_have_unit_columns_and_true_transposes(kind, size, d):
    p = kind(size, d, torch.Generator().manual_seed(0))
    matrix = torch.stack([p(e) for e in torch.eye(d)], dim=1)
    assert matrix.shape == (size, d)
    norms = matrix.norm(dim=0).numpy()
    np.testing.assert_allclose(norms, 1, atol=1e-5 if kind is Dense or size % 64 == 0 or d == 1 else 0.15)
    w, z = torch.randn(size), torch.randn(d)
    torch.testing.assert_close(p.transposed(w), matrix.T @ w, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(p(z), matrix @ z, atol=1e-4, rtol=1e-4)
    if d > 1:  # columns nearly orthogonal, as random ones are: |cos| ~ 1/√D
        overlap = (matrix.T @ matrix - torch.eye(d)).fill_diagonal_(0)
        assert float(overlap.square().mean().sqrt()) < 2 / np.sqrt(size)


def test_hadamard_is_orthonormal_and_an_involution():
    x = torch.randn(3, 16, dtype=torch.float64)
    torch.testing.assert_close(hadamard(hadamard(x)), x)
    matrix = hadamard(torch.eye(4, dtype=torch.float64)) * 2
    assert matrix.tolist() == [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]


def test_crossing():
    x, y = np.array([0.0, 10, 20, 40]), np.array([0.1, 0.5, 0.5, 0.9])
    assert crossing(x, y, 0.3) == pytest.approx(5)
    assert crossing(x, y, 0.5) == 10
    assert crossing(x, y, 0.7) == pytest.approx(30)
    assert crossing(x, y, 0.95) is None
    assert crossing(x, y, 0.05) == 0


@pytest.mark.parametrize("projection", ["dense", "fastfood"])
def test_finds_a_dimension_between_too_few_and_all(run, trained, projection):
    reports = []
    probe = IntrinsicDimension(dimensions=(2, 100, 900), epochs=6, lr_factors=(1.0,), projection=projection)
    found = run(probe, trained[0], report=reports.append)
    results, arrays = found.results, found.arrays("accuracy")
    assert [r["d"] for r in reports] == [2, 100, 900]
    assert 2 < results["d_int90"] < 900 and not results["censored"] and not results["below_range"]
    assert results["target_accuracy"] == pytest.approx(0.9 * trained[0].results["val_accuracy"])
    assert arrays["dimension"].tolist() == [0, 2, 100, 900]
    assert (np.diff(arrays["isotonic"]) >= 0).all()
    # Nearly all dimensions learn nearly as well as all: the step size keeps its meaning.
    assert arrays["accuracy"][-1] >= trained[0].results["val_accuracy"] - 0.1
    assert arrays["accuracy"][1] < 0.5


def test_not_reached_is_censored(run, trained):
    results = run(IntrinsicDimension(dimensions=(1, 2), epochs=1, lr_factors=(1.0,)), trained[0]).results
    assert results["censored"] and results["d_int90"] is None and results["largest_dimension"] == 2


def test_a_diverged_training_is_counted_and_does_not_win(run, trained):
    probe = IntrinsicDimension(dimensions=(50,), epochs=1, lr_factors=(1e60, 1.0))
    found = run(probe, trained[0])
    assert found.results["diverged_trainings"] == 1
    assert found.arrays("accuracy")["lr_factor"][1] == 1


def test_the_optimizer_of_a_subspace_also_where_it_is_wrapped():
    """w = w₀ + s z: lengths are those of w over s, curvatures s² times as large; nothing decays."""
    wrapped = EMA(SAM(base=AdamW(lr=0.1, weight_decay=0.1), rho=0.4), decay=0.9)
    assert _within(wrapped, 2.0) == EMA(SAM(base=AdamW(lr=0.1, weight_decay=0.0), rho=0.2), decay=0.9)
    assert _within(NewtonCG(damping=0.5, weight_decay=0.1), 2.0) == NewtonCG(damping=2.0, weight_decay=0.0)


@pytest.mark.parametrize(
    "optimizer",
    [
        SAM(lr=0.05, momentum=0.9, weight_decay=1e-3),
        AdamW(lr=1e-2),
        EMA(SAM(lr=0.05, momentum=0.9), decay=0.9),
        NewtonCG(max_iterations=5),
    ],
)
def test_trains_with_the_trial_s_own_optimizer(run, trained, tmp_path, optimizer):
    train = dataclasses.replace(trained[0].task, optimizer=optimizer, clip_norm=5.0)
    trial = execute(train, trained[0].inputs[0], folder=tmp_path / "trial")
    results = run(IntrinsicDimension(dimensions=(300,), lr_factors=(1.0,)), trial).results
    assert results["best_accuracy"] > 0.7 * trial.results["val_accuracy"] and results["diverged_trainings"] == 0


def test_an_epsilon_for_each_example_is_refused(run, trained, tmp_path):
    train = dataclasses.replace(trained[0].task, optimizer=EMA(SAM(lr=0.05, m=1)), epochs=1)
    trial = execute(train, trained[0].inputs[0], folder=tmp_path / "trial")
    with pytest.raises(UserError, match=r"IntrinsicDimension: SAM\(m=1\) moves .* another m\."):
        run(IntrinsicDimension(dimensions=(3,)), trial)


class Killed(Exception):
    pass


def test_interrupted_after_every_training(trained, tmp_path, monkeypatch):
    """Also between the two trainings of a dimension."""
    probe = IntrinsicDimension(dimensions=(2, 50, 100), epochs=1, lr_factors=(1e60, 1.0))
    undisturbed = Run(probe, (trained[0],), tmp_path / "undisturbed").advance()
    train, done = IntrinsicDimension._train, []

    def one_then_killed(self, *args):
        if done:
            raise Killed
        done.append(args[2:])
        return train(self, *args)

    monkeypatch.setattr(IntrinsicDimension, "_train", one_then_killed)
    memory, trainings = Memory(), []
    for start in range(6):
        run = Run(probe, (trained[0],), tmp_path / f"start{start}", memory)
        if start < 5:
            with pytest.raises(Killed):
                run.advance()
        trainings += done
        done.clear()
    resumed = run.advance()
    trainings += done
    assert [(d, factor) for d, _, factor in trainings] == [(d, f) for d in (2, 50, 100) for f in (1e60, 1.0)]
    assert resumed.outcome == undisturbed.outcome and resumed.results["diverged_trainings"] == 3


def test_interrupted_after_every_report_and_killed(trained, tmp_path):
    probe = IntrinsicDimension(dimensions=(2, 50), epochs=1)
    undisturbed = Run(probe, (trained[0],), tmp_path / "undisturbed").advance()
    resumed = interrupted_after_every_report(probe, (trained[0],), tmp_path, Memory(always=False))
    assert resumed.outcome == undisturbed.outcome
    start_in_a_process_of_its_own(probe, (trained[0],), tmp_path / "killed", die_after_reports=1)
    found = start_in_a_process_of_its_own(probe, (trained[0],), tmp_path / "resumed")
    assert (found["reports"], found["results"]) == (undisturbed.reports, undisturbed.results)
    assert files(tmp_path / "resumed") == files(tmp_path / "undisturbed")


def test_impossible_dimensions(run, trained):
    with pytest.raises(InvalidValue, match="dimensions must be not empty"):
        IntrinsicDimension(dimensions=())
    with pytest.raises(InvalidValue, match="dimensions must be ascending"):
        IntrinsicDimension(dimensions=(30, 10))
    with pytest.raises(UserError, match="dimension 911 exceeds the network's 910 parameters"):
        run(IntrinsicDimension(dimensions=(911,)), trained[0])
