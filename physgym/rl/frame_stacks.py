"""`FrameStacks`: the last observations of each environment, stacked while an agent acts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from physgym.checks import integer
from physgym.errors import ConfigError, SampleError
from physgym.spaces import Array


class FrameStacks:
    """The last observations of each of several environments.

    A stack starts again where an episode begins, with its first observation repeated; so it never holds what an earlier
    episode has left. It is that of Gymnasium's `FrameStackObservation`, and of
    ``dataset.windows(stack, begin="repeat")`` over recorded single frames.

    Args:
        stack: Observations in a stack; with 1 they stay what they are, without another axis.
        num_envs: Number of environments.

    Raises:
        ConfigError: An argument is no positive integer.
    """

    def __init__(self, stack: int, num_envs: int) -> None:
        self.stack, self.num_envs = integer("stack", stack, 1), integer("num_envs", num_envs, 1)
        self._frames: dict[str, Array] = {}  # (num_envs, stack, *shape), the newest last
        self._began = np.zeros(self.num_envs, np.bool_)

    def space(self, space: spaces.Space[Any]) -> spaces.Space[Any]:
        """Return the space of stacks, from that of single observations."""
        return space if self.stack == 1 else batch_space(space, self.stack)

    def __call__(
        self, observations: Mapping[str, Array], begins: Array, environments: Array | None = None
    ) -> dict[str, Array]:
        """Take in new observations, and return the stacks that end with them.

        Args:
            observations: By field, of shape (m, *shape).
            begins: Which of them are the first ones of an episode, shape (m,).
            environments: Numbers of the environments that they are from, shape (m,); None for all in their order.

        Returns:
            The stacks by field, of shape (m, stack, *shape), the newest last; copies.

        Raises:
            SampleError: An environment has not begun an episode, or the fields are others than before.
        """
        numbers = np.arange(self.num_envs) if environments is None else np.asarray(environments)
        first = np.asarray(begins, np.bool_)
        if not (self._began[numbers] | first).all():
            never = numbers[~(self._began[numbers] | first)].tolist()
            raise SampleError(
                f"environments {never} have begun no episode; say begins=True for their first observations"
            )
        if self.stack == 1:
            self._began[numbers] = True
            return {name: np.array(value) for name, value in observations.items()}
        if not self._frames:
            self._frames = {
                name: np.zeros((self.num_envs, self.stack, *value.shape[1:]), value.dtype)
                for name, value in observations.items()
            }
        self._check(observations)
        self._began[numbers] = True
        found = {}
        for name, value in observations.items():
            frames = self._frames[name][numbers]
            frames[:, :-1] = frames[:, 1:]
            frames[:, -1] = value
            frames[first] = value[first, None]
            self._frames[name][numbers] = frames
            found[name] = frames
        return found

    def _check(self, observations: Mapping[str, Array]) -> None:
        """Raise SampleError where observations would be cast, or spread over a stack."""
        have = {name: (frames.shape[2:], frames.dtype) for name, frames in self._frames.items()}
        given = {name: (value.shape[1:], value.dtype) for name, value in observations.items()}
        if have != given:
            raise SampleError(f"the stacks are of {have}, and these observations are {given}")

    def state_dict(self) -> dict[str, Any]:
        """Return the stacks, to continue in the midst of episodes; arrays by name."""
        return {"began": self._began.copy(), "frames": {name: value.copy() for name, value in self._frames.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            ConfigError: It is that of another number of environments, or of other stacks.
        """
        began, frames = np.asarray(state["began"], np.bool_), {n: np.asarray(v) for n, v in state["frames"].items()}
        want = (self.num_envs, self.stack)
        if began.shape != (self.num_envs,) or any(value.shape[:2] != want for value in frames.values()):
            raise ConfigError(f"the state is not that of stacks of {self.stack} frames in {self.num_envs} environments")
        self._began, self._frames = began.copy(), {name: value.copy() for name, value in frames.items()}
