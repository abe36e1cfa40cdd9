"""Plain data, as texts that are the same in every process."""

from __future__ import annotations

import enum
import os
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from physgym.code.fingerprint import as_plain_array, fingerprint, sha256

PLAIN = (type(None), bool, int, float, complex, str, bytes)
LONGEST = 200  # letters of a value that are kept as they are
SHORT = 12  # digits of a hash that a message names


def is_plain(value: Any) -> bool:
    """Return whether a value is data: a number, a text, an array, or a container of data."""
    if isinstance(value, (np.generic, os.PathLike, enum.Enum, *PLAIN)) or as_plain_array(value) is not None:
        return True
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(is_plain, value))
    return isinstance(value, Mapping) and all(is_plain(one) for pair in value.items() for one in pair)


def plain_text(value: Any) -> str:
    """Return plain data as a text that is the same in every process."""
    if (array := as_plain_array(value)) is not None:
        return f"array {array.shape} of {plain_text(array.tolist())}" if array.dtype.hasobject else fingerprint(array)
    if isinstance(value, np.generic):
        return f"{value.dtype} {value!r}"
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, enum.Enum) and " at 0x" in repr(value):  # of a function or an object
        return f"<{type(value).__qualname__}.{value.name}>"
    if isinstance(value, (set, frozenset)):
        text = f"{{{', '.join(sorted(map(plain_text, value)))}}}"
    elif isinstance(value, Mapping):
        text = f"{{{', '.join(f'{plain_text(key)}: {plain_text(one)}' for key, one in value.items())}}}"
    elif isinstance(value, (list, tuple)):
        text = f"[{', '.join(map(plain_text, value))}]"
    else:
        text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:40]}... {sha256(text.encode())[:SHORT]}"


def constants(code: types.CodeType) -> str:
    """Return a hash of a function's names and constants, the same in all versions of Python."""
    parts = [constants(part) if isinstance(part, types.CodeType) else plain_text(part) for part in code.co_consts]
    return sha256("\0".join([code.co_name, *code.co_names, *code.co_varnames, *parts]).encode())[:SHORT]
