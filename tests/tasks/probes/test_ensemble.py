"""The ensemble of a setting's seeds, against numpy."""

import math

import numpy as np
import pytest
import torch

from tasks.errors import UserError
from tasks.probes import Ensemble
from tasks.probes.ensemble import combine
from tasks.task import Context
from tasks.trained import load_trained


def test_averages_probabilities_not_votes_nor_logits():
    p = torch.tensor([[[0.6, 0.4]], [[0.6, 0.4]], [[0.05, 0.95]]], dtype=torch.float64)  # two of three vote for 0
    found = combine(p.log(), torch.tensor([1]))
    assert found.accuracy == 1
    assert found.loss == pytest.approx(-math.log((0.4 + 0.4 + 0.95) / 3))
    assert found.disagreement == pytest.approx(2 / 3)
    assert found.accuracies.tolist() == [0, 0, 1]


def test_matches_numpy(run, trained, tmp_path):
    found = run(Ensemble(), *trained).results
    trials = [load_trained(Context(tmp_path), t) for t in trained]
    x, y = trials[0].evaluation_set("test")
    with torch.no_grad():
        logits = np.stack([t.model(x).double().numpy() for t in trials])
    p = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    y = y.numpy()
    votes = p.argmax(2)
    assert found["test_accuracy"] == pytest.approx((p.mean(0).argmax(1) == y).mean())
    assert found["test_loss"] == pytest.approx(-np.log(p.mean(0)[np.arange(len(y)), y]).mean())
    members = [t.results["test_accuracy"] for t in trained]
    assert found["test_member_accuracy"] == pytest.approx(np.mean(members))
    assert found["test_gain"] == pytest.approx(found["test_accuracy"] - np.mean(members))
    pairs = [(votes[i] != votes[j]).mean() for i in range(3) for j in range(i)]
    assert found["test_disagreement"] == pytest.approx(np.mean(pairs))
    validation = [t.results["val_accuracy"] for t in trained]
    assert found["validation_member_accuracy"] == pytest.approx(np.mean(validation))
    assert found["members"] == 3


def test_one_member_has_nobody_to_disagree_with(run, trained):
    found = run(Ensemble(), trained[0]).results
    assert found["test_gain"] == 0 and found["test_disagreement"] is None


def test_needs_a_member(run):
    with pytest.raises(UserError, match="at least one"):
        run(Ensemble())
