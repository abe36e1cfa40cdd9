"""Numbers of NumPy among recorded arguments: as numbers of JSON, and as the texts that older versions recorded."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

SCALAR = re.compile(r"np\.(?:(True|False)_|((?:float|u?int)\d+)\((.+)\))")


def as_numbers(value: Any) -> Any:
    """Return a value with numbers and flags of Python in place of NumPy's, which have the same value."""
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return value.item()  # one of more digits than Python has stays
    if type(value) is dict:
        return {name: as_numbers(part) for name, part in value.items()}
    return type(value)(map(as_numbers, value)) if type(value) in (list, tuple) else value


def read_numbers(recorded: Any) -> Any:
    """Return recorded data with numbers and flags in place of the texts that older versions wrote for NumPy's."""
    if isinstance(recorded, dict):
        return {name: read_numbers(part) for name, part in recorded.items()}
    if isinstance(recorded, list):
        return [read_numbers(part) for part in recorded]
    if not isinstance(recorded, str) or not (found := SCALAR.fullmatch(recorded)):
        return recorded
    flag, dtype, digits = found.groups()
    try:
        return flag == "True" if flag else np.dtype(dtype).type(digits).item()
    except (TypeError, ValueError, OverflowError):  # a text that only looks like one
        return recorded
