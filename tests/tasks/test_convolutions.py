"""Twice differentiable convolutions against PyTorch's own."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from tasks.convolutions import TwiceDifferentiable, _Output

GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (2, 1), "padding": (0, 2), "dilation": 2},
    {"groups": 2, "padding": 1},
    {"padding": "same"},
]


@pytest.mark.parametrize("options", GEOMETRIES)
def test_values_and_derivatives_are_those_of_pytorch(options):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3, **options).double()
    head = nn.Linear(1, 1).double()
    x = torch.randn(2, 2, 7, 6, dtype=torch.float64)
    parameters = [*layer.parameters(), *head.parameters()]
    v = [torch.randn_like(p) for p in parameters]

    def product(mode):
        with mode:
            out = layer(torch.tanh(layer(x)[:, :2]) if options.get("padding") == "same" else x)
        loss = torch.sin(head(out.flatten()[:, None])).pow(2).sum()
        first = torch.autograd.grad(loss, parameters, create_graph=True)
        return [loss, *first, *torch.autograd.grad(first, parameters, grad_outputs=v)]

    for mine, theirs in zip(product(TwiceDifferentiable()), product(nullcontext()), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("geometry", [((1, 1), (1, 1), (1, 1), 1), ((2, 1), (0, 1), (1, 2), 2)])
def test_first_and_second_derivatives_against_differences(geometry):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 4 // geometry[3], 3, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, w: _Output.apply(x, w, geometry), (x, w))
    assert gradgradcheck(lambda x, w: _Output.apply(x, w, geometry), (x, w))


def test_only_inside_the_context():
    x, w = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 3, 3, requires_grad=True)
    with TwiceDifferentiable():
        assert "Output" in F.conv2d(x, w).grad_fn.name()
    assert "Convolution" in F.conv2d(x, w).grad_fn.name()
