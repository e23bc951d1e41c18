"""From a sweep to its graph: every task with its key, what is stored, what must run and why."""

from __future__ import annotations

import difflib
import inspect
import itertools
import json
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import InvalidValue
from tasks.task import GroupProbe, PairProbe, Probe, Task, input_fields

from .declared import resolve
from .errors import DamagedArtifact
from .graph import Graph
from .keys import SWEEP_MODULE_PREFIX, Fingerprints, canonical, class_path, key_of, own_fields
from .slots import default_slot, shape_of
from .store import Store
from .sweep import Replicate, Setting, Sweep, Trial, identity

KINDS = ("data", "train", "probe", "pair", "group")


@dataclass(frozen=True)
class Node:
    """One task of a plan.

    Attributes:
        key: its content address.
        task: the specification.
        inputs: keys of its inputs, in the order `run` takes them.
        seeds: the seed of each of its own streams of randomness.
        kind: one of KINDS.
        trials: what it is about: no trial (data), one (train, probe), two (pair), or all seeds of a
            setting (group).
        code: fingerprint by module.
    """

    key: str
    task: Task
    inputs: tuple[str, ...]
    seeds: Mapping[str, int]
    kind: str
    trials: tuple[Trial, ...]
    code: Mapping[str, str] = field(repr=False, default_factory=dict)

    @property
    def name(self) -> str:
        """The task's class name, which names its folder in the store."""
        return type(self.task).__name__

    @property
    def label(self) -> str:
        """For people: "Lanczos · rho=0.05 · seed 3"."""
        if not self.trials:
            return self.name
        if self.kind == "group":
            return f"{self.name} · {self.trials[0].setting.label} · {len(self.trials)} seeds"
        return f"{self.name} · " + " × ".join(f"{t.setting.label} · seed {t.replicate.label}" for t in self.trials)

    def spec(self) -> dict[str, Any]:
        """The part of the manifest that says what the task is."""
        return {
            "class": class_path(type(self.task)),
            "fields": own_fields(self.task),
            "spec": canonical(self.task),
            "inputs": list(self.inputs),
            "seeds": dict(self.seeds),
            "code": dict(self.code),
            "kind": self.kind,
            "label": self.label,
        }


