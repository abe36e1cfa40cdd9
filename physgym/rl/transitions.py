"""`Transitions`: a batch of what an agent learns from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Transitions:
    """A batch of n transitions, tensors on the device of the agent.

    Attributes:
        observation: Observations before the actions by field, ``observation`` or ``observation/NAME``, each of shape
            (n, *shape); stacks are made already.
        action: What was applied, in the units of the environment: shape (n,), int64, for a `Discrete` space; shape
            (n, *shape), float32, for a `Box`.
        reward: What followed, shape (n,), float32.
        next_observation: Observations after the actions, in the form of `observation`.
        discount: Factor of the value of the next observation, shape (n,), float32: gamma where the episode continues or
            was truncated, 0 where it terminated.
    """

    observation: dict[str, Tensor]
    action: Tensor
    reward: Tensor
    next_observation: dict[str, Tensor]
    discount: Tensor

    def __len__(self) -> int:
        return len(self.reward)
