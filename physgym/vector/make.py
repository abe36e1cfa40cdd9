"""Vector entry points of the shipped simulations, so that `gymnasium.make_vec` gives a `SocketVectorEnv`.

Gymnasium calls a vector entry point without saying for which id, so that each id needs one of its own:
``physgym.vector.make:Beam_v0`` belongs to ``physgym/Beam-v0``.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from physgym.batched.env import BATCHED
from physgym.checks import integer
from physgym.errors import ConfigError
from physgym.object_references import with_objects
from physgym.placement import EnvFactory, PortableFactory, declared_metadata
from physgym.registration import (
    ELSEWHERE,
    MAKE_ARGUMENTS,
    EnvLike,
    Registered,
    RowMaker,
    creator_of,
    env_maker,
    find_spec,
    is_batched,
    parameters_of,
    takes_others,
    with_arguments,
)
from physgym.vector.arguments import Arguments, check_arguments, one_each, own_copies
from physgym.vector.vector_env import SocketVectorEnv
from physgym.worker.batch import RowBatch
from physgym.worker.variants import ByEpisode

NAMED = "env"  # what a description says is to be made
VECTOR_ARGUMENTS = tuple(list(inspect.signature(SocketVectorEnv).parameters)[1:])  # all but the factories
UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")  # what Python says of a call
MISSING = re.compile(r"missing \d+ required (?:keyword-only |positional )?arguments?: ((?:'\w+'[, and]*)+)")


def make_vec(
    env: EnvLike, num_envs: int | None = None, *, env_kwargs: Arguments = None, **kwargs: Any
) -> SocketVectorEnv:
    """Make a vector environment of a simulation.

    Args:
        env: Registered id, an `EnvSpec`, or a callable that makes an environment, such as its class.
        num_envs: Number of environments; by default as many as `env_kwargs` lists, else 1.
        env_kwargs: Arguments of the constructors that differ: a list, one dictionary for each environment.
        **kwargs: What `SocketVectorEnv` knows (``num_workers``, ``autoreset_mode``, ``on_error`` and so on) goes there,
            everything else to the constructor of every environment.

    Returns:
        The vector environment; close it, or use it in a ``with`` statement.

    Raises:
        ConfigError: The id is unknown or an argument is wrong.
        WorkerError: An environment's constructor raised.
    """
    spec = find_spec(env) if isinstance(env, (str, EnvSpec)) else None
    if isinstance(env_kwargs, Mapping) and "env_kwargs" in parameters_of(creator_of(env)[0]):
        env_kwargs, kwargs = None, {**kwargs, "env_kwargs": env_kwargs}  # an argument of the constructor's own
    listed = isinstance(env_kwargs, Sequence)
    each = check_arguments(env_kwargs)
    if num_envs is None:
        num_envs = len(each) if listed else 1
    num_envs = integer("num_envs", num_envs, 1)
    vector_kwargs = {name: kwargs.pop(name) for name in VECTOR_ARGUMENTS if name in kwargs}
    factories = env_factories(env, [{**kwargs, **own} for own in each])
    venv = SocketVectorEnv(one_each(factories, num_envs, listed=listed), **vector_kwargs)
    venv.spec = None if spec is None else with_arguments(spec, {**kwargs, **_common(each)})
    return venv


def _common(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the arguments that several environments have in common."""

    def same(one: Any, other: Any) -> bool:
        return one is other or (isinstance(one, (bool, int, float, str)) and bool(one == other))

    first = each[0] if each else {}
    return {name: value for name, value in first.items() if all(same(value, one.get(name)) for one in each)}


def env_factories(env: EnvLike, each: Sequence[Mapping[str, Any]]) -> list[EnvFactory]:
    """Return one `env_factory` for each of several arguments.

    Raises:
        ConfigError: As `env_factory`; the text says for which.
    """
    factories = []
    for index, kwargs in enumerate(each):
        try:
            factories.append(env_factory(env, kwargs))
        except ConfigError as error:
            if len(each) == 1:
                raise
            raise ConfigError(f"arguments {index} of {len(each)}: {error}") from error
    return factories


def episode_factory(
    env: EnvLike, each: Sequence[Mapping[str, Any]], around: Callable[[EnvFactory], EnvFactory] = lambda made: made
) -> EnvFactory:
    """Return a factory of the environment of all episodes; episode e has the arguments ``each[e % len(each)]``.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment.
        each: Arguments of the constructor.
        around: What to put around the factory for each of them.

    Raises:
        ConfigError: As `env_factory`.
    """
    factories = [around(factory) for factory in env_factories(env, each)]
    return factories[0] if len(factories) == 1 else ByEpisode(factories)


def env_factory(env: EnvLike, kwargs: Mapping[str, Any]) -> EnvFactory:
    """Return a factory of one environment, for this process or a worker.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment.
        kwargs: Arguments of the environment's constructor.

    Raises:
        ConfigError: The id is unknown, or the constructor lacks an argument.
    """
    maker = env_maker(env)
    if isinstance(maker, Registered):
        _check_names(maker.spec, kwargs)
    with_objects(dict(kwargs), "env_kwargs")  # here, and not in every worker, an error is found
    return (BatchedFactory if is_batched(env) else NamedFactory)(env, maker, kwargs)


