"""ResNets, wide ResNets and DenseNets against torchvision's, against formulas written out, and by their counts."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from tasks.convolutions import TwiceDifferentiable
from tasks.data._torchvision import torchvision_datasets
from tasks.errors import InvalidValue
from tasks.models import MLP, DenseNet, ResNet18, ResNet34, ResNet50, SimpleCNN, WideResNet
from tasks.models._layers import normalisation
from tasks.models.dropout import Dropout, seed_dropout

NORMALISATIONS = (nn.BatchNorm2d, nn.GroupNorm)
BC = partial(DenseNet, bottleneck=True, compression=0.5)
SMALL = [
    partial(ResNet18),
    partial(WideResNet, depth=10, width=2),
    partial(DenseNet, depth=10),
    partial(BC, depth=16),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def build(model, shape=(3, 8, 8), classes=10):
    """The network with normalisations that are not the identity."""
    network, numbers = model.build(shape, classes, generator()), generator(1)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, NORMALISATIONS):
                layer.weight.uniform_(0.5, 1.5, generator=numbers)
                layer.bias.normal_(0, 0.3, generator=numbers)
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.3, generator=numbers)
                layer.running_var.uniform_(0.5, 1.5, generator=numbers)
    return network


def images(*shape):
    return torch.randn(*shape, generator=generator(2))


@pytest.mark.parametrize(
    ("model", "ten", "hundred"),
    [
        (ResNet18, 11_173_962, 11_220_132),
        (ResNet34, 21_282_122, 21_328_292),
        (ResNet50, 23_520_842, 23_705_252),
        (WideResNet, 36_479_194, 36_536_884),
        (DenseNet, 6_979_642, 7_084_852),
        (BC, 769_162, 800_032),
    ],
)
def test_parameter_counts(model, ten, hundred):
    def count(norm, classes):
        with torch.device("meta"):
            network = model(norm=norm).module((3, 32, 32), classes)
        return sum(p.numel() for p in network.parameters()), network

    assert count("batch", 10)[0] == count("group", 10)[0] == ten
    total, network = count("batch", 100)
    assert total == hundred
    assert network(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 100)
    # without normalisation: a bias for each output of a convolution instead of two numbers for each channel normalised
    layers = list(network.modules())
    total -= sum(2 * layer.num_features for layer in layers if isinstance(layer, nn.BatchNorm2d))
    total += sum(layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d))
    assert count("none", 100)[0] == total


def test_number_of_groups():
    groups = {c: normalisation(c, "group").num_groups for c in (16, 28, 64, 100, 160, 640, 7)}
    assert groups == {16: 16, 28: 4, 64: 32, 100: 4, 160: 32, 640: 32, 7: 1}


def resnet(name, **options):
    from torchvision.models import resnet

    network = getattr(resnet, name)(num_classes=10, **options)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def densenet(layers):
    from torchvision.models.densenet import DenseNet

    network = DenseNet(12, (layers,) * 3, num_init_features=24, bn_size=4, num_classes=10)
    network.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        delattr(network.features, name)
    return network


@pytest.mark.parametrize(
    ("model", "theirs"),
    [
        (ResNet18(), partial(resnet, "resnet18")),
        (ResNet18(norm="group"), partial(resnet, "resnet18", norm_layer=partial(nn.GroupNorm, 32))),
        (ResNet34(), partial(resnet, "resnet34")),
        (ResNet50(), partial(resnet, "resnet50")),
        (BC(depth=22), partial(densenet, 3)),
    ],
)
def test_outputs_are_torchvisions(model, theirs):
    torchvision_datasets()  # makes torchvision importable beside any build of torch
    ours = build(model)
    with torch.device("meta"):
        theirs = theirs()
    state = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)
    theirs.load_state_dict({name: tensor.clone() for name, tensor in state}, assign=True)
    x = images(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))  # training mode: statistics of the batch
        for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(mine, other)
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def normalised(x, layer):
    """BatchNorm in eval mode, GroupNorm, or nothing, written out."""
    if isinstance(layer, nn.BatchNorm2d):
        mean, variance = layer.running_mean.view(-1, 1, 1), layer.running_var.view(-1, 1, 1)
    elif isinstance(layer, nn.GroupNorm):
        groups = x.unflatten(1, (layer.num_groups, -1))
        mean, variance = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), unbiased=False, keepdim=True)
        mean, variance = (s.expand_as(groups).flatten(1, 2) for s in (mean, variance))
    else:
        return x
    return (x - mean) / (variance + 1e-5).sqrt() * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)


def activated(x, layer):
    return normalised(x, layer).clamp(min=0)


def convolved(x, layer, stride=1):
    return F.conv2d(x, layer.weight, layer.bias, stride=stride, padding=layer.weight.shape[-1] // 2)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_wide_resnet_written_out(norm):
    """WRN-16-2: in each stage a block that changes the shape and one that does not."""
    network = build(WideResNet(depth=16, width=2, norm=norm)).eval()
    x = images(2, 3, 8, 8)
    y = convolved(x, network.conv)
    for number, block in enumerate(network.blocks):
        first = number % 2 == 0
        stride = 2 if number in (2, 4) else 1
        a = activated(y, block.norm1)
        b = activated(convolved(a, block.conv1, stride), block.norm2)
        y = convolved(b, block.conv2) + (convolved(a, block.shortcut, stride) if first else y)
        assert y.shape == (2, (32, 64, 128)[number // 2], *[(8, 4, 2)[number // 2]] * 2)
    expected = activated(y, network.norm).mean((2, 3)) @ network.linear.weight.T + network.linear.bias
    torch.testing.assert_close(network(x), expected)


def test_wide_resnet_drops_what_the_second_convolution_sees():
    network = build(WideResNet(depth=10, width=1, norm="none", dropout=0.4))
    x, block = images(2, 16, 8, 8), network.blocks[1]
    layer = Dropout(0.4)
    layer.seed(9)
    block.dropout.seed(9)
    a = x.clamp(min=0)
    inner = convolved(a, block.conv1, 2).clamp(min=0) * layer(torch.ones(2, 32, 4, 4))
    torch.testing.assert_close(block(x), convolved(inner, block.conv2) + convolved(a, block.shortcut, 2))


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_densenet_written_out(norm):
    """DenseNet of 10 layers without bottlenecks, which torchvision does not have; compression 0.7 rounds down."""
    network = build(DenseNet(depth=10, growth=5, compression=0.7, norm=norm)).eval()
    x = images(2, 3, 8, 8)
    y = convolved(x, network.conv)
    for number, layer in enumerate(network.blocks):
        new = convolved(activated(y, layer.norm), layer.conv)
        after = number in (2, 5)  # two layers each
        y = new.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)) if after else torch.cat((y, new), 1)
        assert y.shape[1] == (21, 26, 18, 23, 28, 19, 24, 29)[number]
    expected = activated(y, network.norm).mean((2, 3)) @ network.linear.weight.T + network.linear.bias
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("model", SMALL)
def test_small_images_and_channels_last(model, norm):
    """Digits are 1×8×8. With the channels innermost outputs and gradients are the same."""
    network = build(model(norm=norm), shape=(1, 8, 8)).double()

    def run(x):
        outputs = network(x)
        loss = F.cross_entropy(outputs, torch.tensor([0, 1, 2, 3]))
        return outputs, *torch.autograd.grad(loss, list(network.parameters()))

    x = images(4, 1, 8, 8).double()
    before = run(x)
    network.to(memory_format=torch.channels_last)
    after = run(x.contiguous(memory_format=torch.channels_last))
    assert all(g.abs().max() > 0 for g in before)
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("model", [model(norm=norm) for model in SMALL[1:] for norm in ("batch", "group", "none")])
def test_second_derivatives(model):
    """Hessian times vector against central differences of the gradient, in float64."""
    network = build(model, shape=(1, 8, 8)).double().eval()
    parameters = dict(network.named_parameters())
    x, labels = images(3, 1, 8, 8).double(), torch.tensor([0, 1, 2])
    numbers, size = generator(3), sum(p.numel() for p in parameters.values())
    v = {n: torch.randn(p.shape, generator=numbers, dtype=p.dtype) / size**0.5 for n, p in parameters.items()}

    def gradient(shift=0.0):
        moved = {name: (p + shift * v[name]).detach().requires_grad_() for name, p in parameters.items()}
        loss = F.cross_entropy(functional_call(network, moved, (x,)), labels)
        return torch.autograd.grad(loss, list(moved.values()))

    with TwiceDifferentiable():
        loss = F.cross_entropy(network(x), labels)
        first = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        product = torch.autograd.grad(first, list(parameters.values()), grad_outputs=list(v.values()))
    h = 1e-6  # too short for a ReLU to switch
    for found, up, down in zip(product, gradient(h), gradient(-h), strict=True):
        torch.testing.assert_close(found, (up - down) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "model",
    [
        *(model(norm=norm) for model in SMALL[1:] for norm in ("group", "none")),
        WideResNet(depth=10, width=1, norm="group", dropout=0.3),
        SimpleCNN(),
        SimpleCNN(dropout=0.3),
        MLP(widths=(9,)),
    ],
)
def test_per_example_gradients(model):
    """Through vmap, the gradients of single examples have the batch's gradient as their mean."""
    network = model.build((1, 8, 8), 10, generator())
    x, labels = images(3, 1, 8, 8), torch.tensor([0, 1, 2])
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def loss(parameters, example, label):
        return F.cross_entropy(functional_call(network, parameters, example[None]), label[None])

    seed_dropout(network, 0)
    each = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")(parameters, x, labels)
    seed_dropout(network, 0)
    F.cross_entropy(network(x), labels).backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(each[name].mean(0), parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", SMALL[1:])
def test_he_initialisation(model):
    """Convolutions normal with variance 2/(k² · outputs), biases 0, the dense layer's weights as by default."""
    network = model(initialisation="he", norm="none").build((3, 8, 8), 10, generator())
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    ratios = [w.weight * (w.kernel_size[0] ** 2 * w.out_channels / 2) ** 0.5 for w in convolutions]
    for z in ratios:
        assert abs(z.square().mean().item() - 1) < 5 * (2 / z.numel()) ** 0.5
    z = torch.cat([z.flatten() for z in ratios])
    assert abs(z.mean().item()) < 5 * z.numel() ** -0.5
    assert abs((z.abs() < 1).double().mean().item() - math.erf(0.5**0.5)) < 5 * (0.22 / z.numel()) ** 0.5
    assert not any(layer.bias.any() for layer in [*convolutions, network.linear])
    bound = network.linear.in_features**-0.5
    assert 0.9 * bound < network.linear.weight.abs().max() <= bound
    again = model(initialisation="he", norm="none").build((3, 8, 8), 10, generator())
    assert all(map(torch.equal, network.parameters(), again.parameters()))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: WideResNet(depth=27), "depth must be 6n [+] 4, not 27: take 28"),
        (lambda: WideResNet(width=0), "width must be at least 1"),
        (lambda: DenseNet(depth=99), "depth must be 3n [+] 4, not 99: take 100"),
        (lambda: DenseNet(depth=7, bottleneck=True), "depth must be with bottlenecks 6n [+] 4, not 7: take 10"),
        (lambda: DenseNet(compression=0), "compression must be more than 0"),
        (lambda: ResNet50(norm="layer"), "norm must be one of"),
        (lambda: DenseNet().build((1, 2, 2), 2, generator()), "DenseNet takes images of at least 4×4 pixels"),
        (lambda: WideResNet().build((64,), 2, generator()), "WideResNet takes images, not examples of shape"),
    ],
)
def test_impossible_values(make, words):
    with pytest.raises(InvalidValue, match=words):
        make()
