"""Independent draws: uniform and normal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym import spaces as walk
from physgym.cube import (
    BLOCK,
    SKIPPED,
    Cube,
    DrawColumns,
    Draws,
    LeafColumns,
    UniformDraws,
    actions_by_block,
    bounds,
)
from physgym.errors import ConfigError
from physgym.policies import EpisodePolicy, ParameterDraw
from physgym.samplers.base import PARAMETERS, Blocks, Sampler, stream
from physgym.samplers.table import named
from physgym.spaces import Array, Leaf


class IndependentSampler(Sampler):
    """Draws independently: parameters from a stream of the run, actions with the episode's generator."""

    observes = False

    def columns(self, space: spaces.Space[Any], what: str) -> tuple[LeafColumns, DrawColumns]:
        """Return the space as columns, and a function that draws so many values of its leaves.

        Args:
            space: The space.
            what: What to call it in an error.

        Raises:
            ConfigError: The sampler cannot draw from that space.
        """
        raise NotImplementedError

    def parameters(self, space: spaces.Space[Any], seed: int) -> ParameterDraw:
        """Return a function that draws the parameters of an episode, `BLOCK` episodes at a time."""
        columns, draw = self.columns(space, "parameter_space")
        return Blocks(columns, lambda block: draw(stream(seed, PARAMETERS, block), BLOCK), BLOCK)

    def actions(self, space: spaces.Space[Any], seed: int) -> EpisodePolicy:
        """Return policies that draw with the episode's generator, for any seed of the run."""
        return actions_by_block(*self.columns(space, "action_space"))


@named()
class Uniform(IndependentSampler):
    """Independent draws, uniform over the space."""

    name = "uniform"

    def columns(self, space: spaces.Space[Any], what: str) -> tuple[LeafColumns, DrawColumns]:
        """Return the space as a cube, and a function that draws from it."""
        cube = Cube(space, what, self.name)
        return cube, UniformDraws(cube)


class NormalDraws(Draws):
    """Normal draws, clipped to a space.

    Args:
        leaves: Each leaf with its lowest and highest values, means and standard deviations, all of its shape.
    """

    def __init__(self, leaves: Sequence[tuple[Leaf, Array, Array, Array, Array]]) -> None:
        self._leaves = leaves

    def __call__(self, rng: np.random.Generator, count: int) -> list[Array]:
        """Return so many values."""
        columns = []
        for leaf, low, high, mean, std in self._leaves:
            value = np.clip(mean + std * rng.standard_normal((count, *leaf.shape)), low, high)
            if leaf.dtype.kind != "f":
                value = np.rint(value)
            value = value.astype(leaf.dtype)
            if leaf.dtype.kind == "f":
                value = np.clip(value, low.astype(leaf.dtype), high.astype(leaf.dtype))
            columns.append(value)
        return columns

    def skip(self, rng: np.random.Generator, count: int) -> None:
        """Leave the generator as if so many values had been drawn; a normal number takes as many bits as it needs."""
        numbers = count * sum(math.prod(leaf.shape) for leaf, *_ in self._leaves)
        while numbers:
            rng.standard_normal(drawn := min(numbers, SKIPPED))
            numbers -= drawn


@named()
class Gaussian(IndependentSampler):
    """Independent normal draws, clipped to the space; discrete components are rounded.

    Args:
        mean: One number or array for all leaves, or one by path of the leaf; by default the middle of the bounds, and 0
            where there are none.
        std: Standard deviation, in the same forms; by default a quarter of the width, and 1 where there are no bounds.

    Raises:
        ConfigError: A standard deviation is negative, or a number is not finite.
    """

    name = "gaussian"

    def __init__(self, mean: Any = None, std: Any = None) -> None:
        self.mean, self.std = (_finite_numbers(value, name) for value, name in ((mean, "mean"), (std, "std")))
        if any((np.asarray(x) < 0).any() for x in _numbers(self.std)):
            raise ConfigError(f"Gaussian: std must not be negative, got {std}")

    def describe(self) -> dict[str, Any]:
        """Return the sampler as JSON data, with its mean and standard deviation as they were given."""
        return {"sampler": self.name, "mean": self.mean, "std": self.std}

    def columns(self, space: spaces.Space[Any], what: str) -> tuple[LeafColumns, DrawColumns]:
        """Return the space as columns, and a function that draws values and clips them to the bounds."""
        layout = walk.leaves(space)
        singles = walk.leaf_spaces(space)
        known = {leaf.path for leaf in layout}
        for name, given in (("mean", self.mean), ("std", self.std)):
            if isinstance(given, dict) and (unknown := sorted(set(given) - known)):
                raise ConfigError(f"Gaussian: {name} names {unknown}, which {what} lacks; it has {sorted(known)}")
        parts = []
        for leaf in layout:
            where = {"what": what, "leaf": f"[{leaf.path!r}]" if leaf.path else "", "sampler": self.name}
            low, high = bounds(singles[leaf.path], where)
            bounded = np.isfinite(low) & np.isfinite(high)
            middle = np.where(bounded, np.where(bounded, low, 0) / 2 + np.where(bounded, high, 0) / 2, 0.0)
            quarter = np.where(bounded, (np.where(bounded, high, 0) / 4 - np.where(bounded, low, 0) / 4), 1.0)
            mean = _given(self.mean, leaf, middle, "mean", what)
            std = _given(self.std, leaf, quarter, "std", what)
            parts.append((leaf, low, high, mean, std))
        return LeafColumns(space, sum(math.prod(leaf.shape) for leaf in layout)), NormalDraws(parts)


def _finite_numbers(value: Any, name: str) -> Any:
    """Return numbers as JSON data."""
    if isinstance(value, Mapping):
        return {str(key): _finite_numbers(item, name) for key, item in value.items()}
    if value is None:
        return None
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Gaussian: {name} must be numbers, not {value!r}") from error
    if not np.isfinite(array).all():
        raise ConfigError(f"Gaussian: {name} must be finite, got {value!r}")
    return array.tolist()


def _numbers(value: Any) -> list[Any]:
    """Return the given numbers or arrays."""
    if value is None:
        return []
    return list(value.values()) if isinstance(value, dict) else [value]


def _given(value: Any, leaf: Leaf, default: Array, name: str, what: str) -> Array:
    """Return what was given for a leaf in its shape, else the default."""
    if isinstance(value, dict):
        value = value.get(leaf.path)
    if value is None:
        return default
    try:
        return np.broadcast_to(np.asarray(value, np.float64), leaf.shape)
    except ValueError as error:
        shape = np.shape(value)
        raise ConfigError(
            f"Gaussian: {name} has shape {shape}, which does not fit {what}[{leaf.path!r}] of {leaf.shape}"
        ) from error
