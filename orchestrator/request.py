"""What Ray is asked for: a placement group for a slot."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from ray.tune import PlacementGroupFactory
from ray.util.placement_group import placement_group

from .slots import Slot, label_selector, ray_resources

TARGETED = "_soft_target_node_id" in inspect.signature(placement_group).parameters
"""Whether Ray can be told which node is thought best: that is private to it, so it may go away."""


class SlotRequest(PlacementGroupFactory):
    """Asks for a slot.

    Requests for equal slots are equal, wherever they are to be: whichever is granted first, or whichever worker is
    idle, serves any of them.

    Args:
        without: identifiers of nodes to leave out.
        node: where it is thought to be placed best; Ray places it elsewhere if there is no room.
    """

    def __init__(self, slot: Slot, *, without: Collection[str] = (), node: str | None = None) -> None:
        selector = label_selector(slot, without)
        more: dict[str, Any] = {"bundle_label_selector": [selector]} if selector else {}
        super().__init__([ray_resources(slot)], strategy="STRICT_PACK", **more)
        self.node = node

    def to_placement_group(self) -> Any:
        target = {"_soft_target_node_id": self.node} if self.node is not None and TARGETED else {}
        return placement_group(*self._bound.args, **self._bound.kwargs, **target)
