"""`BatchedSimulation`: a base class of simulations that compute many rows at once, as tensors on one device."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from physgym import spaces as walk
from physgym.batched.env import EXACT, MASK, PARAMETERS, ROUNDED, ROWS, BatchedEnv
from physgym.batched.random import ACTIONS, uniform
from physgym.batched.random import PARAMETERS as DRAWN
from physgym.batched.row_env import row_env
from physgym.batched.rows import VectorRows
from physgym.checks import integer, is_integer
from physgym.errors import ConfigError, SampleError
from physgym.sample import NOT_FINITE, SampleSpec, flat_items
from physgym.spaces import Array


class TensorStep(NamedTuple):
    """Results of a step of all rows, as tensors on the device.

    Attributes:
        sample: Fields of shape (rows, *field shape), of the dtypes that are declared.
        rewards: Shape (rows,); None for zeros.
        terminated: Which rows have reached a terminal state, shape (rows,), bool; None for none.
        rejected: Which rows have no valid sample, shape (rows,), bool; None for none.
    """

    sample: dict[str, Tensor]
    rewards: Tensor | None
    terminated: Tensor | None
    rejected: Tensor | None


class BatchedSimulation(BatchedEnv):
    """A simulation of many rows at once, in tensors on one device.

    Subclasses set ``single_observation_space`` and ``single_action_space`` (arrays), ``sample_space`` and what belongs
    to it, maybe ``parameter_space``, and implement `begin`, `advance`, `observation` and `sample`. They may not let a
    row influence another. Random numbers are functions of seeds (`physgym.batched.random.uniform`).

    `reset_rows` and `step_rows` take and give tensors and wait for nothing; `reset` and `step` are those of a
    `gymnasium.vector.VectorEnv`, in arrays.

    Args:
        num_envs: Number of rows.
        device: Where they are computed.
        max_episode_steps: Steps after which an episode is truncated; None for no limit.

    Attributes:
        device: As the argument.
        max_episode_steps: As the argument.
        rejection: What a rejected step is said to be.

    Raises:
        ConfigError: An argument is out of range, or the device cannot be used.
    """

    rejection = "the solver did not converge"

    def __init__(
        self, num_envs: int, *, device: str | torch.device = "cpu", max_episode_steps: int | None = None
    ) -> None:
        self.num_envs = integer("num_envs", num_envs, 1)
        self.max_episode_steps = (
            None if max_episode_steps is None else integer("max_episode_steps", max_episode_steps, 1)
        )
        try:
            self.device = torch.device(device)
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
        exact = EXACT if self.device.type == "cpu" else ROUNDED
        self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.DISABLED, ROWS: exact}
        self._given_seeds: list[tuple[int, int] | None] = [None] * self.num_envs  # and how many resets came after them
        self._ended, self._elapsed = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.int64)

    # --- what a simulation implements

    @abstractmethod
    def begin(self, rows: Tensor, parameters: Mapping[str, Tensor]) -> None:
        """Start episodes in some rows.

        Args:
            rows: Which ones, shape (m,), int64.
            parameters: Theirs by name, each of shape (m, *shape); numbers as float64.
        """

    @abstractmethod
    def advance(self, actions: Tensor) -> Tensor | None:
        """Advance all rows once.

        Args:
            actions: Shape (rows, *shape).

        Returns:
            Which rows have no valid sample, shape (rows,), bool; None for none.
        """

    @abstractmethod
    def observation(self) -> Tensor:
        """Return the observations of all rows now, shape (rows, *shape)."""

    @abstractmethod
    def sample(self) -> Mapping[str, Tensor]:
        """Return the fields of the samples of the step just made, each of shape (rows, *shape)."""

    def outcome(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the rewards of the step just made, and which rows have ended by it; None for zeros, and for none."""
        return None, None

    def draw_parameters(self, seeds: Tensor) -> Mapping[str, Tensor]:
        """Return the parameters of episodes: by default uniform within their bounds.

        Args:
            seeds: Of the episodes, shape (m,), int64.

        Returns:
            By name, each of shape (m, *shape), float64.
        """
        found, at = {}, 0
        drawn = uniform(seeds, torch.zeros_like(seeds), sum(_size(s) for s in self._parameters.values()), DRAWN)
        for name, space in self._parameters.items():
            part = drawn[:, at : at + _size(space)].reshape(len(seeds), *space.shape)  # type: ignore[misc]
            found[name], at = self._within(name, space, part), at + _size(space)
        return found

    def draw_action_tensors(self, seeds: Tensor, steps: Tensor) -> Tensor:
        """Return random actions of all rows, a function of seed and step: by default uniform within their bounds.

        Args:
            seeds: Of the episodes, shape (rows,), int64.
            steps: Shape (rows,), int64.
        """
        space = self.single_action_space
        drawn = uniform(seeds, steps, _size(space), ACTIONS).reshape(len(seeds), *space.shape)  # type: ignore[misc]
        return self._within("action", space, drawn).to(_dtype(space.dtype))

    # --- in tensors

    @cached_property
    def sample_spec(self) -> SampleSpec:
        """Return the sample fields.

        Raises:
            SampleError: None are declared.
        """
        found = SampleSpec.from_env(row_env(VectorRows(self)))
        if found is None:
            raise SampleError(f"{type(self).__name__} sets no sample_space; a simulation declares its sample fields")
        return found

    def reset_rows(
        self, seeds: Tensor, rows: Tensor | None = None, parameters: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Begin episodes; return their parameters.

        Args:
            seeds: Of the episodes, shape (m,), int64.
            rows: In which rows, shape (m,), int64; None for all.
            parameters: In place of those that are drawn, each of shape (m, *shape).
        """
        chosen = torch.arange(self.num_envs, device=self.device) if rows is None else rows
        found = {} if not self._parameters else dict(self.draw_parameters(seeds))
        for name, space in self._parameters.items():  # those that are reported, in the dtype of their space
            found[name] = found[name].to(_dtype(space.dtype)).to(torch.float64)
        found |= {name: value.to(self.device) for name, value in (parameters or {}).items()}
        self.begin(chosen, found)
        return found

    def step_rows(self, actions: Tensor) -> TensorStep:
        """Step all rows.

        Args:
            actions: Shape (rows, *shape), on the device.

        Raises:
            SampleError: The sample has not the fields that are declared, with their shapes and kinds of numbers.
        """
        rejected = self.advance(actions)
        sample = dict(flat_items(self.sample()))
        fields = self._fields
        if sample.keys() != fields.keys():
            raise SampleError(f"{type(self).__name__}: the sample has {sorted(sample)}, declared are {sorted(fields)}")
        columns = {name: self._fitting(f"sample {name!r}", sample[name], *field) for name, field in fields.items()}
        return TensorStep(columns, *self.outcome(), rejected)

    # --- in arrays, as Gymnasium has it

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin episodes in all rows, or those of a mask; see `physgym.batched.env.BatchedEnv`.

        Raises:
            ConfigError: An option is unknown, or a parameter is not in its space.
        """
        if is_integer(seed):
            seed = [int(seed) + row for row in range(self.num_envs)]
        given = dict(options or {})
        mask = np.asarray(given.pop(MASK, np.ones(self.num_envs, np.bool_)))
        chosen = np.flatnonzero(mask)
        parameters = self._given(given.pop(PARAMETERS, {}), chosen)
        if given:
            raise ConfigError(f"{type(self).__name__} knows no option {sorted(given)} of a reset")
        named = [None] * self.num_envs if seed is None else seed
        if len(named) != self.num_envs or mask.shape != (self.num_envs,):
            raise ConfigError(f"seeds and reset_mask have an entry for each of the {self.num_envs} rows")
        seeds = [self._seed_of(row, named[row]) for row in chosen.tolist()]
        if not all(0 <= one < 2**63 for one in seeds):
            raise ConfigError(f"seeds are at least 0 and below 2**63, not {seeds}")
        used = self.reset_rows(self._integers(seeds), self._integers(chosen), parameters)
        self._ended[chosen], self._elapsed[chosen] = False, 0
        infos: dict[str, Any] = {}
        if used:
            infos = {PARAMETERS: self._columns(used, chosen), f"_{PARAMETERS}": mask.copy()}
        return self._host(self.observation(), self.single_observation_space.dtype), infos

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Step all rows; see `physgym.batched.env.BatchedEnv`.

        Raises:
            SampleError: A sample has a value that is not finite, and `nonfinite` is "error".
        """
        space = self.single_action_space
        given, wanted = np.asarray(actions, space.dtype), (self.num_envs, *space.shape)  # type: ignore[misc]
        if given.shape != wanted:
            raise ConfigError(f"{type(self).__name__}: actions of all rows have shape {wanted}, not {given.shape}")
        # memory of torch's own: a product of matrices depends in its last bit on where they lie
        found = self.step_rows(torch.tensor(given).to(self.device))
        dtypes = {name: field.dtype for name, field in self.sample_spec.items()}
        sample = {name: self._host(value, dtypes[name]) for name, value in found.sample.items()}
        none = np.zeros(self.num_envs, np.bool_)
        rejected = none if found.rejected is None else self._host(found.rejected, np.bool_)
        if self.nonfinite == "error":
            self._check_finite(sample, ~(rejected | self._ended))
        terminated = none.copy() if found.terminated is None else self._host(found.terminated, np.bool_)
        self._elapsed += 1
        longest = self.max_episode_steps
        truncated = none.copy() if longest is None else (self._elapsed >= longest) & ~terminated
        self._ended |= terminated | truncated
        rewards = np.zeros(self.num_envs) if found.rewards is None else self._host(found.rewards, np.float64)
        infos: dict[str, Any] = {"sample": sample}
        if rejected.any():
            infos["rejected"] = np.array([self.rejection if one else "" for one in rejected], object)
        observation = self._host(self.observation(), self.single_observation_space.dtype)
        return observation, rewards, terminated, truncated, infos

    def draw_actions(self, seeds: Array, steps: Array) -> Any:
        """Return random actions of all rows; see `physgym.batched.env.BatchedEnv`."""
        drawn = self.draw_action_tensors(self._integers(seeds), self._integers(steps))
        return self._host(drawn, self.single_action_space.dtype)

    # --- parts

    def _seed_of(self, row: int, seed: int | None) -> int:
        """Return the seed of the next episode of a row: the given one, or what follows from the last given one."""
        if seed is not None:
            self._given_seeds[row] = int(seed), 0
            return int(seed)
        last, since = self._given_seeds[row] or (int(self.np_random.integers(2**63)), 0)
        self._given_seeds[row] = last, since + 1
        return int(np.random.SeedSequence((last, since + 1)).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _use_spaces(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        """Set the spaces of a row and of all rows; for constructors of subclasses."""
        self.single_observation_space, self.single_action_space = observation, action
        self.observation_space = batch_space(observation, self.num_envs)
        self.action_space = batch_space(action, self.num_envs)

    @cached_property
    def _parameters(self) -> dict[str, spaces.Space[Any]]:
        return {} if self.parameter_space is None else walk.leaf_spaces(self.parameter_space)

    @cached_property
    def _fields(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        return {name: (_dtype(field.dtype), field.shape) for name, field in self.sample_spec.items()}

    def _fitting(self, name: str, value: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """Return values of all rows in the dtype that is declared.

        Raises:
            SampleError: They have another shape, or numbers that it does not hold.
        """
        wanted = (self.num_envs, *shape)
        if tuple(value.shape) != wanted:
            raise SampleError(
                f"{type(self).__name__}: {name} of all rows has shape {tuple(value.shape)}, declared are {wanted}"
            )
        if not torch.can_cast(value.dtype, dtype):
            raise SampleError(
                f"{type(self).__name__}: {name} is {value.dtype}, which {dtype} does not hold; convert it"
            )
        return value.to(dtype)

    def _integers(self, values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values, np.int64), device=self.device)

    def _host(self, value: Tensor, dtype: Any) -> Array:
        array: Array = value.detach().cpu().numpy().astype(dtype, copy=True)
        return array

    def _within(self, name: str, space: spaces.Space[Any], drawn: Tensor) -> Tensor:
        """Return numbers from 0 to below 1 as values of a space.

        Raises:
            ConfigError: It has no bounds.
        """
        found = walk.value_range(space)
        if found is None or not (np.isfinite(found.low).all() and np.isfinite(found.high).all()):
            raise ConfigError(f"{type(self).__name__}: {name} has no bounds within which it could be drawn; draw it")
        low, high = (torch.tensor(np.asarray(end, np.float64), device=self.device) for end in (found.low, found.high))
        if found.dtype.kind in "iu":
            return torch.floor(low + drawn * (high - low + 1))
        return low + drawn * (high - low)

    def _given(self, given: Any, chosen: Array) -> dict[str, Tensor]:
        """Return given parameters of some rows.

        Raises:
            ConfigError: One is unknown, has not a row for each row, or is not in its space.
        """
        env, found = type(self).__name__, {}
        for name, value in flat_items(given):
            if name not in self._parameters:
                raise ConfigError(f"{env}: there is no parameter {name!r}; parameter_space has {[*self._parameters]}")
            space = self._parameters[name]
            array = np.asarray(value)
            if array.shape != (self.num_envs, *space.shape):  # type: ignore[misc]
                raise ConfigError(
                    f"{env}: parameter {name!r} of all rows has shape {(self.num_envs, *space.shape)}, "  # type: ignore[misc]
                    f"not {array.shape}"
                )
            if not np.can_cast(array.dtype, space.dtype, "same_kind"):  # type: ignore[arg-type]
                raise ConfigError(f"{env}: parameter {name!r} has numbers of {space.dtype}, not of {array.dtype}")
            for row in chosen.tolist():
                if not space.contains(array[row].astype(space.dtype)):
                    raise ConfigError(f"{env}: parameter {name!r} = {array[row]} of row {row} is not in {space}")
            found[name] = torch.tensor(array[chosen].astype(np.float64), device=self.device)
        return found

    def _columns(self, parameters: Mapping[str, Tensor], chosen: Array) -> dict[str, Array]:
        """Return parameters of some rows as arrays with a row for each row of the batch."""
        found = {}
        for name, space in self._parameters.items():
            found[name] = np.zeros((self.num_envs, *space.shape), space.dtype)  # type: ignore[misc]
            found[name][chosen] = self._host(parameters[name], space.dtype)
        return found

    def _check_finite(self, sample: Mapping[str, Array], rows: Array) -> None:
        for name, values in sample.items():
            if values.dtype.kind in "fc" and not (good := np.isfinite(values.reshape(self.num_envs, -1)))[rows].all():
                row = int(np.argmin(good.all(axis=1) | ~rows))
                count, index = int((~good[row]).sum()), int(np.argmin(good[row]))
                where = f"{type(self).__name__}, row {row}, step {self._elapsed[row]}{self._seed_text(row)}"
                error = SampleError(NOT_FINITE.format(where=where, name=name, count=count, index=index))
                error.row = row
                raise error

    def _seed_text(self, row: int) -> str:
        """Return the seed of the episode of a row in words; empty where there was no reset."""
        seed, resets = self._given_seeds[row] or (None, 0)
        after = f" and {resets} resets" if resets else ""
        return "" if seed is None else f" (seed {seed}{after})"


def _size(space: spaces.Space[Any]) -> int:
    return int(np.prod(space.shape, dtype=np.int64))  # type: ignore[arg-type]


def _dtype(dtype: Any) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
