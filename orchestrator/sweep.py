"""What a sweep file declares, checked: the training, its search spaces, the seeds, the probes.

A sweep file is a Python module that defines `sweep = Sweep(...)`. Search spaces are Ray Tune's own
(`tune.grid_search([...])`, `tune.uniform(...)`, …), standing anywhere in the training's fields.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import InvalidValue, nearest
from tasks.spec import Spec, fields_alone, is_space, validate_all
from tasks.task import GroupProbe, PairProbe, Probe, Task

from .declared import NAMES, check_fields
from .keys import canonical
from .options import expanded, in_words
from .slots import checked_slot
from .spec_parts import parts, with_parts

Seeds = Mapping[str, int]


@dataclass(frozen=True)
class Replicate:
    """One seed of a study.

    Attributes:
        label: its name in tables: "3", or "init=3" where only one stream varies.
        seeds: the seed of every stream of randomness of the training.
    """

    label: str
    seeds: Seeds


@dataclass(frozen=True)
class Setting:
    """One point of the parameter space.

    Attributes:
        index: position in the order of declaration.
        config: value by path ("train.optimizer.rho") of what the sweep varies.
        train: the training with these values.
        told: `config` for people: of a value that is an object, its class and the fields that vary.
    """

    index: int
    config: Mapping[str, Any]
    train: Task
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The varied values in words: "rho=0.05", or "default" if nothing is varied."""
        objects = {p for p, v in self.config.items() if isinstance(v, Spec)}
        words = [show(v) if p in objects else f"{short_name(p, self.told)}={show(v)}" for p, v in self.told.items()]
        return ", ".join(words) or "default"


@dataclass(frozen=True)
class Trial:
    """One training: a setting with a seed. What rules about pairs are asked about."""

    setting: Setting
    replicate: Replicate


@dataclass(frozen=True)
class PairRule:
    """Which pairs of trials a pair probe runs on; rules combine with `|`, `&` and `~`.

    Attributes:
        near: it holds only for trials that share one of these ("setting", "seed"), so that not all pairs
            of a large sweep have to be asked about; None if it may hold for any.
    """

    holds: Callable[[Trial, Trial], bool]
    words: str
    near: frozenset[str] | None = None

    def __call__(self, a: Trial, b: Trial) -> bool:
        return self.holds(a, b)

    def __or__(self, other: PairRule) -> PairRule:
        near = None if self.near is None or other.near is None else self.near | other.near
        return PairRule(lambda a, b: self(a, b) or other(a, b), f"({self.words} | {other.words})", near)

    def __and__(self, other: PairRule) -> PairRule:
        near = other.near if self.near is None else self.near
        return PairRule(lambda a, b: self(a, b) and other(a, b), f"({self.words} & {other.words})", near)

    def __invert__(self) -> PairRule:
        return PairRule(lambda a, b: not self(a, b), f"~{self.words}")


same_setting = PairRule(lambda a, b: a.setting.index == b.setting.index, "same_setting", frozenset({"setting"}))
same_seed = PairRule(lambda a, b: a.replicate.label == b.replicate.label, "same_seed", frozenset({"seed"}))


def vary(stream: str, values: Iterable[int], *, others: int = 0) -> tuple[dict[str, int], ...]:
    """Seeds that vary one stream of randomness and freeze the others: `seeds=vary("init", range(5))`."""
    return tuple({stream: v, "*": others} for v in values)


def crossed(*, others: int = 0, **streams: Iterable[int]) -> tuple[dict[str, int], ...]:
    """Seeds that vary several streams, every value of one with every value of the others.

    From `seeds=crossed(init=range(5), order=range(5))` a study tells how much of the variance comes from each stream;
    that takes at least 5 values of each.

    Raises:
        InvalidValue: there are not two streams, or one has no list of seeds.
    """
    for stream, seeds in streams.items():
        if isinstance(seeds, (str, bytes)) or not isinstance(seeds, Iterable):
            raise InvalidValue(f"crossed: {stream} must be integers such as range(5), not {seeds!r}.")
    if len(streams) < 2:
        raise InvalidValue(f"crossed: name at least two streams, not {len(streams)}; for one stream there is vary.")
    values = [list(v) for v in streams.values()]
    return tuple({**dict(zip(streams, seeds, strict=True)), "*": others} for seeds in itertools.product(*values))


