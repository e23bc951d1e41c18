"""m-sharpness, 1-SAM, J-SAM and logit-SAM, against plain autograd on one group, or one example, after the other."""

import copy
import dataclasses
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tasks import optimizers
from tasks.data import Digits
from tasks.errors import InvalidValue
from tasks.minibatch import Minibatch
from tasks.models import MLP, SimpleCNN
from tasks.models.dropout import seed_dropout
from tasks.models.linear import Linear, TwoLayerLinear
from tasks.optimizers import (
    ASAM,
    JSAM,
    SAM,
    SAME,
    SGD,
    AdamW,
    ClampSAM,
    ClipSAM,
    CustomSAME,
    LogitSAM,
    SAMAgree,
    SAMAnatomy,
    SAMDirection,
    SAMMagnitude,
    SGDAgree,
    SignMagnitude,
    separately,
)
from tasks.task import execute
from tasks.train import Train

N, RHO = 7, 0.3


def grouped():
    """A small residual net with GroupNorm."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.short = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.GroupNorm(2, 4), None
            self.short = nn.Conv2d(2, 4, 1, stride=1)

        def forward(self, x):
            return F.relu(self.norm(self.conv(x)) + self.short(x))

    torch.manual_seed(0)
    return nn.Sequential(Block(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3))


def model(spec):
    return lambda: spec.build((2, 6, 6), 3, torch.Generator().manual_seed(0))


class Odd(nn.Module):
    """Parameters that are no layer's, one of them a single number: goes through vmap."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.scale = nn.Linear(72, 3), nn.Parameter(torch.tensor([0.5, 1, 2]))
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return torch.tanh(self.inner(x.flatten(1))) * self.scale / self.temperature


NETWORKS = {"MLP": model(MLP(widths=(8,))), "SimpleCNN": model(SimpleCNN()), "GroupNorm": grouped, "odd": Odd}
networks = pytest.mark.parametrize("name", NETWORKS)
MEMBERS = [
    SAM(),
    SAM(normalise=False),
    ASAM(),
    ASAM(everywhere=True),
    SAME(group=1),
    SAME(group=4),
    CustomSAME(c=3.0),
    SignMagnitude(sign_from="g", magnitude_from="g_plus"),
    SAMMagnitude(),
    SAMDirection(),
    SAMAgree(),
    SGDAgree(),
    SAMAnatomy(),
    ClampSAM(tau=0.01),
    ClipSAM(kappa=0.9),
    JSAM(),
    LogitSAM(),
]


def name_of(rule):
    return re.sub(r"(\w+=None|rho_schedule=[^)]*\)|rho=0.05)(, |(?=\)))", "", repr(rule)).replace(", )", ")")


def minibatch(network, n=N, targets="classes", **more):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 2, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (n,), generator=generator)
    if targets == "mixed":
        y = torch.rand(n, 3, generator=generator, dtype=torch.float64).softmax(1)
    batch = Minibatch(network, x, y, **more)
    if targets == "mixed":
        batch.label_smoothing = 0.2
        batch.penalties.append(lambda part, outputs: 0.3 * outputs.square().sum(1).mean())
    return batch


def gradient(rule, batch, **more):
    stepper = rule.build(batch.network)
    loss, outputs = stepper.gradient(batch, **more)
    return loss, outputs, [torch.zeros_like(p) if p.grad is None else p.grad for p in batch.network.parameters()]


def close(actual, expected, rtol=1e-9, atol=1e-12):
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=rtol, atol=atol)


