"""The two widespread implementations of SAM and ASAM, as baselines: written anew from what is public of them.

What costs time is as in theirs: a Python loop over the parameters, the norm of the norms of each, ε made and added in
place, w from a copy (davda54/sam) or by subtracting ε again (SamsungLabs/ASAM), and `torch.optim.SGD` as it comes.
Each is wrapped as an `Optimizer` of this project, so that the loop around it is the same as ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tasks.minibatch import Minibatch
from tasks.optimizers.optimizer import START, Gradients, Optimizer, Progress, Stepper

__all__ = ["PeerASAM", "PeerSAM"]


class TwoStepSAM(torch.optim.Optimizer):
    """SAM as an optimizer around another: `first_step` climbs to w + ε, `second_step` returns to w and steps.

    Args:
        kwargs: of the base optimizer.
    """

    def __init__(self, parameters: Any, base: type[torch.optim.Optimizer], rho: float, **kwargs: Any) -> None:
        super().__init__(parameters, {"rho": rho, **kwargs})
        self.base = base(self.param_groups, **kwargs)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        used = [(p, group["rho"]) for group in self.param_groups for p in group["params"] if p.grad is not None]
        device = used[0][0].device
        norm = torch.stack([p.grad.norm().to(device) for p, _ in used]).norm()
        for p, rho in used:
            self.state[p]["w"] = p.detach().clone()
            p.add_(p.grad * (rho / (norm + 1e-12)).to(p))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = self.state[p]["w"]
        self.base.step()


class Minimizer:
    """ASAM beside an optimizer: `ascent_step` climbs to w + ε, `descent_step` subtracts ε and steps."""

    def __init__(self, optimizer: torch.optim.Optimizer, network: nn.Module, rho: float, eta: float) -> None:
        self.optimizer, self.network, self.rho, self.eta = optimizer, network, rho, eta
        self.kept: dict[nn.Parameter, Tensor] = {}

    @torch.no_grad()
    def ascent_step(self) -> None:
        used = [(name, p) for name, p in self.network.named_parameters() if p.grad is not None]
        norms = []
        for name, p in used:
            kept = self.kept.setdefault(p, torch.empty_like(p))
            if "weight" in name:
                kept.copy_(p).abs_().add_(self.eta)
                p.grad.mul_(kept)
            norms.append(p.grad.norm())
        norm = torch.stack(norms).norm() + 1e-16
        for name, p in used:
            kept = self.kept[p]
            if "weight" in name:
                p.grad.mul_(kept)
            kept.copy_(p.grad).mul_(self.rho / norm)
            p.add_(kept)
        self.optimizer.zero_grad()

    @torch.no_grad()
    def descent_step(self) -> None:
        for p in self.network.parameters():
            if p.grad is not None:
                p.sub_(self.kept[p])
        self.optimizer.step()


class PeerStepper(Stepper):
    """Both halves of a step, with a peer's code: between them the parameters are at w + ε."""

    def __init__(
        self, network: nn.Module, base: torch.optim.Optimizer, climb: Callable[[], None], descend: Callable[[], None]
    ) -> None:
        super().__init__(network, base)
        self.climb, self.descend = climb, descend
        self.batchnorms = [module for module in network.modules() if isinstance(module, _BatchNorm)]

    def gradient(
        self,
        batch: Minibatch,
        progress: Progress = START,
        observe: Callable[[Gradients], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        self.base.zero_grad()
        loss, outputs = batch.backward()
        self.climb()
        momenta = [module.momentum for module in self.batchnorms]
        for module in self.batchnorms:
            module.momentum = 0.0  # how davda54's example keeps the running statistics
        batch.backward()
        for module, momentum in zip(self.batchnorms, momenta, strict=True):
            module.momentum = momentum
        return loss, outputs

    def step(self, lr_factor: float = 1.0) -> None:
        self.descend()


@dataclass(frozen=True)
class PeerSAM(Optimizer):
    """SAM over SGD in the manner of davda54/sam."""

    lr: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0
    rho: float = 0.05

    def build(self, network: nn.Module) -> Stepper:
        fields = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}
        peer = TwoStepSAM(network.parameters(), torch.optim.SGD, self.rho, **fields)
        return PeerStepper(network, peer.base, peer.first_step, peer.second_step)


@dataclass(frozen=True)
class PeerASAM(Optimizer):
    """ASAM over SGD in the manner of SamsungLabs/ASAM."""

    lr: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0
    rho: float = 0.5
    eta: float = 0.01

    def build(self, network: nn.Module) -> Stepper:
        base = torch.optim.SGD(network.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        peer = Minimizer(base, network, self.rho, self.eta)
        return PeerStepper(network, base, peer.ascent_step, peer.descent_step)
