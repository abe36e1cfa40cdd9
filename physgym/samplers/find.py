"""Samplers from what a user wrote, and from what a dataset has stored."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from physgym.errors import ConfigError
from physgym.samplers.base import Sampler, SamplerLike
from physgym.samplers.functions import Policy
from physgym.samplers.table import NamedSampler, named_samplers


def find_sampler(value: SamplerLike, what: str) -> Sampler | None:
    """Return the sampler that a user means.

    Args:
        value: A sampler, its name, a function (a `Policy`), or None. A name may have an argument behind a colon, as in
            "lhs:128", "grid:5" and "network:sessions/beam".
        what: "actions" or "parameters".

    Raises:
        ConfigError: There is no such sampler.
    """
    if value is None or isinstance(value, Sampler):
        return value
    known = named_samplers(what)
    if isinstance(value, str):
        name, colon, argument = value.partition(":")
        row = known.get(name)
        if row is not None and not colon and not row.required:
            return _make(row)
        if row is not None and row.required and argument:
            return _make(row, argument)
        if row is not None and row.argument and argument.isdecimal():
            return _make(row, int(argument))
    elif callable(value) and what == "actions" and not inspect.isclass(value):
        return Policy(value)
    names = ", ".join(f"{row.name}:PATH" if row.required else row.name for row in known.values())
    raise ConfigError(f"{what}={value!r} is no sampler; write one of {names}, or pass one of physgym.samplers")


def rebuild_sampler(described: Mapping[str, Any] | None, what: str) -> Sampler | None:
    """Return the sampler that a dataset was made with, from what it stores: the inverse of `Sampler.describe`.

    Args:
        described: What `Sampler.describe` gave, or None.
        what: "actions" or "parameters", or the key of a configuration that ends with it.

    Raises:
        ConfigError: The description of a function or of a network has neither; the text says what to pass.
    """
    if described is None:
        return None
    arguments = dict(described)
    name = arguments.pop("sampler", None)
    row = named_samplers(what.rpartition(".")[2]).get(name)
    if row is not None and not row.required:
        return sampler_with(row.name, arguments, what)
    weights = arguments.get("weights")
    origin = arguments.get("function") or (f"a network with weights {weights}" if weights else name)
    raise ConfigError(
        f"the {what} came from {origin}, of which only the name is stored; pass {what}= with the same one"
    )


def sampler_with(name: str, arguments: Mapping[str, Any], what: str) -> Sampler:
    """Return the sampler of a name, made with arguments.

    Args:
        name: Its name.
        arguments: Arguments of its class.
        what: "actions" or "parameters", or the key of a configuration that ends with it.

    Raises:
        ConfigError: An argument is wrong.
    """
    try:
        return _make(named_samplers(what.rpartition(".")[2])[name], **arguments)
    except TypeError as error:
        described = {"sampler": name, **arguments}
        raise ConfigError(f"{what}: {described} does not describe a sampler: {error}") from error


def _make(row: NamedSampler, *given: Any, **arguments: Any) -> Sampler:
    """Return a sampler that has a name."""
    made: Sampler = row.kind(*given, **arguments)
    return made