def by_hand(rule, batch, m):
    """Of each group g and g⁺ at its own ρ g/‖g‖, and the mean of both and of the losses; by plain autograd."""
    network, n = batch.network, len(batch)
    parameters, sums, losses = list(network.parameters()), None, torch.zeros(2, dtype=torch.float64)
    w = [p.data for p in parameters]
    for i in range(0, n, m):
        part = batch.part(slice(i, i + m))
        share = len(part) / n

        def residual(outputs, part=part):
            logits = outputs.detach().requires_grad_()
            return torch.autograd.grad(part.loss(logits), logits)[0]

        outputs = part.outputs()
        loss = part.loss(outputs)
        g = torch.autograd.grad(loss, parameters, retain_graph=True)
        norm = torch.cat([t.flatten() for t in g]).norm()
        for p, t in zip(parameters, g, strict=True):
            p.data = p.data + RHO * t / norm
        above = part.outputs()
        loss_plus = part.loss(above)
        if isinstance(rule, JSAM):
            plus = torch.autograd.grad(above, parameters, residual(outputs))
        elif not isinstance(rule, LogitSAM):
            plus = torch.autograd.grad(loss_plus, parameters)
        for p, t in zip(parameters, w, strict=True):
            p.data = t
        if isinstance(rule, LogitSAM):
            plus = torch.autograd.grad(outputs, parameters, residual(above))
        losses += share * torch.stack([loss.detach(), loss_plus.detach()])
        found = [share * t for t in (*g, *plus)]
        sums = found if sums is None else [s + t for s, t in zip(sums, found, strict=True)]
    return losses, sums[: len(parameters)], sums[len(parameters) :]


@networks
@pytest.mark.parametrize("rule", [SAM(), JSAM(), LogitSAM()], ids=name_of)
@pytest.mark.parametrize("targets", ["classes", "mixed"])
@pytest.mark.parametrize("m", [1, 3, None])
def test_gradients_are_those_of_plain_autograd(name, rule, targets, m, monkeypatch):
    monkeypatch.setattr(separately.Separately, "_try", lambda *_: 4)  # so that m = 1 goes in parts of 4 and 3
    network = NETWORKS[name]().double()
    batch = minibatch(network, targets=targets)
    seen = []
    rule = dataclasses.replace(rule, rho=RHO, m=m)
    loss, outputs, actual = gradient(rule, batch, observe=seen.append)
    (loss_w, loss_plus), g, g_plus = by_hand(rule, batch, m or N)
    close([loss, *actual], [loss_w, *g_plus])
    close([outputs], [network(batch.x).detach()])
    (seen,) = seen
    close([seen.loss, seen.loss_plus, *seen.g, *seen.g_plus], [loss_w, loss_plus, *g, *g_plus])


@pytest.mark.parametrize("name", ["SimpleCNN", "odd"])
@pytest.mark.parametrize("rule", MEMBERS, ids=name_of)
def test_every_member_with_an_epsilon_for_each_example(name, rule):
    """The mean of what the member makes of each example alone."""
    network = NETWORKS[name]().double()
    batch = minibatch(network)
    alone = [gradient(dataclasses.replace(rule, rho=RHO), batch.part(slice(i, i + 1)))[2] for i in range(N)]
    _, _, actual = gradient(dataclasses.replace(rule, rho=RHO, m=1), batch)
    close(actual, [torch.stack(t).mean(0) for t in zip(*alone, strict=True)])


def test_every_member_of_the_family_is_here():
    family = {c for c in vars(optimizers).values() if isinstance(c, type) and issubclass(c, optimizers.SharpnessAware)}
    assert {type(rule) for rule in MEMBERS} == family - {optimizers.SharpnessAware}


@pytest.mark.parametrize("rule", [SAM(), SAMAgree(), JSAM(), LogitSAM()], ids=name_of)
def test_as_many_as_the_batch_is_the_whole_batch_bit_for_bit(rule):
    network = NETWORKS["SimpleCNN"]().float()
    batch = minibatch(network)
    batch.x = batch.x.float()
    whole = gradient(rule, batch)[2]
    for m in (N, N + 1):
        assert all(map(torch.equal, gradient(dataclasses.replace(rule, m=m), batch)[2], whole))


