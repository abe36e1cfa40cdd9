"""Vector entry points of the shipped simulations, so that `gymnasium.make_vec` gives a `SocketVectorEnv`.

Gymnasium calls a vector entry point without saying for which id, so that each id needs one of its own:
``physgym.vector.entry:Beam_v0`` belongs to ``physgym/Beam-v0``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from physgym.errors import ConfigError
from physgym.vector.vector_env import SocketVectorEnv

VECTOR_ARGUMENTS = ("num_workers", "autoreset_mode", "timeout", "port")


def make_vec(env: str | EnvSpec, num_envs: int = 1, **kwargs: Any) -> SocketVectorEnv:
    """Make a vector environment of a registered simulation.

    Args:
        env: Registered id, or an `EnvSpec`.
        num_envs: Number of environments.
        **kwargs: ``num_workers``, ``autoreset_mode``, ``timeout`` and ``port`` go to `SocketVectorEnv`, everything
            else to the environment's constructor.

    Returns:
        The vector environment; close it, or use it in a ``with`` statement.

    Raises:
        ConfigError: The id is unknown or an argument is wrong.
        WorkerError: An environment's constructor raised.
    """
    if num_envs < 1:
        raise ConfigError(f"num_envs must be at least 1, not {num_envs}")
    spec = find_spec(env)
    vector_kwargs = {name: kwargs.pop(name) for name in VECTOR_ARGUMENTS if name in kwargs}
    # the spec travels, not the id: the worker need not have run the code that registered it
    venv = SocketVectorEnv([functools.partial(gymnasium.make, spec, **kwargs)] * num_envs, **vector_kwargs)
    venv.spec = spec
    return venv


def find_spec(env: str | EnvSpec) -> EnvSpec:
    """The registration of an id.

    Raises:
        ConfigError: There is none; the text names the nearest.
    """
    if isinstance(env, EnvSpec):
        return env
    module, _, env_id = env.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gymnasium.spec(env_id)
    except (gymnasium.error.Error, ImportError) as error:
        ours = sorted(name for name in gymnasium.registry if name.startswith("physgym/"))
        raise ConfigError(
            f"no environment {env!r} is registered: {error} Shipped: {', '.join(ours)}. "
            'Your own: import the module that registers it, or write "module:id"'
        ) from error


def __getattr__(name: str) -> Callable[..., SocketVectorEnv]:
    env_id = f"physgym/{name.replace('_', '-')}"
    if env_id not in gymnasium.registry:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return functools.partial(make_vec, env_id)
