"""Interpolation and AutoNEB."""

import dataclasses

import numpy as np
import pytest
import torch
from interruptions import Memory, Run, files, interrupted_after_every_report, start_in_a_process_of_its_own
from safetensors.torch import load_file, save_file

from tasks.errors import InvalidValue, UserError
from tasks.models import MLP, Model
from tasks.models._initialise import initialise
from tasks.probes import AutoNEB, Interpolation
from tasks.task import Context, execute
from tasks.trained import load_trained

QUICK = AutoNEB(cycles=2, steps=10, resolution=11, examples=200)


@dataclasses.dataclass(frozen=True)
class Normalised(Model):
    """A network with BatchNorm."""

    def module(self, shape, classes):
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, classes))

    def initialise(self, network, generator):
        initialise(network, generator)


@pytest.fixture(scope="module")
def normalised(trained, tmp_path_factory):
    """Two seeds of a network with BatchNorm."""
    train = dataclasses.replace(trained[0].task, model=Normalised(), epochs=3)
    return [
        execute(train, trained[0].inputs[0], seed=s, folder=tmp_path_factory.mktemp(f"normalised{s}")) for s in (0, 1)
    ]


def copied(artifact, folder, change):
    """The artifact with other weights."""
    folder.mkdir()
    weights = {k: change(v) for k, v in load_file(artifact.dir / "weights.safetensors").items()}
    save_file(weights, folder / "weights.safetensors")
    return dataclasses.replace(artifact, dir=folder)


def test_end_points_without_batchnorm_are_the_stored_losses(run, trained):
    found = run(Interpolation(steps=5, examples=None), *trained[:2]).results
    for end, artifact in zip("ab", trained, strict=False):
        for which in ("train_loss", "test_loss"):
            assert found[f"{which}_{end}"] == artifact.results[which] == found[f"stored_{which}_{end}"]
    assert found["batchnorm"] == "none" and found["finite"]


def test_the_line_is_that_of_the_weights(run, trained, tmp_path):
    found = run(Interpolation(steps=5, margin=0.5, examples=None), *trained[:2])
    line = found.arrays("line")
    np.testing.assert_allclose(line["alpha"], np.arange(-0.5, 1.6, 0.25))
    trials = [load_trained(Context(tmp_path), t) for t in trained[:2]]
    x, y = trials[0].evaluation_set("test")
    for i, alpha in enumerate(line["alpha"]):
        model = load_trained(Context(tmp_path), trained[0]).model
        with torch.no_grad():
            for p, a, b in zip(*(m.parameters() for m in (model, trials[0].model, trials[1].model)), strict=True):
                p.copy_((1 - alpha) * a + alpha * b)
            outputs = model(x)
        assert line["test_loss"][i] == pytest.approx(float(trials[0].loss(outputs, y)), rel=1e-5)
        assert line["test_error"][i] == pytest.approx(1 - float((outputs.argmax(1) == y).float().mean()), abs=1e-6)
    inside = line["test_loss"][2:7]
    chord = np.linspace(inside[0], inside[-1], 5)
    assert found.results["test_barrier"] == pytest.approx((inside - chord).max())
    error = line["test_error"][2:7]
    assert found.results["instability"] == pytest.approx(error.max() - (error[0] + error[-1]) / 2)


def test_a_network_with_itself_has_no_barrier(run, trained):
    found = run(Interpolation(steps=5, examples=100), trained[0], trained[0]).results
    assert found["train_barrier"] == pytest.approx(0, abs=1e-6)
    assert found["distance"] == 0 and found["cosine"] == pytest.approx(1)


def test_scaling_along_a_ray_has_a_closed_form(run, trained, tmp_path):
    """From w to −w of a network with one layer of weights the outputs are (1 − 2α) f: the loss is known."""
    train = dataclasses.replace(trained[0].task, model=MLP(widths=(1,), activation="identity"))
    linear = execute(train, trained[0].inputs[0], folder=tmp_path / "linear")
    opposite = copied(linear, tmp_path / "opposite", lambda v: -v)
    found = run(Interpolation(steps=3, margin=0, examples=None), linear, opposite)
    assert found.arrays("line")["test_loss"][1] == pytest.approx(np.log(10), rel=1e-6)  # w = 0: uniform
    assert found.results["cosine"] == pytest.approx(-1)


def test_batchnorm_statistics_are_estimated_anew_at_every_point(run, normalised, tmp_path):
    found = run(Interpolation(steps=5, examples=None), *normalised)
    assert found.results["batchnorm"] == "reestimate"
    kept = run(Interpolation(steps=5, examples=None, batchnorm="interpolate"), *normalised)
    # With interpolated statistics the ends are the stored ones, with estimated ones nearly.
    assert kept.results["train_loss_a"] == pytest.approx(normalised[0].results["train_loss"], rel=1e-6)
    assert kept.results["train_loss_b"] == pytest.approx(normalised[1].results["train_loss"], rel=1e-6)
    assert found.results["train_loss_a"] != kept.results["train_loss_a"]
    assert found.results["train_loss_a"] == pytest.approx(found.results["stored_train_loss_a"], abs=0.3)
    # The rule forgets the statistics that A's file holds.
    other = copied(normalised[0], tmp_path / "other", lambda v: v)
    weights = load_file(other.dir / "weights.safetensors")
    weights = {k: v + 5 if "running_mean" in k else v for k, v in weights.items()}
    save_file(weights, other.dir / "weights.safetensors")
    again = run(Interpolation(steps=5, examples=None), other, normalised[1])
    np.testing.assert_array_equal(found.arrays("line")["test_loss"], again.arrays("line")["test_loss"])


