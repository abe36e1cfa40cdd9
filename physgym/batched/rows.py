"""`VectorRows`: a vector environment of anybody's as rows whose values are known to fit."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from physgym import spaces as walk
from physgym.batched.env import EXACT, MASK, PARAMETERS, BatchedEnv, rows_of
from physgym.casting import CastError, as_dtype
from physgym.errors import ConfigError, SampleError
from physgym.returned import info_of, returned, taken
from physgym.spaces import Array, Leaf

SHOWN = 8  # rows that a message names


class SteppedRows(NamedTuple):
    """Results of all rows.

    Attributes:
        observations: One array per leaf of the observation space, shape (rows, *leaf shape).
        rewards: Shape (rows,), float64.
        terminations: Shape (rows,), bool.
        truncations: Shape (rows,), bool.
        infos: As the vector environment gave them.
    """

    observations: list[Array]
    rewards: Array
    terminations: Array
    truncations: Array
    infos: dict[str, Any]


class VectorRows:
    """The rows of a vector environment.

    Args:
        venv: The vector environment.
        limit: Steps after which an episode is truncated; None for those of the vector environment.

    Attributes:
        venv: As the argument.
        count: Number of rows.
        mode: What happens there when an episode of a row ends.
        independence: Whether rows depend on their own seeds and actions alone: "exact", "rounded" or "" for unknown.
        limit: As the argument.
        elapsed: Steps of the episode of each row, shape (rows,), int64.
        seeds: The last seed that each row was given; None before.

    Raises:
        ConfigError: A space has no fixed layout, or it is not known what happens at the end of an episode.
    """

    def __init__(self, venv: VectorEnv[Any, Any, Any], limit: int | None = None) -> None:
        self.venv, self.count = venv, venv.num_envs
        self._name = type(venv).__name__
        said = venv.metadata.get("autoreset_mode")
        if not isinstance(said, AutoresetMode):
            raise ConfigError(
                f'{self._name} does not say how its rows are reset: metadata["autoreset_mode"] is one of '
                f"{[str(mode) for mode in AutoresetMode]}, not {said!r}"
            )
        self.mode, self.independence = said, rows_of(venv.metadata)
        if limit is not None and self.mode is not AutoresetMode.DISABLED:
            raise ConfigError(
                f"{self._name} resets its rows itself, and no limit of steps (max_episode_steps={limit}) can be put "
                "around it; give it to its constructor, or let it have the autoreset mode DISABLED"
            )
        self.limit = limit
        self.observation_leaves = self._fixed("observation_space", venv.single_observation_space)
        self._action_space = venv.single_action_space
        self._fixed("action_space", venv.single_action_space)
        self.elapsed = np.zeros(self.count, np.int64)
        self.seeds: list[int | None] = [None] * self.count

    @property
    def episodes(self) -> str:
        """Return where the rows are in their episodes, in words; of the first ones where there are many."""
        since = "" if self.mode is AutoresetMode.DISABLED else " since its reset"
        shown = [
            f"row {row} at step {step}{since}" + ("" if seed is None else f", last seed {seed}")
            for row, (step, seed) in enumerate(zip(self.elapsed[:SHOWN].tolist(), self.seeds, strict=False))
        ]
        return "; ".join(shown) + ("; ..." if self.count > SHOWN else "")

    def _fixed(self, name: str, space: Any) -> list[Leaf]:
        found = walk.leaves(space)
        if any(leaf.variable for leaf in found):
            raise ConfigError(f"single_{name} of {self._name} has values of variable size, which rows cannot have")
        return found

    def reset(
        self, mask: Array, seeds: Sequence[int | None], options: Mapping[str, Any] | None = None
    ) -> tuple[list[Array], dict[str, Any]]:
        """Begin episodes in some rows; return the observations of all, and the infos.

        Args:
            mask: Which rows, shape (rows,), bool.
            seeds: One for each row of the batch; those of the others are not used.
            options: For the reset; ``parameters`` have a row for each row of the batch.

        Raises:
            ConfigError: The vector environment cannot do that.
        """
        given: dict[str, Any] = dict(options or {})
        if not mask.all():
            if self.mode is not AutoresetMode.DISABLED:
                raise ConfigError(
                    f"{self._name} has the autoreset mode {self.mode.value}, and resets all rows or none; let it have "
                    "the mode DISABLED to reset some (reset_mask)"
                )
            given[MASK] = mask
        if PARAMETERS in given and not isinstance(self.venv, BatchedEnv):
            raise ConfigError(f"{self._name} is no physgym.batched.env.BatchedEnv, and takes no parameters of rows")
        values = self.venv.reset(seed=self._seed(mask, seeds), options=given or None)
        observations, infos = returned("reset", values, 2)
        self.elapsed[mask] = 0
        for row in np.flatnonzero(mask).tolist():
            self.seeds[row] = self.seeds[row] if seeds[row] is None else seeds[row]
        return self._observed(observations), info_of(infos)

    def _seed(self, mask: Array, seeds: Sequence[int | None]) -> Any:
        """Return the seeds of a reset as the vector environment takes them."""
        if all(seed is None for seed in seeds):
            return None
        if self.independence:
            return [seed if wanted else None for seed, wanted in zip(seeds, mask, strict=True)]
        first = seeds[0]
        if first is None or list(seeds) != list(range(first, first + self.count)):
            raise ConfigError(
                f'{self._name} does not declare that its rows depend on their own seeds (metadata["physgym.rows"] = '
                f'"{EXACT}"), and is seeded with one integer; seeds of single rows are not for it'
            )
        return first

    def step(self, actions: Any) -> SteppedRows:
        """Step all rows.

        Args:
            actions: Leaves of the action space, each of shape (rows, *leaf shape).
        """
        batch = walk.unflatten(self._action_space, iter(actions))
        observations, rewards, terminated, truncated, infos = returned("step", self.venv.step(batch), 5)
        observed = self._observed(observations)
        truncations = self._column("truncated", truncated, np.dtype(np.bool_))
        terminations = self._column("terminated", terminated, np.dtype(np.bool_))
        rewarded = self._column("rewards", rewards, np.dtype(np.float64))
        found = info_of(infos)
        self.elapsed += 1
        if self.limit is not None:
            truncations = truncations | ((self.elapsed >= self.limit) & ~terminations)
        return SteppedRows(observed, rewarded, terminations, truncations, found)

    def _observed(self, observations: Any) -> list[Array]:
        flat = walk.flatten(self.venv.single_observation_space, observations)
        return [
            self._column(f"observation {leaf.path}".rstrip(), value, leaf.dtype, leaf.shape)
            for leaf, value in zip(self.observation_leaves, flat, strict=True)
        ]

    def _column(self, name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...] = ()) -> Array:
        """Return values of all rows.

        Raises:
            SampleError: They do not fit.
        """
        array = on_host(value)
        try:
            array = as_dtype(array, dtype)
        except CastError as error:
            raise SampleError(f"{self._name}: {name} of all rows {error}") from error
        if array.shape != (self.count, *shape):
            raise SampleError(
                f"{self._name}: {name} of all rows has shape {array.shape}, declared are {(self.count, *shape)}"
            )
        return array


def on_host(value: Any) -> Any:
    """Return a tensor of torch as an array; anything else as it is."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return value


