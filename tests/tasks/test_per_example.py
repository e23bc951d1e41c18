"""Gradients of each example, and passes at parameters of its own, against plain autograd example by example."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tasks import bilinear
from tasks.bilinear import Factors
from tasks.errors import UserError
from tasks.models import MLP, SimpleCNN
from tasks.per_example import Layers, Mapped, PerExample, Unrolled, per_example_gradients

N = 5


class Varied(nn.Module):
    """Every layer that is known, in its less usual forms: strides, dilation, positions, layers used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
        self.group = nn.GroupNorm(2, 4)
        self.twice = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.batch = nn.BatchNorm2d(4).eval()
        self.one = nn.Conv2d(4, 6, 1, stride=2)
        self.layer = nn.LayerNorm((3, 6))
        self.dense = nn.Linear(6, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.again = nn.Linear(4, 4)
        self.out = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        y = F.silu(self.group(self.first(x)), inplace=True)
        y = self.batch(self.twice(torch.tanh(self.twice(y))))
        y = self.one(y).flatten(2).transpose(1, 2)[:, :3]
        y = torch.tanh(self.dense(self.layer(y))).mean(1)
        return self.out(self.again(torch.tanh(self.again(self.frozen(y)))))


class Scaled(nn.Module):
    """Parameters that are no layer's, one of them a single number."""

    def __init__(self):
        super().__init__()
        self.inner, self.scale = nn.Linear(72, 3), nn.Parameter(torch.ones(3))
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.inner(x.flatten(1)) * self.scale.exp() / self.temperature


def of_model(model):
    return lambda: model.build((2, 6, 6), 3, torch.Generator().manual_seed(0))


NETWORKS = {
    "MLP": of_model(MLP(widths=(7,), activation="tanh")),
    "SimpleCNN": of_model(SimpleCNN()),
    "varied": Varied,
    "scaled": Scaled,
}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    network = NETWORKS[request.param]().double()
    for parameter in network.parameters():  # none of the ones and zeros that layers begin with
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def problem():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 2, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (N,), generator=generator)


def loss(outputs, targets, reduction="mean"):
    return F.cross_entropy(outputs, targets, reduction=reduction)


def trainable(network):
    return [p for p in network.parameters() if p.requires_grad]


def by_hand(network, x, y, each):
    """The logits of each example at each[·][i], and its gradient there."""
    outputs, gradients = [], []
    network = copy.deepcopy(network)
    for i in range(len(x)):
        for parameter, values in zip(trainable(network), each, strict=True):
            parameter.data = values[i].clone()
        outputs.append(network(x[i : i + 1])[0])
        gradients.append(torch.autograd.grad(loss(outputs[-1], y[i]), trainable(network), materialize_grads=True))
    return torch.stack(outputs).detach(), [torch.stack(g) for g in zip(*gradients, strict=True)]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("patches", [bilinear.PATCHES["cpu"], 1])
def test_gradients_at_the_parameters(network, channels_last, patches, monkeypatch):
    monkeypatch.setitem(bilinear.PATCHES, "cpu", patches)
    x, y = problem()
    shared = [p.detach().expand(N, *p.shape) for p in trainable(network)]
    _, expected = by_hand(network, x, y, shared)
    if channels_last:
        network, x = network.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    close(per_example_gradients(network, loss, x, y), torch.cat([g.reshape(N, -1) for g in expected], 1))
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_pass_at_parameters_of_each_examples_own(network, channels_last):
    x, y = problem()
    generator = torch.Generator().manual_seed(2)
    each = [
        p.detach() + 0.3 * torch.randn(N, *p.shape, generator=generator, dtype=torch.float64)
        for p in trainable(network)
    ]
    outputs, expected = by_hand(network, x, y, each)
    if channels_last:
        network, x = network.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)

    def call(forward):
        logits = forward(x)
        return logits, loss(logits, y, reduction="sum")

    examples = PerExample(network)
    done, (logits, value) = examples.run(N, call, each)
    assert isinstance(done, Mapped if isinstance(network, Scaled) else Layers)
    close(logits.detach(), outputs)
    for actual, wanted in zip(done.gradients(value, keep=True), expected, strict=True):
        close(torch.zeros_like(wanted) if actual is None else actual, wanted)
    done.backward(value)
    for parameter, wanted in zip(trainable(network), expected, strict=True):
        close(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad, wanted.sum(0))


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_and_passes_in_factors(network, channels_last):
    """The examples' gradients are taken in factors, and a pass at w + 0.3 g of each example is made from these."""
    x, y = problem()
    parameters = trainable(network)
    shared = [p.detach().expand(N, *p.shape) for p in parameters]
    _, gradients = by_hand(network, x, y, shared)
    outputs, expected = by_hand(network, x, y, [p + 0.3 * g for p, g in zip(shared, gradients, strict=True)])
    if channels_last:
        network, x = network.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)

    def call(forward):
        logits = forward(x)
        return logits, loss(logits, y, reduction="sum")

    examples = PerExample(network)
    done, (_, value) = examples.run(N, call)
    found, each = done.low_gradients(value), []
    assert isinstance(network, Scaled) or any(isinstance(g, Factors) for g in found)
    for parameter, g, wanted in zip(parameters, found, gradients, strict=True):
        if isinstance(g, Factors):
            close(g.formed(), wanted)
            close(g.mean(), wanted.mean(0))
            close(g.squares(), wanted.flatten(1).square().sum(1))
            assert g.left.numel() + g.right.numel() <= 2 * wanted.numel()  # of a layer that is used twice
            each.append(g.times(torch.full((N,), 0.3, dtype=torch.float64)))
        else:
            each.append(parameter.detach() + 0.3 * wanted)
            close(torch.zeros_like(wanted) if g is None else g, wanted)
    done, (logits, value) = examples.run(N, call, each)
    close(logits.detach(), outputs)
    for actual, wanted in zip(done.gradients(value), expected, strict=True):
        close(torch.zeros_like(wanted) if actual is None else actual, wanted)


