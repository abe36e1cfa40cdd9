"""Types of what chooses the parameters and the actions of episodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

ActionPolicy: TypeAlias = Callable[[Any, np.random.Generator], Any]  # observation and generator to an action
EpisodePolicy: TypeAlias = Callable[[int], ActionPolicy]  # index of an episode to its policy
ParameterDraw: TypeAlias = Callable[[int], Any]  # index of an episode to its parameters


class SkippingPolicy(ABC):
    """A policy that can pass over actions without drawing one after the other, for any observations."""

    @abstractmethod
    def __call__(self, observation: Any, rng: np.random.Generator) -> Any:
        """Return the next action.

        Args:
            observation: Of no account.
            rng: The generator of the episode.
        """

    @abstractmethod
    def skip(self, rng: np.random.Generator, steps: int) -> None:
        """Pass over the next actions: those after them, and the generator, are as if they had been drawn.

        Args:
            rng: The generator of the episode.
            steps: How many.
        """