@pytest.mark.parametrize("rule", [SAM(m=3), SAM(m=1), SAMAgree(m=1), JSAM(), LogitSAM(), LogitSAM(m=1)], ids=name_of)
def test_gradients_lie_in_memory_as_their_parameters_do(rule):
    """A fused optimizer would read them in the wrong order."""
    network = NETWORKS["SimpleCNN"]().double().to(memory_format=torch.channels_last)
    batch = minibatch(network)
    _, _, expected = gradient(rule, batch)
    batch.x = batch.x.contiguous(memory_format=torch.channels_last)
    _, _, actual = gradient(rule, batch)
    close(actual, expected)
    assert [g.stride() for g in actual] == [p.stride() for p in network.parameters()]


@pytest.mark.parametrize("rule", [SAM(m=1), SAM(m=4), JSAM(), LogitSAM(), LogitSAM(m=4)], ids=name_of)
def test_micro_batches(rule):
    network = NETWORKS["MLP"]().double()
    close(gradient(rule, minibatch(network, micro=2))[2], gradient(rule, minibatch(network))[2])


def normalised():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=0.3), nn.Flatten(), nn.Linear(48, 3)).double()


@pytest.mark.parametrize("rule", [SAM(), JSAM(), LogitSAM()], ids=name_of)
@pytest.mark.parametrize(("m", "momentum"), [(2, 0.3), (3, 0.3), (3, None), (None, 0.3)])
def test_batch_norm_in_groups(rule, m, momentum):
    """Each group has its own statistics; the running ones move once, to the mean over the groups."""
    network = normalised()
    network[1].momentum = momentum
    rule, batch = dataclasses.replace(rule, rho=RHO, m=m), minibatch(network, n=8)
    reference = minibatch(copy.deepcopy(network), n=8)
    _, _, expected = by_hand(rule, reference, m or 8)
    for _ in range(2):
        start = copy.deepcopy(network[1])
        close(gradient(rule, batch)[2], expected)
        convolved = network[0](batch.x).detach().split(m or 8)
        shares = [len(c) / 8 for c in convolved]
        mu = momentum or 1 / (1 + int(start.num_batches_tracked))
        mean = sum(s * c.mean((0, 2, 3)) for s, c in zip(shares, convolved, strict=True))
        variance = sum(s * c.transpose(0, 1).flatten(1).var(1) for s, c in zip(shares, convolved, strict=True))
        close([network[1].running_mean], [(1 - mu) * start.running_mean + mu * mean])
        close([network[1].running_var], [(1 - mu) * start.running_var + mu * variance])
        assert network[1].num_batches_tracked == start.num_batches_tracked + 1


def test_batch_norm_refuses_single_examples():
    for rule in (SAM(m=1), JSAM(m=1), LogitSAM(m=1)):
        with pytest.raises(InvalidValue, match="m=1 gives each example an ε of its own, but BatchNorm mixes"):
            rule.build(normalised())
    with pytest.raises(InvalidValue, match="SAM: m=3 leaves a group of one example of a batch of 7"):
        gradient(SAM(m=3), minibatch(normalised()))


@pytest.mark.parametrize("m", [1, 3])
def test_dropout_has_the_same_masks_at_both_points(m, monkeypatch):
    monkeypatch.setattr(separately.Separately, "_try", lambda *_: 3)
    network = MLP(widths=(16,), dropout=0.5).build((2, 6, 6), 3, torch.Generator().manual_seed(0)).double()
    batch = minibatch(network)
    batch.before_forward.append(lambda offset: seed_dropout(network, 100 + offset))
    masked = torch.cat([batch.part(slice(i, i + 3)).outputs().detach() for i in range(0, N, 3)])
    seen = []
    _, outputs, actual = gradient(SAM(m=m, rho=1e-9), batch, observe=seen.append)
    close([outputs], [masked])
    close(actual, seen[0].g, rtol=1e-5, atol=1e-8)  # other masks would make another gradient


