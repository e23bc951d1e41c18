"""States as bytes: they come back exactly, or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tasks.errors import UserError
from tasks.snapshots import HEAD, MAGIC, DamagedSnapshot, decode, encode

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64,
    torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


def identical(a: Any, b: Any) -> bool:
    """Of the same type and the same bits, memory format included; nan is itself here, and −0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(identical(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (np.ndarray, np.generic)):
        a, b = np.asarray(a), np.asarray(b)
        same_form = (a.dtype, a.shape, a.flags.f_contiguous) == (b.dtype, b.shape, b.flags.f_contiguous)
        return same_form and a.tobytes() == b.tobytes()
    if isinstance(a, torch.Tensor):
        same_form = (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        return same_form and a.contiguous().view(-1).view(torch.uint8).equal(b.contiguous().view(-1).view(torch.uint8))
    return repr(a) == repr(b)


@st.composite
def tensors(draw: Any) -> torch.Tensor:
    """Of any type and shape, dense in any order of their axes."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    order = draw(st.permutations(range(len(shape))))
    count = math.prod(shape) * dtype.itemsize
    data = draw(st.binary(min_size=count, max_size=count))
    if dtype is torch.bool:
        data = bytes(b & 1 for b in data)
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)
    return flat.reshape([shape[i] for i in order]).permute([order.index(i) for i in range(len(shape))]).clone()


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**300), 2**300)
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.binary(max_size=20)
    | tensors()
    | arrays.arrays(
        st.sampled_from(["f4", "f8", "f2", "i8", "u1", "?", "c16", ">f8", ">i4"]),
        arrays.array_shapes(min_dims=0, min_side=0),
    )
    | st.floats(width=32).map(np.float32)
)
keys = st.text(max_size=5) | st.integers() | st.none() | st.booleans() | st.tuples(st.integers(), st.text(max_size=3))
states = st.dictionaries(
    keys,
    st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text(max_size=5), inner, max_size=4)
            | st.dictionaries(keys, inner, max_size=3)
        ),
        max_leaves=12,
    ),
    max_size=4,
)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(states)
def test_a_state_comes_back_to_the_last_bit(state: dict[Any, Any]) -> None:
    data = encode(state)
    back = decode(data)
    assert identical(back, state)
    assert encode(back) == data


def example() -> dict[str, Any]:
    rng = np.random.default_rng(7)
    network = torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    return {
        "network": network.state_dict(),
        "generators": {"torch": torch.Generator().manual_seed(3).get_state(), "numpy": rng.bit_generator.state},
        "history": {"loss": [0.1, math.nan, -math.inf, -0.0], "epoch": [1, 2, 3, 4]},
        "empty": [{}, [], (), "", torch.zeros(0, 3), np.zeros((2, 0))],
        "optimizer": {0: {"step": torch.tensor(3.0), "betas": (0.9, 0.999)}},
    }


def test_the_state_of_a_training() -> None:
    state = example()
    back = decode(encode(state))
    weight = back["network"]["weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert identical(back, {**state, "network": dict(state["network"])})
    assert not weight.requires_grad and type(weight) is torch.Tensor
    weight += 1  # writable, and nobody else's
    assert not torch.equal(weight, state["network"]["weight"])


def test_generators_go_on_where_they_were() -> None:
    made = {np.random.PCG64: 5, np.random.MT19937: 6, np.random.Philox: 7, np.random.SFC64: 8}
    for kind, seed in made.items():
        rng = np.random.Generator(kind(seed))
        rng.random(11)
        state = decode(encode({"rng": rng.bit_generator.state}))
        again = np.random.Generator(kind(0))
        again.bit_generator.state = state["rng"]
        assert np.array_equal(rng.standard_normal(9), again.standard_normal(9))
    generator = torch.Generator().manual_seed(1)
    torch.randn(7, generator=generator)
    again = torch.Generator()
    again.set_state(decode(encode({"g": generator.get_state()}))["g"])
    assert torch.equal(torch.randn(9, generator=generator), torch.randn(9, generator=again))


def test_views_and_gradients_become_plain_tensors() -> None:
    base = torch.arange(24.0).view(4, 6)
    state = {
        "strided": base[1:3, ::2],
        "expanded": torch.ones(1).expand(5),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "sliced": np.arange(24.0).reshape(4, 6)[1:3, ::2],
        "readonly": np.broadcast_to(np.float32(2), (3,)),
    }
    back = decode(encode(state))
    for name, value in state.items():
        assert (back[name] == value).all(), name
    assert back["strided"].is_contiguous() and back["readonly"].flags.writeable


def test_integers_of_any_size() -> None:
    state = {"n": [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 1 << 100_000, -(1 << 100_000)]}
    assert decode(encode(state)) == state


def test_the_payload_is_in_the_safetensors_format() -> None:
    from safetensors import deserialize

    data = encode(example())
    found = dict(deserialize(data[HEAD:]))
    tree = json.loads(
        json.loads(data[HEAD + 8 :][: struct.unpack("<Q", data[HEAD : HEAD + 8])[0]])["__metadata__"]["tree"]
    )
    weight = tree["dict"]["network"]["dict"]["weight"]["tensor"]
    assert weight["dtype"] == "float32" and weight["shape"] == [3, 2, 3, 3]
    assert len(found[str(weight["data"])]["data"]) == 3 * 2 * 9 * 4


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), r"state\['a'\]\[1\] is of builtins.object, which a snapshot cannot hold"),
        ({1, 2}, "builtins.set"),
        (np.array([{}], dtype=object), "numpy.ndarray"),
        (np.zeros(2, dtype=[("x", "f4")]), "numpy.ndarray"),
        (torch.zeros(2).to_sparse(), "torch.Tensor"),
        (torch.zeros(2, device="meta"), "torch.Tensor"),
        (torch.Generator(), "torch.*Generator"),
    ],
)
def test_what_a_snapshot_cannot_hold(value: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        encode({"a": [1, value]})


# Damage


def sampled(length: int, count: int) -> list[int]:
    """All positions of the head, and others spread over the rest."""
    return sorted({*range(HEAD + 16), *np.linspace(0, length - 1, count, dtype=int).tolist()})


def test_every_flip_of_a_byte_is_noticed() -> None:
    data = encode(example())
    for position in sampled(len(data), 400):
        for mask in (1, 128, 255):
            torn = bytearray(data)
            torn[position] ^= mask
            with pytest.raises(DamagedSnapshot):
                decode(bytes(torn))


def test_every_truncation_and_addition_is_noticed() -> None:
    data = encode(example())
    for length in sampled(len(data), 400):
        with pytest.raises(DamagedSnapshot):
            decode(data[:length])
    for more in (b"\0", b"\n", data):
        with pytest.raises(DamagedSnapshot):
            decode(data + more)


def sealed(payload: bytes) -> bytes:
    """A payload with the right checksum."""
    return MAGIC + struct.pack("<I", 1) + hashlib.sha256(payload).digest() + payload


def crafted(tree: Any, parts: bytes = b"", **entries: Any) -> bytes:
    header = json.dumps({"__metadata__": {"tree": json.dumps(tree)}, **entries}).encode()
    return sealed(struct.pack("<Q", len(header)) + header + parts)


def deep(opening: bytes, closing: bytes) -> bytes:
    header = b'{"__metadata__": {"tree": "' + opening * 100_000 + b"1" + closing * 100_000 + b'"}}'
    return sealed(struct.pack("<Q", len(header)) + header)


def tensor(**content: Any) -> dict[str, Any]:
    return {"dict": {"a": {"tensor": {"data": 0, "dtype": "uint8", "shape": [4], "stride": [1], **content}}}}


def array(**content: Any) -> dict[str, Any]:
    return {"dict": {"a": {"array": {"data": 0, "dtype": "|u1", "shape": [4], "order": "C", **content}}}}


def whole(start: Any = 0, end: Any = 4) -> dict[str, Any]:
    return {"0": {"data_offsets": [start, end]}}


def test_the_crafted_ones_below_are_near_the_truth() -> None:
    assert decode(crafted(tensor(), b"abcd", **whole()))["a"].tolist() == list(b"abcd")
    assert decode(crafted(array(), b"abcd", **whole()))["a"].tolist() == list(b"abcd")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        MAGIC,
        b"\x80\x04N.",
        pickle.dumps({"epoch": 1}),
        json.dumps({"epoch": 1}).encode(),
        sealed(b""),
        sealed(struct.pack("<Q", 2**60)),
        sealed(struct.pack("<Q", 3) + b"\xff\xfe{"),
        sealed(struct.pack("<Q", 2) + b"[]"),
        crafted(None),
        crafted([1]),
        crafted({"dict": {}, "list": []}),
        crafted({"dict": {"a": {"object": "os.system"}}}),
        crafted({"dict": {"a": {"int": "twelve"}}}),
        crafted({"map": [[{"dict": {}}, 1]]}),
        crafted({"map": [[1]]}),
        crafted(tensor()),
        crafted(tensor(), b"abcd", **whole(-4, 0)),
        crafted(tensor(), b"abcd", **whole(0, 5)),
        crafted(tensor(), b"abcd", **whole(3, 2)),
        crafted(tensor(shape=[5]), b"abcd", **whole()),
        crafted(tensor(shape=[2**62, 2**62], stride=[1, 1]), b"abcd", **whole()),
        crafted(tensor(stride=[2**40]), b"abcd", **whole()),
        crafted(tensor(shape=[-1, -4], stride=[1, 1]), b"abcd", **whole()),
        crafted(tensor(shape=[-2, -2], stride=[-2, 1]), b"abcd", **whole()),
        crafted(tensor(shape=[0, 3], stride=[2**60, -7]), b"", **whole(0, 0)),
        crafted(tensor(dtype="nn"), b"abcd", **whole()),
        crafted(tensor(dtype="hub"), b"abcd", **whole()),
        crafted(array(dtype="O", shape=[]), b"abcdefgh", **whole(0, 8)),
        crafted(array(dtype="V4", shape=[]), b"abcd", **whole()),
        crafted(array(shape=[-1, -4]), b"abcd", **whole()),
        crafted(array(order="Z"), b"abcd", **whole()),
        deep(b"[", b"]"),
        deep(b'{\\"list\\": ', b"}"),
    ],
)
def test_foreign_and_crafted_bytes(data: bytes) -> None:
    with pytest.raises(DamagedSnapshot) as error:
        decode(data)
    assert isinstance(error.value, UserError)
    words = str(error.value)
    assert words.endswith("delete it, and the task starts from its beginning.") and "\n" not in words


def test_a_newer_version() -> None:
    data = encode({"a": 1})
    newer = MAGIC + struct.pack("<I", 2) + data[len(MAGIC) + 4 :]
    with pytest.raises(DamagedSnapshot, match="has version 2, and only version 1 is known"):
        decode(newer)


class Trap:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["TRAP"],)


def test_a_pickle_in_its_place_runs_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "sprung"
    monkeypatch.setenv("TRAP", str(trap))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        payload = pickle.dumps(Trap(), protocol=protocol)
        for data in (payload, MAGIC + payload, sealed(payload), crafted(tensor(), payload, **whole(0, len(payload)))):
            with pytest.raises(DamagedSnapshot):
                decode(data)
    assert not trap.exists()
    pickle.loads(payload)
    assert trap.exists()  # it would have


def test_neither_torch_nor_numpy_is_imported_for_plain_data() -> None:
    code = (
        "import sys; from tasks.snapshots import decode, encode\n"
        "state = {'a': [1, 0.5, None, 1 << 99, b'x', (2,)]}\n"
        "assert decode(encode(state)) == state\n"
        "assert not {'torch', 'numpy', 'safetensors'} & set(sys.modules)\n"
        "import numpy\n"
        "decode(encode({'a': numpy.zeros(3)}))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
