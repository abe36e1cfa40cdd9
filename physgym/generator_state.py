"""State of a random generator as an array, as a snapshot of a simulation has it."""

from __future__ import annotations

import numpy as np

from physgym.errors import ConfigError
from physgym.spaces import Array

WORD = (1 << 64) - 1
SIZE = 6  # words: the state and the increment of PCG64, and half a number that waits


def generator_words(generator: np.random.Generator) -> Array:
    """Return the state of a generator as numbers, shape (6,), uint64.

    Raises:
        ConfigError: It is none of NumPy's default ones, which Gymnasium gives a simulation.
    """
    said = generator.bit_generator.state
    if said["bit_generator"] != "PCG64":
        raise ConfigError(f"only the state of a PCG64 can be kept, not that of a {said['bit_generator']}")
    large = (said["state"]["state"], said["state"]["inc"])
    words = [word for number in large for word in (number & WORD, number >> 64)]
    return np.array([*words, said["has_uint32"], said["uinteger"]], np.uint64)


def generator_from(words: Array) -> np.random.Generator:
    """Return a generator in a state.

    Args:
        words: What `generator_words` gave.

    Raises:
        ConfigError: They are no such state.
    """
    if np.shape(words) != (SIZE,) or np.asarray(words).dtype != np.uint64:
        raise ConfigError(f"the state of a generator has shape ({SIZE},) and dtype uint64; this is {words!r}")
    low, high, low_increment, high_increment, waits, half = (int(word) for word in words)
    bits = np.random.PCG64()
    bits.state = {
        "bit_generator": "PCG64",
        "state": {"state": low | high << 64, "inc": low_increment | high_increment << 64},
        "has_uint32": waits,
        "uinteger": half,
    }
    return np.random.Generator(bits)
