"""The index among parallel environments, known while one is made: a constructor may open a port of its own.

A `physgym.Simulation` has it as ``self.env_index`` and ``self.env_count`` from the first line of its constructor on;
any other environment asks `current`.
"""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

import gymnasium

from physgym.errors import ConfigError

Env: TypeAlias = gymnasium.Env[Any, Any]
EnvFactory: TypeAlias = Callable[[], Env]


class Placement(NamedTuple):
    """Index of an environment among parallel ones.

    Attributes:
        env_index: Its index, from 0.
        env_count: How many there are.
    """

    env_index: int = 0
    env_count: int = 1


class DeclaringFactory(ABC):
    """A factory of environments that knows what they declare before one is made."""

    @abstractmethod
    def __call__(self) -> Env:
        """Make one environment."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, Any]:
        """Return the metadata of their class; nothing where that is not known."""

    def makes_batch(self, factories: Sequence[EnvFactory]) -> bool:
        """Return whether `batch` makes the environments of several factories at once; nothing is made for that.

        Args:
            factories: One for each environment; this is the first.
        """
        return False

    def batch(self, factories: Sequence[EnvFactory]) -> Any:
        """Make the environments of several factories at once, see `physgym.worker.batch.RowBatch`.

        Args:
            factories: One for each environment; this is the first.

        Returns:
            The batch; None where each is to be made by itself.
        """
        return None


def declared_metadata(factory: EnvFactory) -> Mapping[str, Any]:
    """Return the metadata that environments of a factory have, as far as their class says so before one is made."""
    while isinstance(factory, functools.partial):
        inner = factory.func
        given = [one for one in factory.args if isinstance(one, DeclaringFactory) or _is_env_class(one)]
        factory = inner if isinstance(inner, (type, functools.partial)) or not given else given[0]
    if isinstance(factory, DeclaringFactory):
        return factory.metadata
    known: Any = factory.metadata if _is_env_class(factory) else {}  # type: ignore[attr-defined]  # a class of them
    return known if isinstance(known, Mapping) else {}  # of wrappers it is a property


def makes_batch(factories: Sequence[EnvFactory]) -> bool:
    """Return whether the environments of several factories are computed at once, as rows of one batch."""
    return isinstance(factories[0], DeclaringFactory) and factories[0].makes_batch(factories)


def _is_env_class(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, gymnasium.Env)


class PortableFactory(DeclaringFactory):
    """A factory of environments that can be described, so that a process elsewhere makes the same ones.

    What is sent are names and JSON data, never code.
    """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the factory as JSON data, whose key ``make`` says of which kind it is.

        Raises:
            ConfigError: It holds what cannot be described, such as a function.
        """


def described(factory: EnvFactory) -> dict[str, Any]:
    """Return a factory as JSON data.

    Raises:
        ConfigError: It cannot be described.
    """
    if isinstance(factory, PortableFactory):
        return factory.describe()
    raise ConfigError(
        f"{factory!r} cannot be described to a worker on another machine, which gets names and JSON data alone; use "
        "physgym.make_vec or generate with the registered id of the environment"
    )


ALONE = Placement()
_current: ContextVar[Placement] = ContextVar("physgym_placement", default=ALONE)


def current() -> Placement:
    """Return the placement of the environment that is being made; index 0 of 1 where no pipeline makes one."""
    return _current.get()


@contextlib.contextmanager
def at(env_index: int, env_count: int) -> Iterator[None]:
    """Make an environment at this placement within the ``with`` statement; other threads do not see it."""
    token = _current.set(Placement(env_index, env_count))
    try:
        yield
    finally:
        _current.reset(token)


def build(factory: EnvFactory, env_index: int, env_count: int) -> Env:
    """Return a new environment that knows its placement, also in its constructor.

    One that declares ``num_envs``, as those of other people do, has the number there too.
    """
    with at(env_index, env_count):
        env = factory()
    for name, value in (("env_index", env_index), ("env_count", env_count), ("num_envs", env_count)):
        if hasattr(env.unwrapped, name):
            with contextlib.suppress(AttributeError):  # a property of the environment's own
                setattr(env.unwrapped, name, value)
    return env
