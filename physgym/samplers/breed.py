"""`Breed`: parameters that follow the losses of a training."""

from __future__ import annotations

import json
import math
import operator
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym import spaces as walk
from physgym.checks import integer, positive
from physgym.cube import Cube
from physgym.errors import ConfigError
from physgym.files import write_atomically
from physgym.policies import ParameterDraw
from physgym.samplers.base import PARAMETERS, Sampler, stream
from physgym.samplers.table import named
from physgym.spaces import Array

LEAST_DENSITY = 1e-12  # of points that could not have been drawn


@named(draws=("parameters",))
class Breed(Sampler):
    r"""Adaptive parameters: more of them where the training loss is high.

    Until the first `update` it draws uniformly. After it, a parameter is, with a probability that rises from `start` to
    `end` over the first `breakpoint` updates, a child of one of the latest `window` parameters, else uniform. The
    parent is drawn with a weight of its loss over the density :math:`q` with which parameters were drawn when its loss
    was reported. That is importance sampling of a density in proportion to the loss, and keeps a crowd of parameters
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
        positive("Breed: sigma", sigma)
        for label, ratio in (("start", start), ("end", end)):
            if not 0 <= ratio <= 1:
                raise ConfigError(f"Breed: {label} must be between 0 and 1, not {ratio}")
        self.sigma, self.start, self.end = float(sigma), float(start), float(end)
        self.breakpoint = integer("Breed: breakpoint", breakpoint, 1)
        self.window = integer("Breed: window", window, 1)
        self.updates = 0
        self._cube: Cube | None = None
        self._parents: Array | None = None  # points, shape (n, size), n at most window
        self._losses: Array = np.zeros(0)
        self._densities: Array = np.zeros(0)
        self._lock = threading.RLock()  # simulations ask in another thread than the training
        self._chosen: dict[int, list[Any]] = {}  # episode to the values of its leaves
        self._fixed: dict[int, list[Any]] = {}  # the same, of episodes that are not drawn anew
        if choices is not None:
            self._take_choices(Path(choices))

    def describe(self) -> dict[str, Any]:
        """Return the sampler as JSON data, with its arguments but for `choices`."""
        numbers = {"sigma": self.sigma, "start": self.start, "end": self.end}
        return {"sampler": self.name, **numbers, "breakpoint": self.breakpoint, "window": self.window}

    @property
    def ratio(self) -> float:
        """Return the part of children among the parameters drawn now; the rest is uniform."""
        if self._parents is None:
            return 0.0
        return self.start + (self.end - self.start) * min(1.0, self.updates / self.breakpoint)

    def parameters(self, space: spaces.Space[Any], seed: int) -> ParameterDraw:
        """Return a function that draws the parameters of an episode; they depend on the updates until then as well."""
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
                    rng = stream(seed, PARAMETERS, self.updates, episode)
                    point = self._child(rng) if rng.random() < self.ratio else rng.random(cube.size)
                    self._chosen[episode] = [column[0].tolist() for column in cube.columns(point[np.newaxis])]
                values = zip(layout, self._chosen[episode], strict=True)
                return cube.value([np.array([value], leaf.dtype) for leaf, value in values], 0)

        return draw

    def learn(self, losses: Mapping[int, float]) -> None:
        """Note how hard the episodes that it chose are to learn.

        Args:
            losses: Loss of each, by its index; episodes that it did not choose are left out.

        Raises:
            ConfigError: A loss is negative or not finite.
        """
        with self._lock:
            known = sorted(set(losses) & set(self._chosen))
            if not known or self._cube is None:
                return
            columns = zip(*(self._chosen[episode] for episode in known), strict=True)
            parameters = {path: np.array(column) for path, column in zip(self._cube.paths, columns, strict=True)}
            self.update(parameters, [losses[episode] for episode in known])

    def recall(self, episodes: Array, parameters: Mapping[str, Array]) -> None:
        """Take stored parameters of episodes as those that it chose.

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
        """Fix the parameters of all episodes that were chosen so far, which later learning does not change."""
        with self._lock:
            self._fixed = self._chosen | self._fixed

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the choices so far, by episode: a file of JSON for `choices`."""
        with self._lock:
            text = json.dumps({"sampler": self.name, "chosen": sorted(self._chosen.items())})
        write_atomically(Path(path), text)

    def _take_choices(self, path: Path) -> None:
        """Read the choices of an earlier run."""
        try:
            chosen = json.loads(path.read_text())["chosen"]
            self._fixed = {operator.index(episode): list(values) for episode, values in chosen}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"Breed: choices={str(path)!r} is no file that Breed.save wrote: {error!r}") from error

    def update(self, parameters: Mapping[str, Any], losses: Any) -> None:
        """Note how hard some parameters are to learn.

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
        """Return the losses that it has learned from and its choices, as JSON data."""
        with self._lock:
            parents = None if self._parents is None else self._parents.tolist()
            learned = {"losses": self._losses.tolist(), "densities": self._densities.tolist()}
            chosen = [[episode, values] for episode, values in self._chosen.items()]
            return {"updates": self.updates, "parents": parents, **learned, "chosen": chosen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` gave.

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
        """Return the probability of each parent."""
        # neither the largest losses nor points where nothing was drawn may overflow
        weights = self._losses / max(self._losses.max(initial=0), 1e-300) / np.maximum(self._densities, LEAST_DENSITY)
        total = weights.sum()
        return weights / total if total > 0 else np.full(len(weights), 1 / max(1, len(weights)))

    def _child(self, rng: np.random.Generator) -> Array:
        """Return a point near a parent."""
        from scipy.special import ndtr, ndtri

        assert self._parents is not None
        parent = self._parents[rng.choice(len(self._parents), p=self._weights())]
        low, high = ndtr(-parent / self.sigma), ndtr((1 - parent) / self.sigma)
        child: Array = parent + self.sigma * ndtri(low + (high - low) * rng.random(len(parent)))
        return np.clip(child, 0, 1)

    def _density(self, points: Array) -> Array:
        """Return the density with which points are drawn now."""
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