def arrays_of(infos: Any) -> Any:
    """Return infos with arrays in place of tensors, each a copy: a simulator may write into its own again."""
    if isinstance(infos, dict):
        return {key: arrays_of(value) for key, value in infos.items()}
    return taken(on_host(value=infos))


def row_info(infos: Mapping[str, Any], row: int, count: int) -> dict[str, Any]:
    """Return the info of one row, from that of all as Gymnasium's vector environments have it.

    Args:
        infos: Values with a row each, with masks ``_key`` of the rows that have them.
        row: Which row.
        count: How many rows there are.
    """
    found: dict[str, Any] = {}
    for key, value in infos.items():
        if key.startswith("_") or not (mask := infos.get(f"_{key}", ALL))[row if mask is not ALL else 0]:
            continue
        if isinstance(value, dict):
            found[key] = row_info(value, row, count)
        elif isinstance(value, (np.ndarray, list, tuple)) and len(value) == count:
            found[key] = value[row]
        else:
            found[key] = value
    return found


ALL = (True,)


def step_info(infos: Mapping[str, Any], row: int, count: int) -> dict[str, Any]:
    """Return the info of a step of one row: with its sample, or with the reason why there is none.

    Args:
        infos: As for `row_info`.
        row: Which row.
        count: How many rows there are.
    """
    found = row_info(infos, row, count)
    if REJECTED in found and not found[REJECTED]:
        del found[REJECTED]
    elif REJECTED in found and "sample" in found:
        found.setdefault("rejected_sample", found.pop("sample"))
    return found


REJECTED = "rejected"  # key of an info: why a step has no sample
