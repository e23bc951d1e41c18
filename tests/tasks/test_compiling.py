"""Training a compiled network: where its parameters lie, and that it is the same training."""

import re

import pytest
import torch
from torch import nn

from tasks.compiling import compiled
from tasks.data import Digits
from tasks.errors import InvalidValue
from tasks.minibatch import Minibatch
from tasks.models import MLP, ResNet18
from tasks.optimizers import ASAM, EMA, JSAM, LBFGS, SAM, AdamW, LogitSAM, NewtonCG, SAMAnatomy
from tasks.regularisers import LastLayerL2, WeightNoise
from tasks.task import execute
from tasks.train import Train

MEMBERS = [
    SAM(momentum=0.9),
    SAM(base=AdamW()),
    SAM(m=3),
    ASAM(),
    SAMAnatomy(),
    JSAM(),
    LogitSAM(),
    EMA(SAM()),
]


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: f"{type(m).__name__}{MEMBERS.index(m)}")
def test_recorded_parameters_stay_where_they_are_and_take_the_same_values(member):
    """In every pass they lie where they lay first, which otherwise they do not; and the weights are the same bytes."""

    def trained(recorded):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        ).to(memory_format=torch.channels_last)
        stepper, places = member.build(network), []
        first = [p.data_ptr() for p in network.parameters()]

        def look(offset):
            places.append([p.data_ptr() for p in network.parameters()] == first)

        for seed in range(3):
            draws = torch.Generator().manual_seed(seed)
            x, y = torch.randn(6, 2, 6, 6, generator=draws), torch.randint(3, (6,), generator=draws)
            # A forward that is not the network itself, as a compiled one.
            batch = Minibatch(network, x, y, forward=lambda x: network(x), recorded=recorded)
            batch.before_forward.append(look)
            stepper.gradient(batch)
            stepper.step()
        return network.state_dict(), places

    (swapped, moved), (written, stayed) = trained(False), trained(True)
    assert all(stayed) and len(stayed) == len(moved) >= 6
    assert not all(moved)
    assert all(torch.equal(swapped[name], written[name]) for name in swapped)


def test_a_compiled_training_is_the_same_and_is_compiled_once(tmp_path, monkeypatch):
    """Traced, but left to PyTorch's own kernels, as no compiler need be there. Without a GPU no graph is recorded."""
    compile_, modes = torch.compile, []

    def traced(network, mode=None):
        modes.append(mode)
        return compile_(network, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", traced)
    data = execute(Digits(), folder=tmp_path / "data")
    task = Train(dataset=Digits(), model=MLP(widths=(16,)), optimizer=SAM(lr=0.1, rho=0.05), epochs=2)
    plain = execute(task, data, folder=tmp_path / "plain", seed=0)
    task = Train(**{**vars(task), "compile": "reduce-overhead"})
    with torch._dynamo.config.patch(error_on_recompile=True):
        fast = execute(task, data, folder=tmp_path / "compiled", seed=0)
    assert modes == ["reduce-overhead"]
    assert fast.results["train_loss"] == pytest.approx(plain.results["train_loss"], rel=1e-5)


def test_what_was_compiled_before_does_not_count():
    made = []

    def backend(graph, _):
        made.append(graph)
        return graph.forward

    before = torch.compile(lambda x: x + 1, backend=backend)
    before(torch.zeros(2))
    before(torch.zeros(2))
    assert len(made) == 1
    compiled(nn.Linear(2, 2), True)
    before(torch.zeros(2))
    assert len(made) == 2


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"optimizer": LBFGS()}, "LBFGS does not go with compile='reduce-overhead'"),
        ({"optimizer": EMA(SAM(base=NewtonCG()))}, "NewtonCG does not go with compile='reduce-overhead'"),
        ({"regularisers": (WeightNoise(0.1),)}, "WeightNoise does not go with compile='reduce-overhead'"),
        ({"regularisers": (LastLayerL2(1.0, 0.0),)}, "LastLayerL2 does not go with compile='reduce-overhead'"),
        ({"optimizer": EMA(JSAM(m=1)), "model": MLP()}, "m=1 does not go with compile='reduce-overhead'"),
        ({"compile": "fast"}, "Train: compile must be True or False or 'reduce-overhead', not 'fast'."),
    ],
)
def test_what_cannot_be_recorded_is_refused(fields, sentence):
    with pytest.raises(InvalidValue, match=re.escape(sentence)):
        Train(**{"dataset": Digits(), "model": ResNet18(), "compile": "reduce-overhead", **fields})
