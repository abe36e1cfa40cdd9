"""The state of a training as JSON data and tensors, so that nothing executable is in a file; and random generators.

A tree of dictionaries, lists, tuples, numbers, texts, NumPy arrays and tensors becomes JSON in which every object says
what it stands for: ``{"dict": ...}``, ``{"items": [[key, value], ...]}`` (keys that are no texts), ``{"tuple": ...}``,
``{"float": "inf"}``, ``{"array": name}`` and ``{"tensor": name}``, the last two with a name in a table of tensors.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physgym.errors import CheckpointError

NO_DATA = (
    "the state {path} is a {kind}, which a checkpoint does not hold: it takes None, numbers, texts, lists, tuples, "
    "dictionaries, NumPy arrays and tensors. Leave it out of state_dict, or turn it into these"
)
BROKEN = "{path} is not as a checkpoint writes it: {problem}"


def encode(tree: Any, path: str = "state") -> tuple[Any, dict[str, Tensor]]:
    """A tree as JSON data and its tensors by name; `decode` is the inverse.

    Raises:
        CheckpointError: Something in it is no data; the text says where.
    """
    tensors: dict[str, Tensor] = {}
    return _encode(tree, path, tensors), tensors


def _encode(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, np.generic):
        tree = tree.item()
    if isinstance(tree, float) and not math.isfinite(tree):
        return {"float": repr(tree)}
    if tree is None or type(tree) in (bool, int, float, str):
        return tree
    if isinstance(tree, list):
        return [_encode(value, f"{path}/{index}", tensors) for index, value in enumerate(tree)]
    if isinstance(tree, tuple):
        return {"tuple": [_encode(value, f"{path}/{index}", tensors) for index, value in enumerate(tree)]}
    if isinstance(tree, Mapping):
        if all(type(key) is str for key in tree):
            return {"dict": {key: _encode(value, f"{path}/{key}", tensors) for key, value in tree.items()}}
        pairs = [[_encode(k, f"{path}, key", tensors), _encode(v, f"{path}/{k}", tensors)] for k, v in tree.items()]
        return {"items": pairs}
    if isinstance(tree, Tensor):
        # a copy of its own: safetensors refuses tensors that share memory
        tensors[path] = tree.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": path}
    if isinstance(tree, np.ndarray) and tree.dtype.kind in "biuf":
        tensors[path] = torch.from_numpy(np.array(tree, tree.dtype.newbyteorder("="), order="C"))
        return {"array": path}
    raise CheckpointError(NO_DATA.format(path=path, kind=type(tree).__name__))


def decode(data: Any, tensors: Mapping[str, Tensor], path: str = "state") -> Any:
    """The tree that `encode` was given.

    Raises:
        CheckpointError: It is not what `encode` gives.
    """
    if isinstance(data, list):
        return [decode(value, tensors, f"{path}/{index}") for index, value in enumerate(data)]
    if not isinstance(data, dict):
        return data
    match list(data.items()):
        case [("dict", dict(values))]:
            return {key: decode(value, tensors, f"{path}/{key}") for key, value in values.items()}
        case [("items", list(pairs))] if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            return {decode(key, tensors, path): decode(value, tensors, path) for key, value in pairs}
        case [("tuple", list(values))]:
            return tuple(decode(value, tensors, f"{path}/{index}") for index, value in enumerate(values))
        case [("float", "nan" | "inf" | "-inf" as text)]:
            return float(text)
        case [("tensor" | "array" as kind, str(name))]:
            if name not in tensors:
                raise CheckpointError(BROKEN.format(path=path, problem=f"there is no tensor {name!r}"))
            return tensors[name] if kind == "tensor" else tensors[name].numpy()
        case _:
            raise CheckpointError(BROKEN.format(path=path, problem=f"an object with the keys {list(data)[:5]}"))


# --- global random generators


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - code of the user may draw from the global generator
    torch.manual_seed(seed)


def generator_states() -> dict[str, Any]:
    """Where the global generators of Python, NumPy and torch are."""
    version, words, gauss = random.getstate()
    algorithm, key, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - as above
    states: dict[str, Any] = {
        "python": {"version": version, "words": np.array(words, np.uint64), "gauss": gauss},
        "numpy": {
            "algorithm": algorithm,
            "key": key,
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_generator_states(states: Mapping[str, Any]) -> None:
    """Put the global generators where `generator_states` found them."""
    python, legacy = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    key = np.asarray(legacy["key"], np.uint32)
    known = (legacy["algorithm"], key, legacy["position"], legacy["has_gauss"], legacy["cached"])
    np.random.set_state(known)  # noqa: NPY002 - as above
    torch.set_rng_state(states["torch"])
    if len(states.get("cuda", ())) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(states["cuda"])
