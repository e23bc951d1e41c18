"""PyTorch's default initialisation, and He's, with random numbers from an explicit generator."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import InvalidValue

__all__ = ["initialise"]


def initialise(network: nn.Module, generator: torch.Generator, he: bool = False) -> None:
    """Set all parameters and buffers in place, layer by layer in the order of `network.modules()`.

    Weights and biases of dense layers and convolutions are uniform on ±1/√fan_in: what
    `kaiming_uniform_(a=√5)`, PyTorch's default, amounts to. Normalisation layers start as the identity.

    With `he` the weights of convolutions are normal with variance 2/fan_out, fan_out = kernel size · output
    channels, as in the code published with ResNet, WRN and DenseNet, and all biases are 0.

    Raises:
        InvalidValue: a layer of another kind has parameters or buffers of its own.
    """
    for layer in network.modules():
        if not [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]:
            continue
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            bound = layer.weight[0].numel() ** -0.5
            for name, parameter in layer.named_parameters(recurse=False):
                if he and name == "bias":
                    parameter.zero_()
                elif he and not isinstance(layer, nn.Linear):
                    parameter.normal_(0, (2 / parameter[:, 0].numel()) ** 0.5, generator=generator)
                else:
                    parameter.uniform_(-bound, bound, generator=generator)
        elif isinstance(layer, (_NormBase, nn.LayerNorm, nn.GroupNorm)):
            layer.reset_parameters()  # ones and zeros: draws nothing
        else:
            raise InvalidValue(
                f"{type(layer).__name__} has no known default initialisation: define initialise() in its model."
            )
