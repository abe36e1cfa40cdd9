"""Spaces as unit cubes: points of a cube become elements of a space, and uniform points become actions.

A `Cube` has a dimension for each component of any Box with bounds, Discrete, MultiDiscrete, MultiBinary, and of Dict
and Tuple of them.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces

from physgym import spaces as walk
from physgym.errors import ConfigError
from physgym.policies import EpisodePolicy, SkippingPolicy
from physgym.spaces import Array

DrawColumns: TypeAlias = Callable[[np.random.Generator, int], list[Array]]  # so many values, one column per leaf

BLOCK = 64  # points that are made at once
WORDS = 4  # numbers of 64 bits that a Philox makes at once
SKIPPED = 1 << 16  # numbers that are drawn at once to pass over them
EXACT = 2**53  # integers that a float64 holds

NO_LAYOUT = (
    "{what}{leaf} is a {space}, whose values have no fixed layout; a {sampler} sampler draws from Box, Discrete, "
    "MultiDiscrete and MultiBinary alone{policy}"
)


class LeafColumns:
    """Elements of a space, put together from one array per leaf.

    Args:
        space: The space.
        size: Number of its components.

    Attributes:
        flat: Whether the space is a leaf itself.
    """

    def __init__(self, space: spaces.Space[Any], size: int) -> None:
        self.space, self.size = space, size
        self.flat = walk.children(space) is None

    def value(self, columns: list[Array], row: int) -> Any:
        """Return an element of the space, a copy.

        Args:
            columns: One array per leaf, of shape (n, *leaf shape).
            row: Which of the n.
        """
        if self.flat:
            return columns[0][row].copy()
        # a row of a column of scalars is a scalar, which nobody can change
        return walk.unflatten(self.space, iter([column[row].copy() for column in columns]))


class Cube(LeafColumns):
    """A space as the unit cube of as many dimensions as it has components.

    Args:
        space: The space.
        what: What to call it in an error.
        sampler: Who asks, for an error.

    Attributes:
        size: Number of components.
        flat: Whether the space is a leaf itself.
        levels: Number of values of each component; 0 if it is continuous. Shape (size,), float64.

    Raises:
        ConfigError: A leaf has no bounds or no fixed layout; the text names it.
    """

    def __init__(self, space: spaces.Space[Any], what: str = "space", sampler: str = "") -> None:
        self._leaves = walk.leaves(space)
        extents = [(np.zeros(0),) * 3]
        for path, single in walk.leaf_spaces(space).items():
            extents.append(_extent(single, {"what": what, "leaf": f"[{path!r}]" if path else "", "sampler": sampler}))
        low, high, levels = (np.concatenate(parts) for parts in zip(*extents, strict=True))
        super().__init__(space, len(levels))
        self._low, self._high, self.levels = low, high, levels
        span = high - low
        # the upper bound shall be in reach in spite of rounding
        self._span = np.where(low + span < high, np.nextafter(span, np.inf), span)
        self._discrete = levels > 0
        self._any_discrete = bool(self._discrete.any())
        self._all_discrete = self._any_discrete and bool(self._discrete.all())
        self._last_cell = levels - 1
        ends = np.cumsum([0, *(math.prod(leaf.shape) for leaf in self._leaves)]).tolist()
        self._parts = [
            (slice(*pair), leaf.dtype, leaf.shape)
            for pair, leaf in zip(itertools.pairwise(ends), self._leaves, strict=True)
        ]

    @property
    def nbytes(self) -> int:
        """Return the number of bytes of a point."""
        return 8 * self.size

    def columns(self, points: Array) -> list[Array]:
        """Return the values of the leaves at some points.

        Args:
            points: In [0, 1], shape (n, size).

        Returns:
            One array per leaf of shape (n, *leaf shape) and its dtype.
        """
        if self._any_discrete:
            cells = points * self.levels
            np.floor(cells, out=cells)
            np.minimum(cells, self._last_cell, out=cells)
            cells += self._low
        if not self._all_discrete:
            values = self._span * points
            values += self._low
            np.minimum(values, self._high, out=values)  # which rounding may exceed; clip costs several times as much
            if self._any_discrete:
                values = np.where(self._discrete, cells, values)
        else:
            values = cells
        return [values[:, part].astype(dtype).reshape(len(points), *shape) for part, dtype, shape in self._parts]

    def points(self, columns: Sequence[Any]) -> Array:
        """Return the points of some values, the inverse of `columns`: for a discrete value the middle of its cell.

        Args:
            columns: One array per leaf, of shape (n, *leaf shape).

        Returns:
            Points of shape (n, size).
        """
        flat = [
            np.asarray(column, np.float64).reshape(-1, math.prod(leaf.shape))
            for leaf, column in zip(self._leaves, columns, strict=True)
        ]
        values = np.concatenate(flat, axis=1) - self._low
        widths = np.where(self._span > 0, self._span, 1)
        middle = np.where(self._span > 0, values / widths, 0.5)
        return np.where(self._discrete, (values + 0.5) / np.where(self._discrete, self.levels, 1), middle)

    @property
    def paths(self) -> list[str]:
        """Return the paths of the leaves."""
        return [leaf.path for leaf in self._leaves]


def _range(space: spaces.Space[Any], where: dict[str, Any]) -> walk.ValueRange:
    """Return the range of the values of a leaf.

    Raises:
        ConfigError: They have no fixed layout.
    """
    found = walk.value_range(space)
    if found is None:
        raise ConfigError(NO_LAYOUT.format(space=type(space).__name__, policy=_or_policy(where), **where))
    return found


def _or_policy(where: dict[str, Any]) -> str:
    return "" if where["what"].startswith("parameter") else ", or a Policy"


def _extent(space: spaces.Space[Any], where: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Return lowest and highest value and number of values (0 if continuous) of each component of a leaf, float64."""
    found = _range(space, where)
    if not found.bounded:
        raise ConfigError(
            "{what}{leaf} is a {space} without bounds, which a {sampler} sampler cannot fill. Give it bounds, or "
            "use Gaussian(mean, std){policy}".format(space=type(space).__name__, policy=_or_policy(where), **where)
        )
    low, high = found.low.ravel().astype(np.float64), found.high.ravel().astype(np.float64)
    if found.dtype.kind == "f":
        with np.errstate(over="ignore"):
            wide = not np.isfinite(high - low).all()
        levels = np.zeros(len(low))
    else:
        wide = bool((np.maximum(np.abs(low), np.abs(high)) > EXACT / 2).any())
        levels = high - low + 1
    if wide:
        raise ConfigError(
            "{what}{leaf} spans more values than a {sampler} sampler can distinguish; narrow its bounds".format(**where)
        )
    return low, high, levels


