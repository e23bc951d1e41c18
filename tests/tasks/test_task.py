"""Tasks carried out by hand: inputs, context, results, seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tasks.errors import UserError
from tasks.task import Artifact, Context, GroupProbe, PairProbe, Probe, Task, execute, input_fields


@dataclass(frozen=True)
class Numbers(Task):
    n: int = 4

    def run(self, ctx: Context) -> Any:
        np.save(ctx.dir / "x.npy", np.arange(self.n))
        return {"n": self.n}


@dataclass(frozen=True)
class Fit(Task):
    numbers: Numbers = Numbers()
    steps: int = 2

    streams: ClassVar[tuple[str, ...]] = ("init", "order")

    def run(self, ctx: Context, numbers: Artifact) -> Any:
        for step in range(self.steps):
            yield {"step": step}
        ctx.save_arrays("w", w=ctx.rng("init").random(3))
        return {"sum": numbers.array("x").sum(), "half": np.float32(0.5), "good": np.bool_(True)}


@dataclass(frozen=True)
class Draw(Probe):
    def run(self, ctx: Context, trained: Artifact) -> Any:
        return {"draw": ctx.rng("directions").random(), "seen": float(trained.arrays("w")["w"][0])}


@dataclass(frozen=True)
class Both(PairProbe):
    def run(self, ctx: Context, a: Artifact, b: Artifact) -> Any:
        return {"draw": ctx.rng("x").random(), "seeds": str(sorted(ctx.seeds))}


@dataclass(frozen=True)
class All(GroupProbe):
    def run(self, ctx: Context, *trained: Artifact) -> Any:
        return {"members": len(trained)}


@pytest.fixture
def fit(tmp_path: Path):
    numbers = execute(Numbers(), folder=tmp_path / "numbers")
    return lambda seed: execute(Fit(), numbers, seed=seed, folder=tmp_path / f"fit{seed}")


def test_a_task_runs_by_hand(fit, tmp_path: Path) -> None:
    trained = fit(0)
    assert trained.results == {"sum": 6, "half": 0.5, "good": True}
    assert [type(v) for v in trained.results.values()] == [int, float, bool]
    assert trained.seeds == {"init": 0, "order": 0}
    assert trained.input("numbers").results == {"n": 4}
    assert list(input_fields(Fit())) == ["numbers"]


def test_progress_is_reported(tmp_path: Path) -> None:
    seen: list[Any] = []
    numbers = execute(Numbers(), folder=tmp_path / "n")
    execute(Fit(steps=3), numbers, folder=tmp_path / "f", report=seen.append)
    assert seen == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_the_same_seed_gives_the_same_numbers_everywhere(fit, tmp_path: Path) -> None:
    trained = fit(0)
    one = execute(Draw(), trained, folder=tmp_path / "one", seed=1)
    two = execute(Draw(), trained, folder=tmp_path / "two", seed=2)
    assert one.results == two.results  # a probe inherits the seeds of what it probes
    assert one.results["draw"] != execute(Draw(), fit(1), folder=tmp_path / "three").results["draw"]


def test_a_pair_knows_the_seeds_of_both(fit, tmp_path: Path) -> None:
    a, b = fit(0), fit(1)
    pair = execute(Both(), a, b, folder=tmp_path / "pair")
    assert pair.results["seeds"] == "['0.init', '0.order', '1.init', '1.order']"
    turned = execute(Both(), b, a, folder=tmp_path / "turned")
    assert turned.results["draw"] != pair.results["draw"]


def test_a_group_takes_any_number(fit, tmp_path: Path) -> None:
    members = [fit(i) for i in range(3)]
    assert execute(All(), *members, folder=tmp_path / "group").results == {"members": 3}


def test_arrays_are_never_unpickled(fit, tmp_path: Path) -> None:
    trained = fit(0)
    with pytest.raises(TypeError, match=r"w.npz: bad holds Python objects"):
        Context(tmp_path).save_arrays("w", bad=np.array([{}], dtype=object))
    np.save(trained.dir / "evil.npy", np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="Python objects"):
        trained.array("evil")


def test_tables(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    Context(tmp_path).save_table("history", {"epoch": [1, 2], "loss": np.array([0.5, 0.25])})
    assert parquet.read_table(tmp_path / "history.parquet").to_pydict() == {"epoch": [1, 2], "loss": [0.5, 0.25]}


def test_the_folder_must_be_empty(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="is not empty"):
        execute(Numbers(), folder=tmp_path)


def test_too_few_inputs(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"Both.run\(\) needs more inputs"):
        execute(Both(), folder=tmp_path)


@dataclass(frozen=True)
class Odd(Task):
    which: int = 0

    def run(self, ctx: Context) -> Any:
        return [{"x": [1]}, {1: 2}, {"x": np.zeros(2)}, {"x": object()}, None, {}][self.which]


@pytest.mark.parametrize("which", [0, 1, 3])
def test_results_are_plain_scalars(tmp_path: Path, which: int) -> None:
    with pytest.raises(TypeError, match="a result is a bool, int, float or str"):
        execute(Odd(which), folder=tmp_path)


@pytest.mark.parametrize("which", [4, 5])
def test_no_results_are_fine(tmp_path: Path, which: int) -> None:
    assert execute(Odd(which), folder=tmp_path).results == {}


def test_the_cache_keeps_the_latest_few() -> None:
    context = Context(Path())
    made: list[int] = []
    for key in [0, 1, 2, 3, 0, 4, 0]:
        context.cached(str(key), lambda key=key: made.append(key) or key)
    assert made == [0, 1, 2, 3, 4, 0]  # 4 took the place of 0, the oldest


def test_the_log() -> None:
    lines: list[str] = []
    Context(Path(), log=lines.append).log("hello")
    Context(Path()).log("nobody listens")
    assert lines == ["hello"]
