"""Environments that are one object: what each of them does would happen to the others.

In one process the objects themselves are compared. Workers get copies of what env factories hold, so that factories
which hand out one object would make one environment in each worker; their parent compares what they hand out here.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import gymnasium

from physgym.errors import WrongValue
from physgym.placement import Env

DEEPEST = 5  # what a factory holds is looked for so far inside of what it holds
MOST = 1000  # elements of a container that are looked at


def refuse_same(envs: Sequence[gymnasium.Env[Any, Any]], indices: Iterable[int] | None = None) -> None:
    """Check that environments are different ones inside of their wrappers.

    Args:
        envs: The environments.
        indices: What to call them in an error; by default their places.

    Raises:
        WrongValue: Two are the same.
    """
    known: dict[int, int] = {}
    places = list(range(len(envs)) if indices is None else indices)
    for env, index in zip(envs, places, strict=False):
        first = known.setdefault(id(env.unwrapped), index)
        if first != index:
            raise WrongValue(
                f"environments {first} and {index} are the same object ({env}), so that a step of one is a step of the "
                "other. Let each callable make its own: [lambda: MyEnv(...) for _ in range(n)], not env = MyEnv(...); "
                "[lambda: env] * n"
            )
    for env, index in zip(envs, places, strict=False):
        for key, (name, inner) in inside(env).items():
            first = known.setdefault(key, index)
            if first != index:
                raise WrongValue(
                    f"environments {first} and {index} have the same environment inside ({inner}, as {name}), so that "
                    "a step of one is a step of the other. Let each make its own: [lambda: Outer(MyEnv()) for _ in "
                    "range(n)], not env = MyEnv(); [lambda: Outer(env)] * n"
                )


def inside(env: Env) -> dict[int, tuple[str, Env]]:
    """Return the environments that an environment consists of, without wrappers, and what it calls them.

    That is the innermost one, and what stands in attributes of all layers, also in lists, tuples and dictionaries.
    """
    found: dict[int, tuple[str, Env]] = {}
    seen: dict[int, Any] = {}
    waiting: list[tuple[str, Any, int]] = [("env", env, 0)]
    while waiting:
        name, thing, depth = waiting.pop()
        if id(thing) in seen or depth > DEEPEST:
            continue
        if isinstance(thing, gymnasium.Env):
            if not isinstance(thing, gymnasium.Wrapper):
                found[id(thing)] = name, thing
            parts: Iterable[tuple[Any, Any]] = getattr(thing, "__dict__", {}).items()
        elif isinstance(thing, dict):
            parts = list(thing.items())[:MOST]
        elif isinstance(thing, (list, tuple)):
            parts = enumerate(thing[:MOST])
        else:
            continue
        seen[id(thing)] = thing
        waiting += [(str(key) if depth == 0 else f"{name}.{key}", part, depth + 1) for key, part in parts]
    return found


def refuse_shared(factories: Sequence[Callable[[], gymnasium.Env[Any, Any]]]) -> None:
    """Check that factories do not hand out one environment that exists already, without making any if possible.

    Nothing is called where no environment is held by two factories. Where one is, the first of these factories is
    called to see whether it hands out what it holds, or makes its own.

    Raises:
        WrongValue: Two hand out the same.
    """
    held = [held_by(factory) for factory in factories]
    owners: dict[int, int] = {}
    for found in held:
        for key in found:
            owners[key] = owners.get(key, 0) + 1
    suspects = [index for index, found in enumerate(held) if any(owners[key] > 1 for key in found)]
    envs: list[gymnasium.Env[Any, Any]] = []
    for index in suspects:
        try:
            env = factories[index]()
        except Exception:  # noqa: BLE001 - its worker says what is wrong
            return
        if not held[index] & {id(env.unwrapped), *inside(env)}:
            env.close()
            return
        envs.append(env)
    refuse_same(envs, suspects)


def held_by(factory: Any) -> set[int]:
    """Return the ids of the environments, without wrappers, that a callable holds before it is called."""
    found: set[int] = set()
    seen: dict[int, Any] = {}  # which also keeps the objects, so that no id is given twice
    waiting = [(factory, 0)]
    while waiting:
        thing, depth = waiting.pop()
        if id(thing) in seen or depth > DEEPEST:
            continue
        seen[id(thing)] = thing
        if isinstance(thing, gymnasium.Env):
            found.add(id(thing.unwrapped))
        else:
            waiting += [(part, depth + 1) for part in _inner_objects(thing)]
    return found


def _inner_objects(thing: Any) -> Iterator[Any]:
    """Yield what an object holds, as far as a factory may hand it out."""
    if isinstance(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, types.MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, types.FunctionType):
        yield from thing.__defaults__ or ()
        yield from (thing.__kwdefaults__ or {}).values()
        yield from (cell.cell_contents for cell in thing.__closure__ or () if _filled(cell))
        yield from (thing.__globals__[name] for name in _names(thing.__code__) if name in thing.__globals__)
    elif isinstance(thing, dict):
        yield from list(thing.values())[:MOST]
    elif isinstance(thing, (list, tuple)):
        yield from thing[:MOST]
    elif callable(thing) and not isinstance(thing, (type, types.BuiltinFunctionType)):
        yield from list(getattr(thing, "__dict__", {}).values())[:MOST]


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