def bounds(space: spaces.Space[Any], where: dict[str, Any]) -> tuple[Array, Array]:
    """Return lowest and highest value of a leaf, infinite where it has no bound; float64, of its shape.

    Args:
        space: The leaf.
        where: What ("what", "leaf") and whom ("sampler") to name in an error.

    Raises:
        ConfigError: Its values have no fixed layout.
    """
    found = _range(space, where)
    low = np.where(found.has_low, found.low.astype(np.float64), -np.inf)
    high = np.where(found.has_high, found.high.astype(np.float64), np.inf)
    if found.dtype.kind != "f":
        info = np.iinfo(found.dtype) if found.dtype.kind in "iu" else None
        # what the dtype holds and a float64 as well
        low = np.maximum(low, -EXACT if info is None else max(info.min, -EXACT))
        high = np.minimum(high, EXACT if info is None else min(info.max, EXACT))
    return low, high


class Draws(ABC):
    """Independent draws of values of the leaves of a space."""

    @abstractmethod
    def __call__(self, rng: np.random.Generator, count: int) -> list[Array]:
        """Return so many values, one column per leaf of shape (count, *leaf shape)."""

    @abstractmethod
    def skip(self, rng: np.random.Generator, count: int) -> None:
        """Leave the generator as if so many values had been drawn."""


