"""Sizes of files and arrays in words."""

from __future__ import annotations


def size_text(size: float) -> str:
    """Return a number of bytes with three digits and a unit, such as "1.2 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
