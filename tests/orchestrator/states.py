"""Runs in every state, told by events that are made up: what a screen shows of each is looked at and tested."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from orchestrator.standing import Standing

T0 = 1_790_000_000.0

RHO = ["rho=0.0", "rho=0.02", "rho=0.05", "rho=0.1", "rho=0.2"]
LONG = "depth=3, width=64, optimizer=SAM, dataset=CIFAR10, augmentation=Mixup(alpha=0.2), weight_decay=0.0005, rho={}"
FOUND = [
    "lr=0.0123, weight_decay=0.0005, rho=0.07",
    "lr=0.055, weight_decay=0.0001, rho=0.02",
    "lr=0.11, weight_decay=0.0004, rho=0.1",
]


class Told:
    """A run of which events tell, one after the other.

    Attributes:
        standing: what they come to; `now` is the time of the last, in Unix seconds.
        events: all of them.
    """

    def __init__(self, workers: int = 4, settings: list[str] | None = None, seeds: int = 5, host: str = "gpu") -> None:
        self.standing = Standing()
        self.events: list[dict[str, Any]] = []
        self.now = T0
        self.workers = workers
        self.settings = settings or RHO
        self.seeds = seeds
        self._host = host
        self._bundles: dict[str, str] = {}
        self._chance = random.Random(0)

    def tell(self, event: str, after: float = 0.0, **about: Any) -> None:
        self.now += after
        self.events.append({"time": self.now, "event": event, **about})
        self.standing.feed(self.events[-1])

    def begin(self, stored: dict[str, int] | None = None, tasks: dict[str, int] | None = None, **about: Any) -> Told:
        n = len(self.settings) * self.seeds
        many = {"CIFAR10": 1, "Train": n, "Lanczos": n, "GradientNoise": n, "Perturbation": n, "Interpolation": 2 * n}
        many = tasks or {**many, "AutoNEB": 2 * n}
        there = stored or {}
        kinds = {kind: {"tasks": number, "stored": there.get(kind, 0), "skipped": 0} for kind, number in many.items()}
        numbers = {"tasks": sum(many.values()), "stored": sum(there.values()), "slots": self.workers}
        of_sweep = {"metric": "val_accuracy", "mode": "max", "seeds": self.seeds, "settings": len(self.settings)}
        self.tell("run_started", command=["sweep"], kinds=kinds, **numbers, **of_sweep, **about)
        return self

    def submit(self, *label: str, bundle: str = "") -> tuple[str, str]:
        """Key and label of a task that is handed out."""
        key = f"{len(self._bundles) + 1:040x}"[::-1]
        self._bundles[key] = bundle or f"b{len(self._bundles)}"
        self.tell("submitted", key=key, label=" · ".join(label), bundle=self._bundles[key])
        return key, " · ".join(label)

    def at_work(self, task: tuple[str, str], worker: int, doing: str = "") -> None:
        self.tell("at_work", key=task[0], bundle=self._bundles[task[0]], worker=self.name(worker), doing=doing)

    def name(self, worker: int) -> str:
        return f"{self._host}-{worker}:{3300 + worker}"

    def commit(self, task: tuple[str, str], seconds: float, worker: int = 0, **about: Any) -> None:
        about = {"worker": self.name(worker), "status": "done", **about}
        self.tell("committed", seconds / self.workers, key=task[0], label=task[1], seconds=seconds, **about)

    def fail(self, *label: str, error: str, **about: Any) -> None:
        key, words = self.submit(*label)
        self.tell("failed", 3.0, key=key, label=words, error=error, **{"blocked": 0, **about})

    def lose(self, *label: str, why: str) -> None:
        key, words = self.submit(*label)
        self.tell("lost", 1.0, key=key, label=words, again=True, why=why, blamed=False)

    def train(self, upto: int, seconds: float = 100.0, start: int = 0) -> Told:
        todo = [(setting, seed) for setting in self.settings for seed in range(self.seeds)]
        for number, (setting, seed) in list(enumerate(todo))[start:upto]:
            place = self.settings.index(setting)
            value = 0.9 + 0.01 * place - 0.003 * place**2 + 0.004 * self._chance.gauss(0, 1)
            about = {"setting": setting, "seed": str(seed), "value": value}
            self.commit(self.submit("Train", setting, f"seed {seed}"), seconds, number % self.workers, **about)
        return self


def first() -> Told:
    run = Told().begin()
    run.at_work(run.submit("CIFAR10"), 0)
    run.now += 7
    return run


def middle() -> Told:
    """Something is known of all kinds but two."""
    run = Told().begin()
    run.commit(run.submit("CIFAR10"), 20)
    run.train(12)
    for setting in RHO[:2]:
        for seed in range(3):
            for kind, seconds in (("Lanczos", 30), ("GradientNoise", 12), ("Perturbation", 4)):
                run.commit(run.submit(kind, setting, f"seed {seed}"), seconds, seed)
    for number in range(3):
        run.at_work(run.submit("Train", RHO[2], f"seed {number + 2}"), number, f"epoch {3 + number} of 12")
    run.at_work(run.submit("Lanczos", RHO[1], "seed 3", bundle="probes"), 3)
    run.submit("Lanczos", RHO[1], "seed 4", bundle="probes")
    run.now += 24
    return run


def known() -> Told:
    run = middle()
    for kind, seconds in (("Interpolation", 9), ("AutoNEB", 40)):
        run.commit(run.submit(kind, "rho=0.0 · seed 0 × rho=0.0 · seed 1"), seconds, 3)
    return run


def failures() -> Told:
    run = known()
    error = "RuntimeError: The size of tensor a (128) must match the size of tensor b (64) at non-singleton dimension 1"
    for seed in range(3):
        run.fail("AutoNEB", f"rho=0.0 · seed {seed} × rho=0.0 · seed {seed + 1}", error=error)
    skipped = {"Lanczos": 1, "GradientNoise": 1, "Perturbation": 1, "Interpolation": 4, "AutoNEB": 5}
    error = "ValueError: the learning rate must be positive, not -0.1"
    run.fail("Train", "rho=0.1", "seed 2", error=error, blocked=12, skipped=skipped, setting="rho=0.1", seed="2")
    return run


def memory() -> Told:
    run = known()
    key, label = run.submit("Train", "rho=0.2", "seed 0")
    why = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    run.tell("enlarged", 5, key=key, label=label, slot={"cpu": 2, "gpu": 0.5}, why=why)
    run.at_work(run.submit("Train", "rho=0.2", "seed 0"), 9, "epoch 1 of 12")
    run.now += 30
    return run


def lost() -> Told:
    run = known()
    for seed in range(3):
        run.lose("Train", "rho=0.2", f"seed {seed}", why="its node 10.0.3.17 was taken away (spot)")
    why = "gpu-7 takes no part: it has torch 2.4.0, here it is 2.6.0: install the versions of constraints.txt there."
    run.tell("left_out", 1, node="n7", host="gpu-7", why=why)
    label = "Lanczos · rho=0.0 · seed 0"
    run.tell("damaged", 1, key="f" * 40, label=label, why="spectrum.npz: content differs", again=True)
    key, label = run.submit("Train", "rho=0.2", "seed 4")
    run.tell("elsewhere", key=key, label=label)
    return run


def away() -> Told:
    run = lost()
    run.tell("store_away", 1, why="The store s3://studies/sam does not answer (Could not connect to server): waiting.")
    run.now += 42
    return run


def search() -> Told:
    run = Told(settings=FOUND, seeds=3)
    run.begin(tasks={"Digits": 1, "Train": 9, "Lanczos": 9}, search="OptunaSearch", samples=40, proposed=3)
    run.commit(run.submit("Digits"), 1)
    run.train(7, 60)
    many = {"Digits": 1, "Train": 12, "Lanczos": 12}
    kinds = {kind: {"tasks": n, "stored": 0, "skipped": 0} for kind, n in many.items()}
    run.tell("proposed", 1, setting=3, config={}, proposed=4, kinds=kinds)
    run.commit(run.submit("Lanczos", FOUND[0], "seed 0"), 40)
    for number in range(4):
        run.at_work(run.submit("Train", FOUND[2], f"seed {number}"), number, f"epoch {number + 2} of 30")
    run.now += 20
    return run


def stored() -> Told:
    run = Told().begin({"CIFAR10": 1, "Train": 25, "Lanczos": 20}, {"CIFAR10": 1, "Train": 25, "Lanczos": 25},
                       expected={"Lanczos": 30.0})  # fmt: skip
    for place, setting in enumerate(RHO):
        values = {f"{setting} {seed}": 0.9 + 0.001 * place + 0.0004 * seed for seed in range(5)}
        run.tell("stored", setting=setting, values=values)
    run.at_work(run.submit("Lanczos", "rho=0.2", "seed 0"), 1)
    run.now += 12
    return run


def interrupting() -> Told:
    run = known()
    run.tell("halted", 2, why="Interrupted.")
    return run


def interrupted() -> Told:
    run = interrupting()
    run.tell("run_interrupted", 3, seconds=run.now - T0, startup=4.0)
    return run


def halted() -> Told:
    run = known()
    why = "A disk of gpu-3 is full: make space and run the same command again."
    run.tell("run_halted", 3, seconds=run.now - T0, startup=4.0, why=why)
    return run


def finished() -> Told:
    run = failures().train(25, start=17)
    run.tell("run_finished", 3, seconds=run.now - T0, startup=4.0)
    return run


def hundred() -> Told:
    """A hundred workers on a cluster, long labels, many failures and losses."""
    run = Told(100, [LONG.format(rho) for rho in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4)], seeds=20, host="ip-10-0-3")
    run.begin(expected={"Lanczos": 30, "GradientNoise": 12, "Perturbation": 4, "Interpolation": 9, "AutoNEB": 400})
    run.commit(run.submit("CIFAR10"), 500)
    run.train(40, 600)
    for number in range(100):
        kind = "Train" if number % 3 else "Lanczos"
        task = run.submit(kind, run.settings[2 + number // 25], f"seed {number % 20}")
        run.at_work(task, number, f"epoch {number % 12} of 200" if kind == "Train" else "")
        run.now += 1.0
    for seed in range(8):
        label = f"{run.settings[0]} · seed {seed} × {run.settings[1]} · seed {seed}"
        run.fail("AutoNEB", label, error="FloatingPointError: the band has collapsed")
    for seed in range(40):
        run.lose("Train", run.settings[3], f"seed {seed}", why="its machine was taken away")
    return run


STATES: dict[str, Callable[[], Told]] = {
    "starting": Told, "first": first, "middle": middle, "known": known, "failures": failures, "memory": memory,
    "lost": lost, "away": away, "search": search, "stored": stored, "interrupting": interrupting,
    "interrupted": interrupted, "halted": halted, "finished": finished, "hundred": hundred,
}  # fmt: skip


def many(tasks: int, workers: int) -> Told:
    """A run of very many tasks, about half of them done."""
    kinds = ("Train", "Lanczos", "GradientNoise", "Interpolation", "AutoNEB")
    run = Told(workers, [f"lr={number}" for number in range(tasks // 25)])
    run.begin(tasks=dict.fromkeys(kinds, tasks // len(kinds)))
    waiting: list[tuple[tuple[str, str], dict[str, Any]]] = []
    for number in range(tasks // 2):
        setting, seed = run.settings[number // 25], str(number % 5)
        about = {"setting": setting, "seed": seed, "value": number % 7} if number % 5 == 0 else {}
        waiting.append((run.submit(kinds[number % 5], setting, f"seed {seed}"), about))
        if len(waiting) > workers:
            task, about = waiting.pop(0)
            run.commit(task, 1.0, number % workers, **about)
    return run
