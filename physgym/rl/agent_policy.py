"""`AgentPolicy`: an agent that acts without exploration, with its preprocessing, stacks and normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from physgym.data.recordings import OBSERVATION
from physgym.rl.agent import Agent
from physgym.rl.frame_stacks import FrameStacks
from physgym.rl.preprocessing import Preprocessing
from physgym.rl.transition_log import Columns
from physgym.spaces import Array, unflatten

if TYPE_CHECKING:
    from physgym.rl.running_normalization import RunningNormalization


class AgentPolicy:
    """An agent that acts without exploration.

        policy = load_agent("sessions/cartpole")
        env = policy.wrap(gymnasium.make("CartPole-v1"))
        observation, _ = env.reset(seed=0)
        policy.reset()
        action = policy.act_preprocessed(observation)

    Args:
        agent: Who acts.
        observation_space: Of a single environment, with the preprocessing around it and without stacks.
        action_space: The same.
        preprocessing: The wrappers around an environment.
        stack: Observations of a stack; 1 for none.
        normalization: Of the observations; None for none. It stays as it is.

    Attributes:
        agent: As given.
        preprocessing: As given.
        stack: As given.
        normalization: As given.
        observation_space: As given.
        action_space: As given.
    """

    def __init__(
        self,
        agent: Agent,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        preprocessing: Preprocessing | None = None,
        stack: int = 1,
        normalization: RunningNormalization | None = None,
    ) -> None:
        self.agent, self.stack, self.normalization = agent, stack, normalization
        self.preprocessing = Preprocessing() if preprocessing is None else preprocessing
        self.observation_space, self.action_space = observation_space, action_space
        self._columns = Columns(OBSERVATION, observation_space)
        self._stacks: FrameStacks | None = None
        self._begins = np.ones(0, np.bool_)

    def wrap(self, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        """Return an environment with the preprocessing around it, in which the policy acts.

        Raises:
            ConfigError: The preprocessing does not fit the environment.
        """
        return self.preprocessing.wrap(env)

    def reset(self, mask: Array | Sequence[bool] | None = None) -> None:
        """Take note that the next observations are the first ones of an episode: the stacks start again.

        Args:
            mask: Of which environments, shape (num_envs,), bool; None for all.
        """
        if mask is None or not len(self._begins):
            self._begins[:] = True
        else:
            self._begins |= np.asarray(mask, np.bool_)

    def act(self, observations: Any) -> Array:
        """Return an action for each of several environments, of the dtype of the action space.

        Args:
            observations: As a vector environment of preprocessed environments gives them.

        Raises:
            SampleError: They do not fit their space.
        """
        count = len(next(iter(_arrays(observations))))
        fields = self._columns.of(observations, count)
        if self._stacks is None or self._stacks.num_envs != count:
            self._stacks, self._begins = FrameStacks(self.stack, count), np.ones(count, np.bool_)
        if self.normalization is not None:
            fields = self.normalization.observations(fields)
        if self.stack > 1:
            fields = self._stacks(fields, self._begins)
        self._begins[:] = False
        return self.agent.act(fields, explore=False)

    def act_preprocessed(self, observation: Any) -> Any:
        """Return the action for an observation of one environment, see `wrap`.

        Raises:
            SampleError: It does not fit its space.
        """
        batch = self._columns.of(observation)
        return self.act(unflatten(self._columns.space, iter([batch[leaf.path] for leaf in self._columns.leaves])))[0]


def _arrays(observations: Any) -> list[Any]:
    """Return the arrays of a batch of observations."""
    if isinstance(observations, dict):
        return [array for value in observations.values() for array in _arrays(value)]
    if isinstance(observations, tuple):
        return [array for value in observations for array in _arrays(value)]
    return [observations]