class Plan:
    """The tasks of a sweep. It grows when a search proposes further settings.

    Attributes:
        sweep: what was asked for.
        settings: in order of declaration.
        proposed: what a search has proposed, in order, repetitions included.
        nodes: by key; inputs stand before what needs them.
        stored: keys that the store held when the plan was made.
        dropped: of these, trainings whose weights were deleted on purpose.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.settings: list[Setting] = []
        self.proposed: list[Setting] = []
        self.nodes: dict[str, Node] = {}
        self.stored: set[str] = set()
        self.dropped: set[str] = set()
        self._trials: list[tuple[Trial, Node]] = []
        self._by_seed: dict[str, list[tuple[Trial, Node]]] = {}
        self._proposed: dict[str, Setting] = {}
        self._fingerprints = Fingerprints()
        for probe in sweep.probes:
            _check_signature(probe, ["trained"])
        for pair in sweep.pairs:
            _check_signature(pair, ["a", "b"])
        for group in sweep.groups:
            _check_signature(group, ["*trained"], len(sweep.seeds))

    def add_setting(self, setting: Setting) -> list[Node]:
        """Plan a setting's trials, their probes, and the pairs with all trials planned before.

        Returns:
            the tasks that are new, inputs first.
        """
        _check_signature(setting.train, [])
        before = len(self.nodes)
        self.settings.append(setting)
        replicates = self.sweep.replicates
        new = [self._add_trial(Trial(setting, r)) for r in replicates]
        for trial, node in new:
            for probe in self.sweep.probes:
                self._add(probe, [node], "probe", (trial,))
        for group in self.sweep.groups:
            self._add(group, [n for _, n in new], "group", tuple(t for t, _ in new))
        if self.sweep.pairs:
            for (a, node_a), (b, node_b) in itertools.chain(self._across(new), itertools.combinations(new, 2)):
                if self.sweep.pair_when(a, b):
                    for pair in self.sweep.pairs:
                        self._add(pair, [node_a, node_b], "pair", (a, b))
        self._trials += new
        for trial, node in new:
            self._by_seed.setdefault(trial.replicate.label, []).append((trial, node))
        return list(itertools.islice(self.nodes.values(), before, None))

    def _across(self, new: list[tuple[Trial, Node]]) -> Iterator[tuple[tuple[Trial, Node], tuple[Trial, Node]]]:
        """Pairs of an earlier setting's trial with a new one that `pair_when` may admit."""
        near = self.sweep.pair_when.near
        if near is None:
            yield from itertools.product(self._trials, new)
        elif "seed" in near:
            for trial, node in new:
                for other in self._by_seed.get(trial.replicate.label, ()):
                    yield other, (trial, node)

    def propose(self, config: Mapping[str, Any]) -> tuple[Setting, list[Node]]:
        """Plan what a search proposes; the same training proposed again is the setting that there is.

        Returns:
            the setting, and the tasks that are new.
        """
        setting = self.sweep.setting(len(self.settings), config)
        known = self._proposed.setdefault(identity(setting.train), setting)
        self.proposed.append(known)
        return known, self.add_setting(setting) if known is setting else []

    @property
    def proposals(self) -> int:
        """How many settings a search has proposed, repetitions included."""
        return len(self.proposed)

    def trainings(self, setting: Setting) -> list[Node]:
        """The trainings of a setting, in the order of the seeds."""
        return [node for trial, node in self._trials if trial.setting.index == setting.index]

    def _add_trial(self, trial: Trial) -> tuple[Trial, Node]:
        return trial, self._add(trial.setting.train, [], "train", (trial,), trial.replicate)

    def _add(
        self,
        task: Task,
        subjects: Sequence[Node],
        kind: str,
        trials: tuple[Trial, ...],
        replicate: Replicate | None = None,
    ) -> Node:
        """The node of a task on these trained trials; the tasks in its fields are planned first."""
        inputs = [self._add_input(t, subjects, kind, trials) for t in input_fields(task).values()]
        inputs += subjects
        seeds = {s: replicate.seeds[s] for s in task.streams} if replicate else {}
        code = self._fingerprints.of(task)
        key = key_of(task, [n.key for n in inputs], seeds, code)
        if key not in self.nodes:
            self.nodes[key] = Node(key, task, tuple(n.key for n in inputs), seeds, kind, trials, code)
        return self.nodes[key]

    def _add_input(self, task: Task, subjects: Sequence[Node], kind: str, trials: tuple[Trial, ...]) -> Node:
        """A task in another's field: a probe works on the same trials, anything else stands alone."""
        if isinstance(task, (Probe, PairProbe, GroupProbe)):
            return self._add(task, subjects, kind, trials)
        return self._add(task, [], "data", ())

    def imports(self, package: str) -> bool:
        """Whether the code of some task imports a package."""
        return self._fingerprints.imports(package)

    # What is stored

    def look_up(self, store: Store, nodes: Iterable[Node] | None = None) -> None:
        """Note which of the tasks the store holds, by listing."""
        chosen = list(self.nodes.values() if nodes is None else nodes)
        held = store.committed({n.name for n in chosen})
        self.stored |= {n.key for n in chosen if n.key in held}
        dropped = {k for name in sorted({n.name for n in chosen if n.kind == "train"}) for k in store.dropped(name)}
        self.dropped |= self.stored & dropped

    def wanting_weights(self) -> set[str]:
        """The stored trainings that must run again, since their weights were deleted and a task needs them."""
        if not self.dropped:
            return set()
        return {a for key in self.nodes if key not in self.stored for a in self.ancestors(key)} & self.dropped

    def ancestors(self, key: str) -> tuple[str, ...]:
        """Keys of everything whose files the task may read: its inputs, their inputs, and so on."""
        found: dict[str, None] = {}
        todo = list(self.nodes[key].inputs)
        while todo:
            name = todo.pop(0)
            if name not in found:
                found[name] = None
                todo += self.nodes[name].inputs
        return tuple(found)

    def add_to(
        self,
        graph: Graph,
        nodes: Iterable[Node],
        store: Store,
        *,
        stopped: Container[str] = (),
        watched: bool = False,
        set_aside: bool = True,
    ) -> dict[str, dict[str, Any]]:
        """Tell a graph of planned tasks and of what became of them before; what is damaged is to be made again.

        Args:
            stopped: keys of trainings that a scheduler stopped in an earlier run.
            watched: a search algorithm or scheduler watches the trainings, so they are not bundled.
            set_aside: set aside what is damaged; False leaves the store as it is.

        Returns:
            the manifests of the stored trainings and of what else other tasks are made from, by key.
        """
        chosen = list(nodes)
        used = {key for node in chosen for key in node.inputs}
        looked_at = [n for n in chosen if n.key in self.stored and (n.kind == "train" or n.key in used)]
        damaged: list[DamagedArtifact] = []
        manifests = {m["key"]: m for m in store.manifests(((n.name, n.key) for n in looked_at), damaged)}
        for error in damaged:  # or gone since it was looked up
            if set_aside:
                store.set_aside(error.task_name, error.key)
            self.stored.discard(error.key)
        again = self.wanting_weights()
        for node in chosen:
            graph.add(
                node.key,
                self.ancestors(node.key),
                kind=node.name,
                shape=shape_of(self.slot(node)),
                alone=watched and node.kind == "train",
                stored=node.key in self.stored and node.key not in again,
                barren=manifests.get(node.key, {}).get("status") == "diverged",
                stopped=node.key in stopped,
            )
        return manifests

    def slot(self, node: Node) -> Mapping[str, Any]:
        """The resources that a task holds while it runs."""
        return self.slot_for(node.task)

    def slot_for(self, task: Task) -> Mapping[str, Any]:
        """The same of a task that may not be planned yet."""
        return next((s for c, s in self.sweep.slots.items() if isinstance(task, c)), self.slot_of_most())

    def slot_of_most(self) -> Mapping[str, Any]:
        """The slot of tasks for which the sweep names no other."""
        return self.sweep.slot or default_slot(gpus=False)

    def by_task(self) -> dict[str, dict[str, int]]:
        """Counts by task class: {"Lanczos": {"tasks": 6, "stored": 2}}."""
        tasks = Counter(n.name for n in self.nodes.values())
        stored = Counter(n.name for n in self.nodes.values() if n.key in self.stored)
        return {name: {"tasks": n, "stored": stored[name], "to_run": n - stored[name]} for name, n in tasks.items()}


