"""Registrations of environments: find one by its id, and make its environments in any process."""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, WrapperSpec, load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv

from physgym.batched.row_env import row_env
from physgym.batched.rows import VectorRows
from physgym.errors import ConfigError

EnvLike = str | EnvSpec | Callable[..., gymnasium.Env[Any, Any]]


# what the id of an environment begins with that this process cannot make, only workers that dial in
ELSEWHERE = "worker:"
LIMIT = "max_episode_steps"
MAKE_ARGUMENTS = (LIMIT, "disable_env_checker", "render_mode")  # of gymnasium.make itself
# what the id of an environment begins with whose transitions are its samples
TRANSITIONS = "transitions:"
RECORDER = WrapperSpec("physgym/transitions", "physgym.sample:RecordTransition", {})


def find_spec(env: str | EnvSpec) -> EnvSpec:
    """Find the registration of an id.

    The name of a module to import may precede the id: "module:id"; "module:Class" needs no registration.
    "transitions:" before all that puts a `physgym.RecordTransition` around the environment. "worker:id" names an
    environment of which only workers that connect know anything.

    Raises:
        ConfigError: There is none, or the module cannot be imported; the text lists the shipped ones.
    """
    if isinstance(env, EnvSpec):
        return env
    if env.startswith(ELSEWHERE):
        return _spec_elsewhere(env)
    if env.startswith(TRANSITIONS):
        inner = _spec_within(env.removeprefix(TRANSITIONS))
        return replace(inner, additional_wrappers=(*inner.additional_wrappers, RECORDER))
    before, within, name = env.partition(f":{TRANSITIONS}")
    if within:
        raise ConfigError(f"{env!r}: {TRANSITIONS} stands first, before the module; write {TRANSITIONS}{before}:{name}")
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
        if isinstance(found, type) and issubclass(found, VectorEnv):
            return EnvSpec(env_id, vector_entry_point=f"{module}:{env_id}")
        there = _environments(env_id) if imported is None else _environments_of(imported, env_id)
        raise ConfigError(f"no environment {env!r} is registered ({error}). {there}") from error


def _spec_within(env: str) -> EnvSpec:
    """Find the registration of an id behind "transitions:".

    Raises:
        ConfigError: There is none; the text says where the module stands.
    """
    try:
        return find_spec(env)
    except ConfigError as error:
        if ":" in env:
            raise
        raise ConfigError(f"{error}; with its transitions as samples {TRANSITIONS}module:{env}") from error


def _environments(name: str) -> str:
    """Name the shipped environments, and what may be meant, where no module was named."""
    ours = sorted(one for one in gymnasium.registry if one.startswith("physgym/"))
    near = difflib.get_close_matches(name, ours, 1)
    return (
        f"{f'Did you mean {near[0]!r}? ' if near else ''}Shipped: {', '.join(ours)}. "
        'Your own: import the module that registers it, or write "module:id" or "module:Class"'
    )


def _environments_of(module: Any, name: str) -> str:
    """Name the environments that a module defines, and which of them may be meant."""
    kinds = (gymnasium.Env, VectorEnv)
    own = (one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__)
    classes = sorted(one.__name__ for one in own if issubclass(one, kinds))
    near = difflib.get_close_matches(name, [*classes, *gymnasium.registry], 1)
    meant = f"Did you mean '{module.__name__}:{near[0]}'? " if near else ""
    has = f"classes of environments there: {', '.join(classes)}" if classes else "it defines no environment"
    return (
        f"Module {module.__name__} was imported: {has}. {meant}"
        'Write "module:Class", or "module:id" where importing the module registers it'
    )


def _spec_elsewhere(env: str) -> EnvSpec:
    """Return a registration for the name of an environment that only workers know.

    Raises:
        ConfigError: It is no name of an environment.
    """
    try:
        if env == ELSEWHERE:
            raise gymnasium.error.Error("no name")
        return EnvSpec(env, entry_point=functools.partial(_made_elsewhere, env))
    except gymnasium.error.Error as error:
        raise ConfigError(
            f"{env!r} names no environment; write {ELSEWHERE}name, or {ELSEWHERE}space/Name-v0"
        ) from error


def _made_elsewhere(env: str, **arguments: Any) -> gymnasium.Env[Any, Any]:
    """Raise ConfigError: this process does not know the environment."""
    name = env.removeprefix(ELSEWHERE)
    raise ConfigError(
        f"{env} is made by workers that connect, and nowhere else: generate or train with --listen HOST:PORT, and "
        f"start the program that makes {name} with that address"
    )


def with_arguments(spec: EnvSpec, arguments: Mapping[str, Any]) -> EnvSpec:
    """Return a registration with arguments of the constructor and of `gymnasium.make`, as that function notes them."""
    own = {name: arguments[name] for name in (LIMIT, "disable_env_checker") if name in arguments}
    more = {name: value for name, value in arguments.items() if name not in own}
    return replace(spec, kwargs={**spec.kwargs, **more}, **own)


def is_batched(env: EnvLike) -> bool:
    """Return whether environments are rows of a vector environment: one is registered alone, or its class is given.

    Raises:
        ConfigError: The id is unknown.
    """
    if isinstance(env, (str, EnvSpec)):
        spec = find_spec(env)
        return spec.entry_point is None and spec.vector_entry_point is not None
    return isinstance(env, type) and issubclass(env, VectorEnv)


