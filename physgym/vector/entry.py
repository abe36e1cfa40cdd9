"""Vector entry points of the shipped simulations, so that `gymnasium.make_vec` gives a `SocketVectorEnv`.

Gymnasium calls a vector entry point without saying for which id, so that each id needs one of its own:
``physgym.vector.entry:Beam_v0`` belongs to ``physgym/Beam-v0``.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from physgym.errors import ConfigError
from physgym.vector.host import EnvFactory
from physgym.vector.vector_env import SocketVectorEnv

EnvLike = str | EnvSpec | Callable[..., gymnasium.Env[Any, Any]]

MAKE_ARGUMENTS = ("max_episode_steps", "disable_env_checker", "render_mode")  # of gymnasium.make itself
VECTOR_ARGUMENTS = tuple(list(inspect.signature(SocketVectorEnv).parameters)[1:])  # all but the factories


def make_vec(env: str | EnvSpec, num_envs: int = 1, **kwargs: Any) -> SocketVectorEnv:
    """Make a vector environment of a registered simulation.

    Args:
        env: Registered id, or an `EnvSpec`.
        num_envs: Number of environments.
        **kwargs: What `SocketVectorEnv` knows (``num_workers``, ``autoreset_mode``, ``on_error`` and so on) goes there,
            everything else to the environment's constructor.

    Returns:
        The vector environment; close it, or use it in a ``with`` statement.

    Raises:
        ConfigError: The id is unknown or an argument is wrong.
        WorkerError: An environment's constructor raised.
    """
    if num_envs < 1:
        raise ConfigError(f"num_envs must be at least 1, not {num_envs}")
    vector_kwargs = {name: kwargs.pop(name) for name in VECTOR_ARGUMENTS if name in kwargs}
    venv = SocketVectorEnv([env_factory(env, kwargs)] * num_envs, **vector_kwargs)
    venv.spec = find_spec(env)
    return venv


def env_factory(env: EnvLike, kwargs: Mapping[str, Any]) -> EnvFactory:
    """What makes one environment, in this process or in a worker.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment.
        kwargs: Arguments of the environment's constructor.

    Raises:
        ConfigError: The id is unknown, or the constructor lacks an argument.
    """
    if isinstance(env, gymnasium.Env):
        raise ConfigError(f"got the environment {env} itself; pass its id, or a callable that makes a new one")
    if isinstance(env, (str, EnvSpec)):
        spec = find_spec(env)
        _check_arguments(spec, kwargs)
        # the spec travels, not the id: a worker need not have run the code that registered it
        return functools.partial(gymnasium.make, spec, **kwargs)
    if not callable(env):
        raise ConfigError(f"an environment is an id, an EnvSpec, or a callable that makes one, not {env!r}")
    return functools.partial(env, **kwargs)


def find_spec(env: str | EnvSpec) -> EnvSpec:
    """The registration of an id, which may stand behind a module to import: "module:id"; or of a "module:Class".

    Raises:
        ConfigError: There is none, or the module cannot be imported; the text lists the shipped ones.
    """
    if isinstance(env, EnvSpec):
        return env
    module, _, env_id = env.rpartition(":")
    imported: Any = None
    if module:
        try:
            imported = importlib.import_module(module)
        except Exception as error:
            raise ConfigError(f"importing {module!r} for {env!r} failed: {type(error).__name__}: {error}") from error
    try:
        return gymnasium.spec(env_id)
    except gymnasium.error.Error as error:
        found = getattr(imported, env_id, None)
        if isinstance(found, type) and issubclass(found, gymnasium.Env):
            return EnvSpec(env_id, entry_point=f"{module}:{env_id}")
        ours = sorted(name for name in gymnasium.registry if name.startswith("physgym/"))
        raise ConfigError(
            f"no environment {env!r} is registered ({error}). Shipped: {', '.join(ours)}. "
            'Your own: import the module that registers it, or write "module:id" or "module:Class"'
        ) from error


def _check_arguments(spec: EnvSpec, kwargs: Mapping[str, Any]) -> None:
    """Find a misspelled argument here, where the error can name the right one, instead of in every worker."""
    creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(str(spec.entry_point))
    parameters = inspect.signature(creator).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = list(dict.fromkeys([*(name for name in parameters if name != "self"), *MAKE_ARGUMENTS]))
    for name in kwargs:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"{spec.id} has no argument {name!r}; {hint}")


def __getattr__(name: str) -> Callable[..., SocketVectorEnv]:
    env_id = f"physgym/{name.replace('_', '-')}"
    if env_id not in gymnasium.registry:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return functools.partial(make_vec, env_id)
