import pytest
import torch
from torch.nn import functional as F

from tasks.errors import InvalidValue
from tasks.models import Linear, TwoLayerLinear


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_outputs():
    x = torch.randn(5, 1, 2, 3, generator=generator(1))
    flat = x.reshape(5, 6)
    w, b = (network := Linear().build((1, 2, 3), 4, generator())).parameters()
    torch.testing.assert_close(network(x), flat @ w.T + b)
    assert (w.shape, b.shape) == ((4, 6), (4,))
    (w,) = (network := Linear(bias=False).build((1, 2, 3), 4, generator())).parameters()
    torch.testing.assert_close(network(x), flat @ w.T)
    first, second = (network := TwoLayerLinear(width=7).build((1, 2, 3), 4, generator())).parameters()
    torch.testing.assert_close(network(x), flat @ first.T @ second.T)
    assert (first.shape, second.shape) == ((7, 6), (4, 7))


@pytest.mark.parametrize("model", [Linear(bias=False, output="logistic"), TwoLayerLinear(width=7, output="logistic")])
def test_logistic_output(model):
    """The cross-entropy is log(1 + exp(−tf)), and ∂/∂x of it −t σ(−tf) times the product of the weights."""
    network = model.build((6,), 2, generator()).double()
    weights = [p.detach() for p in network.parameters()]
    product = weights[0] if len(weights) == 1 else weights[1] @ weights[0]
    assert product.shape == (1, 6)
    x = (10 * torch.randn(5, 6, generator=generator(1), dtype=torch.float64)).requires_grad_()
    labels = torch.tensor([0, 1, 1, 0, 1])
    t = 2.0 * labels - 1
    f = (x @ product.T).squeeze(1)
    losses = F.cross_entropy(network(x), labels, reduction="none")
    torch.testing.assert_close(losses, torch.log1p(torch.exp(-t * f)))
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    torch.testing.assert_close(gradient, (-t / (1 + torch.exp(t * f)))[:, None] * product)


def test_logistic_is_for_two_classes():
    for model in (Linear(output="logistic"), TwoLayerLinear(output="logistic")):
        with pytest.raises(InvalidValue, match="output 'logistic' is for 2 classes, not 3: take 'softmax'"):
            model.build((6,), 3, generator())
    with pytest.raises(InvalidValue, match="width must be at least 1"):
        TwoLayerLinear(width=0)
