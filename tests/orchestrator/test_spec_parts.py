"""Paths through a tuple of Specs: the regularisers of a training, in sweep files, overrides, labels and reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders import grid

from orchestrator.decisions import _decode
from orchestrator.keys import canonical
from orchestrator.plan import Plan, make_plan, why
from orchestrator.provenance import flat
from orchestrator.records import _settings
from orchestrator.spec_parts import parts, with_parts
from orchestrator.store import Store
from orchestrator.sweep import Sweep, show
from orchestrator.sweep_file import load_sweep, parse_overrides
from tasks.data import Digits
from tasks.errors import InvalidValue
from tasks.models import MLP
from tasks.regularisers import L1, LabelSmoothing, Mixup
from tasks.train import EarlyStopping, Train

NAMES = {"Mixup": Mixup, "L1": L1, "LabelSmoothing": LabelSmoothing, "EarlyStopping": EarlyStopping}


def sweep(regularisers: Any, **changes: Any) -> Sweep:
    train = Train(dataset=Digits(), model=MLP(), regularisers=regularisers)
    return Sweep(**{"train": train, "seeds": range(2), **changes})


def found(declared: Sweep) -> list[tuple[Any, ...]]:
    return [s.train.regularisers for s in declared.settings()]


def told(declared: Sweep, *items: str) -> Sweep:
    return declared.override(parse_overrides(items, NAMES))


def test_parts() -> None:
    pair = (L1(0.1), Mixup(0.2), L1(0.3))
    assert parts(pair) == {"L1": L1(0.1), "Mixup": Mixup(0.2), "L1#2": L1(0.3)}
    assert with_parts(pair, {"L1#2": L1(0.4)}) == (L1(0.1), Mixup(0.2), L1(0.4))
    assert parts(L1(0.1)) == {"strength": 0.1, "proximal": False, "everywhere": False}
    assert parts((1, 2)) == parts(3) == parts("ab") == {}


def test_a_space_within_a_tuple() -> None:
    declared = sweep([Mixup(alpha=grid(0.0, 0.2)), L1(strength=grid(1e-4, 1e-3))])
    assert list(declared.space) == ["train.regularisers.Mixup.alpha", "train.regularisers.L1.strength"]
    assert found(declared) == [(Mixup(a), L1(s)) for a in (0.0, 0.2) for s in (1e-4, 1e-3)]
    assert [s.label for s in declared.settings()][:2] == ["alpha=0, strength=0.0001", "alpha=0, strength=0.001"]
    assert _settings(declared.settings())[0]["config"] == {
        "train.regularisers.Mixup.alpha": 0.0,
        "train.regularisers.L1.strength": 1e-4,
    }


def test_a_grid_of_tuples() -> None:
    declared = sweep(grid((), (L1(1e-4),), [Mixup(0.2), L1(1e-4, proximal=True)]))
    assert found(declared) == [(), (L1(1e-4),), (Mixup(0.2), L1(1e-4, proximal=True))]
    labels = ["none", "L1", "Mixup + L1"]
    assert [s.label for s in declared.settings()] == [f"regularisers={label}" for label in labels]
    assert [s["config"] for s in _settings(declared.settings())] == [{"train.regularisers": v} for v in labels]
    json.dumps(_settings(declared.settings()))
    assert show((64, 64)) == "(64, 64)"


def test_a_grid_within_an_option_of_a_grid_of_tuples() -> None:
    declared = sweep(grid((), (L1(strength=grid(1e-4, 1e-3)), Mixup(0.2))))
    assert found(declared) == [(), (L1(1e-4), Mixup(0.2)), (L1(1e-3), Mixup(0.2))]


def test_random_spaces_within_and_of_tuples() -> None:
    tune = pytest.importorskip("ray.tune")
    drawn = found(sweep([Mixup(alpha=tune.uniform(0, 1)), L1(strength=grid(0.0, 1.0))], samples=3))
    assert len(drawn) == 6 and len({rules[0].alpha for rules in drawn}) == 6
    options = tune.choice([(), (L1(1e-4),), (Mixup(0.2), L1(1e-4))])
    declared = sweep(options, samples=20)
    assert set(found(declared)) == {(), (L1(1e-4),), (Mixup(0.2), L1(1e-4))}
    for setting in declared.settings():  # as the journal of a search has them
        recorded = json.loads(json.dumps(canonical(setting.config)))
        assert declared.setting(0, _decode(recorded, declared.space)).train == setting.train


def test_overrides() -> None:
    declared = sweep([Mixup(0.2), L1(1e-4)])
    assert found(told(declared, "train.regularisers.Mixup.alpha=0.4")) == [(Mixup(0.4), L1(1e-4))]
    assert found(told(declared, "train.regularisers.Mixup.alpha=[0.0, 0.4]")) == [
        (Mixup(0.0), L1(1e-4)),
        (Mixup(0.4), L1(1e-4)),
    ]
    assert found(told(declared, "train.regularisers.L1=L1(0.5, proximal=True)")) == [(Mixup(0.2), L1(0.5, True))]
    assert found(told(declared, "train.regularisers=(Mixup(0.3),)")) == [(Mixup(0.3),)]
    assert found(told(declared, "train.regularisers=()")) == [()]
    assert found(told(declared, "train.regularisers=[(), (LabelSmoothing(0.1),)]")) == [(), (LabelSmoothing(0.1),)]
    grids = sweep(grid((), (L1(1e-4),), (Mixup(0.1), L1(1e-3))))
    assert found(told(grids, "train.regularisers.L1.strength=0.5")) == [(), (L1(0.5),), (Mixup(0.1), L1(0.5))]
    patient = told(declared, "train.early_stopping=EarlyStopping(patience=3)", "train.early_stopping.patience=[2, 3]")
    assert [s.train.early_stopping.patience for s in patient.settings()] == [2, 3]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("train.regularisers.Mixup.alpa=0.4", "did you mean 'train.regularisers.Mixup.alpha'?"),
        ("train.regularisers.Mixpu.alpha=0.4", "did you mean 'train.regularisers.Mixup.alpha'?"),
        ("train.regularisers.LabelSmoothing.share=0.1", "There is no 'train.regularisers.LabelSmoothing.share'"),
        ("train.regularisers.Mixup.alpha=-1", "Mixup: alpha must be at least 0, not -1"),
        ("train.regularisers=Mixup(0.2)", "regularisers must be a sequence of a Regulariser each, not Mixup"),
        ("train.regularisers=(Mixup(0.2), Mixup(0.3))", "regularisers holds Mixup 2 times"),
        ("train.regularisers=(Mixpu(0.2),)", "'Mixpu' is not a Spec that the sweep file knows (did you mean 'Mixup'?)"),
    ],
)
def test_a_wrong_override_is_one_sentence(item: str, words: str) -> None:
    with pytest.raises(InvalidValue) as error:
        told(sweep([Mixup(0.2), L1(1e-4)]), item)
    assert words in str(error.value) and "\n" not in str(error.value) and str(error.value).endswith(".")


def test_a_space_that_stands_for_an_element() -> None:
    with pytest.raises(InvalidValue, match=r"regularisers holds a search space: make one of whole sequences"):
        sweep([grid(Mixup(0.1), L1(0.1))])


def test_a_sweep_file(tmp_path: Path) -> None:
    file = tmp_path / "study.py"
    file.write_text(
        '"""What for?"""\n'
        "from orchestrator import Sweep\nfrom tasks.data import Digits\nfrom tasks.models import MLP\n"
        "from tasks.regularisers import L1, Mixup\nfrom tasks.train import Train\n"
        "sweep = Sweep(train=Train(dataset=Digits(), model=MLP(), regularisers=[Mixup(alpha=0.2)]), seeds=[0],\n"
        "    smoke={'train.regularisers.Mixup.alpha': {'grid_search': [0.0, 0.1]}})\n"
    )
    assert found(load_sweep(file)) == [(Mixup(0.2),)]
    assert found(load_sweep(file, smoke=True)) == [(Mixup(0.0),), (Mixup(0.1),)]
    assert found(load_sweep(file, sets=["train.regularisers=(L1(0.1),)"])) == [(L1(0.1),)]


def test_keys_and_why(tmp_path: Path) -> None:
    """Each regulariser that is on is part of the key, in its order, and of the sentence that says what is new."""
    store = Store(str(tmp_path))

    def commit(plan: Plan) -> None:
        for node in plan.nodes.values():
            store.commit(node.name, node.key, store.workspace(), {**node.spec(), "status": "done", "results": {}})

    def keys(*regularisers: Any) -> set[str]:
        return {n.key for n in make_plan(sweep(regularisers), None).nodes.values() if n.name == "Train"}

    kinds = [(), (Mixup(0.2),), (Mixup(0.3),), (Mixup(0.2), L1(0.1)), (L1(0.1), Mixup(0.2))]
    assert len(set.union(*(keys(*kind) for kind in kinds))) == 2 * len(kinds)

    def reasons(*regularisers: Any) -> set[str]:
        plan = make_plan(sweep(regularisers), store)
        return set(why(plan, store).values())

    commit(make_plan(sweep((Mixup(0.2), L1(0.1))), None))
    assert reasons(Mixup(0.4), L1(0.1)) == {"regularisers.Mixup.alpha: 0.2 → 0.4"}
    (reason,) = reasons()
    assert reason.startswith("regularisers: Mixup + L1 → none")
    (reason,) = reasons(Mixup(0.2))
    assert reason.startswith("regularisers: Mixup + L1 → Mixup")


def test_show_tells_each_field() -> None:
    train = sweep([Mixup(0.2), L1(1e-4)]).train
    shown = flat({"regularisers": canonical(train)["regularisers"]})
    assert shown == {
        "regularisers": "Mixup + L1",
        "regularisers.Mixup.alpha": 0.2,
        "regularisers.L1.strength": 1e-4,
        "regularisers.L1.proximal": False,
        "regularisers.L1.everywhere": False,
    }
    assert flat({"regularisers": [], "widths": [16, 8]}) == {"regularisers": [], "widths": [16, 8]}