class UniformDraws(Draws):
    """Draws uniform over a space.

    Args:
        cube: The space.
    """

    def __init__(self, cube: Cube) -> None:
        self._cube = cube

    def __call__(self, rng: np.random.Generator, count: int) -> list[Array]:
        """Return so many values."""
        return self._cube.columns(rng.random((count, self._cube.size)))

    def skip(self, rng: np.random.Generator, count: int) -> None:
        """Leave the generator as if so many values had been drawn."""
        skip_uniform(rng, count * self._cube.size)


def skip_uniform(rng: np.random.Generator, count: int) -> None:
    """Leave a generator as if so many numbers of ``random`` had been drawn, each of which takes 64 bits of it.

    Args:
        rng: The generator; one of a Philox, as episodes have it, goes there at once.
        count: How many.
    """
    bits = rng.bit_generator
    if isinstance(bits, np.random.Philox):
        before: Any = bits.state
        made = min(count, WORDS - before["buffer_pos"])  # numbers that wait
        rng.random(made)
        whole, count = divmod(count - made, WORDS)
        if whole:
            bits.advance(whole)
            # half a number may wait, of draws of 32 bits, which `advance` forgets
            after: Any = bits.state
            after |= {name: before[name] for name in ("has_uint32", "uinteger")}
            bits.state = after
    while count:
        rng.random(made := min(count, SKIPPED))
        count -= made


class BlockPolicy(SkippingPolicy):
    """Draws the actions of an episode independently, some at a time.

    Args:
        space: The action space.
        draw: Draws so many actions with the generator of the episode.
        most: Actions that are drawn at a time, at most.
    """

    def __init__(self, space: LeafColumns, draw: DrawColumns, most: int) -> None:
        self._space, self._draw, self._most = space, draw, most
        self._columns: list[Array] = []
        self._numbers: list[Any] = []  # where an action is a single one, which nobody can change
        self._row = self._count = 0

    def __call__(self, observation: Any, rng: np.random.Generator) -> Any:
        """Return the next action."""
        if self._row == self._count:
            self._draw_block(rng, self._next_block())
        row = self._row
        self._row = row + 1
        return self._numbers[row] if self._numbers else self._space.value(self._columns, row)

    def _draw_block(self, rng: np.random.Generator, size: int) -> None:
        self._columns = self._draw(rng, size)
        self._numbers = list(self._columns[0]) if self._space.flat and self._columns[0].ndim == 1 else []

    def _next_block(self) -> int:
        """Begin a block, and return its number of actions: an episode may have one step, or thousands."""
        self._count, self._row = min(2 * self._count + 1, self._most), 0
        return self._count

    def skip(self, rng: np.random.Generator, steps: int) -> None:
        """Pass over the next actions; whole blocks of them are not made."""
        while steps:
            if self._row == self._count:
                size = self._next_block()
                blocks = steps // size if size == self._most else min(1, steps // size)
                if blocks:
                    self._skip_blocks(rng, size, blocks)
                    steps, self._row = steps - blocks * size, size
                    continue
                self._draw_block(rng, size)
            passed = min(steps, self._count - self._row)
            steps, self._row = steps - passed, self._row + passed

    def _skip_blocks(self, rng: np.random.Generator, size: int, blocks: int) -> None:
        if isinstance(self._draw, Draws):
            self._draw.skip(rng, size * blocks)
            return
        for _ in range(blocks):
            self._draw(rng, size)


def actions_by_block(space: LeafColumns, draw: DrawColumns) -> EpisodePolicy:
    """Return policies that draw actions independently, some at a time.

    Args:
        space: The action space.
        draw: Draws so many actions with the generator of the episode; `Draws` can pass over some.
    """
    most = max(1, min(BLOCK, 4096 // max(1, space.size)))
    return lambda _: BlockPolicy(space, draw, most)


def uniform_actions(space: spaces.Space[Any]) -> EpisodePolicy:
    """Return policies that draw actions uniformly, each episode with its own generator.

    Raises:
        ConfigError: The space has no bounds or no fixed layout.
    """
    cube = Cube(space, "action_space", "uniform")
    return actions_by_block(cube, UniformDraws(cube))
