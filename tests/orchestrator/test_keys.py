"""Content keys: what alters them and what does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import keys
from orchestrator.keys import KEY_LENGTH, Fingerprints, canonical, key_of
from orchestrator.plan import make_plan
from orchestrator.sweep_file import load_sweep
from tasks.errors import InvalidValue
from tasks.spec import AtLeast, Spec
from tasks.task import Task

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Inner(Spec):
    width: int = 4


@dataclass(frozen=True)
class Job(Task):
    rate: float = 0.1
    steps: Annotated[int, AtLeast(0)] = 3
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = Inner()
    extra: Mapping[str, Any] | None = None


def key(task: Task, inputs: tuple[str, ...] = (), seeds: Mapping[str, int] | None = None) -> str:
    return key_of(task, inputs, seeds or {}, Fingerprints().of(task))


# What a key is made of


def test_a_key_is_hexadecimal_and_of_fixed_length() -> None:
    assert len(key(Job())) == KEY_LENGTH == len(bytes.fromhex(key(Job()))) * 2


@pytest.mark.parametrize(
    "other",
    [
        Job(rate=0.2),
        Job(steps=4),
        Job(sizes=(2, 1)),
        Job(inner=Inner(width=5)),
        Job(extra={}),
        Job(extra={"a": 1}),
        Job(extra={"a": True}),
        Job(extra={"a": "1"}),
        Job(extra={"a": None}),
    ],
)
def test_every_field_counts(other: Job) -> None:
    assert key(other) != key(Job())


def test_inputs_seeds_and_their_order_count() -> None:
    different = [
        key(Job()),
        key(Job(), ("a",)),
        key(Job(), ("a", "b")),
        key(Job(), ("b", "a")),
        key(Job(), (), {"init": 0}),
        key(Job(), (), {"init": 1}),
        key(Job(), (), {"order": 0}),
    ]
    assert len(set(different)) == len(different)


def test_equal_meaning_has_equal_keys() -> None:
    assert key(Job(rate=1)) == key(Job(rate=1.0))  # type: ignore[arg-type]
    assert key(Job(rate=0.0)) == key(Job(rate=-0.0))
    assert key(Job(steps=3.0)) == key(Job(steps=3))  # type: ignore[arg-type]
    assert key(Job(sizes=[1, 2])) == key(Job(sizes=range(1, 3)))  # type: ignore[arg-type]
    assert key(Job(extra={"a": 1, "b": 2})) == key(Job(extra={"b": 2, "a": 1}))
    assert key(Job(), (), {"init": 0, "order": 1}) == key(Job(), (), {"order": 1, "init": 0})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(plain)
def test_the_canonical_form_is_json_and_stable(value: Any) -> None:
    form = canonical(value)
    assert canonical(json.loads(json.dumps(form))) == form


@pytest.mark.parametrize("value", [print, object(), {1, 2}, b"bytes", 1j, {1: 2}])
def test_what_has_no_stable_meaning_is_refused(value: Any) -> None:
    with pytest.raises(InvalidValue, match="no stable content"):
        canonical(value)


def test_a_class_made_inside_a_function_is_refused() -> None:
    """Two such classes may differ in values that only their functions hold."""

    @dataclass(frozen=True)
    class Local(Task):
        pass

    with pytest.raises(InvalidValue, match="Local is defined inside a function"):
        Fingerprints().of(Local())


def test_a_key_is_the_same_in_every_process() -> None:
    code = (
        "from orchestrator.keys import Fingerprints, key_of\n"
        "from tasks.train import Train; from tasks.data import Digits; from tasks.models import MLP\n"
        "task = Train(dataset=Digits(), model=MLP())\n"
        "print(key_of(task, ['x'], {'init': 0, 'order': 1}, Fingerprints().of(task)))"
    )
    found = set()
    for hash_seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1


# Code

SWEEP = '''\
"""A study."""
from dataclasses import dataclass

import helpers
from bundle import scale, unused
from helpers import shift
from orchestrator import Sweep
from tasks.task import Probe, Task

FACTOR = 2

try:
    import json as codec
except ImportError:
    codec = None


def double(x):
    """Twice."""
    return FACTOR * x


def unrelated():
    return 1


@dataclass(frozen=True)
class Fit(Task):
    """A training."""

    lr: float = 0.1
    streams = ("init",)

    def run(self, ctx):
        return {"x": 1.0}


@dataclass(frozen=True)
class Norm(Probe):
    """A probe."""

    k: int = 3

    def run(self, ctx, trained):
        return {"norm": scale(double(self.k)), "shifted": shift(codec.dumps(1))}


sweep = Sweep(train=Fit(), seeds=[0], probes=[Norm()], metric="x")
'''
FILES = {
    "study.py": SWEEP,
    "helpers.py": "def shift(x):\n    return x + '!'\n",
    "bundle/__init__.py": """\
