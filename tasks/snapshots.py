"""Snapshots: the state of a running task as bytes that check themselves.

A snapshot is 16 bytes of magic and version, the SHA-256 of what follows, and a payload in the
safetensors format: the raw memory of all arrays and tensors, and beside it the tree they hang in, as
JSON. Nothing in it is ever executed: whatever stands where a snapshot should be, reading it gives plain
data or `DamagedSnapshot`.

torch and numpy are imported only for a state that holds tensors and arrays.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["DamagedSnapshot", "Snapshots", "check", "decode", "encode"]

MAGIC = b"snapshot\r\n\x1a\n"  # line ends, so that a transfer as text shows
VERSION = 1
HEAD = len(MAGIC) + 4 + hashlib.sha256().digest_size
PLAIN = (type(None), bool, float, str)
"""Types that JSON keeps as they are: floats by their shortest exact decimals, nan and inf by name."""
NUMBERS = "biufc"
"""Kinds of numpy's dtypes that a snapshot may hold."""
REMEDY = "delete it, and the task starts from its beginning"


class DamagedSnapshot(UserError):
    """Bytes that are no snapshot: torn, altered, foreign, or written by a newer version."""


class Snapshots(Protocol):
    """Where a task's snapshots go, given to its `Context` by whoever runs it. Only the newest is kept."""

    def due(self) -> bool:
        """Whether it is time for another snapshot."""

    def save(self, data: bytes) -> None:
        """Keep this snapshot in place of the one before."""

    def load(self) -> bytes | None:
        """The newest snapshot; None if there is none."""


def encode(state: Mapping[str, Any]) -> bytes:
    """The state as bytes. `decode` gives it back equal, to the last bit.

    A state is made of dicts, lists, tuples, None, bools, integers of any size, floats, strings, bytes,
    numpy arrays and scalars of numbers, and torch tensors. Tensors come back on the CPU, without
    gradient, with the strides they had (so `channels_last` is remembered). Any other mapping comes back
    as a dict. The data is copied once.

    Raises:
        TypeError: the state holds anything else.
    """
    parts: list[memoryview] = []
    tree = json.dumps(_pack(state, parts, "state"), separators=(",", ":"))
    header: dict[str, Any] = {"__metadata__": {"tree": tree}}
    end = 0
    for index, part in enumerate(parts):
        start, end = end, end + part.nbytes
        header[str(index)] = {"dtype": "U8", "shape": [part.nbytes], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    pieces: list[bytes | memoryview] = [struct.pack("<Q", len(text)), text, *parts]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return b"".join([MAGIC, struct.pack("<I", VERSION), digest.digest(), *pieces])


def decode(data: bytes) -> dict[str, Any]:
    """The state that `encode` made these bytes from; its arrays and tensors own their memory.

    Raises:
        DamagedSnapshot: the bytes are not exactly as `encode` left them.
    """
    payload = check(data)
    try:
        (length,) = struct.unpack_from("<Q", payload)
        header = json.loads(bytes(payload[8 : 8 + length]))
        tree = json.loads(header.pop("__metadata__")["tree"])
        body = payload[8 + length :]
        parts = {}
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            if not 0 <= start <= end <= len(body):
                raise ValueError("an array lies outside of the snapshot")
            parts[int(name)] = body[start:end]
        state = _unpack(tree, parts)
        if not isinstance(state, dict):
            raise ValueError("its state is not a dict")
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, struct.error) as error:
        # The checksum is right, so someone made it so.
        raise DamagedSnapshot(f"The snapshot's content makes no sense ({error}): {REMEDY}.") from error
    return state


def check(data: bytes) -> memoryview:
    """The payload of bytes that are as `encode` left them, whatever the state is made of.

    Raises:
        DamagedSnapshot: they are not.
    """
    if not data.startswith(MAGIC) or len(data) < HEAD:
        raise DamagedSnapshot(f"These {len(data)} bytes are not a snapshot, or only a piece of one: {REMEDY}.")
    (version,) = struct.unpack_from("<I", data, len(MAGIC))
    if version != VERSION:
        raise DamagedSnapshot(f"The snapshot has version {version}, and only version {VERSION} is known: {REMEDY}.")
    payload = memoryview(data)[HEAD:]
    if hashlib.sha256(payload).digest() != data[len(MAGIC) + 4 : HEAD]:
        raise DamagedSnapshot(f"The snapshot of {len(data)} bytes does not match its checksum: {REMEDY}.")
    return payload