@dataclass(frozen=True)
class Sweep:
    """A study: trainings over settings and seeds, and what is measured on them.

    Attributes:
        train: the training; its fields may hold search spaces of Ray Tune.
        seeds: integers, each driving every stream of randomness; or mappings from streams to seeds
            (see `vary`), where "*" stands for the streams not named.
        probes: tasks on every trained trial.
        pairs: tasks on every pair of trials that `pair_when` admits.
        groups: tasks on all seeds of every setting.
        setting_when: which points of the grid are settings: a function from the training with a point's values to
            True or False; None takes all. `lambda train: train.epochs * train.dataset.train_size == 540_000`.
        metric, mode: the training's result that counts, and whether "max" or "min" of it is better.
        samples: how many times random spaces are drawn, or how many settings `search` may try.
        search: a Ray Tune search algorithm that proposes settings (`OptunaSearch()`); it sees the
            metric averaged over the seeds of a setting.
        scheduler: a Ray Tune scheduler that may stop trainings early (`ASHAScheduler()`).
        search_seed: drives the drawing from random spaces.
        slot: the resources that one task holds ({"cpu": 1, "gpu": 0.25}; "memory" in bytes; "accelerator": "H100";
            "labels" that its node must have, in Ray's words: {"pool": "a", "zone": "!b", "rack": "in(a, b)"}).
            Left out, it is one CPU, and a quarter of a GPU where the cluster has any.
        slots: other slots for some kinds of task ({AutoNEB: {"gpu": 1}, Lanczos: {"cpu": 1}}). Nothing of `slot` is
            inherited but that `cpu` is 1 where it is not stated: one without "gpu" holds none, computes on the CPU
            and goes to nodes without GPUs first. Each other slot costs starts of processes.
        snapshot_seconds: how often a running task that can be continued (a training after each epoch, AutoNEB
            after each cycle) saves its state, so that after a crash another worker goes on from there; 0
            saves each time.
        smoke: overrides by path for `--smoke`, a run of a minute that shows that all works.
        primary: the metric that verdicts are about, of the training ("val_accuracy") or of a probe
            ("Lanczos.lambda_max"); left out, it is `metric`.
        primary_mode: whether "max" or "min" of it is better, to be stated where it is not `metric`.
        baseline: the setting that the others are compared with, by values that name it alone ({"rho": 0.0};
            {"optimizer": "SAM", "rho": 0.0}) or by its label ("SAM, rho=0").
        contrasts: the comparisons that get verdicts: None for each setting against the baseline, "all" for all pairs,
            or a list of pairs of settings named as the baseline is. Without these and without a baseline there are no
            verdicts, and every comparison is exploratory.
        margin: differences of the primary metric up to this count as none; without it, no two settings can be
            found equivalent.
        smallest_effect: the smallest difference of the primary metric that matters, to tell how many seeds it takes;
            left out, it is `margin`.
    """

    train: Task
    seeds: Sequence[int | Seeds]
    probes: Sequence[Probe] = ()
    pairs: Sequence[PairProbe] = ()
    groups: Sequence[GroupProbe] = ()
    pair_when: PairRule = same_setting
    setting_when: Callable[[Any], bool] | None = None
    metric: str = "val_accuracy"
    mode: str = "max"
    samples: int = 1
    search: Any = None
    scheduler: Any = None
    search_seed: int = 0
    slot: Mapping[str, Any] | None = None
    slots: Mapping[type[Task], Mapping[str, Any]] = field(default_factory=dict)
    snapshot_seconds: float = 60.0
    smoke: Mapping[str, Any] = field(default_factory=dict)
    primary: str | None = None
    primary_mode: str | None = None
    baseline: str | Mapping[str, Any] | None = None
    contrasts: str | Sequence[tuple[Any, Any]] | None = None
    margin: float | None = None
    smallest_effect: float | None = None
    name: str = field(default="", kw_only=True)
    question: str = field(default="", kw_only=True)
    file: str = field(default="", kw_only=True)
    chosen: tuple[Mapping[str, Any], ...] = field(default=(), kw_only=True)
    """The points of the spaces that alone are settings, where a confirmation takes two of them; else empty."""
    confirms: str = field(default="", kw_only=True)
    """The run whose choice this sweep confirms on fresh seeds; empty for any other."""
    inherited: tuple[str, ...] = field(default=(), kw_only=True)
    """Of a smoke size: what it has not declared itself. What of this has no settings there is dropped, and said."""

    def __post_init__(self) -> None:
        if not isinstance(self.train, Task):
            raise InvalidValue(f"Sweep: train must be a task such as Train(...), not {self.train!r}.")
        for name, kind in (("probes", Probe), ("pairs", PairProbe), ("groups", GroupProbe)):
            items = getattr(self, name)
            if isinstance(items, Task) or not isinstance(items, Iterable):
                raise InvalidValue(f"Sweep: {name} must be a list of tasks, not {items!r}.")
            object.__setattr__(self, name, tuple(items))
            for item in getattr(self, name):
                if not isinstance(item, kind):
                    hint = " (an instance is needed: add parentheses)" if isinstance(item, type) else _home(item)
                    raise InvalidValue(f"Sweep: {name} holds {item!r}, which is not a {kind.__name__}{hint}.")
                if spaces(item):
                    raise InvalidValue(f"Sweep: {name} holds a search space; only the training's fields may.")
        if not isinstance(self.pair_when, PairRule):
            raise InvalidValue(
                "Sweep: pair_when must be made of same_setting and same_seed (with |, & and ~), "
                f"not {self.pair_when!r}."
            )
        if self.setting_when is not None and not callable(self.setting_when):
            raise InvalidValue(f"Sweep: setting_when must be a function of the training, not {self.setting_when!r}.")
        if self.setting_when is not None and self.search is not None:
            raise InvalidValue("Sweep: setting_when chooses points of a grid; with a search algorithm leave it out.")
        if self.mode not in ("max", "min"):
            raise InvalidValue(f"Sweep: mode must be 'max' or 'min', not {self.mode!r}.")
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise InvalidValue(f"Sweep: samples must be an integer of at least 1, not {self.samples!r}.")
        seconds = self.snapshot_seconds
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            raise InvalidValue(f"Sweep: snapshot_seconds must be a number of at least 0, not {seconds!r}.")
        if not isinstance(self.metric, str):
            raise InvalidValue(f"Sweep: metric must be the name of a result, not {self.metric!r}.")
        object.__setattr__(self, "seeds", self._checked_seeds())
        if self.slot is not None:
            object.__setattr__(self, "slot", checked_slot(self.slot, "slot"))
        slots = {}
        for task, slot in dict(self.slots).items():
            if not (isinstance(task, type) and issubclass(task, Task)):
                raise InvalidValue(f"Sweep: slots must map task classes to resources; {task!r} is not one.")
            slots[task] = checked_slot(slot, f"slots[{task.__name__}]")
        object.__setattr__(self, "slots", slots)
        check_fields(self)

    def _checked_seeds(self) -> tuple[int | Seeds, ...]:
        if isinstance(self.seeds, (str, bytes)) or not isinstance(self.seeds, Iterable):
            raise InvalidValue(f"Sweep: seeds must be integers such as range(5), not {self.seeds!r}.")
        seeds = tuple(self.seeds)
        if not seeds:
            raise InvalidValue("Sweep: seeds is empty: give at least one, such as range(5).")
        for seed in seeds:
            values = seed.values() if isinstance(seed, Mapping) else [seed]
            if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values):
                raise InvalidValue(f"Sweep: a seed must be a non-negative integer, or name streams, not {seed!r}.")
            for stream in seed if isinstance(seed, Mapping) else ():
                if stream != "*" and stream not in self.train.streams:
                    raise InvalidValue(
                        f"Sweep: {type(self.train).__name__} has no stream of randomness named {stream!r}"
                        f"{nearest(stream, self.train.streams)}; it has {', '.join(self.train.streams) or 'none'}."
                    )
        if len(seeds) > 1 and not self.train.streams:
            name = type(self.train).__name__
            raise InvalidValue(
                f"Sweep: {name} names no streams of randomness, so {len(seeds)} seeds would all give the same "
                f'training: add streams = ("init",) to the class and draw from ctx.rng("init").'
            )
        distinct = {tuple(r.seeds.items()) for r in _replicates(seeds, self.train.streams)}
        if len(distinct) < len(seeds):
            raise InvalidValue(f"Sweep: seeds holds the same seed twice: {seeds!r}.")
        return seeds

    @property
    def replicates(self) -> tuple[Replicate, ...]:
        """The seeds, each with a label and the seed of every stream."""
        return _replicates(self.seeds, self.train.streams)

    @property
    def space(self) -> dict[str, Any]:
        """The search spaces by path, in the order of the fields."""
        return {path: expanded(path, space) for path, space in spaces(self.train, "train").items()}

    def settings(self) -> list[Setting]:
        """All settings of a grid or random sweep, without repetition.

        Raises:
            InvalidValue: a value in a search space is impossible for its field.
        """
        space = self.space
        configs: list[dict[str, Any]] = []
        if self.chosen:
            configs = [dict(config) for config in self.chosen]
        elif all(isinstance(s, Mapping) for s in space.values()):
            grids = [list(s["grid_search"]) for s in space.values()]
            configs = [dict(zip(space, values, strict=True)) for values in itertools.product(*grids)]
        else:
            import numpy as np
            from ray.tune.search.variant_generator import generate_variants

            state = np.random.RandomState(self.search_seed)
            for _ in range(self.samples):
                for _, config in generate_variants(dict(space), random_state=state):
                    configs.append(dict(config))
        found: dict[str, Setting] = {}
        for config in configs:
            if self._wanted(config):
                setting = self.setting(len(found), config)
                found.setdefault(identity(setting.train), setting)
        if not found:
            of = f"none of the {len(configs)} points of the grid" if space else "not even the one setting"
            raise InvalidValue(f"Sweep: setting_when admits {of}.")
        return list(found.values())

    def _wanted(self, config: Mapping[str, Any]) -> bool:
        """What `setting_when` says of the training with these values, which need not go together."""
        if self.setting_when is None:
            return True
        with fields_alone():
            train = self.setting(0, config).train
        try:
            return bool(self.setting_when(train))
        except Exception as error:
            what = f"{type(error).__name__}: {error}".rstrip(".")
            raise InvalidValue(f"Sweep: setting_when fails on {show(train)}: {what}.") from error

    def setting(self, index: int, config: Mapping[str, Any]) -> Setting:
        """The setting with these values for the search spaces."""
        train: Any = self.train
        for path, value in config.items():
            train = _replaced(train, path.split(".")[1:], plain(value), path)
        values = {p: plain(v) for p, v in config.items()}
        return Setting(index, values, train, in_words(values, self.space))

    def override(self, overrides: Mapping[str, Any]) -> Sweep:
        """This sweep with other values at some paths: "train.epochs", "probes.Lanczos.k", "seeds".

        Raises:
            InvalidValue: a path does not exist (the nearest valid one is named), or a value is impossible.
        """
        with fields_alone():  # two values that go together may come one after the other
            sweep = self._overridden(overrides)
        validate_all((sweep.train, *sweep.probes, *sweep.pairs, *sweep.groups))
        return sweep

    def _overridden(self, overrides: Mapping[str, Any]) -> Sweep:
        sweep = self
        for path, value in overrides.items():
            head, *rest = path.split(".")
            if not isinstance(path, str) or head not in _OVERRIDABLE:
                if path in {f.name for f in dataclasses.fields(Sweep)}:
                    raise InvalidValue(f"{path!r} cannot be overridden: change it in the sweep file.")
                raise InvalidValue(f"There is no {path!r} in a sweep{nearest(path, sweep.paths())}.")
            new: Any
            if head == "slots":
                new = {**sweep.slots, **_slots(sweep, rest, value, path)}
            elif head == "slot" and rest:
                whole = repr({**(sweep.slot or {}), ".".join(rest): value}).replace("'", '"')
                raise InvalidValue(f"{path!r}: a slot is given as a whole, such as --set 'slot={whole}'.")
            elif not rest:
                new = value
            elif head == "train":
                new = _replaced(sweep.train, rest, value, path, sweep)
            elif head in ("probes", "pairs", "groups"):
                new = _replaced_probe(getattr(sweep, head), head, rest, value, sweep)
            else:
                raise InvalidValue(f"There is no {path!r} in a sweep{nearest(path, sweep.paths())}.")
            sweep = dataclasses.replace(sweep, **{head: new})
        return sweep

    def paths(self) -> list[str]:
        """Every path that `override` accepts."""
        found = list(_OVERRIDABLE)
        found += _paths(self.train, "train")
        for group in ("probes", "pairs", "groups"):
            for probe in getattr(self, group):
                name = f"{group}.{type(probe).__name__}"
                found += [name, *_paths(probe, name)]
        return found + [f"slots.{name}" for name in _kinds(self)]