def test_noise_on_the_weights():
    network = NETWORKS["SimpleCNN"]().double()
    batch = minibatch(network)
    generator = torch.Generator().manual_seed(5)
    batch.weight_noise = {
        name: 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in network.named_parameters()
    }
    rule = SAM(m=1, rho=RHO)
    _, _, actual = gradient(rule, batch)
    for name, p in network.named_parameters():
        p.data += batch.weight_noise[name]
    batch.weight_noise = {}
    close(actual, by_hand(rule, batch, 1)[2])
    odd = minibatch(Odd().double())
    odd.weight_noise = {"scale": torch.ones(3, dtype=torch.float64)}
    with pytest.raises(InvalidValue, match="m=1 with noise on the weights needs a network"):
        gradient(rule, odd)


def test_what_does_not_go_together():
    network = NETWORKS["MLP"]().double()
    with pytest.raises(InvalidValue, match=r"SAM: m=1 carries out the layers .* leave compile out"):
        gradient(SAM(m=1), minibatch(network, forward=lambda x: network(x)))
    batch = minibatch(network)
    batch.head = network[-1]
    with pytest.raises(InvalidValue, match="ASAM: m=1 does not go with a penalty on the last layer"):
        gradient(ASAM(m=1), batch)
    batch.penalties.append(lambda part, outputs: part.features.square().mean())
    for rule in (JSAM(), LogitSAM()):
        with pytest.raises(InvalidValue, match="a penalty that depends on the weights in another way"):
            gradient(rule, batch)
    with pytest.raises(InvalidValue, match="SAM: m must be at least 1, not 0"):
        SAM(m=0)


class Named(nn.Module):
    """Not a Sequential: a compiled one of these has no len(), and so no truth value."""

    def __init__(self):
        super().__init__()
        self.layers = normalised()

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("rule", [LogitSAM(), SAM(m=4)], ids=name_of)
def test_compiled(rule):
    torch._dynamo.reset()
    network = Named()
    copied = copy.deepcopy(network)
    compiled = torch.compile(copied, backend="aot_eager")
    for _ in range(2):
        expected = gradient(rule, minibatch(network, n=8))[2]
        close(gradient(rule, minibatch(copied, n=8, forward=compiled))[2], expected)
    close(copied.buffers(), network.buffers())


def test_bf16_autocast():
    network = NETWORKS["GroupNorm"]()
    for rule in (JSAM(), LogitSAM(), SAM(m=3), SAM(m=1), JSAM(m=1), LogitSAM(m=1), SAMAgree(m=1)):
        found = []
        for precision in ("float32", "bf16"):
            batch = minibatch(network, precision=precision)
            batch.x = batch.x.float()
            found.append(torch.cat([g.flatten() for g in gradient(rule, batch)[2]]))
        full, half = found
        assert half.dtype == torch.float32 and not torch.equal(full, half)
        assert F.cosine_similarity(full, half, dim=0) > 0.97, rule


@pytest.mark.parametrize("rule", [JSAM(), LogitSAM(), SAM(m=1), JSAM(m=1), LogitSAM(m=1), SAM(m=2)], ids=name_of)
@pytest.mark.parametrize("base", [SGD(lr=0.1, momentum=0.9, weight_decay=0.1), AdamW(lr=0.01)], ids=name_of)
def test_rho_zero_and_a_state_dict(rule, base):
    """ρ = 0 is the base optimizer, and the state of a stepper goes on exactly, both bit for bit."""

    def trained(rule, steps=4, load_at=None):
        network = NETWORKS["MLP"]().double()
        batch, stepper = minibatch(network), rule.build(network)
        for step in range(steps):
            if step == load_at:
                state, stepper = copy.deepcopy(stepper.state_dict()), rule.build(network)
                stepper.load_state_dict(state)
            stepper.gradient(batch)
            stepper.step()
        return [p.detach() for p in network.parameters()]

    rule = dataclasses.replace(rule, base=base)
    assert all(map(torch.equal, trained(dataclasses.replace(rule, rho=0.0)), trained(base)))
    straight = trained(rule)
    assert not all(map(torch.equal, straight, trained(base)))
    assert all(map(torch.equal, trained(rule, load_at=2), straight))


