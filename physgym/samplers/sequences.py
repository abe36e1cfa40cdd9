"""Points of the unit cube that belong together over the episodes: Sobol sequences, Latin hypercubes, grids."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym.checks import integer
from physgym.cube import BLOCK, Cube
from physgym.errors import ConfigError
from physgym.policies import EpisodePolicy, ParameterDraw, SkippingPolicy
from physgym.samplers.base import ACTIONS, PARAMETERS, Blocks, Sampler, stream
from physgym.samplers.table import named
from physgym.spaces import Array

SHUFFLED = 65536  # largest grid that is shuffled
CACHE_BYTES = 64 << 20  # of the points of all steps that a worker keeps


class SequenceSampler(Sampler):
    """Draws points of the unit cube that belong together over the episodes; for actions, a sequence for each step."""

    block = BLOCK
    observes = False

    def _points(self, cube: Cube, seed: int, key: tuple[int, ...]) -> Callable[[int], Array]:
        """Return a function from the index of a block to its points, shape (block, size).

        Args:
            cube: Where they are.
            seed: Seed of the run.
            key: Which sequence: that of parameters, or of a step of actions. No two may be in step with each other.
        """
        raise NotImplementedError

    def _source(self, cube: Cube, seed: int, *key: int) -> Blocks:
        points = self._points(cube, seed, key)
        return Blocks(cube, lambda block: cube.columns(points(block)), self.block)

    def _cube(self, space: spaces.Space[Any], what: str) -> Cube:
        cube = Cube(space, what, self.name)
        if not cube.size:
            raise ConfigError(f"{what} has no component to draw")
        return cube

    def parameters(self, space: spaces.Space[Any], seed: int) -> ParameterDraw:
        """Return a function that gives episode i point i of the sequence."""
        return self._source(self._cube(space, "parameter_space"), seed, PARAMETERS)

    def actions(self, space: spaces.Space[Any], seed: int) -> EpisodePolicy:
        """Return policies that give episode i point i of the sequence of each step."""
        cube = self._cube(space, "action_space")
        most = max(1, CACHE_BYTES // (self.block * cube.nbytes))
        sources: OrderedDict[int, Blocks] = OrderedDict()

        def at(episode: int, step: int) -> Any:
            source = sources.get(step)
            if source is None:
                source = sources[step] = self._source(cube, seed, ACTIONS, step)
                if len(sources) > most:
                    sources.popitem(last=False)
            return source(episode)

        return lambda episode: SequencePolicy(at, episode)


class SequencePolicy(SkippingPolicy):
    """Gives each step of an episode its point of the sequence of that step.

    Args:
        at: Maps an episode and a step to its action.
        episode: The episode.
    """

    def __init__(self, at: Callable[[int, int], Any], episode: int) -> None:
        self._at, self._episode, self._step = at, episode, -1

    def __call__(self, observation: Any, rng: np.random.Generator) -> Any:
        """Return the next action."""
        self._step += 1
        return self._at(self._episode, self._step)

    def skip(self, rng: np.random.Generator, steps: int) -> None:
        """Pass over the next actions."""
        self._step += steps


@named()
class Sobol(SequenceSampler):
    """Scrambled Sobol points: episode i gets point i of a sequence that fills the space evenly.

    Best with a power of two of episodes. The points are those of `scipy.stats.qmc.Sobol`. For actions every step has a
    sequence of its own over the episodes, and these are shuffled: scrambled alone, they would go up and down together,
    since scrambling keeps the relations between the leading digits of the points. The shuffling keeps the beginnings
    of a power of two together.

    Sources:
        Shuffling: Burley, "Practical hash-based Owen scrambling", J. Comput. Graph. Tech. 9 (2020), section 4.
    """

    name = "sobol"

    def _cube(self, space: spaces.Space[Any], what: str) -> Cube:
        from scipy.stats import qmc

        cube = super()._cube(space, what)
        if cube.size > qmc.Sobol.MAXDIM:
            raise ConfigError(
                f"{what} has {cube.size} components, Sobol points at most {qmc.Sobol.MAXDIM}; use LatinHypercube"
            )
        return cube

    def _points(self, cube: Cube, seed: int, key: tuple[int, ...]) -> Callable[[int], Array]:
        from scipy.stats import qmc

        engine = qmc.Sobol(cube.size, scramble=True, rng=stream(seed, *key))

        def points(block: int) -> Array:
            if engine.num_generated > block * BLOCK:
                engine.reset()
            if ahead := block * BLOCK - engine.num_generated:
                engine.fast_forward(ahead)
            found: Array = engine.random(BLOCK)
            return found if key == (PARAMETERS,) else found[_shuffled(stream(seed, *key, block))]

        return points


def _shuffled(rng: np.random.Generator) -> Array:
    """Return a permutation of a block that keeps every beginning of a power of two together."""
    order = np.zeros(1, np.int64)
    while len(order) < BLOCK:
        flip = rng.integers(2, size=len(order))
        order = np.stack([2 * order + flip, 2 * order + 1 - flip], axis=1).ravel()
    return order


@named(argument="STRATA")
class LatinHypercube(SequenceSampler):
    """Latin hypercubes: `strata` episodes in a row have one value in each of as many intervals of every component.

    The points are those of `scipy.stats.qmc.LatinHypercube`.

    Args:
        strata: Episodes per hypercube.

    Raises:
        ConfigError: `strata` is not a positive integer.
    """

    name = "lhs"

    def __init__(self, strata: int = BLOCK) -> None:
        self.block = integer("LatinHypercube: strata", strata, 1)

    def describe(self) -> dict[str, Any]:
        """Return the sampler as JSON data, with its number of strata."""
        return {"sampler": self.name, "strata": self.block}

    def _points(self, cube: Cube, seed: int, key: tuple[int, ...]) -> Callable[[int], Array]:
        from scipy.stats import qmc

        def points(block: int) -> Array:
            found: Array = qmc.LatinHypercube(cube.size, rng=stream(seed, *key, block)).random(self.block)
            return found

        return points


@named(argument="POINTS")
class Grid(SequenceSampler):
    """A regular grid, bounds included: episode i gets point i, and the first again after the last.

    For actions every step goes through the whole grid over the episodes as well, but each time in another order, so
    that an action does not say which parameters and which other actions there are. From a grid of more than 65536
    points it draws at random.

    Args:
        points: Points per component, one number or one for each; a component with fewer values has a point for each.

    Raises:
        ConfigError: `points` are not positive integers.
    """

    name = "grid"

    def __init__(self, points: int | Sequence[int] = 5) -> None:
        several = isinstance(points, Sequence)
        numbers = list(points) if isinstance(points, Sequence) else [points]
        counts = [integer("Grid: points", number, 1) for number in numbers]
        self.points: int | list[int] = counts if several else counts[0]

    def describe(self) -> dict[str, Any]:
        """Return the sampler as JSON data, with its points per component."""
        return {"sampler": self.name, "points": self.points}

    def _cube(self, space: spaces.Space[Any], what: str) -> Cube:
        cube = super()._cube(space, what)
        if isinstance(self.points, list) and len(self.points) != cube.size:
            raise ConfigError(f"Grid: points has {len(self.points)} numbers; {what} has {cube.size} components")
        return cube

    def counts(self, space: spaces.Space[Any]) -> list[int]:
        """Return the points per component of a space; their product is the size of the grid.

        Raises:
            ConfigError: The space cannot be filled.
        """
        return self._counts(self._cube(space, "space"))

    def _counts(self, cube: Cube) -> list[int]:
        wanted = self.points if isinstance(self.points, list) else [self.points] * cube.size
        return [min(n, int(has)) if has else n for n, has in zip(wanted, cube.levels, strict=True)]

    def _points(self, cube: Cube, seed: int, key: tuple[int, ...]) -> Callable[[int], Array]:
        axes = [np.linspace(0, 1, n) if n > 1 else np.array([0.5]) for n in self._counts(cube)]
        number = math.prod(map(len, axes))  # which 64 bits need not hold

        def indices(first: int) -> list[int]:
            if key == (PARAMETERS,):
                return [(first + row) % number for row in range(self.block)]
            if number > SHUFFLED:
                rng, size = stream(seed, *key, first), number.bit_length() // 8 + 8
                return [int.from_bytes(rng.bytes(size), "little") % number for _ in range(self.block)]
            found: list[int] = []
            while len(found) < self.block:
                cycle, start = divmod(first + len(found), number)
                order = stream(seed, *key, cycle).permutation(number)
                found += order[start : start + self.block - len(found)].tolist()
            return found

        def points(block: int) -> Array:
            found = np.empty((self.block, cube.size))
            for row, rest in enumerate(indices(block * self.block)):
                for component in reversed(range(cube.size)):
                    rest, place = divmod(rest, len(axes[component]))
                    found[row, component] = axes[component][place]
            return found

        return points
