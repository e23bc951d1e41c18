import math

import pytest
import torch
from torch import nn

from tasks.errors import InvalidValue
from tasks.models import MLP, DenseNet, Linear, Model, ResNet18, SimpleCNN, WideResNet


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("model", "shape", "classes", "parameters"),
    [
        (SimpleCNN(), (3, 32, 32), 10, 183_242),
        (SimpleCNN(), (1, 8, 8), 10, (9 * 32 + 32) + (32 * 64 * 9 + 64) + (64 * 4 * 4 * 10 + 10)),
        (SimpleCNN(), (1, 28, 28), 10, (9 * 32 + 32) + (32 * 64 * 9 + 64) + (64 * 14 * 14 * 10 + 10)),
        (ResNet18(), (3, 32, 32), 10, 11_173_962),
        (ResNet18(), (3, 32, 32), 100, 11_220_132),
        (MLP(widths=(5, 3)), (2,), 2, (2 * 5 + 5) + (5 * 3 + 3) + (3 * 2 + 2)),
        (MLP(widths=(7,)), (1, 8, 8), 10, (64 * 7 + 7) + (7 * 10 + 10)),
    ],
)
def test_parameter_count_and_output(model, shape, classes, parameters):
    network = model.build(shape, classes, generator())
    assert count(network) == parameters
    outputs = network(torch.randn(2, *shape, generator=generator(1)))
    assert outputs.shape == (2, classes)
    assert torch.isfinite(outputs).all()


SPECIFICATIONS = [
    MLP(),
    SimpleCNN(),
    ResNet18(),
    WideResNet(depth=10, width=1, norm="none"),
    DenseNet(depth=10),
    Linear(),
]


@pytest.mark.parametrize("model", SPECIFICATIONS)
def test_initial_parameters_depend_on_the_generator_alone(model):
    def state(seed, global_seed):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        network = model.build((1, 8, 8), 10, generator(seed))
        assert torch.equal(before, torch.get_rng_state())
        return network.state_dict()

    first, again, other = state(0, 1), state(0, 2), state(1, 1)
    assert all(torch.equal(first[k], again[k]) for k in first)
    weights = [k for k in first if first[k].ndim > 1]
    assert not any(torch.equal(first[k], other[k]) for k in weights)


def test_initial_distribution_is_pytorchs_default():
    network = SimpleCNN().build((3, 32, 32), 10, generator())
    for layer in network:
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            continue
        shape = (layer.in_channels, layer.out_channels, 3) if isinstance(layer, nn.Conv2d) else None
        default = nn.Conv2d(*shape) if shape else nn.Linear(layer.in_features, layer.out_features)
        assert layer.weight.std().item() == pytest.approx(default.weight.std().item(), rel=0.1)
        assert layer.weight.abs().max().item() == pytest.approx(default.weight.abs().max().item(), rel=0.05)
        assert layer.bias.abs().max() <= layer.weight[0].numel() ** -0.5


def test_batch_norm_starts_as_the_identity():
    state = ResNet18().build((3, 8, 8), 10, generator()).state_dict()
    assert all((v == 1).all() for k, v in state.items() if k.endswith("running_var"))
    assert all((v == 0).all() for k, v in state.items() if k.endswith(("running_mean", "num_batches_tracked")))
    assert (state["norm.weight"] == 1).all()
    assert (state["norm.bias"] == 0).all()


def test_resnet_block_by_hand():
    """A block with changed shape: ReLU(BN(1×1 conv x) + BN(conv(ReLU(BN(conv x)))))."""
    network = ResNet18().build((3, 8, 8), 10, generator()).eval()
    block = network.blocks[2]
    x = torch.randn(2, 64, 8, 8, generator=generator(1))
    scale = 1 / math.sqrt(1 + 1e-5)  # fresh BatchNorm in eval mode
    conv = nn.functional.conv2d
    inner = torch.relu(conv(x, block.conv1.weight, stride=2, padding=1) * scale)
    expected = conv(inner, block.conv2.weight, padding=1) * scale
    expected = torch.relu(expected + conv(x, block.shortcut[0].weight, stride=2) * scale)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", lambda z: z.clamp(min=0)),
        ("tanh", torch.tanh),
        ("silu", lambda z: z / (1 + torch.exp(-z))),
        ("gelu", lambda z: z * (1 + torch.erf(z / math.sqrt(2))) / 2),
        ("sigmoid", lambda z: 1 / (1 + torch.exp(-z))),
        ("softplus", lambda z: torch.log1p(torch.exp(z))),
        ("identity", lambda z: z),
    ],
)
def test_activation(activation, function):
    network = MLP(widths=(6,), activation=activation).build((3,), 2, generator())
    x = torch.randn(5, 3, generator=generator(1))
    first, second = network[1], network[3]
    expected = function(x @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(network(x), expected)


def test_unknown_layer_says_what_to_define():
    class Odd(Model):
        def module(self, shape, classes):
            return nn.Bilinear(2, 2, 2)

    with pytest.raises(InvalidValue, match=r"Bilinear .* define initialise\(\)"):
        Odd().build((2,), 2, generator())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MLP(widths=()), "widths must be not empty"),
        (lambda: MLP(widths=(0,)), r"widths\[0\] must be at least 1"),
        (lambda: MLP(activation="relo"), "activation must be one of"),
        (lambda: SimpleCNN().build((2,), 2, generator()), "SimpleCNN takes images"),
        (lambda: SimpleCNN().build((1, 1, 1), 2, generator()), "SimpleCNN takes images"),
        (lambda: ResNet18().build((2,), 2, generator()), "ResNet18 takes images"),
    ],
)
def test_impossible_values(make, words):
    with pytest.raises(InvalidValue, match=words):
        make()
