"""What is measured at a recorded step: groups of coordinates, the loss nearby, clean and noisy examples.

Nothing here waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..minibatch import Minibatch
from ..optimizers.groups import moved, taken
from ..optimizers.optimizer import Gradients
from ..optimizers.sharpness_aware import fraction

__all__ = ["beside", "clean_and_noisy", "moments", "rise"]

CHUNK = {"cpu": 1 << 14, "cuda": 1 << 22}  # coordinates at once, by type of device: on a CPU they stay in its cache


def beside(
    batch: Minibatch, parameters: list[nn.Parameter], g: list[Tensor], rho: float
) -> tuple[Tensor, list[Tensor]]:
    """L and ∇L at w + ρ g/‖g‖; the parameters have no .grad, before and afterwards."""
    with moved(batch, parameters, _along(g, rho)):
        loss, _ = batch.backward()
    return loss, taken(parameters)


@torch.no_grad()
def rise(batch: Minibatch, parameters: list[nn.Parameter], g: list[Tensor], rho: float) -> Tensor:
    """L at w + ρ g/‖g‖."""
    with moved(batch, parameters, _along(g, rho)):
        losses = [part.loss(part.outputs()) * (len(part) / len(batch)) for part in batch.parts()]
    return torch.stack(losses).sum()


def _along(g: list[Tensor], rho: float) -> list[Tensor]:
    return list(torch._foreach_mul(g, fraction(rho, torch.nn.utils.get_total_norm(g))))


@torch.no_grad()
def moments(w: list[Tensor], g: list[Tensor], g_plus: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the coordinates in each group of r = g⁺/g, in one pass over them.

    Float32 within a chunk, where counts are exact; float64 beyond it.

    Returns:
        how many coordinates of each tensor are in groups 0 to 4: float64 of shape (tensors, 5);
        Σw, Σg, Σw² and Σg² over each group: float64 of shape (4, 5);
        Σg⁺² and Σg·g⁺ over all coordinates: float64 of shape (2,).
    """
    size = min(CHUNK.get(g[0].device.type, CHUNK["cuda"]), max(t.numel() for t in g))
    kinds, values, spare = (g[0].new_empty(rows, size) for rows in (5, 4, 3))
    kinds[0] = 1
    counts, sums, products = [], [], []  # of each chunk
    for tensors in zip(w, g, g_plus, strict=True):
        for w_, g_, plus in zip(*(_flat(t, tensors[1]).split(size) for t in tensors), strict=True):
            n = len(g_)
            k, v, s = (kinds, values, spare) if n == size else (kinds[:, :n], values[:, :n], spare[:, :n])
            _tell(g_, plus, k, s)
            v[0].copy_(w_)
            v[1].copy_(g_)
            torch.mul(v[:2], v[:2], out=v[2:])
            counts.append(k.sum(1))
            sums.append(v @ k.T)
            products.append(torch.stack([plus.dot(plus), plus.dot(g_)]))
    inside, total = _by_group(torch.stack(counts).double()), _by_group(torch.stack(sums).double())
    total.mul_((inside > 0)[:, None])  # differences of roundings, where there is nothing
    chunks = [-(-t.numel() // size) for t in g]
    inside = torch.stack([part.sum(0) for part in inside.split(chunks)])
    return inside, total.sum(0), torch.stack(products).sum(0, dtype=torch.float64)


def _tell(g: Tensor, g_plus: Tensor, kinds: Tensor, spare: Tensor) -> None:
    """Write ones to rows 1 to 4 of `kinds`, (5, n), where g = 0, r ≥ 1, r ≥ 0, r > −1, and zeros elsewhere.

    The second and third rows take in where g = 0. As floats, since conversions between them and truth values take
    longer than the rest; and no row for each group, which would take twice as many operations.
    """
    _, zero, grown, kept, above = kinds
    sign, q, a = spare
    torch.sign(g, out=sign)
    torch.mul(g_plus, sign, out=q)
    torch.mul(g, sign, out=a)
    torch.eq(g, 0, out=zero)
    torch.ge(q, a, out=grown)
    torch.ge(q, 0, out=kept)
    torch.gt(q.add_(a), 0, out=above)  # the sign of a sum is exact


def _by_group(sums: Tensor) -> Tensor:
    """Sums over groups 0 to 4 from those over all coordinates and over the rows of `_tell`, (…, 5)."""
    everywhere, zero, grown, kept, above = sums.unbind(-1)
    turned = above + zero - kept
    return torch.stack([zero, grown - zero, kept - grown, everywhere - above - zero, turned], dim=-1)


def _flat(t: Tensor, like: Tensor) -> Tensor:
    """All elements, in the order in which those of `like` lie in memory: then nothing is copied."""
    if like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last):
        t = t.permute(0, 2, 3, 1)
    return t.reshape(-1)


def clean_and_noisy(batch: Minibatch, found: Gradients, noisy: Tensor) -> dict[str, Tensor]:
    """Mean cross-entropy, accuracy and norm of the gradient, over the examples with the true label and over the others.

    The gradients are those through the passes that made g. They add up to g, which spares one of them where
    there are no penalties.

    Args:
        noisy: whether the label is not the true one, bool of shape (n,).
    """
    flags = torch.stack([~noisy, noisy]).to(found.outputs.dtype)
    number = flags.sum(1)
    losses = batch.losses(found.outputs)
    hits = (found.outputs.argmax(1) == batch.targets).to(flags.dtype)
    clean_loss, noisy_loss = (flags @ losses / number).unbind()
    clean_accuracy, noisy_accuracy = (flags @ hits / number).unbind()

    parts, done = [], 0
    wanted = flags if batch.penalties else flags[1:]
    for part in batch.parts():
        own = wanted[:, done : done + len(part)]
        done += len(part)
        sums = own @ part.losses(part.outputs())
        parts.append([_gradient(s, found.parameters, keep=i + 1 < len(sums)) for i, s in enumerate(sums)])
    gradients = [
        [torch.stack(ts).sum(0) if len(ts) > 1 else ts[0] for ts in zip(*of, strict=True)]
        for of in zip(*parts, strict=True)
    ]
    if not batch.penalties:
        rest = torch._foreach_mul(found.g, len(batch))
        torch._foreach_sub_(rest, gradients[0])
        gradients.insert(0, list(rest))
    norms = torch.stack([torch.nn.utils.get_total_norm(g) for g in gradients]) / number
    return {
        "clean_loss": clean_loss,
        "noisy_loss": noisy_loss,
        "clean_accuracy": clean_accuracy,
        "noisy_accuracy": noisy_accuracy,
        "clean_gradient_norm": norms[0],
        "noisy_gradient_norm": norms[1],
    }


def _gradient(loss: Tensor, parameters: list[nn.Parameter], *, keep: bool) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, parameters, retain_graph=keep, materialize_grads=True)