_OVERRIDABLE = (
    "train", "seeds", "probes", "pairs", "groups", "pair_when", "setting_when", "metric", "mode", "samples", "search",
    "scheduler", "search_seed", "slot", "slots", "snapshot_seconds", *NAMES,
)  # fmt: skip


def _kinds(sweep: Sweep) -> dict[str, type[Task]]:
    """The classes of the sweep's tasks, and of the tasks in their fields, by name."""
    found: dict[str, type[Task]] = {}
    todo: list[Any] = [sweep.train, *sweep.probes, *sweep.pairs, *sweep.groups]
    while todo:
        part = todo.pop(0)
        if isinstance(part, Task):
            found.setdefault(type(part).__name__, type(part))
        todo += part.get("grid_search", ()) if is_space(part) and isinstance(part, Mapping) else parts(part).values()
    return found


def _slots(sweep: Sweep, rest: Sequence[str], value: Any, path: str) -> dict[type[Task], Any]:
    """What `slots.Lanczos={"cpu": 1}` means; without a name, a mapping from names or classes."""
    kinds = _kinds(sweep)
    given = {".".join(rest): value} if rest else value
    if not isinstance(given, Mapping):
        raise InvalidValue(f"slots must map kinds of task to slots, as in {{'Lanczos': {{'cpu': 1}}}}, not {value!r}.")
    found: dict[type[Task], Any] = {}
    for name, slot in given.items():
        kind = kinds.get(name) if isinstance(name, str) else name
        if kind is None:
            hint = nearest(name, kinds)
            raise InvalidValue(f"{path!r}: the sweep has no task {name!r}{hint}; it has {', '.join(kinds)}.")
        found[kind] = slot
    return found