class NamedFactory(PortableFactory):
    """Makes environments of a registered id, an `EnvSpec` or a callable, with arguments.

    Args:
        env: Registered id, `EnvSpec`, or a callable.
        maker: What makes them.
        kwargs: Arguments of the constructor.
    """

    def __init__(self, env: EnvLike, maker: Callable[..., gymnasium.Env[Any, Any]], kwargs: Mapping[str, Any]) -> None:
        self._name = env if isinstance(env, str) else ""
        self._maker, self._kwargs = maker, dict(kwargs)

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """Make an environment."""
        made: gymnasium.Env[Any, Any] = _make(self._maker, self._kwargs)
        return made

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the metadata of their class; nothing where that is not known."""
        creator: Any = creator_of(self._maker.spec)[0] if isinstance(self._maker, Registered) else self._maker
        return declared_metadata(creator)

    def describe(self) -> dict[str, Any]:
        """Return the factory as JSON data.

        Raises:
            ConfigError: The environment is a callable, or an argument is no JSON data.
        """
        if not self._name:
            raise ConfigError(
                f"a worker on another machine makes environments by id; register {self._maker!r}, and pass its id"
            )
        try:
            arguments = json.loads(json.dumps(self._kwargs, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"env_kwargs of {self._name}: a worker on another machine gets JSON data alone ({error})"
            ) from error
        return {"make": NAMED, "env": self._name.removeprefix(ELSEWHERE), "arguments": arguments}


class BatchedFactory(NamedFactory):
    """Makes rows of a vector environment: all of a process together, or one by itself.

    Args:
        env: Registered id, an `EnvSpec`, or the class of the vector environment.
        maker: What makes a row.
        kwargs: Arguments of the constructor, without ``num_envs``.
    """

    def __init__(self, env: EnvLike, maker: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
        super().__init__(env, maker, kwargs)
        if "num_envs" in kwargs:
            raise ConfigError("num_envs is the number of rows, and no argument of each; pass it as num_envs=")

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the metadata of its rows."""
        creator = self._rows.creator
        known = creator.metadata if isinstance(creator, type) and issubclass(creator, VectorEnv) else {}
        return {**known, BATCHED: True}

    def makes_batch(self, factories: Sequence[EnvFactory]) -> bool:
        """Return whether all are the same, and nothing is around a row."""
        return not self._rows.has_wrappers and all(
            isinstance(one, BatchedFactory) and one._made == self._made for one in factories
        )

    def batch(self, factories: Sequence[EnvFactory]) -> RowBatch | None:
        """Make the environments of several factories at once, where all are the same and nothing is around a row."""
        if not self.makes_batch(factories):
            return None
        maker = self._rows

        def rows(**kwargs: Any) -> Any:
            return maker.rows(len(factories), kwargs)

        return RowBatch(_make(self._maker, self._kwargs, rows))

    @property
    def _rows(self) -> RowMaker:
        return self._maker if isinstance(self._maker, RowMaker) else RowMaker(self._maker.spec)  # type: ignore[attr-defined]

    @property
    def _made(self) -> tuple[Any, dict[str, Any]]:
        return self._rows.creator, self._kwargs


def _make(maker: Callable[..., Any], kwargs: dict[str, Any], call: Callable[..., Any] | None = None) -> Any:
    """Make an environment; a constructor finds a missing argument only when it runs.

    So does one that passes ``**kwargs`` on with a misspelled one.
    """
    try:
        return (call or maker)(**with_objects(own_copies(kwargs), "env_kwargs"))
    except TypeError as error:
        creator: Any = creator_of(maker.spec)[0] if isinstance(maker, Registered) else maker
        creator = creator.creator if isinstance(creator, RowMaker) else creator
        name = maker.spec.id if isinstance(maker, Registered) else getattr(creator, "__name__", repr(creator))
        unknown, missing = UNKNOWN.search(str(error)), MISSING.search(str(error))
        if unknown is not None and unknown[1] in kwargs:
            raise ConfigError(_no_argument(name, unknown[1], parameters_of(creator))) from error
        needed = re.findall(r"\w+(?=')", missing[1]) if missing is not None else []
        if needed and {*needed} <= parameters_of(creator).keys() - kwargs.keys():
            more = "; give each as an argument of the environment (--arg NAME=VALUE)"
            raise ConfigError(f"{name} needs {', '.join(needed)}{more}") from error
        raise


def _check_names(spec: EnvSpec, kwargs: Mapping[str, Any]) -> None:
    """Find a misspelled argument here, where the error can name the right one, instead of in every worker."""
    parameters = parameters_of(creator_of(spec)[0])
    if takes_others(parameters):
        return
    for name in kwargs:
        if name not in parameters and name not in MAKE_ARGUMENTS:
            raise ConfigError(_no_argument(spec.id, name, parameters))


def _no_argument(env: str, name: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    """Return the error text for an argument that a constructor lacks."""
    named = (n for n, p in parameters.items() if n != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
    known = list(dict.fromkeys([*named, *MAKE_ARGUMENTS]))
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"{env} has no argument {name!r}; {hint}"


def __getattr__(name: str) -> Callable[..., SocketVectorEnv]:
    env_id = f"physgym/{name.replace('_', '-')}"
    if env_id not in gymnasium.registry:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return functools.partial(make_vec, env_id)
