"""Samples by episode: a number for each episode across folders, and which episodes are held out."""

from __future__ import annotations

import numpy as np

from physgym.checks import integer
from physgym.errors import ConfigError
from physgym.spaces import Array


def number_episodes(folders: Array, episodes: Array) -> Array:
    """Return an integer per sample that names its episode across folders, in the order of (folder, episode)."""
    same = folders[1:] == folders[:-1]
    if not ((folders[1:] < folders[:-1]) | (same & (episodes[1:] < episodes[:-1]))).any():
        # as they are written; to sort them would take ten times as long
        found = np.zeros(len(episodes), np.int64)
        np.cumsum(~same | (episodes[1:] != episodes[:-1]), out=found[1:])
        return found
    order = np.lexsort((episodes, folders))
    found = np.empty(len(order), np.int64)
    found[order] = number_episodes(folders[order], episodes[order])
    return found


def held_out(episodes: Array, fraction: float, seed: int) -> Array:
    """Return flags of the samples whose episodes are held out, shape (samples,).

    Args:
        episodes: An integer per sample, as of `number_episodes`.
        fraction: Fraction of the episodes to hold out, at least one.
        seed: Which episodes.

    Raises:
        ConfigError: The fraction is out of range, or there are fewer than two episodes.
    """
    flags: Array = chosen_episodes(int(episodes.max(initial=-1)) + 1, fraction, seed)[episodes]
    return flags


def chosen_episodes(count: int, fraction: float, seed: int) -> Array:
    """Return flags of the episodes that are held out, of so many; arguments and errors as of `held_out`."""
    seed = integer("seed", seed, 0)
    if not 0 < fraction < 1:
        raise ConfigError(f"validation fraction must lie between 0 and 1, not {fraction}")
    if count < 2:
        raise ConfigError(
            f"a split by episode needs at least two episodes, this dataset has {count}; add episodes (episodes=2, more "
            "samples, or a smaller max_steps), or hold out none (validation=None, in a configuration "
            "validation.fraction: 0)"
        )
    held = min(count - 1, max(1, round(fraction * count)))
    # the order of `Generator.permutation`, in half of its memory
    order = np.arange(count, dtype=np.uint32 if count < 1 << 32 else np.int64)
    np.random.default_rng(seed).shuffle(order)
    chosen = np.zeros(count, bool)
    chosen[order[:held]] = True
    return chosen