def identity(train: Task) -> str:
    """Equal for equal trainings, however their values were written (0 and 0.0)."""
    return repr(canonical(train))


def _home(item: Any) -> str:
    for name, kind in (("probes", Probe), ("pairs", PairProbe), ("groups", GroupProbe)):
        if isinstance(item, kind):
            return f" (it belongs in {name})"
    return ""


def _replicates(seeds: Sequence[int | Seeds], streams: Sequence[str]) -> tuple[Replicate, ...]:
    found = []
    for seed in seeds:
        if isinstance(seed, Mapping):
            rest = seed.get("*", 0)
            label = ",".join(f"{k}={v}" for k, v in seed.items() if k != "*") or str(rest)
            found.append(Replicate(label, {s: seed.get(s, rest) for s in streams}))
        else:
            found.append(Replicate(str(seed), dict.fromkeys(streams, seed)))
    if len({r.label for r in found}) < len(found):  # they differ in what "*" stands for: name every stream
        found = [Replicate(",".join(f"{k}={v}" for k, v in r.seeds.items()), r.seeds) for r in found]
    return tuple(found)


def spaces(spec: Any, path: str = "") -> dict[str, Any]:
    """Search spaces in the fields of a Spec, by path."""
    if is_space(spec):
        return {path: spec}
    found: dict[str, Any] = {}
    for name, part in parts(spec).items():
        found |= spaces(part, f"{path}.{name}")
    return found


