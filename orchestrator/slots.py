"""Slots: what a task holds while it runs. Knows no Ray."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import InvalidValue, nearest

from .errors import ClusterError

RESOURCES = {"cpu": "CPU", "gpu": "GPU", "memory": "memory"}
"""Ray's names of the amounts that a slot may ask for."""

KNOWN = (*RESOURCES, "accelerator", "labels")

FINEST = 1e-4
"""Ray counts resources in ten thousandths."""

ACCELERATOR = "accelerator_type:"
"""A node has one of the resource of this name and "H100", or whatever its accelerators are."""

NODE_ID = "ray.io/node-id"

_WORD = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL = re.compile(rf"([A-Za-z0-9_.-]+/)?{_WORD}")
_WANTED = re.compile(rf"!?{_WORD}|!?in\({_WORD}(, ?{_WORD})*\)")


@dataclass(frozen=True)
class NodeOffer:
    """What a live node has.

    Attributes:
        id: Ray's identifier.
        host: its host name.
        resources: totals in Ray's names.
        labels: Ray's, those that it gives every node ("ray.io/…") included.
    """

    id: str
    host: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeKind:
    """A kind of node that a cluster may have, as its cluster file says.

    Attributes:
        name: of the node type.
        resources: of one node, in Ray's names.
        least: how many there are always; `most`: how many there may be.
        labels: of each node.
        dollars: price of one node for an hour; None if none is stated.
        head: whether the driver runs there.
    """

    name: str
    resources: Mapping[str, float]
    least: int
    most: int
    labels: Mapping[str, str] = field(default_factory=dict)
    dollars: float | None = None
    head: bool = False


Slot = Mapping[str, Any]
"""Amounts by name ("cpu", "gpu", "memory"), "accelerator" (a name) and "labels" (values by name)."""

Shape = tuple[tuple[str, Any], ...]


def shape_of(slot: Slot) -> Shape:
    """A slot as a value that can be compared and hashed."""
    return tuple(sorted((k, tuple(sorted(v.items())) if k == "labels" else v) for k, v in slot.items()))


def slot_of(shape: Shape) -> dict[str, Any]:
    """The slot of a shape, see `shape_of`."""
    return {k: dict(v) if k == "labels" else v for k, v in shape}


def in_words(slot: Slot) -> str:
    """ "cpu 1, gpu 0.25, accelerator H100, labels pool=a"."""
    said = [f"{k} {slot[k]:g}" for k in RESOURCES if slot.get(k)]
    said += [f"accelerator {slot['accelerator']}"] if slot.get("accelerator") else []
    labels = ", ".join(f"{k}={v}" for k, v in slot.get("labels", {}).items())
    return ", ".join([*said, f"labels {labels}"] if labels else said)


def checked_slot(slot: Any, where: str) -> dict[str, Any]:
    """A slot with checked names and values, `cpu` always stated."""
    if not isinstance(slot, Mapping):
        raise InvalidValue(f"Sweep: {where} must be a mapping such as {{'cpu': 1}}, not {slot!r}.")
    checked: dict[str, Any] = {"cpu": 1.0}
    for name, value in slot.items():
        if name not in KNOWN:
            known = f"{', '.join(KNOWN[:-1])} and {KNOWN[-1]}"
            raise InvalidValue(f"Sweep: {where} names {name!r}{nearest(name, KNOWN)}; known are {known}.")
        if name == "accelerator":
            if not isinstance(value, str) or not re.fullmatch(_WORD, value):
                raise InvalidValue(f"Sweep: {where}['accelerator'] must be a name such as 'H100', not {value!r}.")
            checked[name] = value
        elif name == "labels":
            checked[name] = _checked_labels(value, where)
        else:
            checked[name] = _checked_amount(value, name, where)
    if not any(checked.get(name) for name in RESOURCES):
        raise InvalidValue(f"Sweep: {where} holds no resource at all: give it some, such as {{'cpu': 1}}.")
    if checked.get("accelerator") and not checked.get("gpu"):
        raise InvalidValue(f"Sweep: {where} names an accelerator but holds no GPU: add 'gpu': 1, or a share of one.")
    return {k: v for k, v in checked.items() if v != {}}


def _checked_amount(amount: Any, name: str, where: str) -> float:
    if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 <= amount < float("inf"):
        raise InvalidValue(f"Sweep: {where}[{name!r}] must be a number of at least 0, not {amount!r}.")
    if 0 < amount < FINEST:
        raise InvalidValue(f"Sweep: {where}[{name!r}] must be 0 or at least {FINEST}, not {amount!r}.")
    if name == "gpu" and amount > 1 and amount != int(amount):
        raise InvalidValue(f"Sweep: {where}['gpu'] must be whole above 1, not {amount!r}: only one GPU is shared.")
    return float(amount)


