"""Averages of weights, against the iterates that the base optimizer makes alone, averaged by numpy."""

import copy

import numpy as np
import pytest
import torch
from objectives import A, Objective, Quadratic, W
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import update_bn

from tasks.data import Digits
from tasks.errors import InvalidValue
from tasks.models import MLP
from tasks.optimizers import EMA, SAM, SGD, SWA, AdamW, PolyakAverage, Progress
from tasks.snapshots import decode, encode
from tasks.task import execute
from tasks.train import Train

STEPS, EPOCHS = 12, 4  # three steps an epoch
BASE = SGD(lr=0.1, momentum=0.5)
ITERATES = []
w, b = W.numpy(), 0.0
for _ in range(STEPS):
    b = 0.5 * b + A.numpy() * w
    w = w - 0.1 * b
    ITERATES.append(w)


def no_inputs():
    pytest.fail("without BatchNorm no examples are needed")
    yield


def evaluated(network, stepper):
    with stepper.evaluating(no_inputs):
        return network.w.numpy()


def train(optimizer, first=0, last=STEPS, network=None, stepper=None):
    network = network or Quadratic()
    stepper = stepper or optimizer.build(network)
    for step in range(first, last):
        stepper.gradient(network.batch, Progress(step, STEPS, STEPS // EPOCHS))
        stepper.step()
    return network, stepper


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (EMA(BASE, decay=0.8), lambda n: np.average(ITERATES[:n], axis=0, weights=0.8 ** np.arange(n)[::-1])),
        (EMA(BASE, decay=0.0), lambda n: ITERATES[n - 1]),
        (PolyakAverage(BASE), lambda n: np.mean(ITERATES[6:n], axis=0) if n > 6 else ITERATES[n - 1]),
        (PolyakAverage(BASE, start=0.0), lambda n: np.mean(ITERATES[:n], axis=0)),
        (PolyakAverage(BASE, start=0.99), lambda n: ITERATES[n - 1]),
        (SWA(BASE, start=0.5), lambda n: np.mean(ITERATES[8:n:3], axis=0) if n > 8 else ITERATES[n - 1]),
        (SWA(BASE, start=0.0), lambda n: np.mean(ITERATES[2:n:3], axis=0) if n > 2 else ITERATES[n - 1]),
        (SWA(BASE, start=0.99), lambda n: ITERATES[n - 1]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_average(optimizer, expected):
    network, stepper = train(optimizer, last=0)
    for n in range(1, STEPS + 1):
        train(optimizer, n - 1, n, network, stepper)
        np.testing.assert_allclose(evaluated(network, stepper), expected(n), rtol=1e-13)
        np.testing.assert_allclose(network.w, ITERATES[n - 1], rtol=1e-13)


def test_what_regularisers_do_to_the_weights_after_a_step_is_averaged():
    network, stepper = train(PolyakAverage(SGD(lr=0.1), start=0.0), last=0)
    seen = []
    for step in range(3):
        train(None, step, step + 1, network, stepper)
        network.rest.data.clamp_(min=-1.0)
        seen.append(network.w.numpy())
    np.testing.assert_allclose(evaluated(network, stepper), np.mean(seen, axis=0), rtol=1e-13)


@pytest.mark.parametrize(
    "base", [SGD(lr=0.1, momentum=0.9), SAM(base=AdamW(), rho=0.1)], ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize("average", [EMA, PolyakAverage, SWA])
def test_the_steps_are_those_of_the_base(average, base):
    plain, _ = train(base)
    averaged, stepper = train(average(base))
    assert torch.equal(plain.w, averaged.w) and stepper.lr == base.build(Quadratic()).lr
    assert not torch.equal(plain.w, torch.from_numpy(evaluated(averaged, stepper))) or average is SWA


@pytest.mark.parametrize("average", [EMA(SAM(base=AdamW())), PolyakAverage(BASE), SWA(BASE, start=0.5)])
@pytest.mark.parametrize("at", [4, 9])
def test_state_dict_continues_bit_for_bit(average, at):
    straight, stepper = train(average)
    network, first = train(average, last=at)
    resumed = Quadratic(network.w)
    second = average.build(resumed)
    second.load_state_dict(decode(encode(first.state_dict())))
    train(average, at, STEPS, resumed, second)
    assert torch.equal(straight.w, resumed.w)
    assert np.array_equal(evaluated(straight, stepper), evaluated(resumed, second))


def test_batch_norm_statistics_are_those_of_the_average_and_the_training_s_come_back():
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=0.2), nn.ReLU(), nn.Linear(4, 2))
    batches = list(torch.randn(4, 10, 3, generator=generator))
    stepper = PolyakAverage(SGD(lr=0.5), start=0.0).build(network)
    seen = []
    for step, x in enumerate(batches):
        stepper.gradient(Objective(network, lambda x=x: network(x).square().mean()), Progress(step, 4, 2))
        stepper.step()
        seen.append([p.detach().clone() for p in network.parameters()])
    network[2].eval()
    before = copy.deepcopy(network)
    reference = copy.deepcopy(network)
    with torch.no_grad():
        for parameter, iterates in zip(reference.parameters(), zip(*seen, strict=True), strict=True):
            parameter.copy_(torch.stack(iterates).mean(0))
    update_bn(batches, reference)
    with stepper.evaluating(lambda: batches):
        assert [m.training for m in network.modules()] == [m.training for m in before.modules()]
        for (name, tensor), (_, expected) in zip(
            network.state_dict().items(), reference.state_dict().items(), strict=True
        ):
            torch.testing.assert_close(tensor, expected, msg=name)
    for (name, tensor), (_, expected) in zip(network.state_dict().items(), before.state_dict().items(), strict=True):
        assert torch.equal(tensor, expected), name
    assert network[1].momentum == 0.2 and network[1].training


def test_a_training_evaluates_and_keeps_the_average(tmp_path):
    """Full-batch descent, one step an epoch: the mean after two of them, from two plain trainings."""
    data = execute(Digits(train_size=100), folder=tmp_path / "data")

    def trained(optimizer, epochs):
        train = Train(Digits(train_size=100), MLP(widths=(8,)), optimizer, epochs=epochs, batch_size=None)
        artifact = execute(train, data, folder=tmp_path / f"{type(optimizer).__name__}{epochs}")
        return artifact.results, load_file(artifact.dir / "weights.safetensors")

    (_, one), (last, two), (results, mean) = (
        trained(SGD(lr=0.5), 1), trained(SGD(lr=0.5), 2), trained(PolyakAverage(SGD(lr=0.5), start=0.0), 2)
    )  # fmt: skip
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (one[name] + two[name]) / 2)
    assert results["val_loss"] != last["val_loss"] and results["test_loss"] != last["test_loss"]
    assert results["grad_norm"] == last["grad_norm"]


def test_an_average_in_the_place_where_it_would_not_work():
    with pytest.raises(InvalidValue, match=r"EMA: base is SWA, an average itself, of which EMA would see nothing"):
        EMA(SWA(SGD()))
    with pytest.raises(InvalidValue, match=r"SAM: base is EMA, which averages weights: put it outside, EMA\(SAM"):
        SAM(base=EMA(SGD()))
    with pytest.raises(InvalidValue, match="decay must be below 1"):
        EMA(SGD(), decay=1.0)
