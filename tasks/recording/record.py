"""What to record through a training, and the recorder that does it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from ..optimizers.optimizer import Gradients, Progress
from ..spec import AtLeast, MoreThan, Spec
from ..task import Curve

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

__all__ = ["CURVES", "METRICS", "Record", "Recorder", "results"]

METRICS: Mapping[str, str] = {
    "share_group_1": "share of coordinates with r = g⁺/g ≥ 1 (mean over the records of the last epoch)",
    "share_negative": "share of coordinates with r = g⁺/g < 0 (mean over the records of the last epoch)",
    "share_zero": "share of coordinates with g = 0 (mean over the records of the last epoch)",
    "ill_conditioning": "½η²gᵀHg / (ηgᵀg), η the step size (mean over the records of the last epoch)",
}
"""Scalar results of a training that records, in words."""


def _curve(title: str, ylabel: str, *y: str, dashed: tuple[str, ...] = (), log_y: bool = False) -> Curve:
    return Curve("record", "epoch", y, title, "epoch", ylabel, dashed=dashed, log_y=log_y)


CURVES = (
    _curve(
        "Coordinates with r = g⁺/g ≥ 1 (group 1) and with 0 ≤ r < 1 (group 2)",
        "share of coordinates",
        *("share_group_1", "share_group_2"),
    ),
    _curve(
        "Coordinates with r = g⁺/g < 0 (groups 3 and 4) and with g = 0",
        "share of coordinates",
        *("share_negative", "share_zero"),
    ),
    _curve("Norm of g⁺ over that of g", "‖g⁺‖/‖g‖", "norm_ratio"),
    _curve("Cosine between g⁺ and g", "cosine", "cosine"),
    _curve("Ill-conditioning: above 1, a step −ηg would raise the loss", "½η²gᵀHg / ηgᵀg", "ill_conditioning"),
    _curve("Sharpness along the gradient: L(w + ρ g/‖g‖) − L(w)", "rise of the loss", "sharpness", log_y=True),
    _curve("Norm of the weights", "‖w‖", "weight_norm"),
    _curve(
        "Loss on examples with wrong labels, and on the others (dashed)",
        "cross-entropy",
        *("noisy_loss", "clean_loss"),
        dashed=("clean_loss",),
    ),
    _curve(
        "Gradients of examples with wrong labels, and of the others (dashed)",
        "norm of the mean gradient",
        *("noisy_gradient_norm", "clean_gradient_norm"),
        dashed=("clean_gradient_norm",),
        log_y=True,
    ),
)
"""Pictures of `record.npz`; those of arrays that are not in it are left out."""


@dataclass(frozen=True)
class Record(Spec):
    """Look at the gradients and the loss every so many steps, and write what is seen to `record.npz`.

    The training itself is the same, bit for bit. What is recorded is about the batch of the step, at the
    weights w from which the step is taken, in training mode and with the regularisers' changes: g = ∇L(w),
    without weight decay, and g⁺ = ∇L(w + ε) as the optimizer's rule gets it; for an optimizer of one
    gradient (rho = 0 included) it is taken at ε = rho · g/‖g‖. With m-sharpness L, g and g⁺ are means over
    its groups of examples, of which each has dropout's masks and BatchNorm's statistics of its own.

    The groups of coordinates are those of r = g⁺/g (see `tasks.optimizers.ratio_groups`): 0: g = 0; 1: r ≥ 1;
    2: 0 ≤ r < 1; 3: r ≤ −1; 4: −1 < r < 0.

    Arrays, the first axis over the n recorded steps; NaN where there is nothing to speak of:

    - `step` (from 0), `epoch` (step over steps an epoch), `lr` (η, the step size of this step): (n,)
    - `loss` L(w), `loss_plus` L(w + ε), `sharpness` L(w + rho g/‖g‖) − L(w): (n,)
    - `gradient_norm` ‖g‖, `norm_ratio` ‖g⁺‖/‖g‖, `cosine` of g and g⁺, `weight_norm` ‖w‖: (n,)
    - `curvature` gᵀHg, with the exact Hessian H of L: (n,). Against ill-conditioning (Goodfellow et al. 2016,
      section 8.2.1): `first_order` ηgᵀg, `second_order` ½η²gᵀHg and `ill_conditioning`, the second over the
      first. Above 1, a plain step −ηg would raise the loss, to second order. (n,)
    - `group_share`, in groups 0 to 4: (n, 5); of each layer: `layer_share` (n, layers, 5), NaN for those that
      have no gradient, with the names of the parameters in `layer`: (layers,)
    - `weight_mean`, `weight_variance`, `gradient_mean`, `gradient_variance` over the coordinates of each group
      (variance: divisor is their number): (n, 5)
    - for pictures: `share_group_1`, `share_group_2`, `share_negative` (groups 3 and 4), `share_zero`: (n,)
    - with label noise, over the examples of the batch with the true label, and over those with another, each
      with the label it is trained on: `clean_loss`, `noisy_loss` (mean cross-entropy), `clean_accuracy`,
      `noisy_accuracy`, `clean_gradient_norm`, `noisy_gradient_norm` (of the gradient of that mean): (n,). NaN with
      targets that are mixed.

    Attributes:
        every: steps from one record to the next; the first step of the training is recorded.
        rho: radius of `sharpness`, and of g⁺ where the optimizer has none.
        curvature: record gᵀHg and what follows from it; more than half of what a record costs for SGD.
    """

    every: Annotated[int, AtLeast(1)] = 50
    rho: Annotated[float, MoreThan(0)] = 0.05
    curvature: bool = True


class Recorder:
    """Records one training.

    Args:
        spec: what to record.
        network: that is trained.
        noisy: which examples of the training set have a label that is not the true one, bool of shape (n,);
            None if none has.
        log: takes a sentence for the task's log.
    """

    def __init__(
        self,
        spec: Record,
        network: nn.Module,
        noisy: Tensor | None = None,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.spec, self.network, self.noisy = spec, network, noisy
        self._log = log
        self._names = {p: name for name, p in network.named_parameters() if p.requires_grad}
        self._traceable: bool | None = None  # whether the curvature can be had by forward differentiation
        self._progress = Progress()
        self._seen: list[dict[str, Any]] = []  # on the device: nothing here waits for it
        self._kept: dict[str, np.ndarray] = {}  # the same by name, on the CPU

    def at(self, progress: Progress) -> Callable[[Gradients], None] | None:
        """What the stepper is to call with what it finds at this step; None if it is not to be recorded."""
        self._progress = progress
        return self._observe if progress.step % self.spec.every == 0 else None

    def stepped(self, lr: float) -> None:
        """Take note of the step size of a step that was recorded; of others it does not matter."""
        if self._seen and "lr" not in self._seen[-1]:
            self._seen[-1]["lr"] = lr

    def _observe(self, found: Gradients) -> None:
        import torch

        from ..evaluation import arithmetic
        from . import measures

        with arithmetic("float32", deterministic=torch.backends.cudnn.deterministic), untouched(self.network):
            batch = copy.copy(found.batch)  # whose passes leave no traces in the step's own
            progress = self._progress
            row: dict[str, Any] = {"step": progress.step, "epoch": progress.step / progress.per_epoch}
            row["loss"] = found.loss.clone()  # the memory of a CUDA graph is taken back
            if found.g_plus is None:
                loss_plus, g_plus = measures.beside(batch, found.parameters, found.g, self.spec.rho)
                row["sharpness"] = loss_plus - found.loss
            else:
                assert found.loss_plus is not None
                loss_plus, g_plus = found.loss_plus, found.g_plus
                row["sharpness"] = measures.rise(batch, found.parameters, found.g, self.spec.rho) - found.loss
            row["loss_plus"] = loss_plus.clone()
            counts, row["sums"], row["products"] = measures.moments(
                [p.detach() for p in found.parameters], found.g, g_plus
            )
            row["counts"] = self._by_name(found.parameters, counts)
            if self.spec.curvature:
                row["curvature"] = self._curvature(batch, found)
            if self.noisy is not None and batch.rows is not None and batch.targets.dim() == 1:
                row |= measures.clean_and_noisy(batch, found, self.noisy.index_select(0, batch.rows))
        self._seen.append(row)

    def _by_name(self, parameters: list[nn.Parameter], counts: Tensor) -> Tensor:
        """Rows for all trainable parameters, from rows for those that have a gradient."""
        import torch

        if len(parameters) == len(self._names):
            return counts
        full = torch.zeros(len(self._names), counts.shape[1], dtype=counts.dtype, device=counts.device)
        place = {p: i for i, p in enumerate(self._names)}
        full[[place[p] for p in parameters]] = counts
        return full

    def _curvature(self, batch: Any, found: Gradients) -> Tensor:
        from . import curvature

        if self._traceable is None:
            problem = curvature.untraceable(batch, found.parameters, found.g)
            self._traceable = problem is None
            if problem is not None:
                self._log(f"gᵀHg by two backward passes, which take longer, because {problem}")
        method = curvature.by_forward_mode if self._traceable else curvature.by_two_backwards
        return method(batch, found.parameters, found.g)

    # What it leaves

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the record depends on."""
        self._keep()
        return {"kept": self._kept, "traceable": self._traceable}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seen = []
        self._kept, self._traceable = state["kept"], state["traceable"]

    def _keep(self) -> None:
        """Bring what was seen to the CPU, all at once."""
        import numpy as np
        import torch

        for name in self._seen[0] if self._seen else ():
            values = [row.get(name, math.nan) for row in self._seen]
            if isinstance(values[0], torch.Tensor):
                new = torch.stack(values).double().cpu().numpy()
            else:
                new = np.array(values, dtype=np.float64)
            self._kept[name] = np.concatenate([self._kept[name], new]) if name in self._kept else new
        self._seen = []

    def arrays(self) -> dict[str, np.ndarray]:
        """The record, as described in `Record`."""
        import numpy as np

        self._keep()
        kept = dict(self._kept)
        layers = len(self._names)
        counts = kept.pop("counts", np.zeros((0, layers, 5)))
        in_group = counts.sum(1)
        w, g, w2, g2 = kept.pop("sums", np.zeros((0, 4, 5))).transpose(1, 0, 2)
        plus2, product = kept.pop("products", np.zeros((0, 2))).T
        norm, norm_plus = np.sqrt(g2.sum(1)), np.sqrt(plus2)
        found: dict[str, Any] = {"layer": np.array(list(self._names.values()), dtype=np.str_), **kept}
        found["step"] = kept["step"].astype(np.int64)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            found |= {"gradient_norm": norm, "weight_norm": np.sqrt(w2.sum(1))}
            found |= {"norm_ratio": norm_plus / norm, "cosine": product / (norm * norm_plus)}
            # Of gradients that are not finite there are no groups.
            counts[~np.isfinite(norm + norm_plus)] = in_group[~np.isfinite(norm + norm_plus)] = np.nan
            found["group_share"] = share = in_group / in_group.sum(1, keepdims=True)
            found["layer_share"] = counts / counts.sum(2, keepdims=True)
            for name, first, second in (("weight", w, w2), ("gradient", g, g2)):
                found[f"{name}_mean"] = mean = first / in_group
                found[f"{name}_variance"] = np.maximum(second / in_group - mean**2, 0)
            if "curvature" in found:
                found["first_order"] = found["lr"] * norm**2
                found["second_order"] = found["lr"] ** 2 / 2 * found["curvature"]
                found["ill_conditioning"] = found["second_order"] / found["first_order"]
        found |= {"share_zero": share[:, 0], "share_group_1": share[:, 1], "share_group_2": share[:, 2]}
        found["share_negative"] = share[:, 3] + share[:, 4]
        return found


def results(arrays: Mapping[str, Any]) -> dict[str, float | None]:
    """The scalars in METRICS from a record's arrays; None where there is no finite value.

    The last epoch is the last one with a record.
    """
    import numpy as np

    found: dict[str, float | None] = dict.fromkeys(METRICS)
    epoch = np.floor(arrays["epoch"])
    for name in found if len(epoch) else ():
        mean = float(arrays[name][epoch == epoch[-1]].mean()) if name in arrays else math.nan
        found[name] = mean if math.isfinite(mean) else None
    return found


@contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Afterwards torch's global random state and the network's gradients and buffers are what they were, bit for bit.

    BatchNorm's running statistics, which are such buffers, do not move meanwhile.
    """
    import torch

    from ..batchnorm import frozen_statistics

    gradients = [(p, p.grad) for p in network.parameters()]
    buffers = [(b, b.clone()) for b in network.buffers()]
    devices = sorted({p.device.index for p, _ in gradients if p.device.type == "cuda"})
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices), frozen_statistics(network):
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
