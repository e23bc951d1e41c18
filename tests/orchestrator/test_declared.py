"""What a sweep may declare of its comparisons, and the sentence for everything that it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders import carry_out, grid, toy_sweep
from toys import Curvature, Downhill, Fit, Sideways

from orchestrator.declared import resolve
from orchestrator.errors import StoreError
from orchestrator.plan import make_plan
from orchestrator.records import checked, record_of
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.sweep import Sweep, crossed
from orchestrator.sweep_file import load_sweep, parse_overrides
from tasks.errors import InvalidValue

SWEEPS = Path(__file__).parents[2] / "sweeps"
BOTH = grid(Downhill(lr=grid(0.1, 0.2)), Sideways(lr=0.1, angle=grid(1.0, 2.0)))


def labels(sweep: Sweep) -> list[str]:
    return [s.label for s in sweep.settings()]


def declared(**changes: Any) -> Any:
    sweep = toy_sweep(**changes)
    return resolve(sweep, [] if sweep.search is not None else sweep.settings())


# What is found


@pytest.mark.parametrize("name", [{"rho": 0.05}, {"train.rho": 0.05}, "rho=0.05"])
def test_a_baseline_is_named_by_values_or_label(name: Any) -> None:
    found = declared(train=Fit(rho=grid(0.0, 0.05)), baseline=name)
    assert (found.baseline, found.contrasts) == (1, ((0, 1),))


def test_settings_of_objects_are_named_by_class_and_values() -> None:
    sweep = toy_sweep(train=Fit(optimizer=BOTH))
    assert labels(sweep) == ["Downhill, lr=0.1", "Downhill, lr=0.2", "Sideways, angle=1", "Sideways, angle=2"]
    names = {
        0: [{"optimizer": "Downhill", "lr": 0.1}, {"train.optimizer": Downhill(lr=0.1)}, "Downhill, lr=0.1"],
        3: [{"angle": 2}, {"optimizer.angle": 2.0}],
    }
    for index, them in names.items():
        for name in them:
            assert resolve(toy_sweep(train=Fit(optimizer=BOTH), baseline=name), sweep.settings()).baseline == index


def test_none_stands_for_a_parameter_that_a_setting_has_not() -> None:
    assert declared(train=Fit(optimizer=BOTH), baseline={"angle": None, "lr": 0.2}).baseline == 1


def test_families() -> None:
    rho = Fit(rho=grid(0.0, 0.1, 0.2))
    assert declared(train=rho).contrasts == ()
    assert declared(train=rho, baseline={"rho": 0.1}).contrasts == ((0, 1), (2, 1))
    assert declared(train=rho, contrasts="all").contrasts == ((1, 0), (2, 0), (2, 1))
    pairs = [({"rho": 0.2}, {"rho": 0.0}), ("rho=0.1", {"rho": 0.2})]
    assert declared(train=rho, contrasts=pairs, baseline={"rho": 0.0}).contrasts == ((2, 0), (1, 2))
    assert declared(train=Fit(rho=0.1), contrasts="all").contrasts == ()


def test_primary_metric_and_smallest_effect() -> None:
    assert (declared().primary, declared().mode) == ("Fit.val_accuracy", "max")
    found = declared(primary="Curvature.lambda_max", primary_mode="min", margin=0.5)
    assert (found.primary, found.mode, found.margin, found.smallest_effect) == ("Curvature.lambda_max", "min", 0.5, 0.5)
    assert declared(primary="Fit.val_accuracy", mode="min").mode == "min"
    assert declared(margin=0.5, smallest_effect=0.1).smallest_effect == 0.1
    for name in ("Curvature", "Curvature(k=5)"):  # the columns of the two probes, of which one has the default k
        assert declared(probes=[Curvature(k=3), Curvature(k=5)], primary=f"{name}.lambda_max", primary_mode="min")


# What is refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"primary": 3}, "primary must be a string, not 3"),
        ({"primary": "acuracy"}, "Fit has no 'acuracy' (did you mean 'val_accuracy'?)"),
        ({"primary": "lambda_max", "primary_mode": "min"}, "(did you mean 'Curvature.lambda_max'?)"),
        ({"primary": "Curvatur.lambda_max"}, "the sweep has no 'Curvatur' (did you mean 'Curvature'?)"),
        ({"primary": "Line.barrier", "primary_mode": "min"}, "Line is not about one trial"),
        ({"primary": "Curvature.lambda_max"}, "primary_mode='max' or primary_mode='min'"),
        ({"primary": "train_loss"}, "say whether more or less of it is better"),
        ({"primary_mode": "min"}, "but mode says that the max of val_accuracy is better"),
        ({"primary_mode": "low"}, "primary_mode must be 'max' or 'min', not 'low'"),
        (
            {"probes": [Curvature(k=4), Curvature(k=5)], "primary": "Curvature.lambda_max", "primary_mode": "min"},
            "which 2 probes measure: name one of Curvature(k=4).lambda_max, Curvature(k=5).lambda_max",
        ),
        ({"margin": 0}, "margin must be a number above 0, in units of the primary metric, not 0"),
        ({"margin": True}, "margin must be a number above 0"),
        ({"smallest_effect": float("inf")}, "smallest_effect must be a number above 0"),
        ({"baseline": 0.0}, "baseline must name a setting by its values, such as {'rho': 0.0}, or by its label"),
        ({"baseline": {}}, "baseline must name a setting"),
        ({"baseline": {"roh": 0.0}}, "baseline names 'roh', which the sweep does not vary (did you mean 'rho'?)"),
        ({"baseline": {"epochs": 6}}, "names 'epochs', which the sweep does not vary; it varies rho"),
        ({"baseline": {"rho": 0.3}}, "baseline rho=0.3 is no setting (did you mean 'rho="),
        ({"baseline": "rho=0"}, None),
        ({"baseline": "rho=1"}, "baseline names 'rho=1', which is no setting"),
        ({"train": Fit(optimizer=BOTH), "baseline": {"lr": 0.1}}, None),
        ({"train": Fit(optimizer=BOTH), "baseline": {"optimizer": "Sideways"}}, "is 2 settings (Sideways, angle=1; "),
        ({"contrasts": "some"}, "contrasts must be 'all' or a list of pairs of settings, not 'some'"),
        ({"contrasts": []}, "contrasts is an empty list"),
        ({"contrasts": [{"rho": 0.0}]}, "which is not a pair of settings"),
        ({"contrasts": [("rho=0", 3)]}, "contrasts must name a setting"),
        ({"contrasts": [("rho=0", {"rho": 0.0})]}, "contrasts compares rho=0 with itself"),
        ({"contrasts": [("rho=0", "rho=0.1"), ("rho=0.1", "rho=0")]}, "contrasts holds rho=0.1 against rho=0 twice"),
        ({"train": Fit(rho=grid(*range(120))), "contrasts": "all"}, "7140 comparisons, more than 5000"),
        ({"search": object(), "baseline": {"rho": 0.0}}, "object proposes the settings, so baseline cannot name any"),
        ({"search": object(), "contrasts": "all"}, "so contrasts cannot name any beforehand"),
    ],
)  # fmt: skip
def test_what_cannot_be_declared(changes: dict[str, Any], words: str | None) -> None:
    if words is None:
        assert declared(**changes).baseline == 0
        return
    with pytest.raises(InvalidValue) as error:
        declared(**changes)
    text = str(error.value)
    assert words in text
    assert text.endswith(".") and "\n" not in text


# Crossed seeds


def test_crossed_seeds() -> None:
    seeds = crossed(init=range(2), order=[5, 7], others=1)
    assert seeds[0] == {"init": 0, "order": 5, "*": 1}
    assert [r.label for r in toy_sweep(seeds=seeds).replicates] == [
        "init=0,order=5", "init=0,order=7", "init=1,order=5", "init=1,order=7",
    ]  # fmt: skip
    for wrong, words in (({"init": range(3)}, "at least two streams"), ({"init": 3, "order": [1]}, "init must be")):
        with pytest.raises(InvalidValue, match=words):
            crossed(**wrong)
    with pytest.raises(InvalidValue, match="no stream of randomness named 'ordr'"):
        toy_sweep(seeds=crossed(init=range(2), ordr=range(2)))


# In files and records


FILE = """
from orchestrator import Sweep
from toys import Fit

