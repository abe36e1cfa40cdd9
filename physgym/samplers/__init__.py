"""Samplers: where the parameters of episodes and the actions of generation come from.

A sampler of *parameters* is asked in the parent, once per episode; one of *actions* in the worker, once per step. What
it draws is a function of the run's seed, the episode's index and the step alone, so that no number of workers, crash or
resume changes it. Its `describe` is stored with a dataset, which can be continued with the same sampler only.

Most of them fill a unit cube with points, which `Cube` maps to the space: any Box with bounds, Discrete, MultiDiscrete,
MultiBinary, and Dict and Tuple of them.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import json
import math
import operator
import os
import threading
from abc import ABC
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces

from physgym import spaces as walk
from physgym.code.identity import named, text_digest
from physgym.code.record import caught
from physgym.errors import ConfigError, RejectSample, SampleError
from physgym.files import absolute, write_atomically
from physgym.spaces import Array, Leaf

ActionPolicy: TypeAlias = Callable[[Any, np.random.Generator], Any]
Draw: TypeAlias = Callable[[int], Any]  # index of an episode to its parameters
EpisodePolicy: TypeAlias = Callable[[int], ActionPolicy]  # index of an episode to what gives its actions

BLOCK = 64  # points that are made at once
LEAST_DENSITY = 1e-12  # of points that could not have been drawn
SHUFFLED = 65536  # largest grid that is shuffled
CACHE_BYTES = 64 << 20  # of the points of all steps that a worker keeps
_PARAMETERS, _ACTIONS = 1, 2  # streams of random numbers
_EXACT = 2**53  # integers that a float64 holds
LOAD_SAMPLES = "load_samples"  # option of a reset that holds the stored samples of the episode

UNBOUNDED = (
    "{what}{leaf} is a {space} without bounds, which a {sampler} sampler cannot fill. Give it bounds, or use "
    "Gaussian(mean, std){policy}"
)
NO_LAYOUT = (
    "{what}{leaf} is a {space}, whose values have no fixed layout; a {sampler} sampler draws from Box, Discrete, "
    "MultiDiscrete and MultiBinary alone{policy}"
)
TOO_WIDE = "{what}{leaf} spans more values than a {sampler} sampler can tell apart; narrow its bounds"
NO_PARAMETERS = "a {sampler} sampler gives actions, not parameters; use one of {known}"
NO_ACTIONS = "a {sampler} sampler gives parameters, not actions; use one of {known}"
UNKNOWN = "{what}={value!r} is no sampler; write one of {known}, or pass one of physgym.samplers"
NO_PARAMETER_SPACE = (
    "{env} declares no parameter_space, so there are no parameters to sample. Set `parameter_space` (a "
    'gymnasium.spaces.Dict) on it and take options["parameters"] in reset; see docs/simulation.md.'
)
NO_COMPONENT = "{what} has no component to draw"
NO_LOAD_SAMPLE = (
    "{env} has no load_sample, so stored samples cannot drive it. Give it `load_sample(sample)`, which takes the state "
    "that it needs from a stored sample and returns the action for the next step; see docs/simulation.md"
)
NOT_STORED = (
    "load_sample asks for the field {name!r}; the stored samples have {known}. Load a dataset that has it, and open it "
    "with all fields that are needed"
)
TOO_SHORT = (
    "the episode {how} after {done} steps, but {count} stored samples are to drive it. Raise the limit of its length, "
    'as in env_kwargs={{"max_episode_steps": {count}}}, or load a dataset with shorter episodes'
)
NOT_REBUILT = "the {what} came from {told}, of which only the name is stored; pass {what}= with the same one"


def stream(seed: int, *key: int) -> np.random.Generator:
    """One of the independent streams of random numbers that belong to a seed."""
    # a spawn key, since a list of numbers as entropy would be padded with zeros, and large seeds run into the next one
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


class Cube:
    """A space as the unit cube of as many dimensions as it has components.

    Args:
        space: The space.
        what: What to call it in an error.
        sampler: Who asks, for an error.

    Attributes:
        size: Number of components.
        flat: Whether the space is a leaf itself.
        levels: Per component, how many values it can take; 0 if it is continuous. Shape (size,), float64.

    Raises:
        ConfigError: A leaf has no bounds or no fixed layout; the text names it.
    """

    def __init__(self, space: spaces.Space[Any], what: str = "space", sampler: str = "") -> None:
        self.space = space
        self.flat = walk.children(space) is None
        self._leaves = walk.leaves(space)
        extents = [(np.zeros(0),) * 3]
        for path, single in walk.leaf_spaces(space).items():
            extents.append(_extent(single, {"what": what, "leaf": f"[{path!r}]" if path else "", "sampler": sampler}))
        low, high, levels = (np.concatenate(parts) for parts in zip(*extents, strict=True))
        self._low, self._high, self.levels = low, high, levels
        span = high - low
        # the upper bound shall be in reach in spite of rounding
        self._span = np.where(low + span < high, np.nextafter(span, np.inf), span)
        self._discrete = levels > 0
        self._any_discrete = bool(self._discrete.any())
        ends = np.cumsum([0, *(math.prod(leaf.shape) for leaf in self._leaves)]).tolist()
        self._parts = [
            (slice(*pair), leaf.dtype, leaf.shape)
            for pair, leaf in zip(itertools.pairwise(ends), self._leaves, strict=True)
        ]
        self.size = len(levels)
        self.nbytes = 8 * self.size

    def columns(self, points: Array) -> list[Array]:
        """Values of the leaves at some points.

        Args:
            points: In [0, 1], shape (n, size).

        Returns:
            One array per leaf of shape (n, *leaf shape) and its dtype.
        """
        values = self._span * points
        values += self._low
        np.minimum(values, self._high, out=values)  # which rounding may exceed; clip costs several times as much
        if self._any_discrete:
            cells = np.minimum(np.floor(points * self.levels), self.levels - 1)
            values = np.where(self._discrete, self._low + cells, values)
        return [values[:, part].astype(dtype).reshape(len(points), *shape) for part, dtype, shape in self._parts]

    def value(self, columns: list[Array], row: int) -> Any:
        """An element of the space, from one row of `columns`; a copy."""
        if self.flat:
            return columns[0][row].copy()
        # a row of a column of scalars is a scalar, which nobody can change
        return walk.unflatten(self.space, iter([column[row].copy() for column in columns]))

    def points(self, columns: Sequence[Any]) -> Array:
        """The inverse of `columns`: points of shape (n, size), for a discrete value the middle of its cell."""
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
        """Paths of the leaves."""
        return [leaf.path for leaf in self._leaves]


def _extent(space: spaces.Space[Any], where: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Lowest and highest value and number of values (0 if continuous) of each component of a leaf, flat, float64."""
    policy = "" if where["what"].startswith("parameter") else ", or a Policy"
    if isinstance(space, spaces.Box):
        if not (space.bounded_below.all() and space.bounded_above.all()):
            raise ConfigError(UNBOUNDED.format(space=type(space).__name__, policy=policy, **where))
        low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
        if space.low.dtype.kind == "f":
            with np.errstate(over="ignore"):
                wide = not np.isfinite(high - low).all()
            levels = np.zeros(len(low))
        else:
            wide = bool((np.maximum(np.abs(low), np.abs(high)) > _EXACT / 2).any())
            levels = high - low + 1
        if wide:
            raise ConfigError(TOO_WIDE.format(**where))
        return low, high, levels
    if isinstance(space, spaces.Discrete):
        start, count = np.array([space.start]), np.array([space.n])
    elif isinstance(space, spaces.MultiDiscrete):
        start, count = space.start.ravel(), space.nvec.ravel()
    elif isinstance(space, spaces.MultiBinary):
        count = np.full(math.prod(space.shape), 2)
        start = np.zeros_like(count)
    else:
        raise ConfigError(NO_LAYOUT.format(space=type(space).__name__, policy=policy, **where))
    low, levels = start.astype(np.float64), count.astype(np.float64)
    return low, low + levels - 1, levels