def _pack(value: Any, parts: list[memoryview], where: str) -> Any:
    """The value as a tree for JSON; the memory of arrays and tensors goes to `parts`.

    Whatever is not a list or JSON's own stands in a dict with one entry, which says what it is.
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**63 else {"int": hex(value)}
    if kind is list:
        return [_pack(v, parts, f"{where}[{i}]") for i, v in enumerate(value)]
    if kind is tuple:
        return {"tuple": [_pack(v, parts, f"{where}[{i}]") for i, v in enumerate(value)]}
    if isinstance(value, Mapping):
        if all(type(k) is str for k in value):
            return {"dict": {k: _pack(v, parts, f"{where}[{k!r}]") for k, v in value.items()}}
        return {
            "map": [[_pack(k, parts, f"{where}, key"), _pack(v, parts, f"{where}[{k!r}]")] for k, v in value.items()]
        }
    if kind is bytes:
        parts.append(memoryview(value))
        return {"bytes": len(parts) - 1}
    np, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if np is not None and (kind is np.ndarray or isinstance(value, np.generic)) and value.dtype.kind in NUMBERS:
        return _pack_array(value, parts)
    if torch is not None and isinstance(value, torch.Tensor) and value.layout is torch.strided:
        if not value.is_quantized and value.device.type != "meta":
            return _pack_tensor(value, parts)
    raise TypeError(
        f"{where} is of {kind.__module__}.{kind.__qualname__}, which a snapshot cannot hold: "
        f"turn it into numbers, strings, arrays, or containers of them."
    )


def _unpack(node: Any, parts: Mapping[int, memoryview]) -> Any:
    if type(node) is list:
        return [_unpack(v, parts) for v in node]
    if type(node) is not dict:
        return node
    ((kind, content),) = node.items()
    if kind == "dict":
        return {k: _unpack(v, parts) for k, v in content.items()}
    if kind == "map":
        return {_unpack(k, parts): _unpack(v, parts) for k, v in content}
    if kind == "tuple":
        return tuple(_unpack(v, parts) for v in content)
    if kind == "int":
        return int(content, 16)
    if kind == "bytes":
        return bytes(parts[content])
    if kind in ("array", "scalar"):
        array = _unpack_array(parts[content["data"]], content["dtype"], content["shape"], content["order"])
        return array if kind == "array" else array[()]
    if kind == "tensor":
        return _unpack_tensor(parts[content["data"]], content["dtype"], content["shape"], content["stride"])
    raise ValueError(f"{kind!r} is no kind of value")


def _pack_array(value: np.ndarray | np.generic, parts: list[memoryview]) -> dict[str, Any]:
    import numpy as np

    array = np.asarray(value)
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    flat = array.ravel(order=order)  # type: ignore[arg-type]
    parts.append(memoryview(flat.view(np.uint8)))  # type: ignore[arg-type]
    content = {"data": len(parts) - 1, "dtype": array.dtype.str, "shape": list(array.shape), "order": order}
    return {"array" if isinstance(value, np.ndarray) else "scalar": content}


def _unpack_array(data: memoryview, dtype: str, shape: Sequence[int], order: str) -> np.ndarray:
    import numpy as np

    kind = np.dtype(dtype)
    if kind.kind not in NUMBERS or math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"an array of {dtype} does not fill its {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(shape, order=order).copy(order=order)  # type: ignore[call-overload]


def _pack_tensor(value: torch.Tensor, parts: list[memoryview]) -> dict[str, Any]:
    import torch

    tensor = value.detach().cpu().resolve_conj().resolve_neg()
    if not _dense(tensor.shape, tensor.stride()):
        tensor = tensor.contiguous()
    flat = tensor.as_strided((tensor.numel(),), (1,))  # its memory, in the order in which it lies there
    parts.append(memoryview(flat.view(torch.uint8).numpy()))  # type: ignore[arg-type]
    name = str(tensor.dtype).removeprefix("torch.")
    content = {"data": len(parts) - 1, "dtype": name, "shape": list(tensor.shape), "stride": list(tensor.stride())}
    return {"tensor": content}


def _unpack_tensor(data: memoryview, dtype: str, shape: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    import numpy as np
    import torch

    kind = vars(torch).get(dtype)  # not getattr, which imports what is asked for
    if not isinstance(kind, torch.dtype) or math.prod(shape) * kind.itemsize != len(data) or not _dense(shape, stride):
        raise ValueError(f"a tensor of {dtype} does not fill its {len(data)} bytes")
    # In memory of torch's own: products are sensitive to how it is aligned.
    tensor = torch.empty_strided(tuple(shape), tuple(stride), dtype=kind)
    flat = tensor.as_strided((tensor.numel(),), (1,))
    flat.view(torch.uint8).numpy()[:] = np.frombuffer(data, np.uint8)
    return tensor


def _dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether a tensor's elements fill its stretch of memory, each place once; the order does not matter."""
    if min(stride, default=0) < 0:
        return False
    if 0 in shape:
        return True
    expected = 1
    for step, size in sorted((step, size) for step, size in zip(stride, shape, strict=True) if size != 1):
        if step != expected:
            return False
        expected *= size
    return True
