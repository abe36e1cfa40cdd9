"""Arguments of environments' constructors: the same for all, or a list of different ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from physgym.errors import ConfigError

Arguments: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None

T = TypeVar("T")

FORM = (
    "env_kwargs are the arguments of the constructor by name, a dictionary, or a list of such dictionaries, not {got!r}"
)


def check_arguments(env_kwargs: Arguments) -> list[dict[str, Any]]:
    """Return arguments as a list, which has one entry where they are the same for all.

    Raises:
        ConfigError: They have another form.
    """
    if env_kwargs is None:
        return [{}]
    each = [env_kwargs] if isinstance(env_kwargs, Mapping) else env_kwargs
    if not isinstance(each, (list, tuple)):
        raise ConfigError(FORM.format(got=env_kwargs))
    if not each:
        raise ConfigError(
            "env_kwargs is an empty list; leave it out, or give a dictionary for each environment or episode"
        )
    for one in each:
        if not isinstance(one, Mapping) or not all(isinstance(name, str) for name in one):
            raise ConfigError(FORM.format(got=one))
    return [dict(one) for one in each]


def one_each(values: Sequence[T], num_envs: int, *, listed: bool) -> list[T]:
    """Return a value for each environment: one that is for all of them, or one of a list.

    Raises:
        ConfigError: The list has another length.
    """
    if not listed:
        return [values[0]] * num_envs
    if len(values) != num_envs:
        raise ConfigError(
            f"{len(values)} arguments are given for {num_envs} environments. Give one for each of them; where a "
            "dataset is made a list belongs to the episodes instead, and may have any length"
        )
    return list(values)


def make_with(make: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Make an environment with arguments of its own, which it may change."""
    return make(**own_copies(arguments))


def own_copies(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments that an environment may change: copies, but of what cannot be copied."""
    copies = {}
    for name, value in kwargs.items():
        try:
            copies[name] = copy.deepcopy(value)
        except Exception:  # noqa: BLE001 - a connection, a lock: what its class says of copies is its own
            copies[name] = value
    return copies
