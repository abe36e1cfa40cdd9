"""Names of environments, as datasets and records write them down and compare them."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from physgym.code.identity import maker_text
from physgym.errors import ConfigError
from physgym.registration import RECORDER, TRANSITIONS, EnvLike, find_spec


def env_name(env: EnvLike) -> str:
    """Return the name of an environment that a dataset records: its id, or module and name of a class or function."""
    if isinstance(env, str) and ":" in env:
        short = env.rpartition(":")[2]
        try:
            env = find_spec(env)
        except ConfigError:  # making the environment gives the better error
            return short
    if isinstance(env, EnvSpec) and RECORDER in env.additional_wrappers:
        others = tuple(one for one in env.additional_wrappers if one != RECORDER)
        return TRANSITIONS + env_name(replace(env, additional_wrappers=others))
    if isinstance(env, EnvSpec):  # "module:id" names the same environment as the id alone
        by_name = isinstance(env.entry_point, str) and env.entry_point.rpartition(":")[2] == env.id
        return str(env.entry_point) if by_name and env.id not in gymnasium.registry else env.id
    if isinstance(env, str):
        return env
    name = getattr(env, "__qualname__", None)
    if name is None:
        return maker_text(env)
    return f"{env.__module__}:{name}"


def is_importable(name: str) -> bool:
    """Return whether a recorded name is an id, or a class that another program can import.

    It is looked up in the modules imported here; the module of a script is another one elsewhere.
    """
    name = name.removeprefix(TRANSITIONS)
    module, _, kind = name.rpartition(":")
    if not module:
        return name in gymnasium.registry
    found = None if module in ("__main__", "__mp_main__") else getattr(sys.modules.get(module), kind, None)
    return isinstance(found, type) and issubclass(found, gymnasium.Env)


def with_names(spec: EnvSpec) -> EnvSpec:
    """Return a registration whose entry points are texts where another program can import them.

    Gymnasium writes down no class that was given as an entry point: ``register(id, Class)`` becomes "module:Class".
    What is local or of a script stays as it is, and has no text.
    """
    points = (spec.entry_point, spec.vector_entry_point)
    entry, vector = (point if isinstance(point, str) or point is None else _importable(point) for point in points)
    return replace(spec, entry_point=entry, vector_entry_point=vector)


def spec_text(spec: EnvSpec | None) -> str:
    """Return Gymnasium's description of an environment as JSON, from which another program makes it.

    Empty where there is none: without a registration, of a class that cannot be imported, of a wrapper or an argument
    that JSON does not know.
    """
    if spec is None or any(wrapper.kwargs is None for wrapper in spec.additional_wrappers):
        return ""
    try:
        return with_names(spec).to_json()
    except (TypeError, ValueError):
        return ""


def _importable(point: Any) -> Any:
    module, name = getattr(point, "__module__", None), getattr(point, "__qualname__", "")
    if module in (None, "__main__", "__mp_main__") or vars(sys.modules.get(module, gymnasium)).get(name) is not point:
        return point
    return f"{module}:{name}"


def same_name(one: str | None, other: str | None) -> bool:
    """Return whether two recorded names of environments may mean the same environment.

    Older versions recorded a class without its module.
    """
    if one is None or other is None or (":" in one and ":" in other):
        return one == other
    return one.rpartition(":")[2] == other.rpartition(":")[2]


def class_name(name: str) -> str:
    """Return module and class of a registered id, as datasets record a class; other names unchanged.

    An id that is registered with wrappers of its own is another simulation than its class.
    """
    spec = gymnasium.registry.get(name)
    if spec is None or spec.additional_wrappers or spec.entry_point is None:
        return name
    return spec.entry_point if isinstance(spec.entry_point, str) else env_name(spec.entry_point)
