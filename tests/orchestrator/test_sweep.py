"""What a sweep file may declare, and the sentence for everything that it may not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from builders import grid
from hypothesis import given
from hypothesis import strategies as st
from toys import Brittle, Curvature, Downhill, Ensemble, Fit, Line, Points, Sideways

from orchestrator.errors import SweepError, UserError
from orchestrator.sweep import Setting, Sweep, Trial, same_seed, same_setting, vary
from orchestrator.sweep_file import load_sweep, parse_overrides
from tasks.data import Digits
from tasks.errors import InvalidValue
from tasks.models import MLP
from tasks.optimizers import EMA, SAM, SAME, SGD, AdamW
from tasks.train import Train


def sweep(**changes: Any) -> Sweep:
    return Sweep(**{"train": Fit(), "seeds": range(3), **changes})


def sentence(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


# Bad values


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": Downhill()}, "train must be a task such as Train(...), not Downhill"),
        ({"train": Fit}, "train must be a task"),
        ({"seeds": []}, "seeds is empty: give at least one"),
        ({"seeds": 5}, "seeds must be integers such as range(5), not 5"),
        ({"seeds": "abc"}, "seeds must be integers"),
        ({"seeds": [0, -1]}, "a seed must be a non-negative integer"),
        ({"seeds": [True]}, "a seed must be a non-negative integer"),
        ({"seeds": [0.5]}, "a seed must be a non-negative integer"),
        ({"seeds": [1, 1]}, "the same seed twice"),
        ({"seeds": [1, {"init": 1, "order": 1}]}, "the same seed twice"),
        ({"seeds": [{"init": 0, "order": 1}, {"order": 1, "init": 0}]}, "the same seed twice"),
        ({"train": Points()}, "Points names no streams of randomness, so 3 seeds would all give the same training"),
        ({"seeds": [{"initt": 1}]}, "no stream of randomness named 'initt' (did you mean 'init'?); it has init, order"),
        ({"probes": Curvature()}, "probes must be a list of tasks"),
        ({"probes": [Curvature]}, "not a Probe (an instance is needed: add parentheses)"),
        ({"probes": [Line()]}, "not a Probe (it belongs in pairs)"),
        ({"pairs": [Curvature()]}, "not a PairProbe (it belongs in probes)"),
        ({"groups": [Line()]}, "not a GroupProbe (it belongs in pairs)"),
        ({"probes": [Curvature(k=grid(1, 2))]}, "only the training's fields may"),
        ({"pair_when": True}, "pair_when must be made of same_setting and same_seed"),
        ({"mode": "best"}, "mode must be 'max' or 'min', not 'best'"),
        ({"samples": 0}, "samples must be an integer of at least 1"),
        ({"samples": True}, "samples must be an integer of at least 1"),
        ({"metric": 3}, "metric must be the name of a result"),
        ({"slot": {"cpus": 1}}, "slot names 'cpus' (did you mean 'cpu'?)"),
        ({"slot": {"cpu": -1}}, "slot['cpu'] must be a number of at least 0"),
        ({"slot": 2}, "slot must be a mapping"),
        ({"slots": {"Line": {"cpu": 1}}}, "slots must map task classes to resources; 'Line' is not one"),
        ({"slots": {Line: {"tpu": 1}}}, "slots[Line] names 'tpu'"),
    ],
)
def test_a_wrong_value_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue) as error:
        sweep(**changes)
    assert words in sentence(error)


# Settings


def test_one_setting_without_spaces() -> None:
    (only,) = sweep().settings()
    assert (only.config, only.label, only.train) == ({}, "default", Fit())


def test_a_grid_is_the_product_in_the_order_of_the_fields() -> None:
    settings = sweep(train=Fit(width=grid(16, 32), rho=grid(0.0, 0.1))).settings()
    assert [s.label for s in settings] == [
        "rho=0, width=16",
        "rho=0, width=32",
        "rho=0.1, width=16",
        "rho=0.1, width=32",
    ]
    assert [s.index for s in settings] == [0, 1, 2, 3]
    assert settings[3].train == Fit(rho=0.1, width=32)


def test_a_grid_in_a_part_and_of_parts() -> None:
    settings = sweep(train=Fit(optimizer=Downhill(lr=grid(0.1, 0.2)))).settings()
    assert [s.train.optimizer.lr for s in settings] == [0.1, 0.2]
    settings = sweep(train=Fit(optimizer=grid(Downhill(), Sideways(angle=2.0)))).settings()
    assert [s.label for s in settings] == ["Downhill", "Sideways"]


def test_a_grid_within_an_option_of_a_grid_is_multiplied_out() -> None:
    options = grid(Downhill(), Sideways(lr=grid(0.1, 0.2), angle=grid(1.0, 2.0)), Sideways(lr=0.2, angle=2.0))
    declared = sweep(train=Fit(optimizer=options))
    settings = declared.settings()
    assert [s.train.optimizer for s in settings] == [
        Downhill(),
        *(Sideways(lr=lr, angle=angle) for lr in (0.1, 0.2) for angle in (1.0, 2.0)),
    ]
    assert settings[0].label == "Downhill"
    assert settings[3].told == {
        "train.optimizer": "Sideways",
        "train.optimizer.lr": 0.2,
        "train.optimizer.angle": 1.0,
    }
    changed = declared.override({"train.optimizer.lr": grid(0.3, 0.4)})  # in each option that has it
    assert len(changed.settings()) == 2 + 2 * 2


def test_optimizers_over_other_optimizers() -> None:
    """What an optimizer of the SAM family leaves to its base is not told as if it had been said."""
    declared = sweep(train=Train(Digits(), MLP(), SAM(rho=0.1)))
    over = declared.override(parse_overrides(["train.optimizer.base=[AdamW(lr=0.01), None]"], {"AdamW": AdamW}))
    assert [s.train.optimizer for s in over.settings()] == [SAM(rho=0.1, base=AdamW(lr=0.01)), SAM(rho=0.1)]
    assert [s.label for s in over.settings()] == ["AdamW", "base=None"]
    rates = over.override({"train.optimizer.base": AdamW()}).override({"train.optimizer.base.lr": grid(0.1, 0.2)})
    assert [s.label for s in rates.settings()] == ["lr=0.1", "lr=0.2"]
    options = grid(SGD(), SAM(lr=0.1), SAM(base=AdamW(), rho=grid(0.1, 0.2)), SAME(group=grid(1, 2)))
    assert [s.label for s in sweep(train=Train(Digits(), MLP(), options)).settings()] == [
        "SGD",
        "SAM, lr=0.1, rho=0.05",
        "SAM, rho=0.1, base=AdamW",
        "SAM, rho=0.2, base=AdamW",
        "SAME, group=1",
        "SAME, group=2",
    ]
    with pytest.raises(InvalidValue) as error:
        declared.override({"train.optimizer.lr": 0.1}).override({"train.optimizer.base": AdamW()})
    assert "lr=0.1 is SGD's, but the base is AdamW" in sentence(error)


def test_a_rule_chooses_points_of_the_grid() -> None:
    chosen = sweep(
        train=Fit(width=grid(16, 32, 64), rho=grid(0.1, 0.2, 0.4)), setting_when=lambda fit: fit.width * fit.rho == 6.4
    )
    found = [(s.index, s.train.width, s.train.rho) for s in chosen.settings()]
    assert found == [(0, 64, 0.1), (1, 32, 0.2), (2, 16, 0.4)]
    for rule, words in (
        (lambda fit: False, "setting_when admits none of the 9 points"),
        (lambda fit: fit.depth > 1, "setting_when fails on Fit(rho=0.1): AttributeError"),
    ):
        with pytest.raises(InvalidValue) as error:
            chosen.override({"setting_when": rule}).settings()
        assert words in sentence(error)
    with pytest.raises(InvalidValue, match="setting_when admits not even the one setting"):
        sweep(train=Fit(), setting_when=lambda fit: fit.width == 99).settings()
    with pytest.raises(InvalidValue) as error:
        sweep(setting_when=True)
    assert "setting_when must be a function of the training, not True" in sentence(error)


def test_values_that_go_together_may_be_set_one_after_the_other() -> None:
    declared = sweep(train=Picky(width=32, rho=0.05), probes=[])
    for together in ({"train.rho": 0.4, "train.width": 64}, {"train.width": 64, "train.rho": 0.4}):
        assert declared.override(together).train == Picky(width=64, rho=0.4)
    for wrong in ({"train.rho": 0.4}, {"train.rho": grid(0.4, 0.8)}):
        with pytest.raises(InvalidValue, match="width 32 does not go with such a rho"):
            declared.override(wrong).settings()


@dataclasses.dataclass(frozen=True)
class Picky(Fit):
    def validate(self) -> None:
        if self.width == 32 and self.rho > 0.1:
            raise InvalidValue("Picky: width 32 does not go with such a rho.")


def test_a_rule_leaves_out_points_that_are_impossible() -> None:
    declared = sweep(train=Picky(width=grid(16, 32), rho=grid(0.1, 0.2)))
    with pytest.raises(InvalidValue, match="does not go with"):
        declared.settings()
    chosen = dataclasses.replace(declared, setting_when=lambda fit: fit.width == 16 or fit.rho < 0.2)
    assert [(s.train.width, s.train.rho) for s in chosen.settings()] == [(16, 0.1), (32, 0.1), (16, 0.2)]


def test_only_a_grid_may_stand_within_a_grid() -> None:
    tune = pytest.importorskip("ray.tune")
    with pytest.raises(InvalidValue) as error:
        sweep(train=Fit(optimizer=grid(Downhill(lr=tune.uniform(0, 1))))).settings()
    assert "lr of an option of train.optimizer must be a grid" in sentence(error)
    with pytest.raises(InvalidValue) as error:
        sweep(train=Fit(optimizer=tune.choice([Downhill(lr=grid(0.1))]))).settings()
    assert "only a grid may hold another" in sentence(error)


def test_equal_settings_are_one() -> None:
    assert len(sweep(train=Fit(rho=grid(0.1, 0.1, 0.2))).settings()) == 2


def test_equal_trainings_are_one_setting_however_their_values_are_written() -> None:
    assert [s.config for s in sweep(train=Fit(rho=grid(0, 0.0, -0.0, 0.5))).settings()] == [
        {"train.rho": 0},
        {"train.rho": 0.5},
    ]


def test_an_impossible_value_in_a_grid() -> None:
    with pytest.raises(InvalidValue) as error:
        sweep(train=Fit(rho=grid(0.1, -1))).settings()
    assert "rho must be at least 0, not -1" in sentence(error)


def test_random_spaces_are_drawn_reproducibly() -> None:
    tune = pytest.importorskip("ray.tune")

    def drawn(**changes: Any) -> list[float]:
        declared = sweep(train=Fit(rho=tune.uniform(0, 1), width=grid(16, 32)), samples=3, **changes)
        return [s.train.rho for s in declared.settings()]

    assert len(drawn()) == 6
    assert drawn() == drawn()
    assert drawn(search_seed=1) != drawn()
    assert all(0 <= v <= 1 and type(v) is float for v in drawn())


def test_more_samples_keep_those_drawn_before() -> None:
    tune = pytest.importorskip("ray.tune")
    few, many = (
        [dict(s.config) for s in sweep(train=Fit(rho=tune.uniform(0, 1)), samples=n).settings()] for n in (3, 8)
    )
    assert many[:3] == few


# Seeds


def test_a_seed_drives_every_stream() -> None:
    assert [dict(r.seeds) for r in sweep(seeds=[4]).replicates] == [{"init": 4, "order": 4}]


def test_seeds_that_differ_in_the_streams_not_named() -> None:
    found = sweep(seeds=[{"init": 0, "*": 0}, {"init": 0, "*": 1}]).replicates
    assert [r.label for r in found] == ["init=0,order=0", "init=0,order=1"]
    assert [r.seeds for r in found] == [{"init": 0, "order": 0}, {"init": 0, "order": 1}]


def test_one_seed_needs_no_stream() -> None:
    assert [r.label for r in sweep(train=Points(), seeds=[0]).replicates] == ["0"]


def test_vary_freezes_the_others() -> None:
    replicates = sweep(seeds=vary("init", range(2), others=7)).replicates
    assert [(r.label, dict(r.seeds)) for r in replicates] == [
        ("init=0", {"init": 0, "order": 7}),
        ("init=1", {"init": 1, "order": 7}),
    ]


# Pairs


@given(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))
def test_pair_rules_combine(a: int, b: int, m: int, n: int) -> None:
    replicates = sweep().replicates
    one, two = Trial(Setting(a, {}, Fit()), replicates[m]), Trial(Setting(b, {}, Fit()), replicates[n])
    assert (same_setting | same_seed)(one, two) == (a == b or m == n)
    assert (same_setting & same_seed)(one, two) == (a == b and m == n)
    assert (~same_seed)(one, two) == (m != n)
    assert (same_setting | ~same_seed).words == "(same_setting | ~same_seed)"


# Overrides

FULL: dict[str, Any] = {
    "train": Fit(rho=grid(0.0, 0.1), optimizer=grid(Downhill(), Sideways())),
    "probes": [Curvature(), Brittle()],
    "pairs": [Line()],
    "groups": [Ensemble()],
}


def test_overrides_reach_every_depth() -> None:
    new = sweep(**FULL).override(
        {
            "train.epochs": 2,
            "train.dataset.n": 4,
            "train.optimizer.lr": 0.5,
            "probes.Curvature.k": 5,
            "seeds": range(2),
            "metric": "train_loss",
            "mode": "min",
            "slot": {"cpu": 2},
        }
    )
    assert (new.train.epochs, new.train.dataset) == (2, Points(n=4))
    assert [o.lr for o in new.train.optimizer["grid_search"]] == [0.5, 0.5]
    assert (new.probes[0].k, new.probes[1]) == (5, Brittle())
    assert (new.seeds, new.metric, new.mode, new.slot) == ((0, 1), "train_loss", "min", {"cpu": 2.0})


def test_slots_of_kinds_of_tasks_are_overridden_by_their_names() -> None:
    declared = sweep(probes=[Curvature()], slots={Fit: {"gpu": 1}})
    changed = declared.override(parse_overrides(["slots.Curvature={'cpu': 2}"], {}))
    assert changed.slots == {Fit: {"cpu": 1.0, "gpu": 1.0}, Curvature: {"cpu": 2.0}}
    assert declared.override({"slots": {"Points": {"cpu": 4}}}).slots[Points] == {"cpu": 4.0}  # an input of Fit's
    assert "slots.Curvature" in declared.paths()


def test_an_override_of_a_field_that_only_some_options_have() -> None:
    new = sweep(**FULL).override({"train.optimizer.angle": 3})
    assert new.train.optimizer["grid_search"] == [Downhill(), Sideways(angle=3.0)]
    # Options whose bases are of different kinds: the one of them that has the field.
    options = [SGD(), EMA(SAM(rho=0.1)), SAM(base=AdamW()), EMA(grid(SGD(), SAM(rho=0.2)))]
    declared = sweep(train=Train(Digits(), MLP(), grid(*options)))
    changed = declared.override({"train.optimizer.base.rho": 0.3}).train.optimizer["grid_search"]
    assert changed == [SGD(), EMA(SAM(rho=0.3)), SAM(base=AdamW()), EMA(grid(SGD(), SAM(rho=0.3)))]
    with pytest.raises(InvalidValue, match=r"There is no 'train.optimizer.base.angle' in this sweep"):
        declared.override({"train.optimizer.base.angle": 3})


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("train.epoch", "train.epochs"),
        ("train.optimiser.lr", "train.optimizer.lr"),
        ("train.optimizer.lrr", "train.optimizer.lr"),
        ("train.dataset.m", "train.dataset.n"),
        ("probes.Curvatur.k", "probes.Curvature.k"),
        ("probes.Curvature.kk", "probes.Curvature.k"),
        ("probe.Curvature.k", "probes.Curvature.k"),
        ("seed", "seeds"),
        ("modes", "mode"),
    ],
)
def test_a_misspelt_path_names_the_nearest(path: str, nearest: str) -> None:
    with pytest.raises(InvalidValue) as error:
        sweep(**FULL).override({path: 1})
    assert path in sentence(error)
    assert f"did you mean {nearest!r}?" in sentence(error)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("train.rho", -1, "rho must be at least 0"),
        ("train.epochs", "many", "epochs must be an integer"),
        ("probes.Curvature.k", 0, "k must be at least 1"),
        ("seeds", [], "seeds is empty"),
        ("mode", "up", "mode must be"),
        ("train.epochs.x", 1, "There is no 'train.epochs.x'"),
        ("metric.x", 1, "There is no 'metric.x'"),
    ],
)
def test_an_impossible_override(path: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidValue) as error:
        sweep(**FULL).override({path: value})
    assert words in sentence(error)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("train.epochs=2", 2),
        ("train.rho = 0.5", 0.5),
        ("train.rho=[0.0,0.05]", {"grid_search": [0.0, 0.05]}),
        ("train.widths=(1, 2)", (1, 2)),
        ("train.name=some/path", "some/path"),
        ("train.name=word", "word"),
        ("train.name=/some/path.npz", "/some/path.npz"),
        ("train.name=images.npz", "images.npz"),
        ("train.rho=-1e-3", -1e-3),
        ("train.flag=true", True),
        ("train.flag=False", False),
        ("train.maybe=None", None),
        ("train.optimizer=Sideways(angle=2)", Sideways(angle=2.0)),
        ("train.optimizer=[Downhill(), Sideways(lr=1)]", {"grid_search": [Downhill(), Sideways(lr=1.0)]}),
        ("seeds=range(2, 4)", range(2, 4)),
        ("seeds=[1, 2]", [1, 2]),
        ("slot={'cpu': 2}", {"cpu": 2}),
        ("pair_when=same_seed", same_seed),
        ("train.text=a=b", "a=b"),
    ],
)
def test_values_on_the_command_line(item: str, expected: Any) -> None:
    names = {"Sideways": Sideways, "Downhill": Downhill, "same_seed": same_seed}
    assert list(parse_overrides([item], names).values()) == [expected]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("train.epochs", "is not PATH=VALUE"),
        ("=3", "is not PATH=VALUE"),
        ("train.rho=[]", "the list is empty"),
        (
            "train.optimizer=Sidewards()",
            "'Sidewards' is not a Spec that the sweep file knows (did you mean 'Sideways'",
        ),
        ("train.optimizer=Sideways(angel=1)", "Sideways has no field 'angel' (did you mean 'angle'?)"),
        ("train.optimizer=Sideways(lr='x')", "lr must be a number"),
        ("train.epochs=__import__('os').getpid()", "the value must be a literal"),
        ("train.epochs=open('x')", "'open' is not a Spec"),
        ("train.epochs=1 + 1", "the value must be a literal"),
    ],
)
def test_a_wrong_value_on_the_command_line(item: str, words: str) -> None:
    with pytest.raises(InvalidValue) as error:
        parse_overrides([item], {"Sideways": Sideways, "Downhill": Downhill})
    assert words in sentence(error)


# Files

GOOD = '''\
"""What for?"""
from orchestrator import Sweep
from toys import Curvature, Fit

sweep = Sweep(train=Fit(), seeds=range(2), probes=[Curvature()], smoke={"train.epochs": 1, "seeds": range(1)})
'''


def write(folder: Path, text: str) -> Path:
    path = folder / "study.py"
    path.write_text(text)
    return path


def test_a_sweep_file(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    loaded = load_sweep(file)
    assert (loaded.name, loaded.question, len(loaded.seeds)) == ("study", "What for?", 2)
    smoke = load_sweep(file, smoke=True, sets=["train.rho=0.5"])
    assert (smoke.name, smoke.train.epochs, smoke.train.rho, len(smoke.seeds)) == ("study-smoke", 1, 0.5, 1)


@pytest.mark.parametrize(("n", "expected"), [(1, (0,)), (2, (0, 1)), (5, (0, 1, 2, 3, 4))])
def test_how_many_seeds(tmp_path: Path, n: int, expected: tuple[int, ...]) -> None:
    assert load_sweep(write(tmp_path, GOOD), seeds=n).seeds == expected


@pytest.mark.parametrize(
    ("old", "new", "seeds", "words"),
    [
        ("", "", 0, "--seeds must be at least 1, not 0"),
        ("", "", -1, "--seeds must be at least 1, not -1"),
        ("seeds=range(2)", "seeds=[{'init': 1}]", 3, "declare more there"),
    ],
)
def test_an_impossible_number_of_seeds(tmp_path: Path, old: str, new: str, seeds: int, words: str) -> None:
    with pytest.raises(UserError) as error:
        load_sweep(write(tmp_path, GOOD.replace(old, new, 1)), seeds=seeds)
    assert words in sentence(error)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sweep = ", "swep = ", "defines no `sweep` (it defines 'swep': rename that)"),
        ("sweep = Sweep(", "x = dict(", "defines no `sweep`: add sweep = Sweep("),
        ("sweep = Sweep(", "sweep = dict(", "`sweep` must be a Sweep, not dict"),
        ("Sweep(train", "Sweep(train", None),
        ("train=Fit()", "train=Fit(rho=-1)", "line 5: Fit: rho must be at least 0, not -1"),
        ("train=Fit()", "train=Fit(epoch=2)", "line 5: Fit has no field 'epoch' (did you mean 'epochs'?)"),
        ("seeds=range(2)", "sedes=range(2)", "line 5: Sweep has no field 'sedes' (did you mean 'seeds'?)"),
        ("seeds=range(2)", "seeds=[]", "line 5: Sweep: seeds is empty"),
        ("seeds=range(2), ", "", "line 5: Sweep needs 'seeds'"),
        ("Curvature()", "Curvature(k=0)", "line 5: Curvature: k must be at least 1, not 0"),
        (
            "import Curvature",
            "import Curvatur, Curvature",
            "line 3: toys has no 'Curvatur' (did you mean 'Curvature'?)",
        ),
        ("from toys", "from toyz", "line 3: ModuleNotFoundError: No module named 'toyz'"),
        ("sweep = ", "sweep == ", "line 5: NameError: name 'sweep' is not defined"),
        ("range(2)", "range(2", "line 5: "),
        ("sweep = ", "raise SystemExit(3)\nsweep = ", "line 5: SystemExit: 3"),
        ("sweep = ", "raise ValueError('a\\nb')\nsweep = ", "line 5: ValueError: a"),
        ("sweep = ", "1 / 0\nsweep = ", "line 5: ZeroDivisionError: division by zero"),
    ],
)
def test_a_wrong_sweep_file_is_one_sentence(tmp_path: Path, old: str, new: str, words: str | None) -> None:
    assert old in GOOD
    file = write(tmp_path, GOOD.replace(old, new, 1))
    if words is None:
        assert load_sweep(file)
        return
    with pytest.raises(UserError) as error:
        load_sweep(file)
    assert words in sentence(error)
    assert "study.py" in sentence(error)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(SweepError) as error:
        load_sweep(tmp_path / "studi.py")
    assert "There is no sweep file" in sentence(error)
    assert "study.py" in sentence(error)


def test_what_is_no_sweep_file(tmp_path: Path) -> None:
    (tmp_path / "study.txt").write_text("")
    for path in (tmp_path, tmp_path / "study.txt"):
        with pytest.raises(SweepError) as error:
            load_sweep(path)
        assert "is not a sweep file" in sentence(error)


def test_a_smoke_size_is_needed_and_checked(tmp_path: Path) -> None:
    bad = GOOD.replace('"train.epochs": 1', '"train.epoch": 1')
    with pytest.raises(SweepError) as error:
        load_sweep(write(tmp_path, bad), smoke=True)
    assert "did you mean 'train.epochs'?" in sentence(error)
    none = GOOD[: GOOD.index(", smoke=")] + ")\n"
    with pytest.raises(SweepError) as error:
        load_sweep(write(tmp_path, none), smoke=True)
    assert "has no smoke size" in sentence(error)
