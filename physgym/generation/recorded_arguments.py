"""Arguments of a simulation, as a dataset records them: which can be passed again, and which are only described."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from physgym.data.recorded_numbers import read_numbers
from physgym.errors import ConfigError

# texts that stand for an object: of a class, by its name; of what Python brings along; of an array
OBJECT = re.compile(
    r"<.+>|array of .+, sha256 [0-9a-f]+|b(['\"]).*\1"
    r"|(?:[A-Za-z_]\w*\.)*(?:_?[A-Z]\w*|range|slice|dtype|set|frozenset|deque|bytearray|datetime|date|time|timedelta"
    r"|c?longdouble|complex\d+|datetime64|timedelta64|str_|bytes_)\(.*\)"
    r"|\(?[-+\dna-z.]+j\)?|\{.*\}",
    re.DOTALL,
)
DESCRIPTIONS = ("function", "class", "object", "partial", "array", "set", "frozenset")  # keys of what describes objects
CLASS = re.compile(r"(?:\w+\.|<locals>\.)*_*[A-Z]\w*")


def passed_again(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return recorded arguments as they can be passed to the constructor.

    Raises:
        ConfigError: One is the description of an object.
    """
    found: dict[str, Any] = read_numbers(dict(recorded))
    for name, value in found.items():
        if describes_object(value):
            raise ConfigError(
                f"the simulation had an argument {name!r} of which the dataset holds a description, {value!r}, and not "
                "the value; pass env_kwargs= with all arguments that it had"
            )
    return found


def describes_object(value: Any) -> bool:
    """Return whether recorded data, or a part of them, describe an object."""
    if isinstance(value, str):
        return OBJECT.fullmatch(value) is not None
    if isinstance(value, list):
        return any(map(describes_object, value))
    if not isinstance(value, dict):
        return False
    first, inner = next(iter(value.items()), ("", None))
    if first in DESCRIPTIONS and (isinstance(inner, list) or (isinstance(inner, str) and ":" in inner)):
        return True
    if len(value) == 1 and isinstance(inner, dict) and CLASS.fullmatch(first):  # a dataclass
        return True
    return any(map(describes_object, value.values()))