def env_maker(env: EnvLike) -> Callable[..., gymnasium.Env[Any, Any]]:
    """Return a callable that makes one environment from constructor arguments, in this process or in a worker.

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
    return RowMaker(env) if is_batched(env) else env


class Registered:
    """Make environments of a registration, also where the code that registered them has not run.

    An entry point may name a class in ``__main__`` (a script, a notebook, stdin). Another process has another
    ``__main__``, so the class is pickled with this object and put there.

    Args:
        spec: The registration.

    Raises:
        ConfigError: ``__main__`` lacks the class or function that an entry point names.
    """

    def __init__(self, spec: EnvSpec) -> None:
        self.spec = spec
        self._process = os.getpid()
        self._main = {name: _of_main(spec, name) for name in _names_in_main(spec)}

    def __call__(self, **kwargs: Any) -> gymnasium.Env[Any, Any]:
        """Make one environment."""
        if os.getpid() != self._process:
            for name, found in self._main.items():
                setattr(sys.modules["__main__"], name, found)
        return RowMaker(self.spec)(**kwargs) if is_batched(self.spec) else gymnasium.make(self.spec, **kwargs)


class RowMaker:
    """Make environments that are rows of a vector environment.

    Args:
        env: The registration, or the class of the vector environment.

    Attributes:
        creator: Makes the vector environment.
    """

    def __init__(self, env: EnvSpec | Callable[..., Any]) -> None:
        self._spec = env if isinstance(env, EnvSpec) else None
        self.creator, self._given = creator_of(env)

    def __call__(self, **kwargs: Any) -> gymnasium.Env[Any, Any]:
        """Make an environment that is the only row."""
        env: gymnasium.Env[Any, Any] = row_env(self.rows(1, kwargs))
        if env.spec is not None:  # with which `gymnasium.make` makes another one
            env.spec = replace(env.spec, entry_point=self, vector_entry_point=None, additional_wrappers=())
        for wrapper in () if self._spec is None else self._spec.additional_wrappers:
            around: Any = load_env_creator(wrapper.entry_point)
            env = around(env, **(wrapper.kwargs or {}))
        return env

    @property
    def has_wrappers(self) -> bool:
        """Return whether something is put around each environment."""
        return self._spec is not None and bool(self._spec.additional_wrappers)

    def rows(self, count: int, kwargs: Mapping[str, Any]) -> VectorRows:
        """Make a vector environment of so many rows.

        Args:
            count: How many.
            kwargs: Arguments of its constructor, and of `gymnasium.make`.
        """
        known, arguments = parameters_of(self.creator), {**self._given, **kwargs}
        spec = copy.deepcopy(self._spec)
        limit = arguments.get(LIMIT, None if spec is None else spec.max_episode_steps)
        for name in MAKE_ARGUMENTS:
            if name not in known:
                arguments.pop(name, None)
        if LIMIT in known and limit is not None:
            arguments[LIMIT], limit = limit, None  # it looks itself
        if "autoreset_mode" in known:
            arguments.setdefault("autoreset_mode", AutoresetMode.DISABLED)
        venv = self.creator(num_envs=count, **arguments)
        if spec is not None:
            spec.max_episode_steps = arguments.get(LIMIT, limit)
        venv.spec = spec
        try:
            return VectorRows(venv, limit)
        except BaseException:
            venv.close()
            raise


def _names_in_main(spec: EnvSpec) -> list[str]:
    """List the names in ``__main__`` that a registration's entry points have."""
    points = [spec.entry_point, spec.vector_entry_point, *(wrapper.entry_point for wrapper in spec.additional_wrappers)]
    named = [point.partition(":") for point in points if isinstance(point, str)]
    return [name for module, _, name in named if module == "__main__"]


def _of_main(spec: EnvSpec, name: str) -> Any:
    try:
        return getattr(sys.modules["__main__"], name)
    except AttributeError as error:
        raise ConfigError(
            f"{spec.id} has the entry point '__main__:{name}', but the running program defines no {name!r}. Define it "
            f"before the environment is made, register the class itself (entry_point={name}), or put it into a module "
            "of its own"
        ) from error


def creator_of(env: Any) -> tuple[Any, dict[str, Any]]:
    """Return the class or function that makes an environment, and the arguments with which it is registered.

    Args:
        env: Registered id, `EnvSpec`, or the class or function itself.

    Raises:
        ConfigError: There is no such id.
        Exception: Importing its module raised it.
    """
    if not isinstance(env, (str, EnvSpec)):
        return env, {}
    spec = find_spec(env)
    point = spec.vector_entry_point if is_batched(spec) else spec.entry_point
    creator = point if callable(point) else load_env_creator(str(point))
    return creator, dict(spec.kwargs)


def defaults_of(env: Any) -> dict[str, Any]:
    """Return the known default arguments of a constructor.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment. The defaults of an id are the arguments
            with which it is registered, else those of its class.
    """
    try:
        make, given = creator_of(env)
        return _declared_defaults(make) | given
    except Exception:  # noqa: BLE001 - nothing is known of an environment that cannot be imported
        return {}


def _declared_defaults(make: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of a function, or of a class and of the bases to which it passes further arguments on."""
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


def parameters_of(creator: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a callable; for a class that takes ``**kwargs`` those of its base classes too."""
    found = dict(inspect.signature(creator).parameters)
    if inspect.isclass(creator) and takes_others(found):
        for constructor in (vars(base)["__init__"] for base in creator.__mro__[1:-1] if "__init__" in vars(base)):
            for name, parameter in inspect.signature(constructor).parameters.items():
                found.setdefault(name, parameter)
    return found


def takes_others(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Return whether there are ``**kwargs`` among the parameters."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
