"""The nodes on which tasks may run: each is checked before its first task, those that join later too.

A worker does nothing on a node that is not among the checked (see `worker.Worker`), so it does not matter that Ray
places work on a node the moment it joins.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import node_check
from .shipping import Shipment
from .slots import NodeOffer, Slot, in_words, suits
from .store import Store

ANSWER_SECONDS = 240.0
"""How long a node may take to be checked: it starts a process, unpacks the code, imports torch and asks the store."""

LOOK_SECONDS = 1.0
"""How often nodes that have joined are looked for."""

ENOUGH_BAD = 3
"""So many bad nodes, and no good one, end a run even if the cluster may still grow: the next will be no better."""


class NodeWatch:
    """Checks nodes, and knows which are good.

    Args:
        expected: what is asked of a node (see `expectations`).
        offers: what every live node has.
        slots: what tasks ask for; a node that has none of them is of no concern, until a worker is there after all.
            None: all nodes are.
        gpus: GPUs are to be tried where a node has any.
        may_grow: whether the cluster may get nodes that are not there yet.
    """

    def __init__(
        self,
        expected: Mapping[str, Any],
        offers: Callable[[], Sequence[NodeOffer]],
        slots: Sequence[Slot] | None,
        *,
        gpus: bool,
        may_grow: Callable[[], bool] = lambda: False,
    ) -> None:
        self.left_out: dict[str, str] = {}
        """Why a node is left out, as a sentence, by its identifier."""
        self.checked = ""
        """The nodes on which tasks may run, in short, for the workers (see `allows`)."""
        self._expected = dict(expected)
        self._offers = offers
        self._slots = slots
        self._gpus = gpus
        self._may_grow = may_grow
        self._known: dict[str, NodeOffer] = {}
        self._good: set[str] = set()
        self._used: set[str] = set()  # nodes that a verdict was asked for before it was known
        self._asked: dict[Any, tuple[str, float, float]] = {}  # node, time of the clock, monotonic time; by reference
        self._failures: Counter[str] = Counter()  # checks that came to no answer, by node
        self._news: list[str] = []
        self._looked = float("-inf")

    def first(self) -> None:
        """Check all nodes that are there, at the same time; return when each has answered, or is given up."""
        import ray

        self._ask_new()
        while self._asked:
            ray.wait(list(self._asked), num_returns=len(self._asked), timeout=1.0)
            self._hear()
            self._ask_new()

    def look(self) -> list[NodeOffer]:
        """Go on with checking, without waiting; the nodes that are left out since the last time."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self._ask_new()
            self._hear()
        news, self._news = self._news, []
        return [self._known[node] for node in news]

    def verdict(self, node: str) -> bool | None:
        """Whether tasks may run on a node; None as long as that is not known: it is checked then."""
        if node in self._good or node in self.left_out:
            return node in self._good
        self._used.add(node)
        return None

    def refuse(self, node: str, fault: str) -> None:
        """Leave a node out; harmless if it is left out already."""
        if node in self.left_out:
            return
        self._known.setdefault(node, NodeOffer(node, "?", {}))
        self.left_out[node] = f"Node {self._known[node].host} ({node[:8]}) is left out: {fault}."
        self._news.append(node)
        self._good.discard(node)
        self._sum_up()

    def usable(self) -> list[NodeOffer]:
        """What the live nodes have that are not left out."""
        return [n for n in self._offers() if n.id not in self.left_out]

    @property
    def hosts_left_out(self) -> list[str]:
        """Host names of the nodes that are left out."""
        return [self._known[node].host for node in self.left_out]

    @property
    def settled(self) -> bool:
        """Whether all live nodes that matter have been found good."""
        return all(n.id in self._good for n in self._offers() if self._matters(n))

    def hopeless(self, slot: Slot) -> str | None:
        """Why no node is left for a slot, in words; None while there is one, or one may come."""
        live = self._offers()
        if any(suits(slot, n) for n in live if n.id not in self.left_out):
            return None
        bad = [self.left_out[n.id] for n in live if n.id in self.left_out and suits(slot, n)]
        if not bad or (len(bad) < ENOUGH_BAD and self._may_grow()):
            return None
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        return f"No node is left that tasks may run on with {in_words(slot)}{more}. {bad[0]}"

    # Inside

    def _matters(self, node: NodeOffer) -> bool:
        return self._slots is None or node.id in self._used or any(suits(slot, node) for slot in self._slots)

    def _ask_new(self) -> None:
        import ray
        from ray import cloudpickle
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        seen = {*self._good, *self.left_out, *(node for node, _, _ in self._asked.values())}
        new = [n for n in self._offers() if n.id not in seen and self._matters(n)]
        if not new:
            return
        cloudpickle.register_pickle_by_value(node_check)  # it is to run where another version is installed, too
        look = ray.remote(num_cpus=0, max_retries=0)(node_check.look)
        for node in new:
            self._known[node.id] = node
            gpus = node.resources.get("GPU", 0.0) if self._gpus else 0.0
            there = NodeAffinitySchedulingStrategy(node.id, soft=False)
            answer = look.options(scheduling_strategy=there).remote(self._expected, gpus)
            self._asked[answer] = (node.id, time.time(), time.monotonic())

    def _hear(self) -> None:
        import ray

        if not self._asked:
            return
        ready, late = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        for answer in ready:
            node, asked, _ = self._asked.pop(answer)
            try:
                found = ray.get(answer)
            except Exception as error:  # Ray's, of many kinds: the node is gone, or cannot start a process
                self._failures[node] += 1  # a node that has just gone still counts as alive, and is asked once more
                if self._failures[node] > 1 and any(n.id == node for n in self._offers()):
                    words = [line.strip() for line in str(error).splitlines() if line.strip()]
                    self.refuse(node, f"no process could be started there ({(words or ['?'])[-1].rstrip('.')})")
                continue
            fault = found["fault"] or node_check.clock_fault(found["clock"], asked, time.time())
            if fault:
                self.refuse(node, fault)
            else:
                self._good.add(node)
                self._sum_up()
        for answer in late:
            node, _, since = self._asked[answer]
            if time.monotonic() - since > ANSWER_SECONDS:
                del self._asked[answer]
                ray.cancel(answer, force=True)
                self.refuse(node, f"it did not answer within {ANSWER_SECONDS:.0f} s: look at its Ray logs")

    def _sum_up(self) -> None:
        self.checked = " ".join(sorted(node[:SHORT] for node in self._good))


