"""Vector entry points of the shipped simulations, so that `gymnasium.make_vec` gives a `SocketVectorEnv`.

Gymnasium calls a vector entry point without saying for which id, so that each id needs one of its own:
``physgym.vector.make:Beam_v0`` belongs to ``physgym/Beam-v0``.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from physgym.errors import ConfigError
from physgym.placement import EnvFactory
from physgym.vector.arguments import Arguments, check_arguments, one_each, own_copies
from physgym.vector.vector_env import SocketVectorEnv
from physgym.worker.variants import ByEpisode

EnvLike = str | EnvSpec | Callable[..., gymnasium.Env[Any, Any]]

MAKE_ARGUMENTS = ("max_episode_steps", "disable_env_checker", "render_mode")  # of gymnasium.make itself
NOT_IN_MAIN = (
    "{id} has the entry point '__main__:{name}', but the running program defines no {name!r}. Define it before the "
    "environment is made, register the class itself (entry_point={name}), or put it into a module of its own"
)
VECTOR_ARGUMENTS = tuple(list(inspect.signature(SocketVectorEnv).parameters)[1:])  # all but the factories


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
    if isinstance(env_kwargs, Mapping) and "env_kwargs" in _parameters(creator_of(env)[0]):
        env_kwargs, kwargs = None, {**kwargs, "env_kwargs": env_kwargs}  # an argument of the constructor's own
    listed = isinstance(env_kwargs, Sequence)
    each = check_arguments(env_kwargs)
    if num_envs is None:
        num_envs = len(each) if listed else 1
    if num_envs < 1:
        raise ConfigError(f"num_envs must be at least 1, not {num_envs}")
    vector_kwargs = {name: kwargs.pop(name) for name in VECTOR_ARGUMENTS if name in kwargs}
    factories = env_factories(env, [{**kwargs, **own} for own in each])
    venv = SocketVectorEnv(one_each(factories, num_envs, listed=listed), **vector_kwargs)
    venv.spec = spec
    return venv


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
    """Return what makes the environment of all episodes, where episode e has the arguments ``each[e % len(each)]``.

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
    """What makes one environment, in this process or in a worker.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment.
        kwargs: Arguments of the environment's constructor.

    Raises:
        ConfigError: The id is unknown, or the constructor lacks an argument.
    """
    maker = env_maker(env)
    if isinstance(maker, Registered):
        _check_names(maker.spec, kwargs)
    return functools.partial(_make, maker, dict(kwargs))


