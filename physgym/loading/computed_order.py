"""A random order without a list: what stands at a place follows from the place and a seed alone.

A Feistel network on pairs of digits (left, right) of the bases a = ceil(sqrt n) and b = ceil(n / a), whose halves are
added modulo a and b. a * b is less than a above n, so that hardly an index falls beyond n and has to walk on. With four
rounds differences of neighbours are not random, with five all statistics are that were tried; this has six. Of few
numbers some orders are more frequent than others; those are for a list.

Source: Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from physgym.spaces import Array

ROUNDS = 6
CHUNK = 1 << 15  # places whose numbers are computed together: an index takes ten times as long in 256 of them


class _Words(NamedTuple):
    """The arithmetic of a round, in words of some size: a hash, of which the upper half is scaled to a digit."""

    dtype: Any
    fold: int  # shift that brings upper bits down before the second product
    factor: int
    half: int  # bits of a half


_SMALL = _Words(np.uint32, 15, 0x9E3779B1, 16)  # up to 2^32 numbers
_LARGE = _Words(np.uint64, 31, 0x9E3779B97F4A7C15, 32)


class ComputedPermutation:
    """The numbers below `length` in an order of its own for each seed, computed where it is asked for.

    Args:
        length: How many, at least 2 and below 2^62.
        seed: Integers, at least 0.
    """

    def __init__(self, length: int, seed: tuple[int, ...]) -> None:
        self.length = length
        self._words = words = _SMALL if length <= 1 << 32 else _LARGE
        self._left = math.isqrt(length - 1) + 1
        self._right = -(-length // self._left)
        word = words.dtype
        drawn = np.random.default_rng(seed).integers(0, 1 << 2 * words.half, (ROUNDS, 2), word)
        digits = (word(min(self._left, 1 << words.half)), word(self._right))
        self._rounds = [(key, factor | word(1), digits[place % 2]) for place, (key, factor) in enumerate(drawn)]

    def at(self, places: Array) -> Array:
        """Return the numbers at places of the order, int64.

        Args:
            places: Each at least 0 and below the length, shape (k,).
        """
        found = self._permuted(places.astype(self._words.dtype))
        if self._left * self._right > self.length:
            while len(beyond := np.flatnonzero(found >= self.length)):
                found[beyond] = self._permuted(found[beyond])
        return found.astype(np.int64)

    def _permuted(self, numbers: Array) -> Array:
        """Return where the network leads from each number below the product of both bases."""
        word, fold, factor, half = self._words
        base = word(self._right)
        left = numbers // base
        right = numbers - left * base
        hashed, folded = np.empty_like(left), np.empty_like(left)
        for place, (key, odd, digit) in enumerate(self._rounds):
            source, target = (left, right) if place % 2 else (right, left)
            np.multiply(source, odd, out=hashed)
            hashed += key
            np.right_shift(hashed, word(fold), out=folded)
            hashed ^= folded
            hashed *= word(factor)
            hashed >>= word(half)
            hashed *= digit
            hashed >>= word(half)
            target += hashed
            np.subtract(target, digit, out=hashed)  # wraps around where it was smaller
            np.minimum(target, hashed, out=target)
        left *= base
        left += right
        moved: Array = left
        return moved