# The two identities. Both nets have one output f and the logits (0, f), so that the cross-entropy of two classes is
# the logistic loss log(1 + exp(−tf)), with t = −1 for class 0 and 1 for class 1: softmax − e_t is (σ(−f), −σ(−f)) for
# class 1 and (−σ(f), σ(f)) for class 0, whose second component is ∂/∂f of it, −t σ(−tf), and the first of which meets
# the logit 0, on which no weight acts.


@pytest.mark.parametrize("rho", [0.0, 0.4, -0.4])
def test_1_sam_on_logistic_regression_weighs_examples_by_their_margin(rho):
    """σ(C − z)/σ(−z) times SGD's weight, z = t⟨w, x⟩, C = ρ‖x‖: grows with z iff C > 0, with the limits 1 and e^C."""
    n = d = 41
    network = Linear(bias=False, output="logistic").build((d,), 2, torch.Generator().manual_seed(0)).double()
    norm, t = 2.5, 1 - 2 * (torch.arange(n) % 2)
    x = norm * torch.eye(n, dtype=torch.float64)  # orthogonal, so that coordinate i of the gradient is example i's
    z = torch.linspace(-12, 12, n, dtype=torch.float64)
    network[1].weight.data = (t * z / norm)[None]
    batch = Minibatch(network, x, (t > 0).long())
    rule = SAM(m=1)
    object.__setattr__(rule, "rho", rho)  # below 0 too, which a specification refuses
    _, _, (g_plus,) = gradient(rule, batch)
    _, _, (g,) = gradient(SGD(), batch)
    ratio, c = (g_plus / g)[0], rho * norm
    torch.testing.assert_close(ratio, torch.sigmoid(c - z) / torch.sigmoid(-z), rtol=1e-10, atol=0)
    assert torch.equal(ratio.diff().sign(), torch.full((n - 1,), float(rho > 0) - float(rho < 0), dtype=torch.float64))
    torch.testing.assert_close(ratio[[0, -1]], torch.tensor([0.0, c], dtype=torch.float64).exp(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("rho", [0.05, 1.0])
def test_j_sam_on_a_two_layer_linear_net_adds_to_the_gradient(rho):
    """∇_W = ∇_Wℓ + (ρσ(−tf)/J) z xᵀ, ∇_v = ∇_vℓ + (ρσ(−tf)‖x‖²/J) v, z = Wx, J = √(‖z‖² + ‖x‖²‖v‖²)."""
    n, d, width = 9, 6, 5
    network = TwoLayerLinear(width, output="logistic").build((d,), 2, torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(n, d, generator=generator, dtype=torch.float64), torch.randint(2, (n,), generator=generator)
    first, second = network.parameters()
    batch = Minibatch(network, x, y)
    _, _, actual = gradient(JSAM(m=1, rho=rho), batch)
    _, _, plain = gradient(SGD(), batch)
    w, v, t = first.detach(), second.detach()[0], 2 * y - 1
    z = x @ w.T
    margin, lengths = t * (z @ v), x.norm(dim=1)
    factor = rho * torch.sigmoid(-margin) / (z.norm(dim=1) ** 2 + lengths**2 * v.norm() ** 2).sqrt()
    added = (factor[:, None, None] * z[:, :, None] * x[:, None, :]).mean(0), ((factor * lengths**2).mean() * v)[None]
    close(actual, [p + a for p, a in zip(plain, added, strict=True)], rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return execute(Digits(), folder=tmp_path_factory.mktemp("digits"))


@pytest.mark.parametrize(
    "rule",
    [SAM(m=1), SAM(m=8), JSAM(), LogitSAM(), JSAM(m=1), LogitSAM(m=1), ASAM(m=1, rho=0.5)],
    ids=name_of,
)
def test_digits_are_learnt(rule, digits, tmp_path):
    rule = dataclasses.replace(rule, lr=0.1, momentum=0.9)
    train = Train(dataset=Digits(), model=MLP(widths=(32,)), optimizer=rule, epochs=4, batch_size=64)
    results = execute(train, digits, folder=tmp_path).results
    assert results["val_accuracy"] > 0.93 and results["train_loss"] < 0.2