SHORT = 12
"""Digits of a node's identifier that tell it apart: they go with every bundle, for every node."""


def allows(checked: str | None, node: str) -> bool:
    """Whether a worker may work on its node, by `NodeWatch.checked`; None: no node is checked in this run."""
    return checked is None or node[:SHORT] in checked.split(" ")


def checked_nodes(
    store: Store | None, offers: Callable[[], Sequence[NodeOffer]], code: Shipment
) -> list[tuple[NodeOffer, str | None]]:
    """Every node, and why nothing could run there, as a sentence; None if all is well.

    Args:
        store: to be reached from there; None asks nothing of it.
        code: what the nodes are to have.
    """
    witness = f".witness-{uuid.uuid4().hex[:8]}"
    if store is not None:
        store.write(witness, b"")
    try:
        address = None if store is None else store.address
        watch = NodeWatch(expectations(address, witness, code), offers, None, gpus=True)
        watch.first()
        return [(node, watch.left_out.get(node.id)) for node in offers()]
    finally:
        if store is not None:
            store.delete(witness)


def expectations(store: str | None, witness: str, shipment: Shipment) -> dict[str, Any]:
    """What is asked of every node (see `node_check.look`).

    Args:
        witness: a file that this process has written to the store.
    """
    return {"versions": node_check.versions(), "code": shipment.digests, "store": store, "witness": witness}
