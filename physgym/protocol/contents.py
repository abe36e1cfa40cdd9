"""The contents that messages may have: types of their fields, indices of environments, episodes."""

from __future__ import annotations

import math
from typing import Any, get_args

from physgym.errors import ProtocolError
from physgym.protocol.messages import (
    LARGEST_PART,
    Call,
    Failure,
    GiveInputs,
    Message,
    Predict,
    Reset,
    Results,
    Rollout,
    ScenePart,
    WatchScenes,
)
from physgym.simulation import NonFinite

SLOT_LIMIT = 256  # a slot is one byte
_FIELD_TYPES: dict[str, tuple[type[Any], ...]] = {
    "str": (str,), "int": (int,), "bytes": (bytes,), "dict[str, Any]": (dict,), "list[Any]": (list,),
    "list[int | None]": (list,), "list[bool]": (list,), "list[int] | None": (list, type(None)),
    "dict[str, Any] | None": (dict, type(None)), "bool": (bool,), "list[int]": (list,), "float": (float,),
}  # fmt: skip


def check_fields(kind: type[Any], content: Any) -> dict[str, Any]:
    """Return the keyword arguments of a message, each of the type that its class declares.

    Raises:
        ProtocolError: There are others, or they have another type.
    """
    declared = kind.__dataclass_fields__
    if not isinstance(content, dict) or set(content) != set(declared):
        raise ProtocolError(f"the body of a {kind.__name__} must have the keys {sorted(declared)}")
    for name, value in content.items():
        wanted = declared[name].type
        if not isinstance(value, _FIELD_TYPES[wanted]) or (type(value) is bool and wanted == "int"):
            raise ProtocolError(f"{kind.__name__}.{name} is a {type(value).__name__}, not {wanted}")
    return content


def check_indices(value: Any, count: int) -> list[int]:
    """Return a list of indices of environments.

    Raises:
        ProtocolError: It is none.
    """
    if not isinstance(value, list) or not all(type(i) is int and 0 <= i < count for i in value):
        raise ProtocolError(f"expected indices of {count} environments")
    return value


def check_message(message: Message, count: int) -> None:
    """Check a message against the number of environments.

    Raises:
        ProtocolError: It names environments that do not exist, or contradicts itself.
    """
    match message:
        case Results():
            for failure in message.failures:
                _check_env(failure.env, 0, count)
        case Failure():
            _check_env(message.env, -1, count)
        case Predict():
            _check_env(message.env, 0, count)
        case Call():
            number = count if message.rows is None else len(check_indices(message.rows, count))
            if message.rows is not None and len(set(message.rows)) != number:
                raise ProtocolError(f"a Call names environments {message.rows}")
            if message.kind == "set" and len(message.args) != number:
                raise ProtocolError(f"a Call sets {len(message.args)} values for {number} environments")
        case Reset():
            ok = len(message.seeds) == len(message.mask) == count and 0 <= message.slot < SLOT_LIMIT
            ok = ok and all(type(wanted) is bool for wanted in message.mask)
            if not ok or not all(seed is None or type(seed) is int for seed in message.seeds):
                raise ProtocolError(f"a Reset needs a seed or None, and true or false, for {count} environments")
        case Rollout():
            _check_rollout(message)
        case WatchScenes():
            if len(set(check_indices(message.rows, count))) != len(message.rows):
                raise ProtocolError(f"a WatchScenes names environments {message.rows}")
            if not (math.isfinite(message.interval) and message.interval >= 0):
                raise ProtocolError(f"WatchScenes.interval is {message.interval}, no number of seconds")
        case GiveInputs():
            _check_env(message.env, 0, count)
            if not all(map(is_change, message.changes)):
                raise ProtocolError("GiveInputs.changes must be lists of a name and a value")
        case ScenePart():
            _check_env(message.env, 0, count)
            if not 0 <= message.place < message.parts or len(message.data) > LARGEST_PART:
                raise ProtocolError(
                    f"a ScenePart of {len(message.data)} bytes is number {message.place} of {message.parts}"
                )


def is_change(entry: Any) -> bool:
    """Return whether something is the change of an input: its name, and its value, which is checked by who knows it."""
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)


def _check_env(env: int, lowest: int, count: int) -> None:
    if not lowest <= env < count:
        raise ProtocolError(f"a worker names environment {env} of {count}")


def _check_rollout(request: Rollout) -> None:
    """Check the episodes of a rollout, of which there may be very many."""
    for entry in request.episodes:
        if (
            type(entry) not in (list, tuple)
            or not (len(entry) == 2 or (len(entry) == 3 and type(entry[2]) is dict))
            or type(entry[0]) is not int
            or type(entry[1]) is not int
            or entry[0] < 0
        ):
            raise ProtocolError("Rollout.episodes must be lists of index, seed and, if there are some, options")
    if request.nonfinite not in get_args(NonFinite):
        raise ProtocolError(f"Rollout.nonfinite must be one of {get_args(NonFinite)}")
    if request.limit < 0 or request.made < 0:
        raise ProtocolError("Rollout.limit and Rollout.made must not be negative")
