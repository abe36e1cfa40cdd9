"""`Policy`: actions from a function."""

from __future__ import annotations

import functools
from typing import Any

from gymnasium import spaces

from physgym.code.identity import qualified_name, text_digest
from physgym.code.search import caught
from physgym.errors import ConfigError
from physgym.policies import ActionPolicy, EpisodePolicy
from physgym.samplers.base import Sampler


class Policy(Sampler):
    """Actions from a function.

    Args:
        function: Maps (observation, generator) to an action. The generator is the episode's own and the only randomness
            to use. It is sent to local workers as cloudpickle, like an environment's factory.

    Raises:
        ConfigError: It cannot be called.
    """

    name = "policy"

    def __init__(self, function: ActionPolicy) -> None:
        if not callable(function):
            raise ConfigError(f"Policy needs a function of (observation, generator), not {function!r}")
        self.function = function

    def describe(self) -> dict[str, Any]:
        """Return the name of the function, a digest of its text, and the values that it has caught, as JSON data."""
        values = caught("function", self.function)
        if isinstance(self.function, functools.partial):
            values["function"] = qualified_name(self.function.func)
        known = {"sampler": self.name, "function": qualified_name(self.function), "values": values}
        text = text_digest(self.function)
        return known if text is None else {**known, "text": text}

    def actions(self, space: spaces.Space[Any], seed: int) -> EpisodePolicy:
        """Return the function, which is the policy of every episode."""
        return lambda _: self.function