class Sampler(ABC):
    """Draws parameters, actions, or both."""

    name: ClassVar[str]

    def describe(self) -> dict[str, Any]:
        """The sampler as JSON data, which a dataset stores."""
        return {"sampler": self.name}

    def parameters(self, space: spaces.Space[Any], seed: int) -> Draw:
        """What gives the parameters of an episode, by its index.

        Args:
            space: The environment's ``parameter_space``.
            seed: Seed of the run.

        Raises:
            ConfigError: The sampler cannot draw from that space, or draws actions only.
        """
        raise ConfigError(NO_PARAMETERS.format(sampler=self.name, known=", ".join(_PARAMETER_SAMPLERS)))

    def actions(self, space: spaces.Space[Any], seed: int) -> EpisodePolicy:
        """What gives the policy of an episode, by its index.

        Args:
            space: The environment's ``action_space``.
            seed: Seed of the run.

        Raises:
            ConfigError: The sampler cannot draw from that space, or draws parameters only.
        """
        raise ConfigError(NO_ACTIONS.format(sampler=self.name, known=", ".join(_ACTION_SAMPLERS)))


class _Drawn(Sampler):
    """Independent draws: of parameters from a stream of the run, of actions from the episode's generator."""

    def _columns(self, space: spaces.Space[Any], what: str) -> tuple[Cube, Callable[[np.random.Generator, int], Any]]:
        """The space, and a function that draws so many values as columns."""
        raise NotImplementedError

    def parameters(self, space: spaces.Space[Any], seed: int) -> Draw:
        """See `Sampler.parameters`."""
        cube, draw = self._columns(space, "parameter_space")

        def block(index: int) -> list[Array]:
            return draw(stream(seed, _PARAMETERS, index), BLOCK)  # type: ignore[no-any-return]

        return _Blocks(cube, block, BLOCK)

    def actions(self, space: spaces.Space[Any], seed: int) -> EpisodePolicy:
        """See `Sampler.actions`."""
        cube, draw = self._columns(space, "action_space")
        most = max(1, min(BLOCK, 4096 // max(1, cube.size)))

        def begin(_: int) -> ActionPolicy:
            columns: list[Array] = []
            row = count = 0

            def act(_: Any, rng: np.random.Generator) -> Any:
                nonlocal columns, row, count
                if row == count:
                    count, row = min(2 * count + 1, most), 0  # an episode may have one step, or thousands
                    columns = draw(rng, count)
                row += 1
                return cube.value(columns, row - 1)

            return act

        return begin


class Uniform(_Drawn):
    """Independent draws, uniform over the space."""

    name = "uniform"

    def _columns(self, space: spaces.Space[Any], what: str) -> tuple[Cube, Callable[[np.random.Generator, int], Any]]:
        cube = Cube(space, what, self.name)
        return cube, lambda rng, count: cube.columns(rng.random((count, cube.size)))


class Gaussian(_Drawn):
    """Independent normal draws, clipped to the space; discrete components are rounded.

    Args:
        mean: One number or array for all leaves, or one by path of the leaf; by default the middle of the bounds, and 0
            where there are none.
        std: Standard deviation, likewise; by default a quarter of the width, and 1 where there are no bounds.

    Raises:
        ConfigError: A standard deviation is negative, or a number is not finite.
    """

    name = "gaussian"

    def __init__(self, mean: Any = None, std: Any = None) -> None:
        self.mean, self.std = (_plain(value, name) for value, name in ((mean, "mean"), (std, "std")))
        if any((np.asarray(x) < 0).any() for x in _numbers(self.std)):
            raise ConfigError(f"Gaussian: std must not be negative, got {std}")

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`."""
        return {"sampler": self.name, "mean": self.mean, "std": self.std}

    def _columns(self, space: spaces.Space[Any], what: str) -> tuple[Cube, Callable[[np.random.Generator, int], Any]]:
        layout = walk.leaves(space)
        singles = walk.leaf_spaces(space)
        known = {leaf.path for leaf in layout}
        for name, given in (("mean", self.mean), ("std", self.std)):
            if isinstance(given, dict) and (unknown := sorted(set(given) - known)):
                raise ConfigError(f"Gaussian: {name} names {unknown}, which {what} lacks; it has {sorted(known)}")
        bounds = []
        for leaf in layout:
            where = {"what": what, "leaf": f"[{leaf.path!r}]" if leaf.path else "", "sampler": self.name}
            low, high = _bounds(singles[leaf.path], where)
            bounded = np.isfinite(low) & np.isfinite(high)
            middle = np.where(bounded, np.where(bounded, low, 0) / 2 + np.where(bounded, high, 0) / 2, 0.0)
            quarter = np.where(bounded, (np.where(bounded, high, 0) / 4 - np.where(bounded, low, 0) / 4), 1.0)
            mean = _given(self.mean, leaf, middle, "mean", what)
            std = _given(self.std, leaf, quarter, "std", what)
            bounds.append((leaf, low, high, mean, std))

        def draw(rng: np.random.Generator, count: int) -> list[Array]:
            columns = []
            for leaf, low, high, mean, std in bounds:
                value = np.clip(mean + std * rng.standard_normal((count, *leaf.shape)), low, high)
                if leaf.dtype.kind != "f":
                    value = np.rint(value)
                value = value.astype(leaf.dtype)
                if leaf.dtype.kind == "f":
                    value = np.clip(value, low.astype(leaf.dtype), high.astype(leaf.dtype))
                columns.append(value)
            return columns

        return _Free(space, sum(math.prod(leaf.shape) for leaf in layout)), draw


class _Free(Cube):
    """A space that need not have bounds: it only puts values together."""

    def __init__(self, space: spaces.Space[Any], size: int) -> None:
        self.space, self.size, self.flat = space, size, walk.children(space) is None


def _plain(value: Any, name: str) -> Any:
    """Numbers as JSON data."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, name) for key, item in value.items()}
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
    if value is None:
        return []
    return list(value.values()) if isinstance(value, dict) else [value]


def _given(value: Any, leaf: Leaf, default: Array, name: str, what: str) -> Array:
    """What was given for a leaf in its shape, else the default."""
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


def _bounds(space: spaces.Space[Any], where: dict[str, Any]) -> tuple[Array, Array]:
    """Lowest and highest value of a leaf, infinite where it has no bound."""
    if isinstance(space, spaces.Box):
        low = np.where(space.bounded_below, space.low.astype(np.float64), -np.inf)
        high = np.where(space.bounded_above, space.high.astype(np.float64), np.inf)
        if space.dtype is not None and np.dtype(space.dtype).kind != "f":
            info = np.iinfo(space.dtype) if np.dtype(space.dtype).kind in "iu" else None
            # what the dtype holds and a float64 as well
            low = np.maximum(low, -_EXACT if info is None else max(info.min, -_EXACT))
            high = np.minimum(high, _EXACT if info is None else min(info.max, _EXACT))
        return low, high
    low, high, _ = _extent(space, where)
    shape = space.shape or ()
    return low.reshape(shape), high.reshape(shape)


class _Blocks:
    """Values by the index of the episode, made a block at a time."""

    def __init__(self, cube: Cube, make: Callable[[int], list[Array]], size: int) -> None:
        self._cube, self._make, self._size = cube, make, size
        self._block = -1
        self._columns: list[Array] = []

    def __call__(self, episode: int) -> Any:
        block, row = divmod(episode, self._size)
        if block != self._block:
            self._columns, self._block = self._make(block), block
        return self._cube.value(self._columns, row)


class _Sequence(Sampler):
    """Points of the unit cube that belong together over the episodes; for actions, a sequence for each step."""

    block = BLOCK

    def _points(self, cube: Cube, seed: int, key: tuple[int, ...]) -> Callable[[int], Array]:
        """A function from the index of a block to its points, shape (block, size).

        Args:
            cube: Where they are.
            seed: Seed of the run.
            key: Which sequence: that of parameters, or of a step of actions. No two may be in step with each other.
        """
        raise NotImplementedError

    def _source(self, cube: Cube, seed: int, *key: int) -> _Blocks:
        points = self._points(cube, seed, key)
        return _Blocks(cube, lambda block: cube.columns(points(block)), self.block)

    def _cube(self, space: spaces.Space[Any], what: str) -> Cube:
        cube = Cube(space, what, self.name)
        if not cube.size:
            raise ConfigError(NO_COMPONENT.format(what=what))
        return cube

    def parameters(self, space: spaces.Space[Any], seed: int) -> Draw:
        """See `Sampler.parameters`."""
        return self._source(self._cube(space, "parameter_space"), seed, _PARAMETERS)

    def actions(self, space: spaces.Space[Any], seed: int) -> EpisodePolicy:
        """See `Sampler.actions`."""
        cube = self._cube(space, "action_space")
        most = max(1, CACHE_BYTES // (self.block * cube.nbytes))
        sources: OrderedDict[int, _Blocks] = OrderedDict()

        def at(episode: int, step: int) -> Any:
            source = sources.get(step)
            if source is None:
                source = sources[step] = self._source(cube, seed, _ACTIONS, step)
                if len(sources) > most:
                    sources.popitem(last=False)
            return source(episode)

        def begin(episode: int) -> ActionPolicy:
            step = -1

            def act(_: Any, __: np.random.Generator) -> Any:
                nonlocal step
                step += 1
                return at(episode, step)

            return act

        return begin


class Sobol(_Sequence):
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
            return found if key == (_PARAMETERS,) else found[_shuffled(stream(seed, *key, block))]

        return points


def _shuffled(rng: np.random.Generator) -> Array:
    """An order of a block of which the halves are halves of the block, their halves quarters, and so on."""
    order = np.zeros(1, np.int64)
    while len(order) < BLOCK:
        flip = rng.integers(2, size=len(order))
        order = np.stack([2 * order + flip, 2 * order + 1 - flip], axis=1).ravel()
    return order


class LatinHypercube(_Sequence):
    """Latin hypercubes: `strata` episodes in a row have one value in each of as many intervals of every component.

    The points are those of `scipy.stats.qmc.LatinHypercube`.

    Args:
        strata: Episodes per hypercube.

    Raises:
        ConfigError: `strata` is not a positive integer.
    """

    name = "lhs"

    def __init__(self, strata: int = BLOCK) -> None:
        self.block = _positive(strata, "LatinHypercube: strata")

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`."""
        return {"sampler": self.name, "strata": self.block}

    def _points(self, cube: Cube, seed: int, key: tuple[int, ...]) -> Callable[[int], Array]:
        from scipy.stats import qmc

        def points(block: int) -> Array:
            found: Array = qmc.LatinHypercube(cube.size, rng=stream(seed, *key, block)).random(self.block)
            return found

        return points


class Grid(_Sequence):
    """A regular grid, bounds included: episode i gets point i, and the first again after the last.

    For actions every step goes through the whole grid over the episodes as well, but each time in another order, so
    that an action does not say which parameters and which other actions there are; from a grid of more than 65536
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
        counts = [_positive(number, "Grid: points") for number in numbers]
        self.points: int | list[int] = counts if several else counts[0]

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`."""
        return {"sampler": self.name, "points": self.points}

    def _cube(self, space: spaces.Space[Any], what: str) -> Cube:
        cube = super()._cube(space, what)
        if isinstance(self.points, list) and len(self.points) != cube.size:
            raise ConfigError(f"Grid: points has {len(self.points)} numbers; {what} has {cube.size} components")
        return cube

    def counts(self, space: spaces.Space[Any]) -> list[int]:
        """Points per component of a space; their product is the size of the grid.

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
            if key == (_PARAMETERS,):
                return [(first + row) % number for row in range(self.block)]
            if number > SHUFFLED:
                rng, size = stream(seed, *key, first), number.bit_length() // 8 + 8
                return [int.from_bytes(rng.bytes(size), "little") % number for _ in range(self.block)]
            found: list[int] = []
            while len(found) < self.block:
                turn, start = divmod(first + len(found), number)
                order = stream(seed, *key, turn).permutation(number)
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


class Breed(Sampler):
    r"""Adaptive parameters: more of them where the training loss is high.

    Until the first `update` it draws uniformly. After it, a parameter is, with a probability that rises from `start` to
    `end` over the first `breakpoint` updates, a child of one of the latest `window` parameters, else uniform. The
    parent is drawn with a weight of its loss over the density :math:`q` with which parameters were drawn when its loss
    was reported: that is importance sampling of a density in proportion to the loss, and keeps a crowd of parameters
    from attracting ever more. A child is normal around its parent, truncated to the bounds.

    Args:
        sigma: Standard deviation of a child in parts of each component's width.
        start: Part of children after no update.
        end: Part of children after `breakpoint` updates.
        breakpoint: Number of updates until then.
        window: Number of the latest parameters that can be parents.
        choices: A file of `save` with what an earlier run chose, to be chosen again; what goes beyond it is drawn.

    Attributes:
        updates: Number of updates so far.

    In online training the losses of the network drive it (`Trainer` sees to that), and what it chose stands in the
    session. Nothing else calls `update`, so that generation without a training refuses it. All methods may be called
    from any thread.

    Raises:
        ConfigError: An argument is out of range.

    Sources:
        Dymchenko and Raffin, "Loss-driven sampling within hard-to-learn areas for simulation-based neural network
        training", MLPS workshop at NeurIPS 2023. Dymchenko, Purandare and Raffin, "MelissaDL x Breed: Towards
        Data-Efficient On-line Supervised Training of Multi-parametric Surrogates with Active Learning", AI4S 2024; the
        defaults are those of Melissa's breeder but for `window`, for which it takes the size of its buffer. Weights by
        the mixture: Cappé et al., "Adaptive importance sampling in general mixture classes", Stat. Comput. 18 (2008).
    """

    name = "breed"

    def __init__(
        self,
        sigma: float = 0.1,
        start: float = 0.0,
        end: float = 0.7,
        breakpoint: int = 3,
        window: int = 256,
        choices: str | os.PathLike[str] | None = None,
    ) -> None:
        if not (math.isfinite(sigma) and sigma > 0):
            raise ConfigError(f"Breed: sigma must be positive and finite, not {sigma}")
        for label, ratio in (("start", start), ("end", end)):
            if not 0 <= ratio <= 1:
                raise ConfigError(f"Breed: {label} must be between 0 and 1, not {ratio}")
        self.sigma, self.start, self.end = float(sigma), float(start), float(end)
        self.breakpoint = _positive(breakpoint, "Breed: breakpoint")
        self.window = _positive(window, "Breed: window")
        self.updates = 0
        self._cube: Cube | None = None
        self._parents: Array | None = None  # points, shape (n, size), n at most window
        self._losses: Array = np.zeros(0)
        self._densities: Array = np.zeros(0)
        self._lock = threading.RLock()  # simulations ask in another thread than that which trains
        self._chosen: dict[int, list[Any]] = {}  # episode to the values of its leaves
        self._fixed: dict[int, list[Any]] = {}  # likewise, of episodes that are not drawn anew
        if choices is not None:
            self._take_choices(Path(choices))

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`."""
        numbers = {"sigma": self.sigma, "start": self.start, "end": self.end}
        return {"sampler": self.name, **numbers, "breakpoint": self.breakpoint, "window": self.window}

    @property
    def ratio(self) -> float:
        """Part of children among the parameters drawn now; the rest is uniform."""
        if self._parents is None:
            return 0.0
        return self.start + (self.end - self.start) * min(1.0, self.updates / self.breakpoint)

    def parameters(self, space: spaces.Space[Any], seed: int) -> Draw:
        """See `Sampler.parameters`; what is drawn depends on the updates until then as well."""
        cube = Cube(space, "parameter_space", self.name)
        if self._parents is not None and self._parents.shape[1:] != (cube.size,):
            learned = self._parents.shape[1:]
            raise ConfigError(f"Breed: its parents have {learned} components, parameter_space has {cube.size}")
        self._cube = cube

        layout = walk.leaves(space)

        def draw(episode: int) -> Any:
            with self._lock:
                if episode in self._fixed:
                    self._chosen[episode] = self._fixed[episode]
                else:
                    rng = stream(seed, _PARAMETERS, self.updates, episode)
                    point = self._child(rng) if rng.random() < self.ratio else rng.random(cube.size)
                    self._chosen[episode] = [column[0].tolist() for column in cube.columns(point[np.newaxis])]
                values = zip(layout, self._chosen[episode], strict=True)
                return cube.value([np.array([value], leaf.dtype) for leaf, value in values], 0)

        return draw

    def learn(self, losses: Mapping[int, float]) -> None:
        """Take note of how hard the episodes that it chose are to learn.

        Args:
            losses: Loss of each, by its index; episodes that it did not choose are left out.

        Raises:
            ConfigError: As `update`.
        """
        with self._lock:
            known = sorted(set(losses) & set(self._chosen))
            if not known or self._cube is None:
                return
            columns = zip(*(self._chosen[episode] for episode in known), strict=True)
            parameters = {path: np.array(column) for path, column in zip(self._cube.paths, columns, strict=True)}
            self.update(parameters, [losses[episode] for episode in known])

    def recall(self, episodes: Array, parameters: Mapping[str, Array]) -> None:
        """Take stored parameters of episodes as those that were chosen.

        Args:
            episodes: Their indices, shape (n,).
            parameters: Values by path, shape (n, *leaf shape).
        """
        paths = list(parameters) if self._cube is None else self._cube.paths
        columns = [parameters[path].tolist() for path in paths]
        with self._lock:
            self._fixed.update(zip(episodes.tolist(), map(list, zip(*columns, strict=True)), strict=True))
            self._chosen.update(self._fixed)

    def keep(self) -> None:
        """Let all episodes that were chosen so far keep their parameters, whatever is learned later."""
        with self._lock:
            self._fixed = self._chosen | self._fixed

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what it chose so far, by episode: a file of JSON for `choices`."""
        with self._lock:
            text = json.dumps({"sampler": self.name, "chosen": sorted(self._chosen.items())})
        write_atomically(Path(path), text)

    def _take_choices(self, path: Path) -> None:
        try:
            chosen = json.loads(path.read_text())["chosen"]
            self._fixed = {operator.index(episode): list(values) for episode, values in chosen}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"Breed: choices={str(path)!r} is no file that Breed.save wrote: {error!r}") from error

    def update(self, parameters: Mapping[str, Any], losses: Any) -> None:
        """Take note of how hard some parameters are to learn.

        Args:
            parameters: Their values by path, shape (n, *leaf shape), as `SampleDataset.parameters` has them.
            losses: Loss of each, not negative, shape (n,).

        Raises:
            ConfigError: The sampler draws for no space yet, a value is missing or out of bounds, or a loss is negative
                or not finite.
        """
        if self._cube is None:
            raise ConfigError("Breed.update: call `parameters(space, seed)` first, which says what the space is")
        if missing := sorted(set(self._cube.paths) - set(parameters)):
            raise ConfigError(f"Breed.update: the values of {missing} are missing; there are {sorted(parameters)}")
        losses = np.asarray(losses, np.float64)
        points = self._cube.points([parameters[path] for path in self._cube.paths])
        if losses.shape != (len(points),):
            raise ConfigError(f"Breed.update: losses have shape {losses.shape}; there are {len(points)} parameters")
        if not np.isfinite(losses).all() or (losses < 0).any():
            raise ConfigError("Breed.update: losses must be finite and not negative")
        if not ((points >= 0) & (points <= 1)).all():
            raise ConfigError("Breed.update: there are parameters out of their bounds")
        with self._lock:
            density = self._density(points)
            known = np.zeros((0, self._cube.size)) if self._parents is None else self._parents
            self._parents = np.concatenate([known, points])[-self.window :]
            self._losses = np.concatenate([self._losses, losses])[-self.window :]
            self._densities = np.concatenate([self._densities, density])[-self.window :]
            self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """What `update` has learned and what was chosen, as JSON data."""
        with self._lock:
            parents = None if self._parents is None else self._parents.tolist()
            learned = {"losses": self._losses.tolist(), "densities": self._densities.tolist()}
            chosen = [[episode, values] for episode, values in self._chosen.items()]
            return {"updates": self.updates, "parents": parents, **learned, "chosen": chosen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            ConfigError: It is not what `state_dict` gives.
        """
        try:
            parents = None if state["parents"] is None else np.array(state["parents"], np.float64)
            losses, densities = (np.array(state[name], np.float64) for name in ("losses", "densities"))
            updates = int(state["updates"])
            chosen = {operator.index(episode): list(values) for episode, values in state.get("chosen", ())}
            number = 0 if parents is None else len(parents)
            if losses.shape != (number,) or densities.shape != (number,):
                raise ValueError(f"{number} parents, {losses.shape} losses and {densities.shape} densities")
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"not the state of a Breed sampler: {error!r}") from error
        with self._lock:
            self.updates, self._parents, self._losses, self._densities = updates, parents, losses, densities
            self._chosen = chosen | self._fixed  # what is stored already stays

    def _weights(self) -> Array:
        # neither the largest losses nor points where nothing was drawn may overflow
        weights = self._losses / max(self._losses.max(initial=0), 1e-300) / np.maximum(self._densities, LEAST_DENSITY)
        total = weights.sum()
        return weights / total if total > 0 else np.full(len(weights), 1 / max(1, len(weights)))

    def _child(self, rng: np.random.Generator) -> Array:
        """A point near a parent."""
        from scipy.special import ndtr, ndtri

        assert self._parents is not None
        parent = self._parents[rng.choice(len(self._parents), p=self._weights())]
        low, high = ndtr(-parent / self.sigma), ndtr((1 - parent) / self.sigma)
        child: Array = parent + self.sigma * ndtri(low + (high - low) * rng.random(len(parent)))
        return np.clip(child, 0, 1)

    def _density(self, points: Array) -> Array:
        """The density with which points are drawn now."""
        if not self.ratio:
            return np.ones(len(points))
        from scipy.special import ndtr

        assert self._parents is not None
        mass = ndtr((1 - self._parents) / self.sigma) - ndtr(-self._parents / self.sigma)
        found = np.empty(len(points))
        for row, point in enumerate(points):
            z = (point - self._parents) / self.sigma
            normal = np.exp(-(z**2) / 2) / (self.sigma * math.sqrt(2 * math.pi))
            found[row] = 1 - self.ratio + self.ratio * float(self._weights() @ np.prod(normal / mass, axis=1))
        return found


class Policy(Sampler):
    """Actions from a function.

    Args:
        function: Maps (observation, generator) to an action. The generator is the episode's own and the only randomness
            to use. It travels to local workers as cloudpickle, like an environment's factory.

    Raises:
        ConfigError: It cannot be called.
    """

    name = "policy"

    def __init__(self, function: ActionPolicy) -> None:
        if not callable(function):
            raise ConfigError(f"Policy needs a function of (observation, generator), not {function!r}")
        self.function = function

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`; a function is known by its name, its text and what it has caught."""
        values = caught("function", self.function)
        if isinstance(self.function, functools.partial):
            values["function"] = named(self.function.func)
        known = {"sampler": self.name, "function": named(self.function), "values": values}
        text = text_digest(self.function)
        return known if text is None else {**known, "text": text}

    def actions(self, space: spaces.Space[Any], seed: int) -> EpisodePolicy:
        """See `Sampler.actions`."""
        return lambda _: self.function


class NetworkPolicy(Sampler):
    """Actions from a trained network: its input field is the observation, its output field the action.

    With several input fields the observation is a dictionary that has them by name; with several output fields so is
    the action. An output is clipped to the bounds of the action; one number per choice of a Discrete action means the
    choice with the largest. torch is imported where the first action is needed.

    Args:
        network: A `physgym.nn.Predictor`, or a session folder, or the folder or file of a checkpoint.

    Raises:
        ConfigError: The path does not exist.
    """

    name = "network"

    def __init__(self, network: Any) -> None:
        if isinstance(network, (str, os.PathLike)):
            # a worker may have another working directory
            network = absolute(network)
            if not network.exists():
                raise ConfigError(f"NetworkPolicy: there is no {network}; give a session folder or a checkpoint")
        elif not hasattr(network, "predict"):
            raise ConfigError(f"NetworkPolicy needs a physgym.nn.Predictor or a path, not {network!r}")
        self.network = network

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`; a network is known by the digest of its weights."""
        predictor = self._predictor()
        digest = hashlib.sha256()
        for name, tensor in sorted(predictor.state_dict().items()):
            digest.update(name.encode())
            # as bytes, since NumPy lacks some of torch's dtypes
            digest.update(tensor.detach().cpu().contiguous().flatten().view(_byte()).numpy().tobytes())
        return {"sampler": self.name, "weights": digest.hexdigest()}

    def _predictor(self) -> Any:
        if not isinstance(self.network, Path):
            return self.network
        from physgym.training import load_checkpoint

        return load_checkpoint(self.network)

    def actions(self, space: spaces.Space[Any], seed: int) -> EpisodePolicy:
        """See `Sampler.actions`."""
        predictor: Any = None
        layout = list(zip(walk.leaves(space), walk.leaf_spaces(space).values(), strict=True))
        if any(leaf.variable for leaf, _ in layout):
            raise ConfigError(NO_LAYOUT.format(what="action_space", leaf="", space=space, sampler="network", policy=""))

        def act(observation: Any, _: np.random.Generator) -> Any:
            nonlocal predictor
            if predictor is None:
                predictor = self._predictor()
            fed = observation if isinstance(observation, dict) else {predictor.inputs[0]: observation}
            if len(predictor.inputs) > 1 and not isinstance(observation, dict):
                raise ConfigError(
                    f"the network has the inputs {list(predictor.inputs)}, the observation is one array. Use a network "
                    "of one input, or an observation space that is a Dict with these names"
                )
            found = predictor.predict(fed)
            outputs = list(found.values())
            if len(layout) > 1 and all(leaf.path in found for leaf, _ in layout):
                outputs = [found[leaf.path] for leaf, _ in layout]
            if len(outputs) != len(layout):
                raise ConfigError(
                    f"the network predicts {list(found)}, an action has {len(layout)} parts; predict a field for each"
                )
            parts = [_as_action(value, leaf, one) for value, (leaf, one) in zip(outputs, layout, strict=True)]
            return walk.unflatten(space, iter(parts))

        return lambda _: act


def _byte() -> Any:
    import torch

    return torch.uint8


def _as_action(value: Array, leaf: Leaf, space: spaces.Space[Any]) -> Any:
    """A network's output as an element of a leaf of the action space."""
    if isinstance(space, spaces.Discrete) and value.shape == (int(space.n),) and space.n > 1:
        return np.int64(space.start + int(np.argmax(value)))
    if value.shape != leaf.shape:
        name = leaf.path or "the action"
        raise ConfigError(f"the network predicts {value.shape} for {name}, which has {leaf.shape}; change its output")
    low, high = _bounds(space, {"what": "action_space", "leaf": "", "sampler": "network"})
    value = value if leaf.dtype.kind == "f" else np.rint(value)
    action = np.clip(np.clip(value, low, high).astype(leaf.dtype), low.astype(leaf.dtype), high.astype(leaf.dtype))
    return action[()]  # a scalar if it has no shape


_PARAMETER_SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "uniform": Uniform,
    "gaussian": Gaussian,
    "sobol": Sobol,
    "lhs": LatinHypercube,
    "grid": Grid,
    "breed": Breed,
}
_ACTION_SAMPLERS: dict[str, Callable[..., Sampler]] = {
    **{name: kind for name, kind in _PARAMETER_SAMPLERS.items() if name != "breed"},
    "network": NetworkPolicy,
}
_WITH_NUMBER = ("lhs", "grid")


SamplerLike: TypeAlias = Sampler | str | ActionPolicy | None


def find_sampler(value: SamplerLike, what: str) -> Sampler | None:
    """The sampler that a user means.

    Args:
        value: A sampler, its name, a function (a `Policy`), or None. A name may have an argument behind a colon, as in
            "lhs:128", "grid:5" and "network:sessions/beam".
        what: "actions" or "parameters".

    Raises:
        ConfigError: There is no such sampler.
    """
    if value is None or isinstance(value, Sampler):
        return value
    known = _ACTION_SAMPLERS if what == "actions" else _PARAMETER_SAMPLERS
    names = ", ".join([name for name in known if name != "network"] + ["network:PATH"] * ("network" in known))
    if isinstance(value, str):
        name, colon, argument = value.partition(":")
        if name in known and name != "network" and not colon:
            return known[name]()
        if name in known and name == "network" and argument:
            return NetworkPolicy(argument)
        if name in known and name in _WITH_NUMBER and argument.isdecimal():
            return known[name](int(argument))
    elif callable(value) and what == "actions" and not inspect.isclass(value):
        return Policy(value)
    raise ConfigError(UNKNOWN.format(what=what, value=value, known=names))


def draw_parameters(sampler: Sampler | None, space: spaces.Space[Any] | None, seed: int, env: str) -> Draw | None:
    """What gives the parameters of episodes, None if the environment is to draw them.

    Args:
        sampler: Draws them.
        space: The environment's ``parameter_space``, if it has one.
        seed: Seed of the run.
        env: What to call the environment in an error.

    Raises:
        ConfigError: The environment has no parameters, or the sampler cannot draw them.
    """
    if sampler is None:
        return None
    if space is None:
        raise ConfigError(NO_PARAMETER_SPACE.format(env=env))
    return sampler.parameters(space, seed)


def rebuild_sampler(described: Mapping[str, Any] | None, what: str) -> Sampler | None:
    """The sampler that a dataset was made with, from what it stores: the inverse of `Sampler.describe`.

    Args:
        described: What `Sampler.describe` gave, or None.
        what: "actions" or "parameters".

    Raises:
        ConfigError: The description of a function or of a network has neither; the text says what to pass.
    """
    if described is None:
        return None
    arguments = dict(described)
    name = arguments.pop("sampler", None)
    known = _ACTION_SAMPLERS if what == "actions" else _PARAMETER_SAMPLERS
    if name in known and name != NetworkPolicy.name:
        try:
            return known[name](**arguments)
        except TypeError as error:
            raise ConfigError(f"{what}: {described} does not describe a sampler: {error}") from error
    told = arguments.get("function") or (f"a network with weights {arguments.get('weights')}" if arguments else name)
    raise ConfigError(NOT_REBUILT.format(what=what, told=told))


class ActingEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that brings along where the actions of its rollouts come from.

    Args:
        env: The environment.
        sampler: Draws them.
        seed: Seed of the run.

    Attributes:
        episode_policy: Gives the policy of an episode, by its index.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], sampler: Sampler, seed: int) -> None:
        super().__init__(env)
        self.episode_policy = sampler.actions(env.action_space, seed)


class Acting:
    """Makes environments with a sampler of actions: what a local worker gets in place of their factory.

    Args:
        factory: Makes one environment.
        sampler: Draws its actions.
        seed: Seed of the run.
    """

    def __init__(self, factory: Callable[[], gymnasium.Env[Any, Any]], sampler: Sampler, seed: int) -> None:
        self._factory, self._sampler, self._seed = factory, sampler, seed

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """Make one."""
        return ActingEnv(self._factory(), self._sampler, self._seed)


class _Stored(dict[str, Array]):
    """A stored sample, which says what it has if it is asked for something else."""

    def __missing__(self, name: str) -> Any:
        raise SampleError(NOT_STORED.format(name=name, known=list(self)))


class LoadingEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that stored samples drive: they come with the options of a reset, and each gives one action.

    Args:
        env: The environment; it, or a wrapper around it, has ``load_sample(sample)``.

    Raises:
        ConfigError: It has not.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._load = env.get_wrapper_attr("load_sample") if env.has_wrapper_attr("load_sample") else None
        # physgym.simulation imports this module
        from physgym.simulation import Simulation

        if self._load is None or getattr(self._load, "__func__", None) is Simulation.load_sample:
            raise ConfigError(NO_LOAD_SAMPLE.format(env=type(env.unwrapped).__name__))
        self._columns: dict[str, Array] = {}
        self._count = self._done = 0
        self._observation: Any = None
        self._rejected: str | None = None  # why the sample of this step could not be loaded

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's own; ``options["load_samples"]`` are the samples, fields of shape (n, *shape)."""
        options = dict(options or {})
        self._columns = options.pop(LOAD_SAMPLES)
        self._count, self._done = len(next(iter(self._columns.values()))), 0
        self._observation, info = self.env.reset(seed=seed, options=options or None)
        return self._observation, info

    def episode_policy(self, episode: int) -> ActionPolicy:
        """What gives the actions of an episode."""

        def act(_: Any, __: np.random.Generator) -> Any:
            sample = _Stored({name: column[self._done] for name, column in self._columns.items()})
            self._rejected = None
            try:
                return self._load(sample)  # type: ignore[misc]  # it is not None
            except RejectSample as rejection:
                self._rejected = str(rejection)
            except SampleError as error:
                raise SampleError(f"episode {episode}, stored sample {self._done}: {error}") from error

        return act

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's own; the episode ends with the last sample.

        Raises:
            SampleError: It ends before.
        """
        self._done += 1
        if self._rejected is not None:
            return self._observation, 0.0, False, self._done == self._count, {"rejected": self._rejected}
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        if self._done < self._count and (terminated or truncated):
            how = "reached a terminal state" if terminated else "was truncated"
            raise SampleError(TOO_SHORT.format(how=how, done=self._done, count=self._count))
        return self._observation, reward, terminated, truncated or self._done == self._count, info


class Loading:
    """Makes environments that stored samples drive: what a local worker gets in place of their factory.

    Args:
        factory: Makes one environment.
    """

    def __init__(self, factory: Callable[[], gymnasium.Env[Any, Any]]) -> None:
        self._factory = factory

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """Make one."""
        return LoadingEnv(self._factory())


def _positive(number: Any, what: str) -> int:
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 1:
        raise ConfigError(f"{what} must be a positive integer, not {number!r}")
    return int(number)
