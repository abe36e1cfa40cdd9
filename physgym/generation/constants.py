"""Constants of simulations: arrays that a dataset stores once."""

from __future__ import annotations

from collections.abc import Mapping

from physgym.data.constants import as_constants, differing
from physgym.errors import ConfigError, SampleError
from physgym.spaces import Array
from physgym.vector.vector_env import SocketVectorEnv


def common_constants(envs: SocketVectorEnv) -> dict[str, Array]:
    """Return the constants of environments (`physgym.Simulation.constants`); empty where they have none.

    Raises:
        SampleError: The constants differ from one environment to another.
        ConfigError: The constants are no arrays by name.
    """
    having = envs.call("has_wrapper_attr", "constants")
    if not any(having):
        return {}
    first: dict[str, Array] | None = None
    for index, (has, values) in enumerate(zip(having, envs.call("constants") if all(having) else having, strict=True)):
        if not has or not isinstance(values, Mapping):
            got = f"a {type(values).__name__}" if has else "nothing"
            raise ConfigError(
                f"`constants` of environment {index} gives {got}; it must be a method that returns arrays by name, in "
                "all of them"
            )
        found = as_constants(values)
        first = found if first is None else first
        if names := differing(first, found):
            raise SampleError(
                f"environment {index} has other constants than environment 0: {names}. They are stored once per "
                "dataset, so that they are equal everywhere; what varies belongs to the sample, or to parameter_space"
            )
    return first or {}
