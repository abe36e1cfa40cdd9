"""Check whether environments that share a process influence each other, and by what.

Two instances are stepped in turn, and each is compared with itself alone. Where they differ, what a process has once is
kept separately for each of them, one thing after the other, until they do not: that is what they share.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import random
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from physgym import placement
from physgym.episode import episode_policy
from physgym.placement import Env
from physgym.sample import flat_items
from physgym.spaces import Array, flatten
from physgym.worker.folders import here

AFTER_CLOSE = 2  # steps of one instance after the other was closed
DEEP, LARGE = 4, 1000  # how far values of variables are looked into
LIBRARIES = ("gymnasium", "physgym", "numpy", "torch", "builtins", "typing", "abc")

IGNORED = (type, ModuleType, gymnasium.Space)

FOLDER = "the working folder of the process"
PYTHON, NUMPY = "Python's global generator (random)", "numpy's global generator (numpy.random)"
TORCH = "torch's global generator (torch.manual_seed)"
OBJECT = "the object that both have as "
SOMETHING = "something that belongs to the process: a library's state, a file, a variable"
CURES = {
    FOLDER: "physgym's workers keep a folder for each environment, other programs do not: use absolute paths",
    PYTHON: "Draw from self.np_random, or from a generator of the instance's own",
    NUMPY: "Draw from self.np_random, or from a generator of the instance's own",
    TORCH: "Pass a torch.Generator of the instance's own",
    SOMETHING: "Keep it in the instance",
}


class ConformanceNote(UserWarning):
    """A warning of what holds only nearly, and may be meant so."""


class Kept(NamedTuple):
    """Functions that read and set something that a process has once."""

    read: Callable[[], Any]
    write: Callable[[Any], None]


class Influence(NamedTuple):
    """Ways in which instances influence each other.

    Attributes:
        what: What differs from the instance alone.
        step: At which step, -1 for the reset.
        cause: What they share.
        cure: What to do.
    """

    what: str
    step: int
    cause: str
    cure: str


def find_influence(make: Callable[[], Env], seeds: tuple[int, int], steps: int) -> Influence | None:
    """Return how two instances influence each other, None if they do not.

    The working folder and the global generators are left as they were.

    Args:
        make: Makes one.
        seeds: Of an episode of each.
        steps: Of these episodes.
    """
    process = _things()
    before = {name: kept.read() for name, kept in process.items()}
    try:
        alone = [_Turns(make, {place: seed}).run(steps)[place] for place, seed in enumerate(seeds)]

        def differs(*separate: str) -> tuple[str, int] | None:
            turns = _Turns(make, dict(enumerate(seeds)), {name: process[name] for name in separate})
            try:
                traces = turns.run(steps)
            except Exception as error:  # noqa: BLE001 - alone it did not
                return f"the outcome ({type(error).__name__}: {error})", turns.step
            finally:
                changed.update(dict.fromkeys(turns.changed))
            return next((found for place in (0, 1) if (found := _difference(alone[place], traces[place]))), None)

        changed: dict[str, None] = {}
        if (found := differs()) is None:
            if objects := [name for name in changed if name.startswith(OBJECT)]:
                warnings.warn(
                    (
                        f"two instances share {', '.join(objects)}, and a step of one changed it. Nothing came of it "
                        "in the steps made here, but each had better have its own"
                    ),
                    ConformanceNote,
                    stacklevel=2,
                )
            return None
        causes = [name for name in process if differs(name) is None]
        if causes:
            return Influence(*found, causes[0], CURES[causes[0]])
        if differs(*process) is None:
            return Influence(*found, ", and ".join(process), CURES[NUMPY])
        return Influence(*found, ", ".join(changed) or SOMETHING, CURES[SOMETHING])
    finally:
        for name, kept in process.items():
            kept.write(before[name])


def _things() -> dict[str, Kept]:
    """Return what a process has once."""
    found = {
        FOLDER: Kept(here, lambda folder: os.chdir(folder) if folder else None),
        PYTHON: Kept(random.getstate, random.setstate),
        NUMPY: Kept(np.random.get_state, np.random.set_state),
    }
    if (torch := sys.modules.get("torch")) is not None:
        found[TORCH] = Kept(torch.get_rng_state, torch.set_rng_state)
    return found


class _Turns:
    """Episodes of one or two instances, a step of each in turn.

    Args:
        make: Makes an instance.
        seeds: Seed of its episode, by the place of an instance.
        separate: What is kept for each instance.
    """

    def __init__(
        self, make: Callable[[], Env], seeds: Mapping[int, int], separate: Mapping[str, Kept] | None = None
    ) -> None:
        self._make, self._seeds, self._separate = make, dict(seeds), dict(separate or {})
        self._states: dict[int, dict[str, Any]] = {}
        self._envs: dict[int, Env] = {}
        self._traces: dict[int, list[dict[str, Any]]] = {place: [] for place in seeds}
        self.step = -1  # the one that is made
        self.changed: list[str] = []  # variables that one instance changed, while there was another one

    def run(self, steps: int) -> dict[int, list[dict[str, Any]]]:
        """Return what each instance gave, step by step."""
        home = {name: kept.read() for name, kept in _things().items() if name == FOLDER}
        try:
            return self._run(steps)
        finally:
            for place, env in self._envs.items():
                with self._own(place):
                    env.close()
            os.chdir(home[FOLDER])

    def _run(self, steps: int) -> dict[int, list[dict[str, Any]]]:
        for place in self._seeds:
            with self._own(place):
                self._envs[place] = placement.build(self._make, place, 2)
        playing = {}
        for place, seed in self._seeds.items():
            before = self._variables(place)
            with self._own(place):
                playing[place] = self._episode(place, seed)
                next(playing[place])
            self._note(place, before)
        for step in range(steps + AFTER_CLOSE):
            self.step = step
            if step == steps and 1 in self._envs:
                before = self._variables(1)
                with self._own(1):
                    self._envs[1].close()
                self._note(1, before)
                del self._envs[1]
            for place in [*self._envs]:
                if step >= steps and place != 0:
                    continue
                before = self._variables(place)
                with self._own(place):
                    next(playing[place], None)
                self._note(place, before)
        if 1 in self._traces:
            self._traces[1] = self._traces[1][: steps + 1]  # alone it is not closed before
        return self._traces

    def _episode(self, place: int, seed: int) -> Iterator[None]:
        env, rng = self._envs[place], np.random.default_rng(seed)
        policy, trace = episode_policy(env)(0), self._traces[place]
        observation, info = env.reset(seed=seed)
        trace.append(_seen(env, observation, 0.0, False, info))
        yield
        ended = False
        while not ended:
            observation, reward, terminated, truncated, info = env.step(policy(observation, rng))
            ended = bool(terminated or truncated)
            trace.append(_seen(env, observation, float(reward), ended, info))
            yield

    @contextmanager
    def _own(self, place: int) -> Iterator[None]:
        """Let an instance have what is kept for it."""
        before = {name: kept.read() for name, kept in self._separate.items()}
        for name, state in self._states.get(place, {}).items():
            self._separate[name].write(state)
        try:
            yield
        finally:
            self._states[place] = {name: kept.read() for name, kept in self._separate.items()}
            for name, state in before.items():
                self._separate[name].write(state)

    def _variables(self, place: int) -> dict[str, Any]:
        if len(self._envs) < 2:
            return {}
        kind = type(self._envs[place].unwrapped)
        return {**_variables(kind), **_caught(self._make, kind), **_common([*self._envs.values()])}

    def _note(self, place: int, before: Mapping[str, Any]) -> None:
        after = self._variables(place) if before else {}
        self.changed += [name for name, value in after.items() if before.get(name, value) != value]


def _seen(env: Env, observation: Any, reward: float, ended: bool, info: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of what a step gave."""
    found = {"the observation": [np.array(leaf) for leaf in flatten(env.observation_space, observation)]}
    found |= {"the reward": [np.array(reward)], "the end of the episode": [np.array(ended)]}
    for key in ("sample", "parameters"):
        for name, value in flat_items(info[key]) if isinstance(info.get(key), Mapping) else ():
            found[f"{key} field {name!r}"] = [np.array(value)]
    return found