def _paths(spec: Any, path: str) -> Iterator[str]:
    for option in spec["grid_search"] if isinstance(spec, Mapping) and is_space(spec) else [spec]:
        for name, part in parts(option).items():
            yield f"{path}.{name}"
            yield from _paths(part, f"{path}.{name}")


def _replaced(spec: Any, rest: list[str], value: Any, path: str, sweep: Sweep | None = None) -> Any:
    """`spec` with the part at the remaining path replaced; Specs are rebuilt, so they check the value."""
    if not rest:
        return value
    if isinstance(spec, Mapping) and is_space(spec):  # a grid of Specs: in each that has the path
        options = [o for o in spec["grid_search"] if _has(o, rest)]
        if options:
            return {
                "grid_search": [
                    _replaced(o, rest, value, path, sweep) if any(o is q for q in options) else o
                    for o in spec["grid_search"]
                ]
            }
    known = parts(spec)
    if rest[0] not in known:
        hint = nearest(path, sweep.paths()) if sweep else nearest(rest[0], known)
        raise InvalidValue(f"There is no {path!r} in this sweep{hint}.")
    return with_parts(spec, {rest[0]: _replaced(known[rest[0]], rest[1:], value, path, sweep)})


def _has(spec: Any, rest: list[str]) -> bool:
    """Whether the path leads somewhere, in one of the options where there is a grid."""
    if isinstance(spec, Mapping) and is_space(spec):
        return not rest or any(_has(option, rest) for option in spec["grid_search"])
    known = parts(spec)
    return not rest or (rest[0] in known and _has(known[rest[0]], rest[1:]))