def test_autoneb_lowers_the_saddle_and_measures_it_densely(run, trained):
    reports = []
    probe = AutoNEB(cycles=4, steps=30, resolution=21, examples=400)
    found = run(probe, *trained[:2], report=reports.append)
    results, path = found.results, found.arrays("path")
    assert [r["cycle"] for r in reports] == [0, 1, 2, 3, 4] and results["failed_cycles"] == 0
    assert results["saddle"] < 0.8 * results["straight_saddle"]
    assert results["saddle"] >= path["train_loss"].max()
    assert results["train_barrier"] <= results["straight_barrier"] and results["relative_length"] > 1
    np.testing.assert_allclose(path["train_loss"][[0, -1]], path["straight_train_loss"][[0, -1]])
    straight = run(Interpolation(steps=21, margin=0, examples=400), *trained[:2]).arrays("line")
    np.testing.assert_allclose(path["straight_train_loss"], straight["train_loss"], rtol=1e-4)
    assert path["test_error"].shape == (21,) and np.isfinite(path["test_loss"]).all()


def test_autoneb_is_reproducible(run, trained):
    a, b = (run(QUICK, *trained[:2]) for _ in range(2))
    assert dict(a.results) == dict(b.results)


def test_autoneb_keeps_the_best_path_when_steps_explode(run, trained):
    results = run(dataclasses.replace(QUICK, lr=1e9, lr_final=1e9), *trained[:2]).results
    assert results["best_cycle"] == 0 and results["failed_cycles"] == 2
    assert results["saddle"] == pytest.approx(results["straight_saddle"])
    assert results["relative_length"] == pytest.approx(1)


@pytest.mark.parametrize("changes", [{"cycles": 3}, {"lr": 1e9, "lr_final": 1e-9}])
@pytest.mark.parametrize("networks", ["trained", "normalised"])
def test_autoneb_interrupted_after_every_cycle(request, tmp_path, networks, changes):
    pair = tuple(request.getfixturevalue(networks)[:2])
    probe = dataclasses.replace(QUICK, steps=5, **changes)
    undisturbed = Run(probe, pair, tmp_path / "undisturbed").advance()
    assert undisturbed.results["failed_cycles"] == ("lr" in changes)
    resumed = interrupted_after_every_report(probe, pair, tmp_path, Memory(always=False))
    assert resumed.outcome == undisturbed.outcome and len(resumed.reports) == probe.cycles + 1


def test_autoneb_killed_and_gone_on_with_in_another_process(trained, tmp_path):
    undisturbed = Run(QUICK, tuple(trained[:2]), tmp_path / "undisturbed").advance()
    start_in_a_process_of_its_own(QUICK, tuple(trained[:2]), tmp_path / "killed", die_after_reports=2)
    found = start_in_a_process_of_its_own(QUICK, tuple(trained[:2]), tmp_path / "resumed")
    assert (found["reports"], found["results"]) == (undisturbed.reports, undisturbed.results)
    assert files(tmp_path / "resumed") == files(tmp_path / "undisturbed")


def test_autoneb_with_batchnorm(run, normalised):
    results = run(QUICK, *normalised).results
    assert results["batchnorm"] == "reestimate" and np.isfinite(results["saddle"]) and results["failed_cycles"] == 0


@pytest.mark.parametrize("probe", [Interpolation(steps=3), QUICK])
def test_networks_that_do_not_match(run, trained, normalised, probe):
    with pytest.raises(UserError, match="different parameters"):
        run(probe, trained[0], normalised[0])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Interpolation(steps=1), "Interpolation: steps must be at least 3, not 1."),
        (lambda: Interpolation(margin=-1), "Interpolation: margin must be at least 0, not -1.0."),
        (lambda: Interpolation(batchnorm="none"), "Interpolation: batchnorm must be one of 'reestimate', 'interp"),
        (lambda: AutoNEB(cycles=0), "AutoNEB: cycles must be at least 1, not 0."),
        (lambda: AutoNEB(lr=0.1, lr_final=0.2), "AutoNEB: lr_final=0.2 must not exceed lr=0.1."),
        (lambda: AutoNEB(pivots=9, max_pivots=3), "AutoNEB: max_pivots=3 must be at least pivots=9."),
    ],
)
def test_impossible_values(make, sentence):
    with pytest.raises(InvalidValue) as error:
        make()
    assert str(error.value).startswith(sentence)
