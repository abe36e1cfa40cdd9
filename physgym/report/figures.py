"""Numbers of a report: which samples are drawn, and values as strict JSON, rounded and counted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from physgym.spaces import Array

SEED = 0  # of what is drawn: the same report every time
DIGITS = 5  # of a number that is plotted, and of the differences between such numbers
EXACT = 17  # digits by which any two numbers differ


def drawn_rows(total: int, most: int, seed: int = SEED) -> Array:
    """Return the indices of at most so many of some rows, ascending: all, or some that are drawn with a seed."""
    if total <= most:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, most, replace=False, shuffle=False))


def drawn_text(count: int, total: int, what: str = "samples") -> str:
    """Say of how many things a figure is, such as "drawn from 10,000 of 1,000,000 samples"."""
    if count == total:
        return f"all {total:,} {what}"
    return f"drawn from {count:,} of {total:,} {what}"


def plain(values: Any) -> list[Any]:
    """Return an array as a list for JSON, rounded to a few digits, with None for what is not finite.

    Numbers that differ by little next to their size keep more digits. Texts stay as they are; flags become 0 and 1.
    """
    found = np.asarray(values)
    if found.dtype.kind not in "biuf":
        return [str(value) for value in found.reshape(-1).tolist()]
    if found.dtype.kind in "biu":
        return [int(value) for value in found.reshape(-1).tolist()]
    numbers = found.reshape(-1).astype(np.float64)
    digits = _digits(numbers[np.isfinite(numbers)])
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in numbers.tolist()]


def _digits(numbers: Array) -> int:
    """Return how many digits finite numbers need in a plot over their range."""
    low, high = (float(end) for end in (numbers.min(), numbers.max())) if len(numbers) else (0.0, 0.0)
    size, span = max(abs(low), abs(high)), high / 2 - low / 2  # no overflow
    if not span:
        return 2 * DIGITS  # nothing says from which other plot it is to differ
    return min(EXACT, DIGITS + max(0, math.ceil(math.log10(size / 2 / span))))


def missing(values: Iterable[Any]) -> int:
    """Count the values of a list of `plain` that were not finite."""
    return sum(value is None for value in values)


def text_of(value: Any) -> str:
    """Return a value as a person reads it: a number with four digits, others as they are."""
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    if value is None:
        return ""
    return str(value)


def seconds_text(seconds: float) -> str:
    """Return a time in words, such as "3 min 20 s"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"