def _replaced_probe(probes: Sequence[Task], head: str, rest: list[str], value: Any, sweep: Sweep) -> tuple[Task, ...]:
    path = ".".join([head, *rest])
    matching = [p for p in probes if type(p).__name__ == rest[0]]
    if not matching:
        raise InvalidValue(f"There is no {path!r} in this sweep{nearest(path, sweep.paths())}.")
    return tuple(_replaced(p, rest[1:], value, path, sweep) if p in matching else p for p in probes)


def plain(value: Any) -> Any:
    """A value from a sampler as a plain Python one (numpy scalars unwrapped)."""
    return value.item() if hasattr(value, "item") and not isinstance(value, Spec) else value


def show(value: Any) -> str:
    """A value in a label: `0.05`, `SGD(lr=0.1)`, `(64, 64)`, `Mixup(alpha=0.2) + L1(strength=0.01)`, `none` for `()`.

    Of a Spec only the fields that differ from the defaults.
    """
    if isinstance(value, Spec):
        fields = []
        for f in dataclasses.fields(value):
            v = getattr(value, f.name)
            if not (f.default is not dataclasses.MISSING and v == f.default):
                fields.append(f"{f.name}={show(v)}")
        return f"{type(value).__name__}({', '.join(fields)})" if fields else type(value).__name__
    if isinstance(value, (tuple, list)) and all(isinstance(v, Spec) for v in value):
        return " + ".join(map(show, value)) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def short_name(path: str, config: Mapping[str, Any]) -> str:
    """The shortest end of a path that no other varied path shares: "train.optimizer.rho" → "rho"."""
    parts = path.split(".")
    for n in range(1, len(parts)):
        tail = ".".join(parts[-n:])
        if sum(p == tail or p.endswith(f".{tail}") for p in config) == 1:
            return tail
    return path
