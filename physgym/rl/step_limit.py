"""`StepLimit`: the most steps of an episode, which may grow with the episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from physgym.checks import integer
from physgym.errors import ConfigError


@dataclass(frozen=True)
class StepLimit:
    """Most steps of an episode: those of the first one, those of later ones, and a straight line in between.

    Args:
        first: Most steps of the first episode.
        last: Most steps of all episodes after `episodes`.
        episodes: Number of the episode that is the first one with the last limit; 0 for one limit.
    """

    first: int
    last: int
    episodes: int = 0

    @classmethod
    def of(cls, given: int | Mapping[str, Any] | StepLimit | None) -> StepLimit | None:
        """Return the limit that is given as such, as a number, or as a table of ``first``, ``last`` and ``episodes``.

        Raises:
            ConfigError: It is none.
        """
        if given is None or isinstance(given, StepLimit):
            return given
        if isinstance(given, Mapping):
            if set(given) != {"first", "last", "episodes"}:
                raise ConfigError(
                    f"max_episode_steps is a number, or a table of first, last and episodes; got {sorted(given)}"
                )
            first, last = (integer(f"max_episode_steps.{name}", given[name], 1) for name in ("first", "last"))
            return cls(first, last, integer("max_episode_steps.episodes", given["episodes"], 1))
        most = integer("max_episode_steps", given, 1)
        return cls(most, most)

    @property
    def config(self) -> int | dict[str, int]:
        """Return it as JSON data, which `of` takes."""
        if not self.episodes:
            return self.last
        return {"first": self.first, "last": self.last, "episodes": self.episodes}

    def of_episode(self, number: int) -> int:
        """Return the most steps of an episode by its number, from 0."""
        if number >= self.episodes:
            return self.last
        return self.first + (self.last - self.first) * number // self.episodes