def test_gradients_by_the_input_within_a_pass_leave_those_of_the_examples_alone():
    """As adversarial training takes them."""
    torch.manual_seed(0)
    network, (x, y) = SimpleCNN().build((2, 6, 6), 3, torch.Generator().manual_seed(0)).double(), problem()

    def call(forward):
        moved = x.clone().requires_grad_()
        (up,) = torch.autograd.grad(loss(forward(moved), y, reduction="sum"), moved)
        return loss(forward(x + 0.1 * up.sign()), y, reduction="sum")

    done, value = PerExample(network).run(N, call)
    gradients = done.gradients(value)
    for i in range(N):
        moved = x[i : i + 1].clone().requires_grad_()
        (up,) = torch.autograd.grad(loss(network(moved), y[i : i + 1]), moved)
        expected = torch.autograd.grad(
            loss(network(x[i : i + 1] + 0.1 * up.sign()), y[i : i + 1]), list(network.parameters())
        )
        for actual, wanted in zip(gradients, expected, strict=True):
            close(actual[i], wanted)


def test_bf16_autocast_is_that_of_an_ordinary_pass():
    network, (x, y) = SimpleCNN().build((2, 6, 6), 3, torch.Generator().manual_seed(0)), problem()

    def call(forward):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = forward(x.float())
        assert outputs.dtype == torch.bfloat16
        return loss(outputs.float(), y, reduction="sum")

    done, value = PerExample(network).run(N, call)
    gradients = done.gradients(value)
    call(network).backward()
    for parameter, actual in zip(network.parameters(), gradients, strict=True):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.sum(0), parameter.grad, rtol=0.05, atol=0.02)
        assert float(actual.abs().max()) > 0


def test_batch_norm_in_training_mode_is_refused():
    network = Varied()
    network.batch.train()
    with pytest.raises(UserError, match="BatchNorm in training mode mixes the examples"):
        per_example_gradients(network.double(), loss, *problem())


@pytest.mark.parametrize(
    "name", ["mul", "mul_", "norm", "clamp_min", "add", "sign", "maximum", "minimum_", "lerp_", "addcmul_"]
)
def test_unrolled_foreach_functions_under_vmap(name):
    generator = torch.Generator().manual_seed(0)
    a, b, c = ([torch.randn(3, *s, generator=generator) for s in ((2, 4), (5,))] for _ in range(3))
    rest = {"mul": (2.5,), "mul_": (b,), "norm": (), "clamp_min": (0.1,), "add": (b,), "sign": (), "maximum": (b,)}
    rest |= {"minimum_": (b,), "lerp_": (b, 0.3), "addcmul_": (b, c)}
    keywords = {"value": -2.0} if name == "addcmul_" else {}

    def function(a, *lists):
        others = [next(given) if isinstance(value, list) else value for given in [iter(lists)] for value in rest[name]]
        result = getattr(torch, f"_foreach_{name}")(a, *others, **keywords)
        return a if name.endswith("_") else list(result)

    lists = [value for value in rest[name] if isinstance(value, list)]
    with Unrolled():
        actual = torch.func.vmap(function)([t.clone() for t in a], *lists)
    for i in range(3):
        expected = function([t[i].clone() for t in a], *([t[i] for t in values] for values in lists))
        for mapped, wanted in zip(actual, expected, strict=True):
            torch.testing.assert_close(mapped[i], wanted)
