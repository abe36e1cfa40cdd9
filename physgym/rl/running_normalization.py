"""`RunningNormalization`: observations and rewards normalized by what was seen so far. Importing it imports torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from physgym.checks import integer, positive
from physgym.data.statistics import Statistics
from physgym.errors import ConfigError, SampleError
from physgym.rl.preprocessing import OBSERVATION
from physgym.spaces import Array, fixed_leaves

ArrayOrTensor = TypeVar("ArrayOrTensor", Array, Tensor)


class RunningNormalization:
    """A normalization that learns while an agent acts, and stays as it is while the agent is evaluated.

    Observations are moved by their mean and divided by their standard deviation, each number for itself. Rewards are
    divided by the standard deviation of the discounted return so far in each episode, as in Gymnasium and
    Stable-Baselines3, and not moved. The moments are those of all values so far, exact up to rounding: batches are
    merged by the update of Chan, Golub and LeVeque (1979). Keep raw values in a replay, and normalize what is drawn.

    Args:
        observation_space: The space of single observations, without stacks.
        num_envs: Number of environments.
        observations: Whether to normalize observations; integers, such as pictures, are left as they are.
        rewards: Whether to normalize rewards.
        gamma: Discount factor of the return.
        epsilon: What is added to a variance before its root is taken.
        clip: Largest size of what was normalized; None for no limit.

    Attributes:
        frozen: Whether nothing changes any more, as in an evaluation.
        config: The arguments but for the space and the number of environments, as JSON data.

    Raises:
        ConfigError: An argument is out of range, or there is nothing to normalize.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        num_envs: int,
        *,
        observations: bool = True,
        rewards: bool = True,
        gamma: float = 0.99,
        epsilon: float = 1e-8,
        clip: float | None = 10.0,
    ) -> None:
        found = fixed_leaves(spaces.Dict({OBSERVATION: observation_space}))
        real = {leaf.path: leaf.shape for leaf in found if leaf.dtype.kind == "f"} if observations else {}
        if observations and not real:
            raise ConfigError(
                f"{observation_space} has integers alone, which are not normalized; leave out normalize_observations"
            )
        if not 0.0 <= gamma <= 1.0:
            raise ConfigError(f"gamma must be from 0 to 1, not {gamma}")
        self.frozen, self._gamma, self._epsilon = False, gamma, positive("epsilon", epsilon)
        self._clip = math.inf if clip is None else positive("clip", clip)
        self._moments = {name: Statistics.empty(shape) for name, shape in real.items()}
        self._scales_rewards = rewards
        self.config: dict[str, Any] = {
            "observations": observations,
            "rewards": rewards,
            "gamma": gamma,
            "epsilon": epsilon,
            "clip": clip,
        }
        self._returns = np.zeros(integer("num_envs", num_envs, 1))  # discounted, so far in each episode
        self._return_moments = Statistics.empty(())
        self._made: dict[tuple[str, type], tuple[Array, Array]] = {}  # mean and factor of each field, by dtype

    def observe(self, observations: Mapping[str, Array]) -> None:
        """Take in new observations.

        Args:
            observations: By field, of shape (n, *shape); each must be given once.

        Raises:
            SampleError: One is not finite.
        """
        if self.frozen:
            return
        for name, moments in self._moments.items():
            self._moments[name] = moments.merge(_moments(name, observations[name]))
        self._made = {}

    def earn(self, rewards: Array, over: Array, environments: Array | None = None) -> None:
        """Take in the rewards of a step.

        Args:
            rewards: Of shape (m,).
            over: Which episodes ended with the step, shape (m,).
            environments: Numbers of the environments, shape (m,); None for all in their order.

        Raises:
            SampleError: One is not finite.
        """
        if self.frozen or not self._scales_rewards:
            return
        numbers = np.arange(len(self._returns)) if environments is None else np.asarray(environments)
        returns = self._returns[numbers] * self._gamma + rewards
        self._return_moments = self._return_moments.merge(_moments("reward", returns))
        self._returns[numbers] = np.where(over, 0.0, returns)

    def leave(self, environments: Array) -> None:
        """Leave the episodes of some environments, whose returns start again.

        Args:
            environments: Their numbers, shape (m,).
        """
        if not self.frozen:
            self._returns[environments] = 0.0

    def observations(self, batch: Mapping[str, ArrayOrTensor]) -> dict[str, ArrayOrTensor]:
        """Return observations normalized, by field.

        Args:
            batch: Arrays or tensors of shape (n, *shape), or stacks of them, (n, stack, *shape).

        Returns:
            Fields of real numbers as float32, others as they are. Arrays and tensors give the same bits.
        """
        found = dict(batch)
        for name in self._moments:
            value = batch[name]
            wide = value.dtype in (torch.float64, np.float64)  # what is large and varies little has no room in float32
            mean, factor = self._mean_and_factor(name, np.float64 if wide else np.float32)
            if isinstance(value, Tensor):
                given = value if wide else value.to(torch.float32)
                moved = (given - torch.from_numpy(mean).to(value.device)) * torch.from_numpy(factor).to(value.device)
                found[name] = moved.clamp(-self._clip, self._clip).to(torch.float32)
            else:
                scaled = ((value if wide else value.astype(np.float32)) - mean) * factor
                found[name] = np.clip(scaled, -self._clip, self._clip).astype(np.float32, copy=False)
        return found

    def rewards(self, rewards: ArrayOrTensor) -> ArrayOrTensor:
        """Return rewards normalized, float32, of the same shape; arrays and tensors give the same bits."""
        if isinstance(rewards, Tensor):
            single = rewards.to(torch.float32)
            return (single * self._reward_factor).clamp(-self._clip, self._clip) if self._scales_rewards else single
        values = np.asarray(rewards).astype(np.float32)
        return (
            np.clip(values * np.float32(self._reward_factor), -self._clip, self._clip)
            if self._scales_rewards
            else values
        )

    @property
    def _reward_factor(self) -> float:
        moments = self._return_moments
        return float(np.float32(1.0 / np.sqrt(moments.std**2 + self._epsilon))) if moments.count else 1.0

    def _mean_and_factor(self, name: str, dtype: type[np.floating[Any]]) -> tuple[Array, Array]:
        if (name, dtype) not in self._made:
            moments = self._moments[name]
            std = moments.std if moments.count else np.ones_like(moments.std)
            factor = 1.0 / np.sqrt(std**2 + self._epsilon)
            self._made[name, dtype] = np.asarray(moments.mean, dtype), np.asarray(factor, dtype)
        return self._made[name, dtype]

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and the returns so far, as arrays and numbers."""
        return {
            "observations": {name: _to_state(moments) for name, moments in self._moments.items()},
            "return": _to_state(self._return_moments),
            "returns": self._returns.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            ConfigError: It is that of other observations.
        """
        moments = {name: _from_state(one) for name, one in state["observations"].items()}
        have, given = ({n: np.shape(m.mean) for n, m in one.items()} for one in (self._moments, moments))
        if have != given:
            raise ConfigError(f"the state normalizes observations of {given}, and these are of {have}")
        returns = np.array(state["returns"], np.float64)
        if returns.shape != self._returns.shape:
            returns = np.zeros_like(self._returns)  # episodes begin anew where there are other environments
        self._moments, self._return_moments, self._returns = moments, _from_state(state["return"]), returns
        self._made = {}


def _moments(name: str, values: Array) -> Statistics:
    """Return the moments of a batch, shape (n, *shape)."""
    batch = np.asarray(values, np.float64)
    if not np.isfinite(batch).all():
        raise SampleError(f"{name} has a value that is not finite, by which nothing can be normalized")
    if not len(batch):
        return Statistics.empty(batch.shape[1:])
    return Statistics(len(batch), batch.mean(0), batch.std(0), batch.min(0), batch.max(0))


def _to_state(moments: Statistics) -> dict[str, Any]:
    arrays = {name: np.array(getattr(moments, name)) for name in ("mean", "std", "min", "max")}
    return {"count": moments.count, **arrays}


def _from_state(state: Mapping[str, Any]) -> Statistics:
    mean, std, low, high = (np.asarray(state[name], np.float64) for name in ("mean", "std", "min", "max"))
    return Statistics(int(state["count"]), mean, std, low, high)
