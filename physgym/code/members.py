"""Parts of functions, classes and objects: closures, fields, weights."""

from __future__ import annotations

import contextlib
import dataclasses
import dis
import sys
import types
from collections.abc import Iterator
from typing import Any

from physgym.code.fingerprint import as_plain_array
from physgym.code.places import place_of

DEEPEST = 6  # objects within objects that are looked at


def mentioned(code: types.CodeType) -> set[str]:
    """Return the names of globals and attributes in a function, and in the functions within it."""
    inner = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return {*code.co_names}.union(*map(mentioned, inner))


def functions_of(member: Any) -> Iterator[types.FunctionType]:
    """Yield the functions of a member of a class: a method, a class method, the parts of a property."""
    if isinstance(member, property):
        parts: list[Any] = [member.fget, member.fset, member.fdel]
    else:
        parts = [getattr(member, "__func__", None), getattr(member, "func", None), member]
    yield from (part for part in parts if isinstance(part, types.FunctionType))


def caught_by(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the closure of a function by name, without its class and without variables that it sets itself."""
    if not function.__code__.co_freevars:  # the usual case; reading instructions is slow
        return
    own = {one.argval for one in dis.get_instructions(function) if one.opname == "STORE_DEREF"}
    for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        if free != "__class__" and free not in own:
            with contextlib.suppress(ValueError):  # an empty cell
                yield free, cell.cell_contents


def weights(value: Any) -> dict[str, Any] | None:
    """Return weights and buffers of a torch module, None for anything else."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.nn.Module):
        return None
    return {name: part for name, part in value.state_dict().items() if as_plain_array(part) is not None}


def is_record(value: Any) -> bool:
    """Return whether a value is an object of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def attributes_of(value: Any) -> dict[str, Any]:
    """Return the fields of an object by name, without attributes of its class."""
    if dataclasses.is_dataclass(value):
        return {one.name: getattr(value, one.name, None) for one in dataclasses.fields(value)}
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return found | dict(getattr(value, "__dict__", {}))


def fields_and_class_data(value: Any) -> dict[str, Any]:
    """Return the fields of an object and, unless it is a simulation, the data of its class."""
    found = {} if hasattr(value, "step") else class_data(type(value))
    return found | attributes_of(value)


def _slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    named = [slots] if isinstance(slots, str) else list(slots)
    mangled = [f"_{kind.__name__.lstrip('_')}{one}" if one.startswith("__") else one for one in named]
    return [one for one in mangled if one not in ("__dict__", "__weakref__")]


def class_data(kind: type) -> dict[str, Any]:
    """Return the attributes of a class and of its own bases that are data: a program may change them."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if place_of(base.__module__).kind not in ("own", "missing"):
            continue
        for name, part in vars(base).items():
            is_text = isinstance(part, type) or hasattr(type(part), "__get__")  # a function, a property, a slot
            if not (is_text or name.startswith(("__", "_abc_"))):
                found[name] = part
    return found