sweep = Sweep(
    train=Fit(rho={"grid_search": [0.0, 0.1, 0.2]}),
    seeds=range(3),
    baseline={"rho": 0.2},
    contrasts=[({"rho": 0.2}, {"rho": 0.0}), ({"rho": 0.1}, {"rho": 0.0})],
    margin=0.01,
    smoke={"train.rho": {"grid_search": [0.0, 0.1]}, "train.epochs": 1},
)
"""


def test_a_smoke_size_drops_what_it_has_no_settings_for(tmp_path: Path) -> None:
    file = tmp_path / "declaring.py"
    file.write_text(FILE)
    whole = make_plan(load_sweep(file), None)
    assert resolve(whole.sweep, whole.settings).contrasts == ((2, 0), (1, 0))
    smoke = load_sweep(file, smoke=True)
    found = resolve(smoke, smoke.settings())
    assert (found.baseline, found.contrasts, found.margin) == (None, ((1, 0),), 0.01)
    assert found.notes == (
        "the smoke size has no setting for the baseline rho=0.2",
        "the smoke size lacks settings of 1 of the 2 contrasts",
    )
    for options in ({"smoke": True, "sets": ['baseline={"rho": 0.2}']}, {"sets": ["train.rho=[0.0,0.1]"]}):
        with pytest.raises(InvalidValue, match="is no setting"):
            make_plan(load_sweep(file, **options), None)
    narrowed = load_sweep(file, sets=["train.rho=[0.0,0.1]", "baseline=None", "contrasts=None"])
    assert resolve(narrowed, narrowed.settings()).contrasts == ()


def test_overrides_from_the_command_line() -> None:
    sets = ['baseline={"rho": 0.1}', "margin=0.02", "contrasts=all", "primary_mode=None"]
    sweep = toy_sweep().override(parse_overrides(sets, {}))
    assert (sweep.baseline, sweep.margin, sweep.contrasts, sweep.primary_mode) == ({"rho": 0.1}, 0.02, "all", None)


def test_nothing_declared_enters_a_key() -> None:
    changed = toy_sweep(baseline={"rho": 0.0}, margin=0.1, primary="Curvature.lambda_max", primary_mode="min")
    assert list(make_plan(changed, None).nodes) == list(make_plan(toy_sweep(), None).nodes)


def test_the_record_holds_declaration_and_seeds(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    changes = {"probes": [Curvature(k=3), Curvature(k=5)], "baseline": {"rho": 0.02}, "margin": 0.1}
    plan = make_plan(
        toy_sweep(**changes, primary="Curvature(k=5).lambda_max", primary_mode="min", seeds=[4, {"init": 1, "*": 2}]),
        store,
    )
    study = Study.from_plan(plan, store, carry_out(plan, store))
    assert study.declared.primary in {m.path for m in study.headline("probe")}
    study.save(store, "runs/toy/r")
    again = Study.load(store, "runs/toy/r")
    assert again.declared == study.declared
    assert again.declared.contrasts == ((0, 1), (2, 1), (3, 1), (4, 1))
    assert again.seeds == {"4": {"init": 4, "order": 4}, "init=1": {"init": 1, "order": 2}}


def test_records_of_older_versions_have_neither(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    plan = make_plan(toy_sweep(mode="min"), store)
    record = record_of(plan, carry_out(plan, store))
    del record["declared"], record["seeds"]
    study = Study(store, checked(record))
    assert study.seeds == {}
    assert (study.declared.primary, study.declared.mode, study.declared.contrasts) == ("Fit.val_accuracy", "min", ())


STRANGE = [
    {"declared": 3}, {"declared": {}}, {"declared.contrasts": [[0, 0]]}, {"declared.contrasts": [[0, 9]]},
    {"declared.contrasts": [[0, 1], [1, 0]]}, {"declared.contrasts": [[0]]}, {"declared.contrasts": [[0.0, 1]]},
    {"declared.contrasts": [[False, True]]}, {"declared.contrasts": "all"}, {"declared.baseline": 99},
    {"declared.baseline": "rho=0"}, {"declared.margin": 0}, {"declared.margin": -1.0}, {"declared.margin": "wide"},
    {"declared.margin": float("nan")}, {"declared.mode": "most"}, {"declared.primary": None}, {"declared.notes": [3]},
    {"seeds": {}}, {"seeds": []}, {"seeds": [1, 2, 3]}, {"seeds": [{"init": "a"}] * 3}, {"seeds": [{"init": 1.5}] * 3},
]  # fmt: skip


@pytest.mark.parametrize("change", STRANGE, ids=lambda c: json.dumps(c)[:40])
def test_strange_records_are_damaged(tmp_path: Path, change: dict[str, Any]) -> None:
    store = Store(str(tmp_path))
    plan = make_plan(toy_sweep(baseline={"rho": 0.0}, margin=0.1, probes=[], pairs=[], groups=[]), store)
    record = record_of(plan, carry_out(plan, store))
    checked(record)
    for path, value in change.items():
        head, _, rest = path.partition(".")
        if rest:
            record[head][rest] = value
        else:
            record[head] = value
    store.write("runs/toy/r/study.json", json.dumps(record).encode())
    with pytest.raises(StoreError, match="is damaged"):
        Study.load(store, "runs/toy/r")


def test_a_random_search_may_declare_a_baseline_that_it_draws() -> None:
    from ray import tune

    sweep = toy_sweep(train=Fit(rho=tune.choice([0.0, 0.1])), samples=12, baseline={"rho": 0.1})
    assert labels(sweep)[resolve(sweep, sweep.settings()).baseline or 0] == "rho=0.1"


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("file", sorted(SWEEPS.glob("*.py")), ids=lambda f: f.stem)
def test_the_studies_declare_what_they_are_about(file: Path, smoke: bool) -> None:
    sweep = load_sweep(file, smoke=smoke)
    found = resolve(sweep, [] if sweep.search is not None else sweep.settings())
    assert found.margin == (0.02 if smoke else 0.005)
    if file.stem in ("asha", "optuna_lr"):  # settings that nobody knows beforehand
        assert found.contrasts == ()
    else:
        assert found.contrasts and not found.notes
