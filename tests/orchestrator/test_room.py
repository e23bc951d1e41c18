"""Room: no node and no device is ever handed out twice, and what is urgent and large is not kept waiting."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.room import Room
from orchestrator.slots import NodeKind, NodeOffer, Shape, ray_resources, selects, shape_of, slot_of

SLOTS = (
    {"cpu": 1.0},
    {"cpu": 1.0, "gpu": 0.25},
    {"cpu": 1.0, "gpu": 0.5},
    {"cpu": 0.5, "gpu": 0.3, "labels": {"pool": "!b"}},
    {"cpu": 2.0, "gpu": 1.0},
    {"cpu": 1.0, "gpu": 2.0, "accelerator": "H100"},
    {"cpu": 1.0, "memory": 3e9},
)
SHAPES = tuple(shape_of(s) for s in SLOTS)


def offer(name: str, cpus: float, gpus: float = 0, *, pool: str = "a", accelerator: str = "") -> NodeOffer:
    resources = {"CPU": cpus, "GPU": gpus, "memory": 8e9}
    if accelerator:
        resources[f"accelerator_type:{accelerator}"] = 1.0
    return NodeOffer(name, name, {k: v for k, v in resources.items() if v}, {"pool": pool})


offers = st.builds(
    offer, st.just(""), st.sampled_from([1, 2, 8]), st.sampled_from([0, 1, 2, 4]),
    pool=st.sampled_from(["a", "b"]), accelerator=st.sampled_from(["", "H100"]),
)  # fmt: skip
clusters = st.lists(offers, min_size=1, max_size=5).map(
    lambda all_: [NodeOffer(f"n{i}", "", o.resources, o.labels) for i, o in enumerate(all_)]
)
KIND = NodeKind("spare", {"CPU": 4.0, "GPU": 2.0, "memory": 8e9}, 0, 2, {"pool": "a"})


def check(room: Room, nodes: dict[str, NodeOffer]) -> None:
    """Nothing is handed out twice, and everything lies where its slot may."""
    used: dict[str, Counter[str]] = {}
    devices: Counter[tuple[str, int]] = Counter()
    for place in room.places():
        if place.node is None:
            continue
        slot, offered = slot_of(place.shape), place.node.offer
        assert selects(slot.get("labels", {}), offered.labels)
        mine = used.setdefault(place.node.id, Counter())
        for name, amount in ray_resources(slot).items():
            mine[name] += amount
            assert mine[name] <= offered.resources.get(name, 0.0) + 1e-6
        gpu = slot.get("gpu", 0.0)
        assert len(set(place.devices)) == len(place.devices) == (max(1, int(gpu)) if gpu else 0)
        for device in place.devices:
            devices[place.node.id, device] += min(gpu, 1.0)
            assert devices[place.node.id, device] <= 1 + 1e-6
        assert not place.node.live or place.node.id in nodes


@settings(max_examples=300, deadline=None)
@given(clusters, st.booleans(), st.randoms(use_true_random=False))
def test_nothing_is_handed_out_twice(cluster: list[NodeOffer], spare: bool, dice: random.Random) -> None:
    nodes = {n.id: n for n in cluster}
    room = Room(cluster, [KIND] if spare else [])
    busy: list[str] = []
    for step in range(120):
        what = dice.random()
        if what < 0.5:
            if dice.random() < 0.3:
                room.reserve(dice.choice(SHAPES))
            place = room.take(dice.choice(SHAPES), f"t{step}", until=dice.random())
            room.unreserve()
            if place is not None:
                busy.append(f"t{step}")
        elif what < 0.7 and busy:
            room.rest(busy.pop(dice.randrange(len(busy))))
        elif what < 0.8 and busy:
            room.release(busy.pop(dice.randrange(len(busy))))
        elif what < 0.87:
            gone = dice.choice(sorted(nodes))
            if dice.random() < 0.5 and len(nodes) > 1:
                del nodes[gone]
            else:
                nodes[f"m{step}"] = NodeOffer(f"m{step}", "", nodes[gone].resources, nodes[gone].labels)
            room.update(list(nodes.values()))
        elif what < 0.93 and busy:
            holder = dice.choice(busy)
            place = next((p for p in room.places() if p.holder == holder), None)
            known = [p for p in room.places() if p.known and not p.idle]
            if place is not None and not place.known and not known:  # a worker can only be where there is room
                room.confirm(holder, dice.choice([n for n in nodes if _could(place.shape, nodes[n])] or ["?"]))
        else:
            room.shrink(dice.choice(SHAPES), dice.randrange(3))
        check(room, nodes)


def _could(shape: Shape, node: NodeOffer) -> bool:
    return bool(Room([node]).slots(shape))


@settings(max_examples=200, deadline=None)
@given(clusters, st.sampled_from(SHAPES), st.randoms(use_true_random=False))
def test_all_room_is_found(cluster: list[NodeOffer], shape: Shape, dice: random.Random) -> None:
    """As many of one shape as fit are handed out, also where idle workers of other shapes have to go."""
    room = Room(cluster)
    for n in range(50):
        if room.take(dice.choice(SHAPES), f"small{n}") is not None:
            room.rest(f"small{n}")
    there = 0
    while room.take(shape, f"mine{there}") is not None:
        there += 1
    assert there == room.slots(shape)


@settings(max_examples=200, deadline=None)
@given(clusters, st.sampled_from(SHAPES), st.booleans(), st.randoms(use_true_random=False))
def test_what_is_urgent_and_large_waits_for_no_more_than_what_ran_before(
    cluster: list[NodeOffer], large: Shape, timed: bool, dice: random.Random
) -> None:
    """However many small ones come, each place is left once before the large one is let in."""
    room = Room(cluster)
    if not room.slots(large):
        return
    running: list[str] = []
    number = 0

    def fill() -> None:
        nonlocal number
        for shape in dice.sample(SHAPES, len(SHAPES)):
            while (place := room.take(shape, f"s{number}", until=number if timed else float("inf"))) is not None:
                running.append(str(place.holder))
                number += 1

    fill()
    at_first = len(running)
    for _ in range(at_first + 1):
        room.unreserve()
        if room.take(large, "large") is not None:
            return
        assert room.reserve(large)
        fill()
        room.rest(running.pop(0))  # the oldest
    pytest.fail("the large one was starved")


def test_small_tasks_fill_what_a_large_one_that_waits_does_not_need() -> None:
    room = Room([offer("a", 8, 2)])
    half, whole = SHAPES[2], SHAPES[4]
    places = [room.take(half, n) for n in range(4)]
    assert [p.devices for p in places if p] == [(0,), (0,), (1,), (1,)]
    room.release(0)
    room.release(2)  # half of each device is free: the whole one needs both halves of one
    assert room.take(whole, "large") is None
    assert room.reserve(whole)
    beside = room.take(half, "small")
    assert beside is not None
    assert beside.devices == (1,)  # the first is kept
    assert room.take(SHAPES[1], "another") is None
    assert room.take(SHAPES[0], "cpu") is not None
    room.unreserve()
    room.release(1)
    assert room.take(whole, "large") is not None


def test_what_needs_no_gpu_goes_to_nodes_without_one_and_spills_where_that_is_full() -> None:
    room = Room([offer("gpu", 4, 1), offer("cpu", 2)])
    assert [p.node_id for n in range(4) if (p := room.take(SHAPES[0], n))] == ["cpu", "cpu", "gpu", "gpu"]


def test_idle_workers_are_used_then_kept_then_cleared_away() -> None:
    room = Room([offer("a", 4, 1), offer("b", 4, 1)])
    half, whole = SHAPES[2], SHAPES[4]
    for n in range(4):
        room.take(half, n)
    for n in range(4):
        room.rest(n)
    assert room.idle(half) == ["a", "a", "b", "b"]
    assert (place := room.take(half, "x")) is not None
    assert place.node_id == "a"
    large = room.take(whole, "large")
    assert large is not None
    assert large.node_id == "b"
    assert room.idle(half) == ["a"]


def test_surplus_workers_go_first_where_least_is_at_work() -> None:
    room = Room([offer("a", 4, 1), offer("b", 4, 1)])
    for n in range(8):
        room.take(SHAPES[1], n)
    for n in (0, 4, 5, 6):
        room.rest(n)
    room.shrink(SHAPES[1], 2)
    assert sorted(room.idle(SHAPES[1])) == ["a", "b"]
    room.shrink(SHAPES[1], 1)
    assert room.idle(SHAPES[1]) == ["a"]


def test_nodes_to_come_are_last_and_hand_over_what_was_to_go_there() -> None:
    room = Room([offer("a", 2, 1)], [KIND])
    gpu = shape_of({"cpu": 1.0, "gpu": 1.0})
    assert (room.slots(gpu, possible=False), room.slots(gpu)) == (1, 5)
    assert [p.node_id for n in range(6) if (p := room.take(gpu, n))] == ["a", None, None, None, None]
    new = NodeOffer("new", "", KIND.resources, {"pool": "a", "ray.io/node-group": "spare"})
    room.update([offer("a", 2, 1), new])
    assert Counter(p.node_id for p in room.places()) == {"a": 1, "new": 2, None: 2}
    assert room.slots(gpu) == 5
    room.confirm(3, "new")
    room.update([offer("a", 2, 1)])  # it goes again; the worker on it was seen there, the other is to start elsewhere
    room.release(3)
    assert Counter(p.node_id for p in room.places()) == {"a": 1, None: 3}


def test_the_word_of_a_worker_counts() -> None:
    room = Room([offer("a", 2, 1), offer("b", 2, 1)])
    half = SHAPES[2]
    first, second, third = (room.take(half, n) for n in range(3))
    assert first and second and third
    assert [p.node_id for p in (first, second, third)] == ["a", "a", "b"]
    room.confirm(0, "b", [0])
    assert [p.node_id for p in (first, second, third)] == ["b", "a", "a"]
    room.rest(0)
    room.confirm(1, "b", [0])  # Tune has given it the idle worker there
    assert (first.node_id, first.idle, second.node_id) == ("a", True, "b")


def test_who_leaves_an_idle_place_may_hold_another() -> None:
    """As when all tasks of one slot turn out to be at work elsewhere, and the next slot is looked at."""
    room = Room([NodeOffer("a", "a", {"CPU": 4.0})])
    small, large = shape_of({"cpu": 1.0}), shape_of({"cpu": 2.0})
    room.take(small, "first")
    room.confirm("first", "a")
    room.rest("first")
    room.take(small, "second")
    room.rest("second")
    room.take(large, "second")
    assert (place := room.take(small, "third")) is not None
    assert place.known  # the idle worker
    room.release("second")
    room.release("third")
    assert list(room.places()) == []
    assert [room.take(large, n) is not None for n in range(3)] == [True, True, False]


def test_idle_workers_outlast_a_change_of_what_their_node_has() -> None:
    room, small = Room([NodeOffer("a", "a", {"CPU": 4.0})]), shape_of({"cpu": 1.0})
    room.take(small, "first")
    room.confirm("first", "a")
    room.rest("first")
    room.update([NodeOffer("a", "a", {"CPU": 8.0})])
    assert room.staff(small) == (1, 1)
    assert (place := room.take(small, "second")) is not None
    assert place.known
    assert room.staff(small) == (1, 0)


def test_no_idle_worker_is_on_a_node_that_is_not_there() -> None:
    """What was to go to a node to be added is given an idle worker of one that is there."""
    room = Room([NodeOffer("a", "a", {"CPU": 1.0})], [NodeKind("more", {"CPU": 4.0}, 0, 2)])
    small = shape_of({"cpu": 1.0})
    room.take(small, "first")
    room.confirm("first", "a")
    room.take(small, "second")
    assert sum(room.wished().values()) == 1
    room.rest("first")
    room.confirm("second", "a")
    assert room.staff(small) == (1, 0)
    assert sum(room.wished().values()) == 0
