"""Streams of randomness: fixed for ever, independent of each other, driven by their own seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tasks.streams import entropy, numpy_generator, torch_generator
from tasks.task import Context

ALL = {"init": 0, "order": 0}
GOLDEN_UNIFORM = [0.20280095917712615, 0.6217428962513575, 0.944987354231624]
GOLDEN_INTEGERS = [146, 371, 240, 420, 690]


def test_the_numbers_are_fixed() -> None:
    """A change here makes every stored result irreproducible: it must never happen unnoticed."""
    rng = Context(Path(), seeds=ALL).rng("init")
    assert rng.random(3).tolist() == GOLDEN_UNIFORM
    assert rng.integers(0, 1000, 5).tolist() == GOLDEN_INTEGERS


def test_the_derivation_by_hand() -> None:
    digest = hashlib.sha256(b'["init", 7]').digest()
    assert entropy("init", {"init": 7, "order": 1}) == int(digest[:16].hex(), 16)
    by_hand = np.random.Generator(np.random.PCG64(int(digest[:16].hex(), 16)))
    assert numpy_generator("init", {"init": 7}).random() == by_hand.random()
    every = json.dumps(["directions", [["init", 0], ["order", 0]]]).encode()
    assert entropy("directions", {"order": 0, "init": 0}) == int(hashlib.sha256(every).hexdigest()[:32], 16)


def test_a_stream_depends_on_its_own_seed_alone() -> None:
    assert entropy("init", {"init": 0, "order": 0}) == entropy("init", {"init": 0, "order": 9})
    assert entropy("init", {"init": 0}) != entropy("init", {"init": 1})
    assert entropy("order/3", {"init": 0, "order": 0}) == entropy("order/3", {"init": 5, "order": 0})
    assert entropy("order/3", {"order": 0}) != entropy("order/3", {"order": 1})


def test_other_names_depend_on_all_seeds() -> None:
    assert entropy("directions", {"init": 0, "order": 0}) != entropy("directions", {"init": 0, "order": 1})
    assert entropy("directions", {"init": 0, "order": 1}) == entropy("directions", {"order": 1, "init": 0})
    assert entropy("directions", {}) == entropy("directions", {})


def test_names_give_different_streams() -> None:
    names = ["init", "order", "order/0", "order/1", "augmentation", "directions", "Init", ""]
    assert len({entropy(n, ALL) for n in names}) == len(names)


def test_the_same_name_gives_the_same_numbers_each_time() -> None:
    context = Context(Path(), seeds=ALL)
    assert context.rng("x").random() == context.rng("x").random()


def test_torch_draws_from_the_same_entropy() -> None:
    torch = pytest.importorskip("torch")
    generator = torch_generator("init", ALL)
    assert generator.initial_seed() == entropy("init", ALL) >> 65 < 2**63
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=torch_generator("init", ALL)))