def _checked_labels(labels: Any, where: str) -> dict[str, str]:
    if not isinstance(labels, Mapping):
        raise InvalidValue(f"Sweep: {where}['labels'] must be a mapping such as {{'pool': 'a'}}, not {labels!r}.")
    for name, value in labels.items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name):
            raise InvalidValue(f"Sweep: {where}['labels'] names {name!r}, which cannot be a label of a node.")
        if not isinstance(value, str) or not _WANTED.fullmatch(value):
            raise InvalidValue(
                f"Sweep: {where}['labels'][{name!r}] must be 'a', '!a', 'in(a, b)' or '!in(a, b)' "
                f"(letters, digits, -, _ and .), not {value!r}."
            )
    return dict(labels)


def default_slot(gpus: bool) -> dict[str, Any]:
    """What a task holds where the sweep does not say."""
    return {"cpu": 1.0, "gpu": 0.25} if gpus else {"cpu": 1.0}


def ray_resources(slot: Slot) -> dict[str, float]:
    """A slot in Ray's names, without what is zero; its labels are `label_selector`'s."""
    wanted = {ray: float(slot[name]) for name, ray in RESOURCES.items() if slot.get(name)}
    if slot.get("accelerator"):
        wanted[f"{ACCELERATOR}{slot['accelerator']}"] = 0.001
    return wanted


def label_selector(slot: Slot, without: Collection[str] = ()) -> dict[str, str]:
    """Ray's selector for the nodes that a slot admits.

    Args:
        without: identifiers of nodes to leave out.
    """
    selector = dict(slot.get("labels", {}))
    if without:
        selector[NODE_ID] = f"!in({','.join(sorted(without))})"
    return selector


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels is admitted; to "!a" one that lacks the label is."""
    for name, wanted in selector.items():
        values = wanted.removeprefix("!").removeprefix("in(").removesuffix(")").replace(" ", "").split(",")
        if (labels.get(name) in values) == wanted.startswith("!"):
            return False
    return True


def suits(slot: Slot, node: NodeOffer | NodeKind) -> bool:
    """Whether the node, empty, has what the slot asks for."""
    return selects(slot.get("labels", {}), node.labels) and all(
        node.resources.get(name, 0.0) >= amount for name, amount in ray_resources(slot).items()
    )


def check_feasible(
    wanted: Mapping[str, Slot], nodes: Sequence[NodeOffer], kinds: Sequence[NodeKind] | None = None
) -> None:
    """Raise ClusterError unless every slot fits on a node that is there, or that the autoscaler may add.

    Args:
        wanted: slots by the words for the tasks that want them ("Train and 3 others").
        kinds: what the autoscaler may add; None without one.
    """
    may_be: list[NodeOffer | NodeKind] = [*nodes, *(kind for kind in kinds or () if kind.most > 0)]
    for tasks, slot in wanted.items():
        if not any(suits(slot, node) for node in may_be):
            raise ClusterError(f"{_lacking(tasks, slot, may_be)}{'' if kinds is None else ' (nor may one be added)'}.")


def _lacking(tasks: str, slot: Slot, nodes: Sequence[NodeOffer | NodeKind]) -> str:
    """What no node has of what the slot asks for, and what to do about it; without the full stop."""
    asked = f"A slot of {tasks} asks for"
    for name, ray in RESOURCES.items():
        amount, most = slot.get(name, 0.0), max((node.resources.get(ray, 0.0) for node in nodes), default=0.0)
        if most < amount:
            remedy = f"lower it, for example --set 'slot={{\"{name if most else 'cpu'}\": {most or 1:g}}}'"
            return f"{asked} {amount:g} {ray}, but no node has more than {most:g}: {remedy}"
    if slot.get("accelerator"):
        has = {r.removeprefix(ACCELERATOR) for n in nodes for r in n.resources if r.startswith(ACCELERATOR)}
        if slot["accelerator"] not in has:
            near = nearest(slot["accelerator"], sorted(has))
            there = f"nodes have {', '.join(sorted(has))}" if has else "no node says which it has"
            return f"{asked} accelerator {slot['accelerator']}{near}, but {there}: name one of those, or leave it out"
    labels = slot.get("labels", {})
    if not any(selects(labels, node.labels) for node in nodes):
        name = next(
            (k for k, v in labels.items() if not any(selects({k: v}, n.labels) for n in nodes)), next(iter(labels))
        )
        has = {n.labels[name] for n in nodes if name in n.labels}
        there = f"nodes have {', '.join(sorted(has))}" if has else "no node has that label"
        return f"{asked} label {name}={labels[name]}, but {there}: start nodes with it, or leave it out"
    best = max(nodes, key=lambda n: sum(n.resources.get(r, 0.0) >= v for r, v in ray_resources(slot).items()))
    offer = ", ".join(f"{best.resources.get(r, 0.0):g} {r}" for r in ray_resources(slot))
    return f"{asked} {in_words(slot)}, which no single node has (the best has {offer}): ask for less"
