"""Links from the report to the artifacts that its numbers come from."""

from __future__ import annotations

from urllib.parse import quote

from markupsafe import Markup

from ..records import COMMITTED
from ..store import Store, without_passwords
from ..study import Study

TO_STORE = "../../../"
"""From a run's folder, where the report lies, to the top of the store."""


class Links:
    """Where the artifacts of a study are, seen from its report.

    Args:
        home: the store in which the report lies.

    Attributes:
        stores: of each store with artifacts what stands before `artifacts/<Task>/<key>/`: in a link (None where a link
            would lead nowhere), and in words.
    """

    def __init__(self, study: Study, home: Store) -> None:
        self._study = study
        self._home = home
        self._places: dict[str, int] = {}
        self.stores: list[tuple[str | None, str]] = []

    def store(self, key: str) -> int:
        """The index in `stores` of the one that holds a task's artifact."""
        store = self._study.store_of(key)
        name = str(store)
        if name not in self._places:
            self._places[name] = len(self.stores)
            at_home = store.local is not None and store.local == self._home.local
            told = "" if at_home else without_passwords(f"{name.rstrip('/')}/")
            self.stores.append((TO_STORE if at_home else None, told))
        return self._places[name]

    def artifact(self, key: str, text: str = "") -> Markup:
        """A link to an artifact, reading as its key begins; without a link where there is nothing to open."""
        task = self._study.tasks[key]
        shown = text or key[:12]
        if task.state not in COMMITTED:
            return Markup('<span class="key" title="{} (no artifact)">{}</span>').format(key, shown)
        top, told = self.stores[self.store(key)]
        inside = f"artifacts/{task.name}/{key}"
        if top is None:
            return Markup('<span class="key" title="{}{}">{}</span>').format(told, inside, shown)
        href = f"{top}artifacts/{quote(task.name)}/{quote(key)}/"
        return Markup('<a class="key" href="{}" title="{}">{}</a>').format(href, inside, shown)
