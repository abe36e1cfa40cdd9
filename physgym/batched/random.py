"""Random numbers on a device, each a function of a seed, a step and a place: the same for any batch and any device."""

from __future__ import annotations

import torch
from torch import Tensor

PARAMETERS, ACTIONS = 1, 2  # streams of an episode
GOLDEN, FIRST, SECOND, STEP = (  # as signed integers of 64 bits
    0x9E3779B97F4A7C15 - 2**64,
    0xBF58476D1CE4E5B9 - 2**64,
    0x94D049BB133111EB - 2**64,
    0xD1342543DE82EF95 - 2**64,
)


def uniform(seeds: Tensor, steps: Tensor, count: int, stream: int) -> Tensor:
    """Return numbers from 0 to below 1, shape (rows, count), float64.

    They are those of SplitMix64 (Steele, Lea, Flood 2014) with a state of its own for each seed, stream and step, in
    integers of 64 bits alone.

    Args:
        seeds: Of the episode of each row, shape (rows,), int64.
        steps: Of its step, shape (rows,), int64.
        count: Numbers for each row.
        stream: `PARAMETERS`, `ACTIONS`, or another integer.
    """
    offset = (stream * GOLDEN + 2**63) % 2**64 - 2**63  # as a signed integer again
    state = _mixed(_mixed(seeds + offset) + steps * STEP)
    places = torch.arange(1, count + 1, device=seeds.device) * GOLDEN
    words = _mixed(state[:, None] + places)
    return _shifted(words, 11).double() * 2.0**-53


def _mixed(words: Tensor) -> Tensor:
    """Return integers whose bits all depend on all bits of the given ones."""
    words = (words ^ _shifted(words, 30)) * FIRST
    words = (words ^ _shifted(words, 27)) * SECOND
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Shift bits to the right, as of integers without a sign."""
    shifted: Tensor = (words >> bits) & (2 ** (64 - bits) - 1)
    return shifted