def _difference(alone: list[dict[str, Any]], together: list[dict[str, Any]]) -> tuple[str, int] | None:
    for step, (one, other) in enumerate(zip(alone, together, strict=False)):
        for what in {**one, **other}:
            if what not in one or what not in other or not all(map(_bits, one[what], other[what])):
                return what, step - 1
    return None


def _bits(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and (a == b if a.dtype == object else a.tobytes() == b.tobytes())


# --- variables of classes and modules


def _variables(kind: type[Any]) -> dict[str, Any]:
    """Return the values of what an instance's classes and their modules hold, in a form that can be compared."""
    found: dict[str, Any] = {}
    for cls in kind.__mro__:
        module = sys.modules.get(cls.__module__)
        if module is None or cls.__module__.partition(".")[0] in LIBRARIES:
            continue
        found |= _held(cls)
        for name, value in vars(module).items():
            if isinstance(value, type) and value.__module__ == module.__name__:
                found |= _held(value)
            elif not name.startswith("__") and not isinstance(value, IGNORED) and not callable(value):
                found[f"the variable {name} of module {module.__name__}"] = _form(value)
    return found


def _held(cls: type[Any]) -> dict[str, Any]:
    """Return the values of a class's attributes."""
    data = {name: value for name, value in vars(cls).items() if not name.startswith("__") and not callable(value)}
    return {
        f"the attribute {name} of class {cls.__qualname__}": _form(value)
        for name, value in data.items()
        if not isinstance(value, IGNORED)
    }


def _caught(make: Any, kind: type[Any]) -> dict[str, Any]:
    """Return the values that the factory and the methods of an instance's classes have caught, or have as defaults."""
    found: dict[str, Any] = {}
    own = [cls for cls in kind.__mro__ if cls.__module__.partition(".")[0] not in LIBRARIES]
    for thing in (make, *(part for cls in own for part in vars(cls).values())):
        while isinstance(thing, functools.partial):
            found |= {f"an argument of the factory ({name})": _form(v) for name, v in thing.keywords.items()}
            found |= {f"an argument of the factory ({place})": _form(v) for place, v in enumerate(thing.args)}
            thing = thing.func
        function = inspect.unwrap(getattr(thing, "__func__", getattr(thing, "fget", thing)))
        if not isinstance(function, FunctionType):
            continue
        name = function.__qualname__
        for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            with contextlib.suppress(ValueError):  # an empty cell
                if not isinstance(cell.cell_contents, IGNORED) and not callable(cell.cell_contents):
                    found[f"the variable {free} that {name} has caught"] = _form(cell.cell_contents)
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        found |= {f"the default argument {place} of {name}": _form(value) for place, value in enumerate(defaults)}
    return found


def _common(envs: Sequence[Env]) -> dict[str, Any]:
    """Return the values of the objects that two instances both have somewhere in their attributes."""
    first, second = (_objects(env) for env in envs[:2])
    return {f"{OBJECT}{name}": _form(value) for key, (name, value) in first.items() if key in second}


def _objects(env: Env) -> dict[int, tuple[str, Any]]:
    """Return the objects in the attributes of an environment that can change, by identity, and where they are."""
    found: dict[int, tuple[str, Any]] = {}
    layer = env
    waiting: list[tuple[str, Any, int]] = []
    while layer is not env.unwrapped:
        waiting += [(name, value, 0) for name, value in vars(layer).items() if name != "env"]
        layer = getattr(layer, "env", env.unwrapped)
    waiting += [(name, value, 0) for name, value in getattr(layer, "__dict__", {}).items()]
    while waiting:
        name, value, depth = waiting.pop()
        kind = type(value)
        plain = isinstance(value, (dict, list, set, np.ndarray, np.random.Generator))
        if id(value) in found or depth > DEEP or isinstance(value, IGNORED) or (callable(value) and not plain):
            continue
        if isinstance(value, tuple):
            waiting += [(f"{name}[{place}]", part, depth + 1) for place, part in enumerate(value[:LARGE])]
            continue
        if not plain and (kind.__module__.partition(".")[0] in LIBRARIES or not hasattr(value, "__dict__")):
            continue
        found[id(value)] = name, value
        if isinstance(value, (list, dict)) and len(value) <= LARGE:
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{name}[{key!r}]", part, depth + 1) for key, part in parts]
        elif not plain:
            waiting += [(f"{name}.{key}", part, depth + 1) for key, part in vars(value).items()]
    return found


def _form(value: Any, depth: int = DEEP) -> Any:
    """Return a key of the content of a value: equal contents have equal keys, as far as they are looked into."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, repr(value) if value.dtype == object else value.tobytes()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if depth and isinstance(value, Mapping) and len(value) <= LARGE:
        return [(repr(key), _form(item, depth - 1)) for key, item in value.items()]
    if depth and isinstance(value, Collection) and len(value) <= LARGE:
        return [_form(item, depth - 1) for item in value]
    if depth and hasattr(value, "__dict__") and not isinstance(value, (type, ModuleType)):
        return id(value), [(name, _form(item, depth - 1)) for name, item in vars(value).items()]
    return id(value)