'Re-exports.'
from .unused import unused
from .scaling import scale

__all__ = ["scale", "unused"]
""",
    "bundle/scaling.py": "from .constants import SCALE\n\n\ndef scale(x):\n    return SCALE * x\n",
    "bundle/constants.py": "SCALE = 3\n",
    "bundle/unused.py": "def unused():\n    return 1\n",
}


@pytest.fixture
def study_keys(tmp_path, monkeypatch):
    """A function from the files of a study to {class name: key}; each call in a new folder, as a new process."""
    count = iter(range(100))

    def keys_of(files: Mapping[str, str]) -> dict[str, str]:
        folder = tmp_path / str(next(count))
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        monkeypatch.setattr(sys, "path", list(sys.path))
        for name in [n for n in sys.modules if n.split(".")[0] in ("helpers", "bundle", "sweep_study")]:
            monkeypatch.delitem(sys.modules, name)
        plan = make_plan(load_sweep(folder / "study.py"), None)
        return {node.name: node.key for node in plan.nodes.values()}

    return keys_of


def edited(file: str, old: str, new: str) -> dict[str, str]:
    assert old in FILES[file]
    return {**FILES, file: FILES[file].replace(old, new, 1)}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        pytest.param("study.py", "FACTOR = 2", "# why\nFACTOR = 2  # because", id="comment"),
        pytest.param("study.py", '"""A study."""\n', "", id="docstring of the module"),
        pytest.param("study.py", '"""Twice."""', '"""Two times."""', id="docstring of a helper"),
        pytest.param("study.py", '    """A probe."""\n', "", id="docstring of the class"),
        pytest.param("study.py", "return FACTOR * x", "return (\n        FACTOR\n        * x\n    )", id="formatting"),
        pytest.param("study.py", "def unrelated():\n    return 1", "def unrelated():\n    return 2", id="unrelated"),
        pytest.param("study.py", "seeds=[0]", "seeds=[0], pairs=[]", id="the sweep itself"),
        pytest.param("study.py", "import scale, unused", "import scale", id="an import that is not used"),
        pytest.param("helpers.py", "def shift", "# moved\n\n\ndef shift", id="comment in a module"),
        pytest.param("bundle/unused.py", "return 1", "return 2", id="module that is not used"),
        pytest.param("bundle/__init__.py", "Re-exports", "Words", id="docstring of a package"),
    ],
)
def test_edits_that_change_no_key(study_keys, file: str, old: str, new: str) -> None:
    assert study_keys(edited(file, old, new)) == study_keys(FILES)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        pytest.param("study.py", '"norm": scale', '"norm": 2 * scale', id="run"),
        pytest.param("study.py", "k: int = 3\n", "k: int = 4\n", id="default of a field"),
        pytest.param("study.py", "return FACTOR * x", "return FACTOR + x", id="a helper it uses"),
        pytest.param("study.py", "FACTOR = 2", "FACTOR = 5", id="a constant that the helper uses"),
        pytest.param("study.py", "    codec = None", "    codec = 0", id="a guarded import"),
        pytest.param("study.py", "import json as codec", "import pickle as codec", id="what is imported in a guard"),
        pytest.param("helpers.py", "'!'", "'?'", id="a module beside the sweep"),
        pytest.param("bundle/scaling.py", "SCALE * x", "SCALE + x", id="behind a re-export"),
        pytest.param("bundle/constants.py", "3", "4", id="behind a re-export and a relative import"),
    ],
)
def test_edits_that_change_the_probe_and_not_the_training(study_keys, file: str, old: str, new: str) -> None:
    before, after = study_keys(FILES), study_keys(edited(file, old, new))
    assert after["Norm"] != before["Norm"]
    assert after["Fit"] == before["Fit"]


def test_an_edit_of_the_training_changes_what_depends_on_it(study_keys) -> None:
    before, after = study_keys(FILES), study_keys(edited("study.py", '"x": 1.0', '"x": 2.0'))
    assert after["Fit"] != before["Fit"]
    assert after["Norm"] != before["Norm"]


def test_the_place_of_a_sweep_file_does_not_count(study_keys) -> None:
    assert study_keys(FILES) == study_keys(FILES)


def test_a_star_import_counts(study_keys) -> None:
    files = edited("study.py", "from helpers import shift", "from helpers import *")
    before = study_keys(files)
    after = study_keys({**files, "helpers.py": FILES["helpers.py"].replace("'!'", "'?'")})
    assert after["Norm"] != before["Norm"]


@pytest.mark.parametrize(
    "statement", ["LIMITS['x'] = {}", "LIMITS.update(x={})", "for n in 'x':\n    LIMITS[n] = {}", "fill(LIMITS, {})"]
)
def test_what_alters_a_constant_counts(study_keys, statement: str) -> None:
    def text(value: int) -> dict[str, str]:
        constants = f"LIMITS = {{}}\ndef fill(into, n):\n    into['x'] = n\n\n\n{statement.format(value)}\n"
        return edited("study.py", "FACTOR = 2", f"{constants}FACTOR = len(LIMITS)")

    before, after = study_keys(text(1)), study_keys(text(2))
    assert after["Norm"] != before["Norm"]
    assert after["Fit"] == before["Fit"]


def test_a_definition_under_a_condition_counts(study_keys) -> None:
    text = 'if FACTOR:\n\n    def double(x):\n        """Twice."""\n        return FACTOR * x\n'
    files = edited("study.py", 'def double(x):\n    """Twice."""\n    return FACTOR * x\n', text)
    before = study_keys(files)
    after = study_keys({**files, "study.py": files["study.py"].replace("return FACTOR * x", "return FACTOR - x")})
    assert after["Norm"] != before["Norm"]


def test_probe_in_a_module_beside_the_sweep(study_keys) -> None:
    probe = SWEEP[SWEEP.index("@dataclass(frozen=True)\nclass Norm") : SWEEP.index("sweep = ")]
    beside = (
        "from dataclasses import dataclass\nimport json as codec\nfrom tasks.task import Probe\n"
        "from bundle import scale\nfrom helpers import shift\n\n\ndef double(x):\n    return 2 * x\n\n\n" + probe
    )
    files = {**FILES, "study.py": SWEEP.replace(probe, "from bundle.probe import Norm\n"), "bundle/probe.py": beside}
    before = study_keys(files)
    assert study_keys({**files, "bundle/probe.py": beside.replace("2 * x", "2 * x  # twice")}) == before
    assert study_keys({**files, "bundle/probe.py": beside.replace("2 * x", "3 * x")})["Norm"] != before["Norm"]
    assert study_keys({**files, "bundle/constants.py": "SCALE = 9\n"})["Norm"] != before["Norm"]


def test_a_module_whose_file_is_not_there(study_keys) -> None:
    import torch.ops

    assert not Path(torch.ops.__file__).exists()
    study_keys({**FILES, "helpers.py": "import torch.ops\n" + FILES["helpers.py"]})


def test_the_code_of_a_real_probe() -> None:
    """Its module, what it computes with, the streams; not the framework, not other probes."""
    from tasks.probes import Lanczos

    code = Fingerprints().of(Lanczos())
    assert {"tasks.probes.lanczos", "tasks.linalg", "tasks.curvature", "tasks.streams"} <= set(code)
    assert "tasks.snapshots" in keys.FRAMEWORK  # gives back what it was given
    assert not set(code) & {*keys.FRAMEWORK, "tasks.probes.autoneb", "tasks.probes.interpolation", "torch", "numpy"}


def test_the_code_of_a_training_is_that_of_its_parts() -> None:
    from tasks.data import Digits
    from tasks.models import MLP
    from tasks.optimizers import SAM, SGD
    from tasks.train import Train

    with_sam = Fingerprints().of(Train(dataset=Digits(), model=MLP(), optimizer=SAM()))
    with_sgd = Fingerprints().of(Train(dataset=Digits(), model=MLP(), optimizer=SGD()))
    assert "tasks.optimizers.sam" in with_sam
    assert "tasks.optimizers.sam" not in with_sgd
    assert "tasks.models.simple_cnn" not in with_sgd
    assert "tasks.data.digits" not in with_sgd  # the dataset is an input
