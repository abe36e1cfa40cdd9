"""Hashes of bytes and arrays."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from physgym.spaces import Array

DIGITS = 32  # of the hash


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def as_plain_array(value: Any) -> Array | None:
    """Return an array, or a tensor of torch as one; None for anything else."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(type(value), "detach") and hasattr(type(value), "cpu"):
        found: Any = value.detach().cpu().numpy()
        return found if isinstance(found, np.ndarray) else None
    return None


def fingerprint(array: Array) -> str:
    """Return dtype, shape and hash of an array of numbers, flags or texts; of a masked one its mask counts."""
    parts = [np.ma.getdata(array)]
    if isinstance(array, np.ma.MaskedArray):
        parts.append(np.ma.getmaskarray(array))
    digest = sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
    return f"array of {array.dtype.str} {array.shape}, sha256 {digest[:DIGITS]}"