def _make(maker: Callable[..., gymnasium.Env[Any, Any]], kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """An environment; a constructor that passes its ``**kwargs`` on finds a misspelled argument only when it runs."""
    try:
        return maker(**own_copies(kwargs))
    except TypeError as error:
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if found is None or found[1] not in kwargs:
            raise
        creator = _creator(maker.spec) if isinstance(maker, Registered) else maker
        name = maker.spec.id if isinstance(maker, Registered) else getattr(creator, "__name__", repr(creator))
        raise ConfigError(_no_argument(name, found[1], _parameters(creator))) from error


def env_maker(env: EnvLike) -> Callable[..., gymnasium.Env[Any, Any]]:
    """Return what makes one environment from the arguments of its constructor, in this process or in a worker.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment.

    Raises:
        ConfigError: The id is unknown.
    """
    if isinstance(env, gymnasium.Env):
        raise ConfigError(f"got the environment {env} itself; pass its id, or a callable that makes a new one")
    if isinstance(env, (str, EnvSpec)):
        return Registered(find_spec(env))
    if not callable(env):
        raise ConfigError(f"an environment is an id, an EnvSpec, or a callable that makes one, not {env!r}")
    return env


class Registered:
    """Makes environments of a registration, also where the code that registered them has not run.

    What its entry points name in ``__main__`` (a script, a notebook, stdin) travels along: another process has another
    ``__main__``.

    Args:
        spec: The registration.

    Raises:
        ConfigError: ``__main__`` lacks what an entry point names.
    """

    def __init__(self, spec: EnvSpec) -> None:
        self.spec = spec
        self._process = os.getpid()
        self._main = {name: _of_main(spec, name) for name in _names_in_main(spec)}

    def __call__(self, **kwargs: Any) -> gymnasium.Env[Any, Any]:
        """Make one."""
        if os.getpid() != self._process:
            for name, found in self._main.items():
                setattr(sys.modules["__main__"], name, found)
        return gymnasium.make(self.spec, **kwargs)


def _names_in_main(spec: EnvSpec) -> list[str]:
    """The names that a registration's entry points have in ``__main__``."""
    points = [spec.entry_point, *(wrapper.entry_point for wrapper in spec.additional_wrappers)]
    named = [point.partition(":") for point in points if isinstance(point, str)]
    return [name for module, _, name in named if module == "__main__"]


def _of_main(spec: EnvSpec, name: str) -> Any:
    try:
        return getattr(sys.modules["__main__"], name)
    except AttributeError as error:
        raise ConfigError(NOT_IN_MAIN.format(id=spec.id, name=name)) from error


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


def env_name(env: EnvLike) -> str:
    """Return what a dataset records as its environment: the id, or module and name of a class or function."""
    if isinstance(env, str) and ":" in env:
        short = env.rpartition(":")[2]
        try:
            env = find_spec(env)
        except ConfigError:  # which whoever makes it says better
            return short
    if isinstance(env, EnvSpec):  # "module:id" names the same environment as the id alone
        by_name = isinstance(env.entry_point, str) and env.entry_point.rpartition(":")[2] == env.id
        return str(env.entry_point) if by_name and env.id not in gymnasium.registry else env.id
    if isinstance(env, str):
        return env
    name = getattr(env, "__qualname__", None)
    if name is None:
        from physgym.code.identity import maker_text  # which imports much that a worker has no use for

        return maker_text(env)
    return f"{env.__module__}:{name}"


def is_importable(name: str) -> bool:
    """Whether a name that a dataset records is that of a class which another program can import.

    It is looked up in what is imported here; the module of a script is another one elsewhere.
    """
    module, _, kind = name.rpartition(":")
    found = None if module in ("__main__", "__mp_main__") else getattr(sys.modules.get(module), kind, None)
    return isinstance(found, type) and issubclass(found, gymnasium.Env)


def same_name(one: str | None, other: str | None) -> bool:
    """Whether two names of environments, as datasets record them, may mean the same one.

    Versions before recorded no module of a class.
    """
    if one is None or other is None or (":" in one and ":" in other):
        return one == other
    return one.rpartition(":")[2] == other.rpartition(":")[2]


def class_name(name: str) -> str:
    """Return module and class of what an id names, as datasets record a class; other names as they are.

    An id that is registered with wrappers of its own is another simulation than its class.
    """
    spec = gymnasium.registry.get(name)
    if spec is None or spec.additional_wrappers or spec.entry_point is None:
        return name
    return spec.entry_point if isinstance(spec.entry_point, str) else env_name(spec.entry_point)


def creator_of(env: Any) -> tuple[Any, dict[str, Any]]:
    """Return the class or function that makes an environment, and the arguments with which it is registered.

    Args:
        env: Registered id, `EnvSpec`, or the class or function itself.

    Raises:
        ConfigError: There is no such id.
        Exception: What importing its module raises.
    """
    if not isinstance(env, (str, EnvSpec)):
        return env, {}
    spec = find_spec(env)
    return _creator(spec), dict(spec.kwargs)


def defaults_of(env: Any) -> dict[str, Any]:
    """Return the arguments that a constructor has where none are given; what cannot be known is left out.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment. Of an id they are those with which it
            is registered, else those of its class.
    """
    try:
        make, given = creator_of(env)
        return _declared_defaults(make) | given
    except Exception:  # noqa: BLE001 - of what makes the environment nothing is known then
        return {}


def _declared_defaults(make: Callable[..., Any]) -> dict[str, Any]:
    """Defaults of a function, or of a class and of those to which it passes further arguments on."""
    if not inspect.isclass(make):
        return {p.name: p.default for p in inspect.signature(make).parameters.values() if p.default is not p.empty}
    found: dict[str, Any] = {}
    for kind in make.__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
        found = {p.name: p.default for p in parameters if p.default is not p.empty} | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def _creator(spec: EnvSpec) -> Callable[..., Any]:
    """What makes the environment of a registration."""
    return spec.entry_point if callable(spec.entry_point) else load_env_creator(str(spec.entry_point))


def _parameters(creator: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a callable; of a class that takes others (``**kwargs``) those of its base classes too."""
    found = dict(inspect.signature(creator).parameters)
    if inspect.isclass(creator) and _takes_others(found):
        for made in (vars(base)["__init__"] for base in creator.__mro__[1:-1] if "__init__" in vars(base)):
            for name, parameter in inspect.signature(made).parameters.items():
                found.setdefault(name, parameter)
    return found


def _takes_others(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _check_names(spec: EnvSpec, kwargs: Mapping[str, Any]) -> None:
    """Find a misspelled argument here, where the error can name the right one, instead of in every worker."""
    parameters = _parameters(_creator(spec))
    if _takes_others(parameters):
        return
    for name in kwargs:
        if name not in parameters and name not in MAKE_ARGUMENTS:
            raise ConfigError(_no_argument(spec.id, name, parameters))


def _no_argument(env: str, name: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    """What is wrong with an argument that a constructor lacks."""
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
