"""The table of sampler names: what configurations, the command line and `find_sampler` know.

The classes of this folder enter themselves, with the decorator `named`; a sampler is added with one file.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from physgym.errors import ConfigError

DrawnValues: TypeAlias = Literal["parameters", "actions"]
SamplerClass = TypeVar("SamplerClass", bound=type[Any])


@dataclass(frozen=True)
class NamedSampler:
    """A sampler that has a name.

    Attributes:
        name: Its name.
        kind: Its class.
        draws: What it can draw.
        argument: What may stand behind the name and a colon: STRATA and POINTS are numbers, SESSION is a path; empty
            for nothing.
        required: Whether the argument must be there. The description of such a sampler does not say what it takes to
            make it again.
    """

    name: str
    kind: type[Any]
    draws: tuple[DrawnValues, ...]
    argument: str
    required: bool


_TABLE: dict[str, NamedSampler] = {}


def named(
    *, draws: tuple[DrawnValues, ...] = ("parameters", "actions"), argument: str = "", required: bool = False
) -> Callable[[SamplerClass], SamplerClass]:
    """Enter a class of samplers into the table, under its attribute `name`; a decorator.

    Args:
        draws: What it can draw.
        argument: What may stand behind the name and a colon, see `NamedSampler`.
        required: Whether the argument must be there.

    Raises:
        ConfigError: Another class has this name.
    """

    def enter(kind: SamplerClass) -> SamplerClass:
        known = _TABLE[kind.name].kind if kind.name in _TABLE else kind
        # a module that is imported twice (a notebook, `python -m`) defines the same class again
        if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
            raise ConfigError(f"{kind.name!r} already names the sampler {known.__name__}; take another name")
        _TABLE[kind.name] = NamedSampler(kind.name, kind, draws, argument, required)
        return kind

    return enter


@functools.cache
def _import_all() -> None:
    """Import the modules of this folder, whose classes enter themselves."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")


def named_samplers(what: str) -> dict[str, NamedSampler]:
    """Return the samplers of "actions" or of "parameters", by name; first those that draw both."""
    _import_all()
    rows = sorted(_TABLE.values(), key=lambda row: -len(row.draws))
    return {row.name: row for row in rows if what in row.draws}


def sampler_names(what: str) -> tuple[str, ...]:
    """Return the names of the samplers of "actions" or of "parameters"."""
    return tuple(named_samplers(what))


def shown_names(what: str) -> list[str]:
    """Return the names of samplers as a user writes them, with their arguments, such as "lhs[:STRATA]"."""
    rows = named_samplers(what).values()
    return [
        row.name + (f":{row.argument}" if row.required else f"[:{row.argument}]" if row.argument else "")
        for row in rows
    ]