def make_plan(sweep: Sweep, store: Store | None, recorded: Sequence[Mapping[str, Any]] = ()) -> Plan:
    """Plan a sweep against a store.

    Args:
        recorded: the settings that an adaptive search proposed in earlier runs, as its configs.

    Raises:
        InvalidValue: a value in a search space is impossible, or what the sweep declares of its comparisons names
            metrics or settings that there are not.
    """
    plan = Plan(sweep)
    if sweep.search is None:
        for setting in sweep.settings():
            plan.add_setting(setting)
    for config in recorded:
        plan.propose(config)
    _check_metric(sweep)
    resolve(sweep, plan.settings)
    if store is not None:
        plan.look_up(store)
    return plan


def _check_metric(sweep: Sweep) -> None:
    metrics = type(sweep.train).metrics
    if metrics and sweep.metric not in metrics:
        close = difflib.get_close_matches(sweep.metric, list(metrics), n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else f"; it has {', '.join(metrics)}"
        raise InvalidValue(f"Sweep: {type(sweep.train).__name__} has no result named {sweep.metric!r}{hint}.")


def _check_signature(task: Task, subjects: Sequence[str], count: int | None = None) -> None:
    """Raise InvalidValue if the task's `run` cannot take its inputs: those in its fields, then the subjects."""
    fields = list(input_fields(task))
    given = len(fields) + (len(subjects) if count is None else count)
    try:
        inspect.signature(task.run).bind(None, *[None] * given)
    except TypeError:
        raise InvalidValue(
            f"{type(task).__name__}.run must take {given} {'input' if given == 1 else 'inputs'} after the context: "
            f"run(self, {', '.join(['ctx', *fields, *subjects])})."
        ) from None


@dataclass
class _Alike:
    """Stored artifacts of a class that differ in nothing but their inputs."""

    fields: Mapping[str, Any]
    seeds: Mapping[str, int]
    code: Mapping[str, str]
    inputs: set[tuple[str, ...]] = field(default_factory=set)


def why(plan: Plan, store: Store) -> dict[str, str]:
    """For every task that must run, in words, what distinguishes it from the nearest stored one."""
    must = [n for n in plan.nodes.values() if n.key not in plan.stored]
    stored: dict[str, dict[str, _Alike]] = {}
    for name in sorted({n.name for n in must}):
        for m in store.manifests(((name, k) for k in sorted(store.committed([name]))), []):
            parts = m.get("fields", {}), m.get("seeds", {}), m.get("code", {})
            alike = stored.setdefault(m.get("class", ""), {}).setdefault(json.dumps(parts), _Alike(*parts))
            alike.inputs.add(tuple(m.get("inputs", ())))
    reasons: dict[str, str] = {}
    for node in must:  # inputs come first, so their reasons are known
        candidates = stored.get(class_path(type(node.task)), {})
        reasons[node.key] = _reason(node, plan, candidates.values(), reasons)
    return reasons


def _reason(node: Node, plan: Plan, candidates: Collection[_Alike], reasons: Mapping[str, str]) -> str:
    if not candidates:
        return f"no {node.name} is stored yet"
    fields = own_fields(node.task)
    best: list[str] | None = None
    for alike in candidates:
        found = _differences(node, fields, alike)
        if best is None or len(found) < len(best):
            best = found
        if len(best) <= 1:
            break
    new_inputs = [plan.nodes[i] for i in node.inputs if i in reasons]
    if new_inputs:
        first = new_inputs[0]
        # The cause lies upstream; what differs here besides is said as well.
        own = [d for d in best or [] if d != _OTHER_INPUTS]
        upstream = reasons[first.key]
        cause = upstream if upstream.startswith(f"{first.name}: ") else f"{first.name}: {upstream}"
        return "; ".join([*own, cause])
    return "; ".join(best or ["the artifact was deleted"])


_OTHER_INPUTS = "not stored yet for these inputs"


def _differences(node: Node, fields: Mapping[str, Any], alike: _Alike) -> list[str]:
    found = _field_differences(alike.fields, fields, "")
    if dict(node.seeds) != alike.seeds:
        changed = sorted({node.seeds[s] for s in node.seeds if alike.seeds.get(s) != node.seeds[s]})
        found.append(f"new seed {', '.join(map(str, changed))}")
    before, now = alike.code, node.code
    for module in sorted(set(before) | set(now)):
        if before.get(module) != now.get(module):
            name = module.partition(":")[0].removeprefix(SWEEP_MODULE_PREFIX).replace(".", "/") + ".py"
            found.append(f"code of {name} changed" if module in before and module in now else f"code: {name} is new")
    if node.inputs not in alike.inputs:
        found.append(_OTHER_INPUTS)
    return found


def _field_differences(before: Any, now: Any, path: str) -> list[str]:
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict) and before.get("class") == now.get("class"):
        found = []
        for name in {**now, **before}:
            if name not in before or name not in now:
                found.append(f"{'new' if name in now else 'no more'} field {name}")
            else:
                found += _field_differences(before[name], now[name], f"{path}.{name}" if path else name)
        return found
    if _are_specs(before) and _are_specs(now) and (names := [_short(v) for v in now]) == [_short(v) for v in before]:
        pairs = zip(names, before, now, strict=True)
        return [difference for name, a, b in pairs for difference in _field_differences(a, b, f"{path}.{name}")]
    return [f"{path}: {_short(before)} → {_short(now)}"]


def _are_specs(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) and "class" in v for v in value)


def _short(value: Any) -> str:
    if isinstance(value, dict) and "class" in value:
        return str(value["class"]).rpartition(":")[2]
    if _are_specs(value):
        return " + ".join(map(_short, value)) or "none"
    return str(value)
