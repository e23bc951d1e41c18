import itertools
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from tasks.errors import InvalidValue
from tasks.models import MLP, SimpleCNN, WideResNet
from tasks.models.dropout import Dropout, has_dropout, seed_dropout


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp(dropout=0.5):
    return MLP(widths=(16, 16), dropout=dropout).build((4,), 3, generator())


def inputs(*shape):
    return torch.randn(*shape, generator=generator(1))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_rate_scale_and_independence(p):
    """Over n elements the share kept is binomial; so is the share where two masks both keep."""
    layers = nn.ModuleList([Dropout(p), Dropout(p)])
    seed_dropout(layers, 3)
    x, n = torch.ones(200_000), 200_000
    masks = [layers[0](x), layers[0](x), layers[1](x)]
    for mask in masks:
        kept = mask != 0
        assert abs(kept.double().mean().item() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / n)
        torch.testing.assert_close(mask[kept], torch.full_like(mask[kept], 1 / (1 - p)))
    for first, second in itertools.combinations(masks, 2):
        q = (1 - p) ** 2
        both = ((first != 0) & (second != 0)).double().mean().item()
        assert abs(both - q) < 5 * math.sqrt(q * (1 - q) / n)


def test_masks_depend_on_seed_and_position_alone():
    network, x = mlp(), inputs(8, 4)
    seed_dropout(network, 5)
    first, second = network(x), network(x)
    assert not torch.equal(first, second)  # another draw of the same sequence
    torch.manual_seed(1)
    before = torch.get_rng_state()
    seed_dropout(network, 5)
    assert torch.equal(network(x), first) and torch.equal(network(x), second)
    assert torch.equal(torch.get_rng_state(), before)
    fresh = mlp()
    seed_dropout(fresh, 5)
    assert torch.equal(fresh(x), first)
    for seed, part in ((6, 0), (5, 1)):
        seed_dropout(network, seed, part)
        assert not torch.equal(network(x), first)


def test_the_mask_of_the_forward_pass_is_that_of_the_gradient():
    x = inputs(6, 5).requires_grad_()
    layer = Dropout(0.4)
    seed_dropout(layer, 0)
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient * x, y)
    assert 0 < (gradient == 0).sum() < x.numel()


def test_without_a_seed_it_says_what_to_do_and_eval_mode_is_the_identity():
    network, x = mlp(), inputs(8, 4)
    with pytest.raises(RuntimeError, match=r"not seeded: call seed_dropout\(network, seed\)"):
        network(x)
    plain = mlp(dropout=0.0)
    plain.load_state_dict(dict(zip(plain.state_dict(), network.state_dict().values(), strict=True)))
    assert torch.equal(network.eval()(x), plain(x))
    assert Dropout(0.0)(x) is x


@pytest.mark.parametrize(
    ("model", "layers"),
    [(MLP(widths=(4, 3)), 2), (SimpleCNN(), 1), (WideResNet(depth=10, width=1), 3)],
)
def test_which_networks_have_dropout(model, layers):
    without = model.build((1, 8, 8), 2, generator())
    assert not has_dropout(without)
    assert not any(isinstance(m, Dropout) for m in without.modules())
    network = type(model)(**{**vars(model), "dropout": 0.25}).build((1, 8, 8), 2, generator())
    assert has_dropout(network)
    assert [m.p for m in network.modules() if isinstance(m, Dropout)] == [0.25] * layers
    # no number drawn for the parameters and no stored tensor is another
    assert all(map(torch.equal, without.state_dict().values(), network.state_dict().values()))
    seed_dropout(network, 0)
    assert network(inputs(2, 1, 8, 8)).isfinite().all()


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_impossible_probabilities(p):
    with pytest.raises(InvalidValue, match="dropout must be"):
        SimpleCNN(dropout=p)


def test_weight_scaling_is_the_geometric_mean_of_softmax_regressions():
    """softmax(E over all 2ⁿ masks of the logits), the renormalised geometric mean, is the prediction in eval mode."""
    p, n = 0.3, 5
    network = nn.Sequential(Dropout(p), nn.Linear(n, 3)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=generator())
    x = inputs(n).double()
    masks = torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)), dtype=torch.float64)
    weights = (1 - p) ** masks.sum(1) * p ** (n - masks.sum(1))
    logits = (x * masks / (1 - p)) @ network[1].weight.T + network[1].bias
    mean = torch.exp((weights[:, None] * logits.log_softmax(1)).sum(0))
    torch.testing.assert_close(mean / mean.sum(), network.eval()(x).softmax(0), rtol=1e-12, atol=0)

    # and in training mode the layer makes these 2ⁿ predictions with these probabilities (χ², 31 degrees of freedom)
    draws = 20_000
    seed_dropout(network, 0)
    seen = torch.cdist(network.train()(x.expand(draws, n)), logits)
    assert seen.min(1).values.max() < 1e-6
    counts = seen.argmin(1).bincount(minlength=2**n)
    expected = draws * weights
    assert ((counts - expected) ** 2 / expected).sum() < 31 + 5 * math.sqrt(2 * 31)


def test_compiled_it_has_the_same_masks_and_is_compiled_once():
    network, x = mlp(), inputs(8, 4)
    compiled = torch.compile(network, backend="aot_eager")

    def run(forward, seed):
        seed_dropout(network, seed)
        outputs = forward(x)
        return outputs, *torch.autograd.grad(outputs.square().sum(), list(network.parameters()))

    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(3):
            torch.testing.assert_close(run(compiled, seed), run(network, seed))


def test_vmap_over_examples():
    """The per-example gradients are those of the batch with its masks; torch refuses where that is not asked for."""
    network, x, labels = mlp(), inputs(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def loss(parameters, example, label):
        return nn.functional.cross_entropy(functional_call(network, parameters, example[None]), label[None])

    seed_dropout(network, 2)
    each = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")(parameters, x, labels)
    seed_dropout(network, 2)
    nn.functional.cross_entropy(network(x), labels).backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(each[name].mean(0), parameter.grad)
    with pytest.raises(RuntimeError, match="vmap: called random operation while in randomness error mode"):
        vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, labels)
