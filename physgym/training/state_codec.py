"""The state of a training as JSON data and tensors, so that nothing executable is in a file.

A tree of dictionaries, lists, tuples, numbers, texts, NumPy arrays and tensors becomes JSON in which every object says
what it stands for: ``{"dict": ...}``, ``{"items": [[key, value], ...]}`` (keys that are no texts), ``{"tuple": ...}``,
``{"float": "inf"}``, ``{"array": name}`` and ``{"tensor": name}``, the last two with a name in a table of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physgym.errors import CheckpointError

DEPTH = 100  # of trees within trees, which Python and readers of JSON elsewhere follow easily
BITS = 4096  # of an integer: Python refuses to write much larger ones in decimal
INTEGERS = [*(f"int{bits}" for bits in (8, 16, 32, 64)), *(f"uint{bits}" for bits in (8, 16, 32, 64))]
FLOATS = ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "complex64"]
DTYPES = {getattr(torch, name) for name in ("bool", *INTEGERS, *FLOATS)}

NO_DATA = (
    "the state {path} is a {kind}, which a checkpoint does not hold: it takes None, numbers, texts, lists, tuples, "
    "dictionaries, NumPy arrays and tensors. Leave it out of state_dict, or turn it into these"
)
TOO_DEEP = "the state {path} contains itself, or more than {limit} levels"
BROKEN = "{path} is not as a checkpoint writes it: {problem}"


def can_store(tensor: Tensor) -> bool:
    """Return whether a file of tensors takes one: dense, of numbers that it knows, and with a memory."""
    return tensor.dtype in DTYPES and tensor.layout is torch.strided and not tensor.is_meta


def encode(tree: Any, path: str = "state", *, shared: bool = False) -> tuple[Any, dict[str, Tensor]]:
    """Return a tree as JSON data and its tensors by name; `decode` is the inverse.

    Numbers keep their value, and arrays and tensors their bits, but for the byte order. NumPy's scalars become those of
    Python, and subclasses of dictionaries, lists and tuples become plain ones.

    Args:
        tree: The tree.
        path: Its name, with which those of tensors begin.
        shared: Whether tensors are those of the tree, which may change later, in place of copies.

    Raises:
        CheckpointError: Something in it is no data; the text says where.
    """
    tensors: dict[str, Tensor] = {}
    data = _encode(tree, path, tensors, 0)
    return data, tensors if shared else {name: _copied(tensor) for name, tensor in tensors.items()}


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)


def _encode(tree: Any, path: str, tensors: dict[str, Tensor], depth: int) -> Any:
    if depth > DEPTH:
        raise CheckpointError(TOO_DEEP.format(path=path.partition("/")[0], limit=DEPTH))
    if isinstance(tree, np.generic) and tree.dtype.kind in "biufU":
        tree = tree.item()
    if tree is None or type(tree) in (bool, str):
        return tree
    if type(tree) is float:
        return tree if math.isfinite(tree) else {"float": repr(tree)}
    if type(tree) is int and tree.bit_length() <= BITS:
        return tree
    if isinstance(tree, list):
        return [_encode(value, f"{path}/{index}", tensors, depth + 1) for index, value in enumerate(tree)]
    if isinstance(tree, tuple):
        return {"tuple": [_encode(value, f"{path}/{index}", tensors, depth + 1) for index, value in enumerate(tree)]}
    if isinstance(tree, Mapping):
        if all(type(key) is str for key in tree):
            return {"dict": {key: _encode(value, f"{path}/{key}", tensors, depth + 1) for key, value in tree.items()}}
        pairs = ((_key(key, path), key, value) for key, value in tree.items())
        return {"items": [[name, _encode(value, f"{path}/{key}", tensors, depth + 1)] for name, key, value in pairs]}
    if isinstance(tree, Tensor) and can_store(tree):
        return {"tensor": _add(tree, path, tensors)}
    if isinstance(tree, np.ndarray) and not isinstance(tree, np.ma.MaskedArray):
        kind, size = tree.dtype.kind, tree.dtype.itemsize
        if kind in "biuf" and size <= 8:
            array = np.array(tree, f"{kind}{size}", order="C")  # in the byte order of this machine, and writeable
            return {"array": _add(torch.from_numpy(array), path, tensors)}
    raise CheckpointError(NO_DATA.format(path=path, kind=_kind(tree)))


def _key(key: Any, path: str) -> Any:
    """Return a key of a dictionary as JSON data: a number, a text, None, or a tuple of these."""
    parts = key if isinstance(key, tuple) else (key,)
    if not all(part is None or isinstance(part, (bool, int, float, str, np.generic)) for part in parts):
        raise CheckpointError(NO_DATA.format(path=f"{path}, key", kind=_kind(key)))
    return _encode(key, f"{path}, key", {}, 0)


def _add(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    """Put a tensor into the table; returns its name, which is its path unless another one has the same."""
    name = path.encode("ascii", "backslashreplace").decode()
    while name in tensors:
        name += "'"
    tensors[name] = tensor
    return name


def _kind(value: Any) -> str:
    dtype = f" of {value.dtype}" if isinstance(value, (Tensor, np.ndarray, np.generic)) else ""
    size = f" of {value.bit_length()} bits" if type(value) is int else ""
    return f"{type(value).__name__}{dtype}{size}"


def decode(data: Any, tensors: Mapping[str, Tensor], path: str = "state") -> Any:
    """Return the tree that `encode` was given.

    Raises:
        CheckpointError: It is not what `encode` gives.
    """
    return _decode(data, tensors, path, 0)


def _decode(data: Any, tensors: Mapping[str, Tensor], path: str, depth: int) -> Any:
    if depth > DEPTH:
        raise CheckpointError(TOO_DEEP.format(path=path.partition("/")[0], limit=DEPTH))
    if isinstance(data, list):
        return [_decode(value, tensors, f"{path}/{index}", depth + 1) for index, value in enumerate(data)]
    if not isinstance(data, dict):
        return data
    match list(data.items()):
        case [("dict", dict(values))]:
            return {key: _decode(value, tensors, f"{path}/{key}", depth + 1) for key, value in values.items()}
        case [("items", list(pairs))] if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            keys = [_decode(key, tensors, f"{path}, key", depth + 1) for key, _ in pairs]
            try:
                known = dict.fromkeys(keys)
            except TypeError as error:
                raise CheckpointError(BROKEN.format(path=path, problem=f"a key is an {error}")) from error
            if len(known) < len(keys):
                raise CheckpointError(BROKEN.format(path=path, problem="a key is there twice"))
            items = ((key, value, f"{path}/{key}") for key, (_, value) in zip(keys, pairs, strict=True))
            return {key: _decode(value, tensors, below, depth + 1) for key, value, below in items}
        case [("tuple", list(values))]:
            return tuple(_decode(value, tensors, f"{path}/{index}", depth + 1) for index, value in enumerate(values))
        case [("float", "nan" | "inf" | "-inf" as text)]:
            return float(text)
        case [("tensor" | "array" as kind, str(name))]:
            if name not in tensors:
                raise CheckpointError(BROKEN.format(path=path, problem=f"there is no tensor {name!r}"))
            try:
                # a copy lies where torch lays tensors: sums over others can differ in the last bit
                return tensors[name].clone() if kind == "tensor" else tensors[name].numpy().copy()
            except TypeError as error:
                raise CheckpointError(BROKEN.format(path=path, problem=str(error))) from error
        case _:
            raise CheckpointError(BROKEN.format(path=path, problem=f"an object with the keys {list(data)[:5]}"))
